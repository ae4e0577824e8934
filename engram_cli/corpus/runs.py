"""Sorted runs of the highest order while a corpus is counted: in memory as long as the budget lasts, else on disk.

A run is kept as blocks of bytes (merge_kernels.py), three or so a row instead of twelve: packing and unpacking them costs less
than the first touch of the memory that they save. On disk the same bytes are read with plain reads and not by memory map, so that
the resident set stays what was asked for. Whatever is where, the counts are read as ranges of grams, each merged by itself: ranges
are what threads share.
"""

import errno
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.ngrams import Rows, merge_rows
from engram_cli.errors import ResourceError
from engram_cli.store.resources import format_bytes

BLOCK = 2048  # rows that are read together
_LONGEST = 10  # bytes of a varint
Gram = tuple[int, int]  # (top, key): compares as grams do


@dataclass
class Run:
    """A packed run, or some blocks of one. data: its bytes, or where they lie; begin: where the first block does among them; first:
    the first gram of each block; rows: of each; ends: where each ends."""

    data: npt.NDArray[np.uint8] | Path
    begin: int = 0
    first: list[Gram] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def part(self, begin: Gram | None, end: Gram | None) -> "Run":
        """The blocks in which grams from `begin` to before `end` may lie."""
        first = 0 if begin is None else max(0, bisect_right(self.first, begin) - 1)
        last = len(self.first) if end is None else bisect_right(self.first, end)
        starts_at = self.ends[first - 1] if first else self.begin
        return Run(self.data, starts_at, self.first[first:last], self.rows[first:last], self.ends[first:last])

    def read(self, into: Rows, to: int) -> int:
        """Unpack into rows from `to` on; returns where they end."""
        from engram_cli.corpus import merge_kernels

        if not self.rows:
            return to
        top, key = np.array(self.first, dtype=np.uint64).T.copy()
        tops = None if into.top is None else top
        return int(merge_kernels.read_blocks(self._bytes(), np.array(self.rows), key, tops, *into, to))

    def _bytes(self) -> npt.NDArray[np.uint8]:
        if not isinstance(self.data, Path):
            return self.data[self.begin : self.ends[-1]]
        data = np.empty(self.ends[-1] - self.begin, dtype=np.uint8)
        with self.data.open("rb") as file:
            file.seek(self.begin)
            read = file.readinto(data.data)
        assert read == len(data), self.data
        return data


@dataclass(frozen=True)
class Range:
    """Grams from `begin` to before `end` (None: no limit): what runs have of them, to be merged by itself, anywhere."""

    begin: Gram | None
    end: Gram | None
    wide: bool
    runs: list[Run]


class Room:
    """Where runs are kept: the first `room` bytes in memory, the others in `folder`, made when it is first needed. Threads share it.

    Raises ResourceError where the disk is full.
    """

    def __init__(self, room: int, folder: Path) -> None:
        self.room = room
        self.folder = folder
        self.spilled = 0  # bytes
        self.lock = Lock()

    def keep(self, rows: Rows, name: str) -> Run:
        """Sorted rows as a run; `name`: of its file, if it comes to that."""
        run = _packed(rows)
        assert not isinstance(run.data, Path)
        packed, size = run.data, len(run.data)
        with self.lock:
            in_memory = size <= self.room
            if in_memory:
                self.room -= size
            else:
                self.spilled += size
        if not in_memory:
            run.data = self.folder / name
            self._spill(packed, run.data)
        return run

    def _spill(self, packed: npt.NDArray[np.uint8], path: Path) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(packed.data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ResourceError(
                f"sorted runs that do not fit --memory go to {self.folder.parent}, but it is full ({error.strerror}) after "
                f"{format_bytes(self.spilled)}; make room, give another --tmp or more --memory, and go on with --resume"
            ) from None


def splits_of(runs: Sequence[Run], rows: int) -> list[Gram]:
    """The grams between ranges of about `rows` rows each, ascending."""
    firsts = sorted(first for run in runs for first in run.first)
    return sorted(set(firsts[:: max(1, rows // BLOCK)][1:]))


def ranges_of(runs: Sequence[Run], splits: Sequence[Gram], wide: bool) -> Iterator[Range]:
    """What lies between the splits, ascending: all of the runs. wide: whether grams are."""
    for begin, end in pairwise([None, *splits, None]):
        yield Range(begin, end, wide, [run.part(begin, end) for run in runs])


def merge_range(part: Range) -> Rows:
    """The counts of one range, sorted."""
    rows = sum(sum(run.rows) for run in part.runs)
    whole = Rows(np.empty(rows, np.uint64), np.empty(rows, np.uint64) if part.wide else None, np.empty(rows, np.uint64))
    bounds = [0]
    for run in part.runs:
        bounds.append(run.read(whole, bounds[-1]))
    begin_K, end_K = np.array(bounds[:-1]), np.array(bounds[1:])
    first_K = begin_K if part.begin is None else bounds_of(whole, begin_K, end_K, part.begin)
    last_K = end_K if part.end is None else bounds_of(whole, begin_K, end_K, part.end)
    return merge_rows(whole, first_K, last_K)


def _packed(rows: Rows) -> Run:
    """Rows as a run in memory. What the longest varints would take is asked for; what is not touched takes none, and is given
    back."""
    from engram_cli.corpus import merge_kernels

    size = len(rows.key)
    data = np.empty(size * (2 if rows.top is None else 3) * _LONGEST, dtype=np.uint8)
    ends = np.empty(-(-size // BLOCK), dtype=np.int64)
    data.resize(merge_kernels.write_blocks(*rows, BLOCK, data, ends), refcheck=False)
    first_key = rows.key[::BLOCK]
    first_top = np.zeros_like(first_key) if rows.top is None else rows.top[::BLOCK]
    first = list(zip(first_top.tolist(), first_key.tolist(), strict=True))
    return Run(data, 0, first, [min(BLOCK, size - begin) for begin in range(0, size, BLOCK)], ends.tolist())


def gram_at(rows: Rows, at: int) -> Gram:
    return (0 if rows.top is None else int(rows.top[at])), int(rows.key[at])


def bounds_of(rows: Rows, begin_K: npt.NDArray[np.int64], end_K: npt.NDArray[np.int64], gram: Gram) -> npt.NDArray[np.int64]:
    """In each sorted stretch begin..end of rows, the first that does not come before `gram`."""
    from engram_cli.corpus import merge_kernels

    top, key = np.uint64(gram[0]), np.uint64(gram[1])
    return np.array([merge_kernels.lower_bound(rows.key, rows.top, b, e, key, top) for b, e in zip(begin_K, end_K, strict=True)])
