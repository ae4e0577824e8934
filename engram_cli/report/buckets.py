"""What falls into the buckets of a head, and what random hashing would put there.

In a head of m rows, random hashing of n distinct grams occupies a bucket with probability 1 - (1 - 1/m)^n, and makes a gram share
its bucket with probability 1 - (1 - 1/m)^(n - 1). Both saturate: with more grams than rows nearly everything shares. So the
measure to look at is *purity*: the share of what a row is read for that belongs to its top gram, averaged over occurrences.
Shapes: G grams of one order, R rows (buckets) of one head.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.compiled import compiled
from engram_cli.corpus.curves import Spectrum
from engram_cli.table.kernels import remainder

BLOCK = 1 << 18  # grams at a time
ALL_MIXES = 2**63
_STRETCH = 1 << 10  # buckets
Mixes = npt.NDArray[np.int64]
Histogram = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK that cover 0 .. count; one empty slice where there is nothing."""
    return (slice(first, min(first + BLOCK, count)) for first in range(0, max(1, count), BLOCK))


class Buckets:
    """What fell into the buckets of one head.

    cells_R3: distinct grams, occurrences of all of them, and of the most frequent of them, u64: side by side, so that memory is
    waited for once a gram.
    """

    def __init__(self, prime: int) -> None:
        self.prime, self.reciprocal = np.uint64(prime), np.uint64(2**64 // prime)
        self.cells_R3 = np.zeros((prime, 3), np.uint64)
        self.grams_R, self.occurrences_R, self.top_R = self.cells_R3.T

    @property
    def foreign_R(self) -> npt.NDArray[np.uint64]:
        """Occurrences that do not belong to the bucket's top gram."""
        return self.occurrences_R - self.top_R

    def keep_sharing(self, mix_G: Mixes, sharing_G: npt.NDArray[np.bool_]) -> None:
        """Set `sharing_G` to false for grams that are alone in their buckets."""
        _keep_sharing(mix_G, self.prime, self.reciprocal, self.cells_R3, sharing_G)

    def worst(self, most: int) -> npt.NDArray[np.int64]:
        """The `most` buckets with the most occurrences that are not the top gram's, worst first; of equal ones, the first.

        Of the largest in each stretch of buckets, so many are at least the so-manieth: no bucket with less need be sorted.
        """
        foreign_R = self.foreign_R
        largest = np.sort(np.maximum.reduceat(foreign_R, np.arange(0, len(foreign_R), _STRETCH)))
        least = largest[-most] if 0 < most <= len(largest) else 0
        chosen = np.flatnonzero(foreign_R >= max(least, 1))
        return chosen[np.argsort(-foreign_R[chosen].astype(np.int64), kind="stable")[:most]]


def fill_buckets(mix_G: Mixes, counts_G: npt.NDArray[np.uint64], prime: int) -> Buckets:
    """Put every gram into bucket mix mod prime. Integers throughout, so the result is exact."""
    buckets = Buckets(prime)
    for block in blocks(len(mix_G)):  # counts may lie on disk
        _fill(mix_G[block], np.asarray(counts_G[block]), buckets.prime, buckets.reciprocal, buckets.cells_R3)
    return buckets


def grams_inside(mix_G: Mixes, prime: int, bucket: int) -> npt.NDArray[np.int64]:
    """Which grams fall into a bucket of a head."""
    inside_G = np.empty(len(mix_G), np.bool_)
    _find(mix_G, np.uint64(prime), np.uint64(2**64 // prime), np.uint64(bucket), inside_G)
    return np.flatnonzero(inside_G)


@compiled
def _fill(mix_G: Any, counts_G: Any, prime: Any, reciprocal: Any, cells_R3: Any) -> None:
    for at in range(np.uint64(len(mix_G))):
        cell = cells_R3[remainder(np.uint64(mix_G[at]), prime, reciprocal)]
        cell[0] += np.uint64(1)
        cell[1] += counts_G[at]
        cell[2] = max(cell[2], counts_G[at])


@compiled
def _keep_sharing(mix_G: Any, prime: Any, reciprocal: Any, cells_R3: Any, sharing_G: Any) -> None:
    for at in range(np.uint64(len(mix_G))):
        sharing_G[at] &= cells_R3[remainder(np.uint64(mix_G[at]), prime, reciprocal), 0] > np.uint64(1)


@compiled
def _find(mix_G: Any, prime: Any, reciprocal: Any, bucket: Any, inside_G: Any) -> None:
    for at in range(np.uint64(len(mix_G))):
        inside_G[at] = remainder(np.uint64(mix_G[at]), prime, reciprocal) == bucket


@compiled
def _sums(cells_R3: Any) -> Any:
    """(buckets with grams; grams and occurrences in those with several; occurrences in all, and of the top grams)."""
    occupied, grams, shared, occurrences, top = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for row in range(np.uint64(len(cells_R3))):
        cell = cells_R3[row]
        occupied += np.uint64(cell[0] > 0)
        several = np.uint64(cell[0] > 1)
        grams += several * cell[0]
        shared += several * cell[1]
        occurrences += cell[1]
        top += cell[2]
    return occupied, grams, shared, occurrences, top


def sharing_expected(grams: int, rows: int) -> float:
    """Chance that random hashing puts another of `grams` into a gram's bucket: 1 - (1 - 1/rows)^(grams - 1)."""
    return -math.expm1((grams - 1) * math.log1p(-1 / rows)) if grams else 0.0


def occupied_expected(grams: int, rows: int) -> float:
    """Share of buckets that random hashing occupies: 1 - (1 - 1/rows)^grams."""
    return -math.expm1(grams * math.log1p(-1 / rows))


def count_histogram(counts_G: npt.NDArray[np.uint64]) -> Histogram:
    """(counts, most frequent first; how many grams have each): all that `purity_expected` needs to know of the grams."""
    spectrum = Spectrum()
    for block in blocks(len(counts_G)):
        spectrum.add(np.asarray(counts_G[block]))
    curve = spectrum.curve()
    return curve.count_C[::-1].astype(np.float64), curve.grams_C[::-1].astype(np.float64)


def purity_expected(histogram: Histogram, rows: int) -> float:
    """Purity under random hashing. A gram is its bucket's top if no more frequent one is there: (1 - 1/rows)^(its rank)."""
    values, grams = histogram
    if not len(values):
        return 1.0
    more_frequent = np.cumsum(grams) - grams
    log = math.log1p(-1 / rows)
    on_top = np.exp(more_frequent * log) * -np.expm1(grams * log) * rows  # summed over the grams of one count
    return float((values * on_top).sum() / (values * grams).sum())


def head_record(buckets: Buckets, histogram: Histogram) -> dict[str, Any]:
    """The measures of one head, a record of HEADS but for its place in the layout."""
    rows, grams = len(buckets.cells_R3), int(histogram[1].sum())
    occupied, grams_sharing, sharing, occurrences, top = map(int, _sums(buckets.cells_R3))
    return {
        "rows": rows,
        "grams": grams,
        "load": grams / rows,
        "occupied": occupied / rows,
        "occupied_expected": occupied_expected(grams, rows),
        "grams_sharing": grams_sharing / max(1, grams),
        "occurrences_sharing": sharing / max(1, occurrences),
        "sharing_expected": sharing_expected(grams, rows),
        "purity": top / occurrences if occurrences else 1.0,
        "purity_expected": purity_expected(histogram, rows),
    }


def full_collisions(mix_G: npt.NDArray[np.int64], primes: Sequence[int]) -> tuple[int, float]:
    """Grams that share the buckets of all heads with another gram: (found, expected under random hashing).

    Two mixes agree modulo every prime just where they agree modulo the least common multiple, and if that is 2^63 or more, just
    where they are equal: one sort answers for all heads.
    """
    together = math.lcm(*primes)
    key_G = np.sort(mix_G % together if together < ALL_MIXES else mix_G)
    same_G = key_G[1:] == key_G[:-1]
    with_neighbour = np.zeros(len(key_G), bool)
    with_neighbour[1:] |= same_G
    with_neighbour[:-1] |= same_G
    return int(np.count_nonzero(with_neighbour)), len(mix_G) * sharing_expected(len(mix_G), together)
