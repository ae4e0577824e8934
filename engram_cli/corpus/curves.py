"""Statistics of counts, all of them from the spectrum: how many grams occur once, twice, and so on.

The spectrum is exact, adds up over stretches of the counts, and is short: n tokens have at most sqrt(2 n) different counts. What
sizes a table is read off it: the Zipf curve, the share of occurrences that the most frequent grams hold, and how the number of
distinct grams grows with the corpus. Shapes: G grams, C different counts, P points of a curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.store.schema import SPECTRUM

FILE = "spectrum.arrow"
_DENSE = 1 << 16  # counts below it are tallied in an array
_GROWTH = 24  # points of the curve of growth
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Curve:
    """count_C: the different counts, ascending, uint64; grams_C: how many grams have each, uint64."""

    count_C: Keys
    grams_C: Keys

    @property
    def distinct(self) -> int:
        return int(self.grams_C.sum())

    @property
    def occurrences(self) -> int:
        return int((self.count_C * self.grams_C).sum())

    @property
    def singletons(self) -> int:
        """Grams that occur once."""
        return int(self.grams_C[0]) if len(self.count_C) and self.count_C[0] == 1 else 0

    def zipf(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(rank, count), int64 [C] each: the gram of that rank, most frequent first, is the last that occurs so often."""
        rank_C = np.cumsum(self.grams_C[::-1]).astype(np.int64)
        return rank_C, self.count_C[::-1].astype(np.int64)

    def coverage(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(grams, share), [P] each: the share of all occurrences that the 1, 2, 4, ... most frequent grams hold, at last all."""
        rank_C, _ = self.zipf()
        if not len(rank_C):
            return np.empty(0, np.int64), np.empty(0)
        top_P = np.append(2 ** np.arange(int(rank_C[-1]).bit_length() - (rank_C[-1].bit_count() == 1)), rank_C[-1])
        return top_P, self._held(top_P) / self.occurrences

    def held_by(self, top: int) -> float:
        """The share of all occurrences that the `top` most frequent grams hold; 1 where there are no more."""
        return float(self._held(np.array([min(top, self.distinct)]))[0]) / self.occurrences if self.occurrences else 1.0

    def _held(self, top_P: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The occurrences of so many of the most frequent grams, int64 [P]."""
        rank_C, count_C = self.zipf()
        held_C = np.cumsum(count_C * np.diff(rank_C, prepend=0))
        at_P = np.searchsorted(rank_C, top_P)
        held_P: npt.NDArray[np.int64] = held_C[at_P] - (rank_C[at_P] - top_P) * count_C[at_P]
        return held_P

    def growth(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(tokens, distinct grams), [P] each: how many are expected among so many tokens drawn from all, each as likely (Heaps).

        A gram that occurs c times is missing among a share s of the tokens with probability (1 - s)^c.
        """
        total = self.occurrences
        tokens_P = np.unique(np.geomspace(max(1, total >> 20), total, _GROWTH).astype(np.int64)) if total else np.empty(0, np.int64)
        with np.errstate(divide="ignore"):  # log 0 where all tokens are taken
            missing_P = np.log1p(-tokens_P / max(1, total))
        found_P = [float(self.grams_C @ -np.expm1(self.count_C * log)) for log in missing_P]
        return tokens_P, np.array(found_P)

    def exponent(self) -> float | None:
        """How steeply distinct grams grow at the end: doubling the tokens multiplies them by 2 to this power; None of too few."""
        tokens_P, found_P = self.growth()
        if len(tokens_P) < 2:
            return None
        return float(np.log2(found_P[-1] / self._expected(0.5)))

    def _expected(self, share: float) -> float:
        return float(self.grams_C @ -np.expm1(self.count_C * np.log1p(-share)))


class Spectrum:
    """The spectrum of one order while its counts go by, a stretch at a time, in any order."""

    def __init__(self) -> None:
        self.dense_LC = np.zeros((4, _DENSE), dtype=np.int64)
        self.sparse: dict[int, int] = {}

    def add(self, counts_G: Keys) -> None:
        """Take in the counts of some grams, each gram once."""
        from engram_cli.corpus import merge_kernels

        if merge_kernels.tally_counts(counts_G, self.dense_LC):
            for count, grams in zip(*np.unique(counts_G[counts_G >= _DENSE], return_counts=True), strict=True):
                self.sparse[int(count)] = self.sparse.get(int(count), 0) + int(grams)

    def curve(self) -> Curve:
        dense_C = self.dense_LC.sum(axis=0)
        found_C = np.flatnonzero(dense_C)
        frequent = sorted(self.sparse.items())
        return Curve(
            np.concatenate([found_C, np.array([count for count, _ in frequent], dtype=np.int64)]).astype(np.uint64),
            np.concatenate([dense_C[found_C], np.array([grams for _, grams in frequent], dtype=np.int64)]).astype(np.uint64),
        )


def to_arrow(spectra: Mapping[int, Curve]) -> pa.Table:
    """The spectra of orders as one table of schema SPECTRUM."""
    parts = [
        pa.table([pa.array(np.full(len(curve.count_C), order, np.int32)), curve.count_C, curve.grams_C], schema=SPECTRUM)
        for order, curve in sorted(spectra.items())
    ]
    return pa.concat_tables(parts).combine_chunks() if parts else SPECTRUM.empty_table()


def from_arrow(table: pa.Table) -> dict[int, Curve]:
    """The spectra that `to_arrow` wrote, by order."""
    order_C, count_C, grams_C = (table[name].to_numpy() for name in SPECTRUM.names)
    return {int(order): Curve(count_C[order_C == order], grams_C[order_C == order]) for order in np.unique(order_C)}
