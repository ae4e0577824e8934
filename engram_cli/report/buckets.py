"""What falls into the buckets of a head, and what random hashing would put there.

In a head of m rows, random hashing of n distinct grams occupies a bucket with probability 1 - (1 - 1/m)^n, and makes a gram share
its bucket with probability 1 - (1 - 1/m)^(n - 1). Both saturate: with more grams than rows nearly everything shares. So the
measure to look at is *purity*: the share of what a row is read for that belongs to its top gram, averaged over occurrences.
Shapes: G grams of one order, R rows (buckets) of one head.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 18  # grams at a time
ALL_MIXES = 2**63
Histogram = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK that cover 0 .. count; one empty slice where there is nothing."""
    return (slice(first, min(first + BLOCK, count)) for first in range(0, max(1, count), BLOCK))


@dataclass(frozen=True)
class Buckets:
    """What fell into the buckets of one head.

    grams_R: distinct grams, u32; occurrences_R: of all of them, u64; top_R: of the most frequent of them, u64.
    """

    grams_R: npt.NDArray[np.uint32]
    occurrences_R: npt.NDArray[np.uint64]
    top_R: npt.NDArray[np.uint64]

    @property
    def foreign_R(self) -> npt.NDArray[np.uint64]:
        """Occurrences that do not belong to the bucket's top gram."""
        return self.occurrences_R - self.top_R


def fill_buckets(mix_G: npt.NDArray[np.int64], counts_G: npt.NDArray[np.uint64], prime: int) -> Buckets:
    """Put every gram into bucket mix mod prime. Integers throughout, so the result is exact."""
    buckets = Buckets(np.zeros(prime, np.uint32), np.zeros(prime, np.uint64), np.zeros(prime, np.uint64))
    for block in blocks(len(mix_G)):
        bucket_G = mix_G[block] % prime
        counts = np.asarray(counts_G[block])
        np.add.at(buckets.grams_R, bucket_G, np.uint32(1))
        np.add.at(buckets.occurrences_R, bucket_G, counts)
        np.maximum.at(buckets.top_R, bucket_G, counts)
    return buckets


def sharing_expected(grams: int, rows: int) -> float:
    """Chance that random hashing puts another of `grams` into a gram's bucket: 1 - (1 - 1/rows)^(grams - 1)."""
    return -math.expm1((grams - 1) * math.log1p(-1 / rows)) if grams else 0.0


def occupied_expected(grams: int, rows: int) -> float:
    """Share of buckets that random hashing occupies: 1 - (1 - 1/rows)^grams."""
    return -math.expm1(grams * math.log1p(-1 / rows))


def count_histogram(counts_G: npt.NDArray[np.uint64]) -> Histogram:
    """(counts, most frequent first; how many grams have each): all that `purity_expected` needs to know of the grams."""
    values, grams = np.unique(counts_G, return_counts=True)
    return values[::-1].astype(np.float64), grams[::-1].astype(np.float64)


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
    rows, grams = len(buckets.grams_R), int(histogram[1].sum())
    shared_R = buckets.grams_R > 1
    occurrences = int(buckets.occurrences_R.sum())
    return {
        "rows": rows,
        "grams": grams,
        "load": grams / rows,
        "occupied": np.count_nonzero(buckets.grams_R) / rows,
        "occupied_expected": occupied_expected(grams, rows),
        "grams_sharing": int(buckets.grams_R[shared_R].sum(dtype=np.int64)) / max(1, grams),
        "occurrences_sharing": int(buckets.occurrences_R[shared_R].sum()) / max(1, occurrences),
        "sharing_expected": sharing_expected(grams, rows),
        "purity": int(buckets.top_R.sum()) / occurrences if occurrences else 1.0,
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
