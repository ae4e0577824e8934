"""A matrix on disk that is looked into row by row: one tensor, or several that hold its rows end to end, in one file or many.

Rows are handed out as they are stored. Picked ones (`take`) come through memory maps, stretches (`read`) through plain reads into a
buffer, so that a pass over a table leaves nothing of it in the process.
Shapes: R rows of the matrix, E numbers per row, U rows of one call.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.store.mapping import Bytes, MappedFile, Mode
from engram_cli.store.tensors import STORAGE, Stored

Ids = npt.NDArray[np.int64]
_SLOW = 5e-6  # seconds a row: memory takes a hundredth of that, a disk that was not asked ahead many times as long


@dataclass(frozen=True)
class _Part:
    """A tensor of the matrix: its first row, the file, the place in it, and its bytes there, u8 [rows, row_bytes]."""

    first: int
    file: MappedFile
    offset: int
    bytes_RB: Bytes


class Matrix:
    """The rows of `tensors`, end to end, all of one type and width; a tensor of one dimension has rows of one number.

    mode: "r" to read, "c" to change in memory only, "r+" to change the files.
    Raises ArtifactError where a file cannot be opened.
    """

    def __init__(self, tensors: Sequence[Stored], mode: Mode = "r") -> None:
        spec = tensors[0].spec
        self.tensors = tuple(tensors)
        self.type = np.dtype(STORAGE[spec.dtype])
        self.row_shape = spec.shape[1:]
        self.row_bytes = int(np.prod(self.row_shape, dtype=np.int64)) * self.type.itemsize
        files: dict[Path, MappedFile] = {}
        parts, count = [], 0
        for path, spec in ((stored.path, stored.spec) for stored in tensors):
            assert (spec.shape[1:], np.dtype(STORAGE[spec.dtype])) == (self.row_shape, self.type), path
            if not spec.bytes:
                continue
            file = files[path] = files.get(path) or MappedFile(path, mode)
            parts.append(_Part(count, file, spec.offset, file.bytes[spec.offset : spec.end].reshape(-1, self.row_bytes)))
            count += spec.shape[0]
        self.count = count
        self._parts, self._files = tuple(parts), tuple(files.values())
        self._firsts = np.array([part.first for part in parts])
        self._whole = _whole(parts, self.type, self.row_shape)
        self.slow = True  # whether the disk is to be asked ahead: until a look-up has shown that rows are there

    def take(self, ids: Ids, asked: bool = False) -> npt.NDArray[Any]:
        """Rows `ids` (any shape) as stored: [..., E]. asked: whether `ask` was called for them.

        The disk is asked ahead where it had to deliver rows of the last look-up: asking costs as much as reading from memory, the
        clock next to nothing.
        Raises IndexError for ids outside the matrix, ArtifactError where a file was cut since it was opened.
        """
        size = ids.size
        if size and (least := ids.item(ids.argmin())) < 0:  # cheaper than `min`
            raise IndexError(f"row {least} is out of bounds: rows are counted from 0")
        started = perf_counter()
        if self.slow and not asked:
            self.ask(ids)
        rows = self._take_apart(ids) if self._whole is None else self._whole.take(ids, 0)
        self.slow = perf_counter() - started > _SLOW * size
        for file in self._files:
            file.check()
        return rows

    def ask(self, ids: Ids) -> None:
        """Have the disk fetch those of the rows that are there; nothing waits for it."""
        for part in self._parts:
            own_U = ids[(ids >= part.first) & (ids < part.first + len(part.bytes_RB))] - part.first
            part.file.ask(part.offset + own_U * self.row_bytes, self.row_bytes)

    def _take_apart(self, ids: Ids) -> npt.NDArray[Any]:
        """As `take`, from each part the rows that lie in it, wherever in its file that lies."""
        flat_U = ids.ravel()
        order_U = flat_U.argsort()
        sorted_U = flat_U[order_U]
        if len(flat_U) and sorted_U[-1] >= self.count:
            raise IndexError(f"row {sorted_U[-1]} is out of bounds: there are {self.count}")
        taken_UB = np.empty((len(flat_U), self.row_bytes), np.uint8)
        edges = [*np.searchsorted(sorted_U, self._firsts), len(flat_U)]
        for part, start, stop in zip(self._parts, edges, edges[1:], strict=False):
            if start < stop:
                taken_UB[order_U[start:stop]] = part.bytes_RB.take(sorted_U[start:stop] - part.first, 0)
        return taken_UB.view(self.type).reshape(*ids.shape, *self.row_shape)

    def read(self, first: int, count: int, room: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Rows `first` to `first + count` as stored, copied: [count, E]; `room`: to put them in.

        Raises ArtifactError where a file ends before them.
        """
        stored_UE = np.empty((count, *self.row_shape), self.type) if room is None else room
        self.fill(first, stored_UE.reshape(-1).view(np.uint8).reshape(count, self.row_bytes))
        return stored_UE

    def fill(self, first: int, stored_UB: Bytes) -> None:
        """As `read`, into u8 [count, row_bytes], for passes that read into the same memory again and again."""
        assert 0 <= first <= first + len(stored_UB) <= self.count
        for file, offset, start, stop in self._places(first, len(stored_UB)):
            file.read(offset, stored_UB[start - first : stop - first].reshape(-1))

    def put(self, ids_U: Ids | slice, stored_UE: npt.NDArray[Any]) -> None:
        """Replace rows (distinct ids, or a stretch) of a matrix that is one tensor. Raises ArtifactError where the file was cut."""
        (part,) = self._parts
        rows = np.ascontiguousarray(stored_UE, self.type).view(np.uint8)
        part.bytes_RB[ids_U] = rows.reshape(-1, self.row_bytes)
        part.file.check()

    def write(self, first: int, stored_UE: npt.NDArray[Any]) -> None:
        """Replace the rows from `first` on by plain writes, the counterpart of `read`. Raises OSError where the disk refuses."""
        stored_UB = np.ascontiguousarray(stored_UE, self.type).reshape(len(stored_UE), -1).view(np.uint8)
        for file, offset, start, stop in self._places(first, len(stored_UB)):
            file.write(offset, stored_UB[start - first : stop - first].reshape(-1))

    def let_go(self, first: int, count: int) -> None:
        """Have the kernel write rows that were written to the disk, and forget those that are there by now."""
        for file, offset, start, stop in self._places(first, count):
            file.let_go(offset, (stop - start) * self.row_bytes)

    def _places(self, first: int, count: int) -> Iterator[tuple[MappedFile, int, int, int]]:
        """(file, place in it, first row, one past the last) of each part of a stretch of rows."""
        for part in self._parts:
            start, stop = max(first, part.first), min(first + count, part.first + len(part.bytes_RB))
            if start < stop:
                yield part.file, part.offset + (start - part.first) * self.row_bytes, start, stop

    def flush(self) -> None:
        """Write changes through "r+" maps to the disk."""
        for file in self._files:
            file.flush()

    def release(self) -> None:
        """Give back the pages of "r" maps that the process holds."""
        for file in self._files:
            file.release()


def _whole(parts: Sequence[_Part], type: np.dtype[Any], row_shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """The rows of a matrix that is one tensor, [R, E], where they lie as processors want numbers of their type; else None."""
    if len(parts) != 1 or parts[0].offset % type.itemsize:
        return None
    return parts[0].bytes_RB.view(type).reshape(-1, *row_shape)
