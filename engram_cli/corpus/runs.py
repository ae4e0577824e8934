"""Sorted runs of the highest order while a corpus is counted: in memory as long as the budget lasts, else on disk.

In memory, runs lie end to end in one arena. When a run does not fit any more, all that lie there are merged into one and spilled as
blocks of bytes (merge_kernels.py), read back with plain reads and not by memory map, so that the resident set stays what was asked for.
Whatever is where, the counts are read as ranges of grams, each merged by itself: ranges are what threads share.
"""

import errno
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.ngrams import Rows, merge_rows
from engram_cli.errors import ResourceError
from engram_cli.store.resources import format_bytes

BLOCK = 4096  # rows that are read together
_LONGEST = 10  # bytes of a varint
Gram = tuple[int, int]  # (top, key): compares as grams do


@dataclass
class Spilled:
    """A run on disk. first: the first gram of each block; rows: of each; ends: where each ends in the file."""

    path: Path
    first: list[Gram] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def append(self, rows: Rows, file: Any) -> None:
        """Write rows that come after all that were written."""
        from engram_cli.corpus import merge_kernels

        starts = range(0, len(rows.key), BLOCK)
        ends = np.empty(len(starts), dtype=np.int64)
        numbers = 2 if rows.top is None else 3
        data = np.empty(len(rows.key) * numbers * _LONGEST, dtype=np.uint8)
        written = merge_kernels.write_blocks(*rows, BLOCK, data, ends)
        file.write(data[:written].data)
        before = self.ends[-1] if self.ends else 0
        self.first += [gram_at(rows, start) for start in starts]
        self.rows += [min(BLOCK, len(rows.key) - start) for start in starts]
        self.ends += (ends + before).tolist()

    def blocks(self, begin: Gram | None, end: Gram | None) -> range:
        """The blocks in which grams from `begin` to before `end` may lie."""
        first = 0 if begin is None else max(0, bisect_right(self.first, begin) - 1)
        last = len(self.first) if end is None else bisect_right(self.first, end)
        return range(first, last)

    def read(self, blocks: range, into: Rows, to: int) -> int:
        """Read blocks into rows from `to` on; returns where they end."""
        from engram_cli.corpus import merge_kernels

        if not blocks:
            return to
        begin = self.ends[blocks[0] - 1] if blocks[0] else 0
        data = np.empty(self.ends[blocks[-1]] - begin, dtype=np.uint8)
        with self.path.open("rb") as file:
            file.seek(begin)
            read = file.readinto(data.data)
        assert read == len(data), self.path
        chosen = slice(blocks[0], blocks[-1] + 1)
        top, key = np.array(self.first[chosen], dtype=np.uint64).T.copy()
        rows = np.array(self.rows[chosen])
        return int(merge_kernels.read_blocks(data, rows, key, None if into.top is None else top, *into, to))


class Runs:
    """All runs of one corpus.

    room: rows that may lie in memory; wide: whether grams are; folder: where runs are spilled, made when it is first needed;
    threads share `add`. Raises ResourceError where the disk is full.
    """

    def __init__(self, room: int, wide: bool, folder: Path) -> None:
        self.arena = _room(room, wide, np.uint32)
        self.ends = [0]  # of the runs in memory
        self.folder = folder
        self.spilled: list[Spilled] = []
        self.lock = Lock()

    @property
    def spilled_bytes(self) -> int:
        return sum(run.ends[-1] for run in self.spilled if run.ends)

    def add(self, run: Rows) -> None:
        """Take a run over: it is copied."""
        with self.lock:
            if self.ends[-1] + len(run.key) > len(self.arena.key):
                self.spill()
            begin, end = self.ends[-1], self.ends[-1] + len(run.key)
            for column, part in zip(self.arena.part(begin, end), run, strict=True):
                if column is not None:
                    column[:] = part
            self.ends.append(end)

    def spill(self) -> None:
        """Merge what lies in memory into one run on disk."""
        if len(self.ends) == 1:
            return
        run = Spilled(self.folder / str(len(self.spilled)))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with run.path.open("wb") as file:
                for rows in self._in_memory(*self._ranges_in_memory(BLOCK * 32)):
                    run.append(rows, file)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ResourceError(
                f"counting spills sorted runs to {self.folder.parent}, but it is full ({error.strerror}) with "
                f"{format_bytes(self.spilled_bytes)} spilled; make room, give another --tmp or more --memory, and go on with --resume"
            ) from None
        self.spilled.append(run)
        self.ends = [0]

    def ranges(self, rows: int) -> list[Callable[[], Rows]]:
        """The merged counts as stretches of about `rows` rows read, ascending; each may be called on a thread of its own."""
        if not self.spilled:
            begins, ends = self._ranges_in_memory(rows)
            return [lambda b=b, e=e: merge_rows(self.arena, b, e) for b, e in zip(begins, ends, strict=True)]  # type: ignore[misc]
        self.spill()
        self.arena = _room(0, self.arena.top is not None)  # gives its memory back
        firsts = sorted(first for run in self.spilled for first in run.first)
        splits = [None, *sorted(set(firsts[:: max(1, rows // BLOCK)][1:])), None]
        return [lambda b=b, e=e: self._read(b, e) for b, e in zip(splits[:-1], splits[1:], strict=True)]  # type: ignore[misc]

    def _in_memory(self, begins: list[npt.NDArray[np.int64]], ends: list[npt.NDArray[np.int64]]) -> Iterator[Rows]:
        return (merge_rows(self.arena, begin_K, end_K) for begin_K, end_K in zip(begins, ends, strict=True))

    def _ranges_in_memory(self, rows: int) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]]:
        """(where each range begins, where it ends) in each run of the arena, ranges split by grams of the longest run."""
        end_K = np.array(self.ends[1:], dtype=np.int64)
        begin_K = np.array(self.ends[:-1], dtype=np.int64)
        if not len(end_K):
            return [], []
        longest = int(np.argmax(end_K - begin_K))
        parts = max(1, -(-self.ends[-1] // rows))
        splits = np.linspace(begin_K[longest], end_K[longest], parts, endpoint=False).astype(np.int64)[1:]
        bounds = [begin_K, *(bounds_of(self.arena, begin_K, end_K, gram_at(self.arena, at)) for at in splits), end_K]
        return bounds[:-1], bounds[1:]

    def _read(self, begin: Gram | None, end: Gram | None) -> Rows:
        """The grams from `begin` to before `end` of all runs on disk, merged."""
        blocks = [run.blocks(begin, end) for run in self.spilled]
        rows = sum(sum(run.rows[part.start : part.stop]) for run, part in zip(self.spilled, blocks, strict=True))
        whole = _room(rows, self.arena.top is not None)
        bounds = [0]
        for run, part in zip(self.spilled, blocks, strict=True):
            bounds.append(run.read(part, whole, bounds[-1]))
        begin_K, end_K = np.array(bounds[:-1]), np.array(bounds[1:])
        first_K = begin_K if begin is None else bounds_of(whole, begin_K, end_K, begin)
        last_K = end_K if end is None else bounds_of(whole, begin_K, end_K, end)
        return merge_rows(whole, first_K, last_K)


def gram_at(rows: Rows, at: int) -> Gram:
    return (0 if rows.top is None else int(rows.top[at])), int(rows.key[at])


def bounds_of(
    rows: Rows, begin_K: npt.NDArray[np.int64], end_K: npt.NDArray[np.int64], gram: Gram
) -> npt.NDArray[np.int64]:
    """In each sorted stretch begin..end of rows, the first that does not come before `gram`."""
    from engram_cli.corpus import merge_kernels

    top, key = np.uint64(gram[0]), np.uint64(gram[1])
    return np.array([merge_kernels.lower_bound(rows.key, rows.top, b, e, key, top) for b, e in zip(begin_K, end_K, strict=True)])


def _room(rows: int, wide: bool, counts: npt.DTypeLike = np.uint64) -> Rows:
    return Rows(np.empty(rows, np.uint64), np.empty(rows, np.uint64) if wide else None, np.empty(rows, counts))
