"""Counts of the highest order -> counts of every order, in one pass over the sorted stream of the highest.

The prefix of a gram, the gram without its newest id, is the window one order lower and one position earlier, so that folding sorted
grams by their prefixes counts the lower order, but for the ends of documents: a document's last window is nobody's prefix and is
added, and its first window has a prefix of nothing but pads, which no position has and which is subtracted. Exact, and in place of
a sort it costs a few nanoseconds a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.curves import Spectrum
from engram_cli.corpus.ngrams import Buffers, Keys, Packing, Rows, count_keys, merge_rows
from engram_cli.corpus.runs import bounds_of, gram_at

Write = Callable[[Sequence[npt.NDArray[Any]]], None]


@dataclass
class Tally:
    """What was written of one order, and what --min-count left out. singletons: grams that were written with a count of one;
    spectrum: of all grams, also those left out."""

    distinct: int = 0
    singletons: int = 0
    pruned: int = 0
    pruned_occurrences: int = 0
    spectrum: Spectrum = field(default_factory=Spectrum)


class Level:
    """One order: takes its grams, sorted, stretch by stretch, writes them, and gives the order below its own.

    write: takes the columns of `ngrams_schema`; min_count: grams seen less often are not written (but are in the orders below);
    below: the next lower order, or None; ends: the last windows of all documents in this order, or None for the highest order.
    """

    def __init__(self, packing: Packing, write: Write, min_count: int, below: "Level | None", ends: Rows | None = None) -> None:
        self.packing = packing
        self.write = write
        self.min_count = min_count
        self.below = below
        self.ends = ends
        self.surplus = 0 if ends is None else int(ends.counts.sum())  # prefixes of nothing but pads: one a document
        self.carry: Rows | None = None  # the last gram so far, which may go on
        self.tally = Tally()

    def take(self, rows: Rows) -> None:
        """Grams of this order that are counted to the end."""
        if not len(rows.key):
            return
        self._write(rows)
        if self.below is not None:
            self.below.take_prefixes(self._shorten(rows))

    def take_prefixes(self, rows: Rows) -> None:
        """Grams folded out of those of the order above: the first may be the last of the stretch before."""
        if self.carry is not None and gram_at(self.carry, 0) == gram_at(rows, 0):
            rows.counts[0] += self.carry.counts[0]
        elif self.carry is not None:
            rows = _joined(self.carry, rows)
        last = len(rows.key) - 1
        self.carry = Rows(*(column if column is None else column[last:].copy() for column in rows))  # type: ignore[arg-type]
        self.take(self._corrected(rows.part(0, last), gram_at(rows, last)))

    def finish(self) -> None:
        """No grams are left."""
        if self.carry is not None:
            self.take(self._corrected(self.carry, None))
        if self.below is not None:
            self.below.finish()

    def _corrected(self, rows: Rows, before: tuple[int, int] | None) -> Rows:
        """Rows with the ends of documents that lie `before` a gram (None: all that are left), and without the surplus of pads."""
        assert self.ends is not None
        size = len(self.ends.key)
        if before is not None:
            size = int(bounds_of(self.ends, np.array([0]), np.array([size]), before)[0])
        if size:
            whole = _joined(rows, self.ends.part(0, size))
            bounds = np.array([0, len(rows.key), len(whole.key)])
            rows = merge_rows(whole, bounds[:-1], bounds[1:])
            self.ends = self.ends.part(size, len(self.ends.key))
        return self._without_surplus(rows)

    def _without_surplus(self, rows: Rows) -> Rows:
        top, key = map(int, self.packing.blank)
        if not self.surplus or not len(rows.key) or gram_at(rows, len(rows.key) - 1) < (top, key):
            return rows
        at = int(bounds_of(rows, np.array([0]), np.array([len(rows.key)]), (top, key))[0])
        rows.counts[at] -= np.uint64(self.surplus)
        self.surplus = 0
        if rows.counts[at]:
            return rows
        return Rows(*(column if column is None else np.delete(column, at) for column in rows))  # type: ignore[arg-type]

    def _write(self, rows: Rows) -> None:
        self.tally.spectrum.add(rows.counts)
        if self.min_count > 1:
            keep_G = rows.counts >= self.min_count
            self.tally.pruned += len(keep_G) - int(keep_G.sum())
            self.tally.pruned_occurrences += int(rows.counts[~keep_G].sum())
            rows = Rows(*(column if column is None else column[keep_G] for column in rows))  # type: ignore[arg-type]
        else:
            self.tally.singletons += int((rows.counts == 1).sum())
        self.tally.distinct += len(rows.key)
        self.write(rows.columns())

    def _shorten(self, rows: Rows) -> Rows:
        from engram_cli.corpus import merge_kernels

        assert self.below is not None
        size = len(rows.key)
        top = np.empty(size, np.uint64) if self.below.packing.wide else None
        short = Rows(np.empty(size, np.uint64), top, np.empty(size, np.uint64))
        return short.part(0, merge_kernels.shorten(*rows, np.uint64(self.packing.bits), *short))


def levels(packing: Packing, ends: Rows, writes: Sequence[Write], min_count: int) -> list[Level]:
    """The levels of orders 1 to `packing.order`, lowest first. ends: the last window of each document in the highest order,
    unsorted, its counts unused; writes: by order."""
    made: list[Level] = []
    for order, write in enumerate(writes, 1):
        lower = Packing(order, packing.bits, packing.pad)
        below = made[-1] if made else None
        made.append(Level(lower, write, min_count, below, None if order == packing.order else _ends_of(ends, lower)))
    return made


def _ends_of(ends: Rows, packing: Packing) -> Rows:
    top, key = packing.mask
    low: Keys = ends.key & key
    counted = count_keys(low, None if ends.top is None or not packing.wide else ends.top & top, Buffers())
    return Rows(*(column if column is None else column.copy() for column in counted))  # type: ignore[arg-type]


def _joined(first: Rows, second: Rows) -> Rows:
    top = None if first.top is None or second.top is None else np.concatenate([first.top, second.top])
    counts = np.concatenate([first.counts, second.counts.astype(np.uint64, copy=False)])
    return Rows(np.concatenate([first.key, second.key]), top, counts)
