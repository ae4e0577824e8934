"""The rows of one layer: a matrix of some row type, read and changed through memory maps.

Our own lie in `rows-LL.safetensors`; those of a checkpoint lie wherever its tensors are (table/formats). Opened copy-on-write, a
table costs memory for the pages that were touched and nothing else, however large it is: untouched rows stay on disk, changed rows
live in memory until `store` writes exactly those back.
Shapes: R rows of the matrix, E numbers per row, U rows of one call.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.errors import ArtifactError
from engram_cli.store.mapping import Mode
from engram_cli.store.matrix import Ids, Matrix
from engram_cli.store.tensors import Stored, create_tensors, read_tensor_specs
from engram_cli.table.row_types import ROW_TYPES, Encoded, Floats, RowType

_TENSOR, _SCALES = "rows", "scales"
_BLOCK_BYTES = 1 << 24  # of stored numbers, in one step of a pass over a table


def rows_file(layer: int) -> str:
    """Name of the file that holds a layer's rows."""
    return f"rows-{layer:02}.safetensors"


class Rows:
    """The mapped matrix of one layer: `take` rows as f32, `blocks` of all of them, `put` changed ones.

    type: how numbers are stored; numbers: the matrix of them; scales: a matrix too, one row for each row, or the one scale of them
    all, f32 [1], as the type has it.
    """

    def __init__(self, type: RowType, numbers: Matrix, scales: Matrix | Floats | None = None) -> None:
        self.type, self.numbers, self.scales = type, numbers, scales
        self.count, self.dim = numbers.count, numbers.row_shape[0]

    @classmethod
    def open(cls, path: Path, mode: Mode = "r") -> "Rows":
        """The rows in one of our files; mode: "r" to read, "c" to change in memory only, "r+" to change the file.

        Raises ArtifactError where the file is not a matrix of rows.
        """
        specs = read_tensor_specs(path)
        found = {name: (spec.dtype, spec.shape) for name, spec in specs.items()}
        shape = specs[_TENSOR].shape if _TENSOR in specs else ()
        for row_type in ROW_TYPES.values() if len(shape) == 2 else ():
            if found == {name: (spec.dtype, spec.shape) for name, spec in row_type.tensors(*shape).items()}:
                numbers = Matrix([Stored(path, specs[_TENSOR])], mode)
                if row_type.share == "matrix":
                    return cls(row_type, numbers, Matrix([Stored(path, specs[_SCALES])]).read(0, 1))
                return cls(row_type, numbers, Matrix([Stored(path, specs[_SCALES])], mode) if row_type.scales else None)
        shown = ", ".join(f"{name} {dtype} {'x'.join(map(str, shape))}" for name, (dtype, shape) in found.items()) or "nothing"
        raise ArtifactError(
            f"{path} must hold one matrix `{_TENSOR}` of {', '.join(ROW_TYPES)}, but it holds {shown}; build the table again"
        )

    @classmethod
    def create(cls, path: Path, rows: int, dim: int, dtype: str, scale: Floats | None = None) -> "Rows":
        """A new file of `rows` x `dim` zeros of the row type `dtype`, open for writing; scale: f32 [1] where the matrix has one.

        The file is sparse: it takes disk only where rows are written.
        """
        specs = create_tensors(path, ROW_TYPES[dtype].tensors(rows, dim))
        if scale is not None:
            Matrix([Stored(path, specs[_SCALES])], "r+").write(0, scale)
        return cls.open(path, "r+")

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a row with the scales that are its own."""
        return self.type.row_bytes(self.dim)

    def take(self, ids: Ids) -> Floats:
        """Rows `ids` (any shape) as f32, with a last axis of E.

        Raises IndexError for ids outside the matrix, ArtifactError where a file was cut since it was opened.
        """
        if together := isinstance(self.scales, Matrix) and self.numbers.slow:
            self.scales.ask(ids)  # they come while the numbers are waited for
        numbers = self.numbers.take(ids)
        if self.type.name == "f32":  # a small batch takes less time than decoding needs to find that nothing is to be done
            return numbers
        scales = self.scales.take(ids, together) if isinstance(self.scales, Matrix) else self.scales
        return self.type.decode(numbers, scales)

    def read(self, first: int, count: int) -> Floats:
        """Rows `first` to `first + count` as f32 [count, E], copied."""
        return self.type.decode(*self.read_stored(first, count))

    def read_stored(self, first: int, count: int, room: Encoded | None = None) -> Encoded:
        """Numbers and scales of those rows as they are stored, copied: [count, E], and scales as the type has them; `room`: to put
        them in, as `RowType.room` makes it."""
        numbers, scales = room or (None, None)
        read = self.scales.read(first, count, scales) if isinstance(self.scales, Matrix) else self.scales
        return self.numbers.read(first, count, numbers), read

    def write_stored(self, first: int, numbers: npt.NDArray[Any], scales: npt.NDArray[Any] | None) -> None:
        """Replace the rows from `first` on, given as they are stored, by plain writes. Raises OSError where the disk refuses."""
        self.numbers.write(first, numbers)
        if isinstance(self.scales, Matrix):
            assert scales is not None
            self.scales.write(first, scales)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """All rows in stretches of about 16 MiB: (first, count)."""
        step = max(1, _BLOCK_BYTES // self.numbers.row_bytes)
        return ((first, min(step, self.count - first)) for first in range(0, self.count, step))

    def put(self, ids_U: Ids | slice, values_UE: Floats) -> None:
        """Replace rows (distinct ids, or a stretch), rounding to the row type."""
        numbers, scales = self._encode(values_UE)
        self.numbers.put(ids_U, numbers)
        if isinstance(self.scales, Matrix):
            assert scales is not None
            self.scales.put(ids_U, scales)

    def put_range(self, first: int, values_UE: Floats) -> None:
        """Replace the rows from `first` on, rounding to the row type."""
        self.put(slice(first, first + len(values_UE)), values_UE)

    def write_range(self, first: int, values_RE: Floats) -> None:
        """The same by plain writes, which cost a fraction where pages were never touched. Raises OSError where the disk refuses."""
        self.write_stored(first, *self._encode(values_RE))

    def _encode(self, values_RE: Floats) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        fixed = self.scales if isinstance(self.scales, np.ndarray) else None
        return self.type.encode(values_RE, fixed)

    def release(self) -> None:
        """Give mapped pages back to the system; what they hold is read again."""
        self.numbers.release()
        if isinstance(self.scales, Matrix):
            self.scales.release()

    def flush(self) -> None:
        """Write changes of an "r+" map to the file."""
        self.numbers.flush()
        if isinstance(self.scales, Matrix):
            self.scales.flush()
