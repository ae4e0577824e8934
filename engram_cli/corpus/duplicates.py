"""Documents that were seen before: counted twice, they flatter every n-gram method.

A document is known by the 128 bits of its digest, kept as sorted arrays of 16 bytes each whose sizes fall by half.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Halves = npt.NDArray[np.uint64]


class _Sorted(NamedTuple):
    low_D: Halves
    high_D: Halves

    def has(self, high_D: Halves, low_D: Halves) -> npt.NDArray[np.bool_]:
        """Whether each digest is among these."""
        begin_D = np.searchsorted(self.low_D, low_D)
        at_D = np.minimum(begin_D, len(self.low_D) - 1)
        found_D: npt.NDArray[np.bool_] = (self.low_D[at_D] == low_D) & (self.high_D[at_D] == high_D)
        return found_D


class Seen:
    """The digests of documents so far."""

    def __init__(self) -> None:
        self.levels: list[_Sorted] = []

    def fresh(self, high_D: Halves, low_D: Halves) -> npt.NDArray[np.bool_]:
        """Whether each digest, given by its halves, is new: neither earlier in this call nor in one before. Takes them all in."""
        order_D = np.lexsort((high_D, low_D))
        low_S, high_S = low_D[order_D], high_D[order_D]
        fresh_D = np.ones(len(low_D), dtype=np.bool_)
        fresh_D[order_D[1:][(low_S[1:] == low_S[:-1]) & (high_S[1:] == high_S[:-1])]] = False
        fresh_D &= ~self.has(high_D, low_D)
        self._add(high_D[fresh_D], low_D[fresh_D])
        return fresh_D

    def has(self, high_D: Halves, low_D: Halves) -> npt.NDArray[np.bool_]:
        """Whether each digest was seen before."""
        seen_D = np.zeros(len(low_D), dtype=np.bool_)
        for level in self.levels:
            seen_D |= level.has(high_D, low_D)
        return seen_D

    def _add(self, high_D: Halves, low_D: Halves) -> None:
        if not len(low_D):
            return
        while self.levels and len(self.levels[-1].low_D) < 2 * len(low_D):
            level = self.levels.pop()
            low_D, high_D = np.concatenate([level.low_D, low_D]), np.concatenate([level.high_D, high_D])
        order_D = np.lexsort((high_D, low_D))
        self.levels.append(_Sorted(low_D[order_D], high_D[order_D]))


def seen_in(ngrams: str | Path | None) -> Seen:
    """The digests of the documents of an n-gram artifact; of none where it is None."""
    from engram_cli.corpus.documents import DOCUMENTS, read_digests
    from engram_cli.store.artifact import open_artifact

    seen = Seen()
    if ngrams is not None:
        for digests in read_digests(open_artifact(ngrams, "ngrams").table(DOCUMENTS)["digest"]):
            seen.fresh(*digests)
    return seen
