"""Arrow files of numbers written a stretch at a time, though they hold one record batch, so that their columns stay mappable as
whole arrays and their bytes do not tell in which stretches they came.

Only the description of a record batch knows its length, and it lies before and after the numbers but is as long whatever it says.
So the numbers are written where they belong, and pyarrow then writes the description around them, into a file that passes over
numbers.
"""

import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.errors import ArtifactError

_ALIGNED = 64  # pyarrow pads columns to this
_LARGE = 255  # numbers from here on do not fit a byte


class ColumnWriter:
    """Writes the columns of `schema`, numbers without nulls, to `path`, stretch by stretch.

    The first column goes where it belongs at once, the others through files beside it. `rows` written so far. Where it is reopened
    (`rows` given), what lies beyond those rows is dropped; that needs a schema of one column.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows: int = 0) -> None:
        assert not rows or len(schema) == 1
        self.path = path
        self.schema = schema
        self.rows = rows
        self.widths = [field.type.bit_width // 8 for field in schema]
        self.begin = _places(schema, 1)[0]
        self.file: BinaryIO = path.open("r+b" if rows else "w+b")
        self.asides = [
            _Aside(path.with_name(f"{path.name}.{field.name}"), field.type.to_pandas_dtype()) for field in list(schema)[1:]
        ]
        self.file.truncate(self.begin + rows * self.widths[0])
        self.file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.close()
        self.abandon()

    def write(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Append rows: an array for each column, of its type."""
        self.file.write(np.ascontiguousarray(columns[0]).data)
        for aside, column in zip(self.asides, columns[1:], strict=True):
            aside.write(column)
        self.rows += len(columns[0])

    def flush(self) -> None:
        """See that what was written is on the disk."""
        for file in (self.file, *(aside.file for aside in self.asides)):
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Lay the columns end to end and write the description around them."""
        places = _places(self.schema, self.rows, self.file)
        for aside, place in zip(self.asides, places[1:], strict=bool(self.rows)):
            self.file.seek(place)
            aside.copy(self.file)
        self.file.flush()

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in (self.file, *(aside.file for aside in self.asides)):
            file.close()


class _Aside:
    """A column on its way, in a file at `path` that lives while it is open, and no longer.

    Most counts are small: numbers come as bytes where few of them do not fit one, and those that do not come behind.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.file: BinaryIO = path.open("w+b")
        path.unlink()
        self.dtype = np.dtype(dtype)
        self.stretches: list[tuple[int, int | None]] = []  # rows, and how many of them are large; None: all are as they came

    def write(self, column_R: npt.NDArray[Any]) -> None:
        small_R = np.minimum(column_R, _LARGE).astype(np.uint8)
        large_L = column_R[small_R == _LARGE]
        if self.dtype.kind == "u" and len(large_L) * 8 < len(column_R):
            parts, large = [small_R, large_L], len(large_L)
        else:
            parts, large = [column_R], None
        self.stretches.append((len(column_R), large))
        for part in parts:
            self.file.write(np.ascontiguousarray(part).data)

    def copy(self, file: BinaryIO) -> None:
        """Write the column to where `file` is."""
        self.file.seek(0)
        for rows, large in self.stretches:
            column_R = self._read(self.dtype if large is None else np.uint8, rows)
            if large is not None:
                column_R = column_R.astype(self.dtype)
                column_R[column_R == _LARGE] = self._read(self.dtype, large)
            file.write(column_R.data)

    def _read(self, dtype: npt.DTypeLike, rows: int) -> npt.NDArray[Any]:
        data = self.file.read(rows * np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype)


class ColumnFile:
    """Columns of `schema` whose `rows` are known before: written to `path` in any order, from any thread, each where it belongs."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        self.widths = [field.type.bit_width // 8 for field in schema]
        self.file = path.open("wb", buffering=0)
        self.places = _places(schema, rows, self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, row: int, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Rows from `row` on: an array for each column, of its type."""
        for place, width, column in zip(self.places, self.widths, columns, strict=bool(self.places)):
            _all(os.pwrite, self.file.fileno(), column, place + row * width)


class ColumnReader:
    """Columns of numbers of the Arrow file `path`, of `schema` and so many `rows`, read into arrays from any thread, not through
    a map, which would fill memory. Raises ArtifactError where the file does not hold as many rows, or not as one record batch."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        found, places = column_places(path)
        if found != rows:
            raise ArtifactError(
                f"{path} must hold {rows:,} rows, as the manifest says, but holds {found:,}; make the artifact again"
            )
        self.path = path
        self.rows = rows
        self.places = [places.get(name, 0) for name in schema.names]
        self.file = path.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def read(self, column: int, row: int, into: npt.NDArray[Any]) -> None:
        """Fill `into` with the numbers of a column from `row` on."""
        place = self.places[column] + row * into.itemsize
        if not _all(lambda file, data, at: os.preadv(file, [data], at), self.file.fileno(), into, place):
            raise ArtifactError(f"{self.path} must not change while it is read, but it became shorter; make it again")

    def number(self, column: int, row: int) -> int:
        """One number of a column of u64."""
        return int.from_bytes(os.pread(self.file.fileno(), 8, self.places[column] + row * 8), sys.byteorder)


def column_places(path: Path) -> tuple[int, dict[str, int]]:
    """(rows, where each column of numbers begins) of an uncompressed Arrow file whose rows are one record batch.

    Raises ArtifactError where they are more.
    """
    with pa.memory_map(str(path)) as mapped:
        file = pa.ipc.open_file(mapped)
        if file.num_record_batches > 1:
            raise ArtifactError(
                f"{path} must hold its rows as one record batch, but holds {file.num_record_batches}; make it again"
            )
        if not file.num_record_batches:
            return 0, {}
        mapped.seek(0)
        begin = mapped.read_buffer().address
        batch = file.get_batch(0)
        places = {
            name: column.buffers()[1].address - begin + column.offset * column.type.bit_width // 8
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        return batch.num_rows, places


def _all(move: Callable[[int, memoryview, int], int], file: int, column: npt.NDArray[Any], place: int) -> bool:
    """Read or write all bytes of a column at a place in a file, however many calls it takes; whether there were so many."""
    data = np.ascontiguousarray(column).data.cast("B")
    while data:
        moved = move(file, data, place)
        if not moved:
            return False
        data, place = data[moved:], place + moved
    return True


class _Frame:
    """A file that passes over buffers of numbers: they are there, or come later."""

    closed = False

    def __init__(self, file: BinaryIO | None, numbers: mmap.mmap) -> None:
        self.file = file
        self.begin = pa.py_buffer(numbers).address
        self.end = self.begin + len(numbers)
        self.at = 0
        self.places: list[int] = []

    def write(self, data: pa.Buffer) -> int:
        size = len(data)
        address = pa.py_buffer(data).address if size else 0
        if size and self.begin <= address < self.end:
            self.places.append(self.at)
        elif self.file is not None:
            self.file.seek(self.at)
            self.file.write(data)
        self.at += size
        return size

    def tell(self) -> int:
        return self.at

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _places(schema: pa.Schema, rows: int, file: BinaryIO | None = None) -> list[int]:
    """Where each column begins in an Arrow file of so many rows; `file` gets all but the numbers."""
    widest = max(field.type.bit_width for field in schema) // 8
    size, flags = max(1, rows) * widest + _ALIGNED, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, flags, mmap.PROT_READ) as numbers:  # never touched: it takes addresses and no memory, however large
        frame = _Frame(file, numbers)
        _describe(schema, rows, numbers, frame)
        return frame.places


def _describe(schema: pa.Schema, rows: int, numbers: mmap.mmap, frame: _Frame) -> None:
    whole = pa.py_buffer(numbers)
    columns = [pa.Array.from_buffers(f.type, rows, [None, whole.slice(0, rows * f.type.bit_width // 8)]) for f in schema]
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)  # else 2^31 rows are too many
    with pa.ipc.new_file(pa.PythonFile(frame, "w"), schema, options=options) as writer:
        if rows:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
