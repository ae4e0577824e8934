"""Sorted runs of the highest order while a corpus is counted: in memory as long as the budget lasts, else on disk.

A run is kept as blocks of bytes (merge_kernels.py), three or so a row instead of twelve: packing and unpacking them costs less
than the first touch of the memory that they save. On disk the same bytes are read with plain reads and not by memory map, so that
the resident set stays what was asked for. Whatever is where, the counts are read as ranges of grams, each merged by itself: ranges
are what threads share.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.ngrams import Keys, Rows, merge_rows
from engram_cli.errors import ResourceError
from engram_cli.store.resources import format_bytes

BLOCK = 2048  # rows that are read together
_LONGEST = 17  # bytes of a row; where grams are wide, 8 more
_BEHIND = 8  # bytes that the last row may be read with
Gram = tuple[int, int]  # (top, key): compares as grams do


@dataclass
class Run:
    """A packed run, or some blocks of one. data: its bytes, or where they lie; begin: where the first block does among them; top_B,
    key_B: the first gram of each block; rows_B: of each; ends_B: where each ends."""

    data: npt.NDArray[np.uint8] | Path
    begin: int
    top_B: Keys
    key_B: Keys
    rows_B: npt.NDArray[np.int64]
    ends_B: npt.NDArray[np.int64]

    def part(self, begin: Gram | None, end: Gram | None) -> "Run":
        """The blocks in which grams from `begin` to before `end` may lie."""
        first = 0 if begin is None else max(0, self._behind(begin) - 1)
        last = len(self.key_B) if end is None else self._behind(end)
        starts_at = int(self.ends_B[first - 1]) if first else self.begin
        columns = (self.top_B, self.key_B, self.rows_B, self.ends_B)
        return Run(self.data, starts_at, *(column_B[first:last] for column_B in columns))  # type: ignore[arg-type]

    def _behind(self, gram: Gram) -> int:
        """The first block that begins behind `gram`."""
        top, key = map(np.uint64, gram)
        begin, end = (int(np.searchsorted(self.top_B, top, side)) for side in ("left", "right"))
        return begin + int(np.searchsorted(self.key_B[begin:end], key, "right"))

    def read(self, into: Rows, to: int) -> int:
        """Unpack into rows from `to` on; returns where they end."""
        from engram_cli.corpus import merge_kernels

        if not len(self.rows_B):
            return to
        tops = None if into.top is None else self.top_B
        return int(merge_kernels.read_blocks(*_words(self._bytes()), self.rows_B, self.key_B, tops, *into, to))

    def _bytes(self) -> npt.NDArray[np.uint8]:
        if not isinstance(self.data, Path):
            return self.data[self.begin : self.ends_B[-1] + _BEHIND]
        data = np.empty(self.ends_B[-1] - self.begin + _BEHIND, dtype=np.uint8)
        with self.data.open("rb") as file:
            file.seek(self.begin)
            read = file.readinto(data[:-_BEHIND].data)
        assert read == len(data) - _BEHIND, self.data
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
            self.room -= size if in_memory else 0
        if not in_memory:
            run.data = self.folder / name
            self._spill([packed[:-_BEHIND]], run.data)
        return run

    def join(self, runs: Sequence[Run], merged: Iterable[Rows], name: str) -> Run:
        """One run, on disk, in place of several, whose merged rows come stretch by stretch."""
        size, parts = 0, []

        def packed() -> Iterator[npt.NDArray[np.uint8]]:
            nonlocal size
            for part in map(_packed, merged):
                assert not isinstance(part.data, Path)
                parts.append((part.top_B, part.key_B, part.rows_B, part.ends_B + size))
                size += len(part.data) - _BEHIND
                yield part.data[:-_BEHIND]

        self._spill(packed(), self.folder / name)
        for run in runs:
            if isinstance(run.data, Path):
                run.data.unlink()
            else:
                self.room += len(run.data)
        return Run(self.folder / name, 0, *map(np.concatenate, zip(*parts, strict=True)))

    def _spill(self, packed: Iterable[npt.NDArray[np.uint8]], path: Path) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for part in packed:
                    file.write(part.data)
                    self.spilled += len(part)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ResourceError(
                f"sorted runs that do not fit --memory go to {self.folder.parent}, but it is full ({error.strerror}) after "
                f"{format_bytes(self.spilled)}; make room, give another --tmp or more --memory, and go on with --resume"
            ) from None


def splits_of(runs: Sequence[Run], rows: int) -> list[Gram]:
    """The grams between ranges of about `rows` rows each, ascending."""
    top_B, key_B = (np.concatenate([getattr(run, name) for run in runs]) for name in ("top_B", "key_B"))
    chosen = np.lexsort((key_B, top_B))[:: max(1, rows // BLOCK)][1:]
    return sorted(set(zip(top_B[chosen].tolist(), key_B[chosen].tolist(), strict=True)))


def ranges_of(runs: Sequence[Run], splits: Sequence[Gram], wide: bool) -> Iterator[Range]:
    """What lies between the splits, ascending: all of the runs. wide: whether grams are."""
    for begin, end in pairwise([None, *splits, None]):
        yield Range(begin, end, wide, [run.part(begin, end) for run in runs])


def merge_range(part: Range) -> Rows:
    """The counts of one range, sorted."""
    rows = sum(int(run.rows_B.sum()) for run in part.runs)
    whole = Rows(np.empty(rows, np.uint64), np.empty(rows, np.uint64) if part.wide else None, np.empty(rows, np.uint64))
    bounds = [0]
    for run in part.runs:
        bounds.append(run.read(whole, bounds[-1]))
    begin_K, end_K = np.array(bounds[:-1]), np.array(bounds[1:])
    first_K = begin_K if part.begin is None else bounds_of(whole, begin_K, end_K, part.begin)
    last_K = end_K if part.end is None else bounds_of(whole, begin_K, end_K, part.end)
    return merge_rows(whole, first_K, last_K)


def _packed(rows: Rows) -> Run:
    """Rows as a run in memory. What the longest rows would take is asked for; what is not touched takes none, and is given
    back."""
    from engram_cli.corpus import merge_kernels

    size = len(rows.key)
    data = np.empty(size * (_LONGEST + (0 if rows.top is None else 8)) + _BEHIND, dtype=np.uint8)
    begin_B = np.arange(0, size, BLOCK)
    ends_B = np.empty(len(begin_B), dtype=np.int64)
    data.resize(merge_kernels.write_blocks(*rows, BLOCK, *_words(data), ends_B) + _BEHIND, refcheck=False)
    top_B = np.zeros(len(begin_B), np.uint64) if rows.top is None else rows.top[begin_B]
    return Run(data, 0, top_B, rows.key[begin_B], np.minimum(BLOCK, size - begin_B), ends_B)


def _words(data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], Keys]:
    """Bytes, and the eight from each of them on as a number."""
    return data, np.ndarray(len(data) - 7, np.uint64, data, strides=(1,))


def gram_at(rows: Rows, at: int) -> Gram:
    return (0 if rows.top is None else int(rows.top[at])), int(rows.key[at])


def bounds_of(rows: Rows, begin_K: npt.NDArray[np.int64], end_K: npt.NDArray[np.int64], gram: Gram) -> npt.NDArray[np.int64]:
    """In each sorted stretch begin..end of rows, the first that does not come before `gram`."""
    from engram_cli.corpus import merge_kernels

    top, key = np.uint64(gram[0]), np.uint64(gram[1])
    return np.array([merge_kernels.lower_bound(rows.key, rows.top, b, e, key, top) for b, e in zip(begin_K, end_K, strict=True)])
