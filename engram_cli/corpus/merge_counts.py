"""Two files of sorted counts -> their sum, a range of grams at a time, on all cores.

Ranges are cut so that neither file has more than ROWS rows in one. First the grams alone are read, to learn how many rows the sum
has in each range: then each row of it has its place, ranges are merged and written by whichever thread is free, and that a disk is
too small is known before anything is written. Reading the grams twice costs less than the detour that columns of unknown length
take (stream.py). Memory holds a range and its sum for each thread, whatever the size of the files.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from threading import Lock, local
from typing import NamedTuple

from engram_cli.corpus.curves import Curve, Spectrum
from engram_cli.corpus.ngrams import Buffers, Rows
from engram_cli.corpus.runs import Gram
from engram_cli.errors import ArtifactError
from engram_cli.store.stream import ColumnFile, ColumnReader

ROWS = 1 << 17  # of each file in a range, at most


class Range(NamedTuple):
    """Rows begin..end of the one file and other_begin..other_end of the other: all with grams of one stretch."""

    begin: int
    end: int
    other_begin: int
    other_end: int


class _Kept(local):
    """What each thread keeps from range to range: memory that was touched before."""

    def __init__(self) -> None:
        self.buffers = Buffers()


_kept = _Kept()


class Counts(ColumnReader):
    """A file of sorted counts, which is also the sequence of its grams."""

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Gram:
        return self.number(0, row) if self.wide else 0, self.number(-2, row)

    @property
    def wide(self) -> bool:
        """Whether a gram is two columns."""
        return len(self.places) > 2

    def read_grams(self, row: int, into: Rows) -> None:
        """Fill the grams of `into` with those from `row` on."""
        if into.top is not None:
            self.read(0, row, into.top)
        self.read(-2, row, into.key)

    def read_rows(self, row: int, into: Rows) -> None:
        """Fill `into` with the rows from `row` on."""
        self.read_grams(row, into)
        self.read(-1, row, into.counts)


class Sum:
    """The sum of two files of counts, made on the threads of `pool`. rows: how many it has."""

    def __init__(self, one: Counts, other: Counts, pool: ThreadPoolExecutor) -> None:
        self.one, self.other = one, other
        self.pool = pool
        self.ranges = list(_ranges(one, other))
        self.distinct = pool.map(self._distinct, self.ranges)  # begins at once

    @cached_property
    def ends(self) -> list[int]:
        """The row before which each range begins, and the last ends."""
        return list(accumulate(self.distinct, initial=0))

    @property
    def rows(self) -> int:
        return self.ends[-1]

    def write(self, file: ColumnFile, advance: Callable[[int], None]) -> Curve:
        """Write all rows; `advance` is told how many are. Returns their spectrum.

        Raises ArtifactError where the counts are not sorted.
        """
        spectrum, lock = Spectrum(), Lock()

        def write(part: Range, begin: int, end: int) -> int:
            rows = self._merged(part)
            if len(rows.key) != end - begin:
                raise ArtifactError(
                    f"counts must be sorted by gram, but those of {self.one.path} or {self.other.path} are not: it is damaged; make "
                    "the artifact again"
                )
            file.write(begin, rows.columns())
            with lock:
                spectrum.add(rows.counts)
            return end

        for done in self.pool.map(write, self.ranges, self.ends, self.ends[1:]):
            advance(done)
        return spectrum.curve()

    def _distinct(self, part: Range) -> int:
        """How many different grams a range has."""
        from engram_cli.corpus import merge_kernels

        rows, middle = self._buffers("read", part), part.end - part.begin
        self.one.read_grams(part.begin, rows.part(0, middle))
        self.other.read_grams(part.other_begin, rows.part(middle, len(rows.key)))
        return int(merge_kernels.distinct(rows.key, rows.top, 0, middle, middle, len(rows.key)))

    def _merged(self, part: Range) -> Rows:
        """The sum of a range."""
        from engram_cli.corpus import merge_kernels

        rows, middle = self._buffers("read", part), part.end - part.begin
        self.one.read_rows(part.begin, rows.part(0, middle))
        self.other.read_rows(part.other_begin, rows.part(middle, len(rows.key)))
        merged = self._buffers("merged", part)
        return merged.part(0, merge_kernels.merge_two(*rows, 0, middle, middle, len(rows.key), *merged, 0))

    def _buffers(self, name: str, part: Range) -> Rows:
        """Memory of this thread for all rows of a range."""
        size = part.end - part.begin + part.other_end - part.other_begin
        key, top, counts = (_kept.buffers.take(f"{name} {column}", size)[:size] for column in Rows._fields)
        return Rows(key, top if self.one.wide else None, counts)


def _ranges(one: Counts, other: Counts) -> Iterator[Range]:
    """Cut both before every gram that is the ROWS-th of either: so the next cut is never farther than that."""
    begin = other_begin = 0
    for gram in sorted({counts[row] for counts in (one, other) for row in range(ROWS, len(counts), ROWS)}):
        end = bisect_left(one, gram, begin, min(begin + ROWS, len(one)))
        other_end = bisect_left(other, gram, other_begin, min(other_begin + ROWS, len(other)))
        yield Range(begin, end, other_begin, other_end)
        begin, other_begin = end, other_end
    yield Range(begin, len(one), other_begin, len(other))
