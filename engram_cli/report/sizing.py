"""How many rows the grams of each order deserve, from nothing but how many grams occur how often (corpus/curves.py).

Random hashing is what `engram collisions` finds to hold, and what it makes of counts is a formula (buckets.py). So the rows that a
budget pays for are dealt out, a portion at a time, to the order where they raise the mean purity most; beyond ENOUGH none are
bought. In that mean an order counts as much as new text will find its grams in the counts: Good and Turing's estimate, 1 less the
share of occurrences that are singletons. A long gram that is never met again is worth no row.
Ids alone, order 1, share no row where a head has as many rows as ids: times a number modulo a prime is one-to-one below the prime.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engram_cli.corpus.curves import Curve
from engram_cli.recipe import Recipe
from engram_cli.report.buckets import Histogram, occupied_expected, purity_expected, sharing_expected

LEAST = 1024  # rows of a head
ENOUGH = 0.99  # purity of an order that gets no more rows
_PORTIONS = 64  # that a budget is dealt out in
_DIGITS = 3  # of a size that is chosen
_STEP = 2**0.25  # between the sizes that are tried
_MOST = 1 << 39  # rows of a head; a recipe takes just less than twice as many


@dataclass(frozen=True)
class Fit:
    """What the grams of one order do in a head of so many rows, expected of random hashing; shares are of occurrences.

    load: grams for each row; occupied: share of the rows that hold a gram; covered: held by as many of the most frequent grams as
    there are rows, what no table of that size can exceed; sharing: in a bucket with another gram, in_every_head: in all of them;
    purity: share of what a row is read for that belongs to its top gram; seen: share of new text whose grams were counted.
    """

    order: int
    rows: int
    grams: int
    load: float
    occupied: float
    covered: float
    sharing: float
    in_every_head: float
    purity: float
    seen: float


def fit(curve: Curve, order: int, rows: int, heads: int, ids: int | None = None) -> Fit:
    """How the grams whose counts `curve` has fall into heads of `rows` rows each; ids: how many there are of those hashed."""
    grams = curve.distinct
    apart = order == 1 and ids is not None and ids <= rows
    sharing = 0.0 if apart else sharing_expected(grams, rows)
    return Fit(
        order=order,
        rows=rows,
        grams=grams,
        load=grams / rows,
        occupied=grams / rows if apart else occupied_expected(grams, rows),
        covered=curve.held_by(rows),
        sharing=sharing,
        in_every_head=sharing**heads,
        purity=1.0 if apart else purity_expected(histogram(curve), rows),
        seen=seen(curve),
    )


def seen(curve: Curve) -> float:
    """The share of new text of the same kind whose grams are among those of `curve` (Good 1953)."""
    return 1 - curve.singletons / max(1, curve.occurrences)


def mean_purity(fits: Sequence[Fit]) -> float:
    """The mean over orders, each weighted by `seen`."""
    weight = sum(fit.seen for fit in fits)
    return sum(fit.purity * fit.seen for fit in fits) / weight if weight else 0.0


def histogram(curve: Curve) -> Histogram:
    """The counts as `purity_expected` takes them, most frequent first."""
    return curve.count_C[::-1].astype(np.float64), curve.grams_C[::-1].astype(np.float64)


def deal(spectra: Mapping[int, Curve], rows: int, ids: int | None = None) -> dict[int, int]:
    """Rows of a head for each order, together at most `rows`, and at least LEAST each: so that the mean purity is highest; ids: how
    many there are of those hashed."""
    histograms = {order: histogram(curve) for order, curve in spectra.items()}
    most = {order: enough(curve) for order, curve in spectra.items()}
    if 1 in most and ids is not None:
        most[1] = min(most[1], max(LEAST, ids))
    dealt = dict.fromkeys(spectra, LEAST)
    portion = max(1, (min(rows, sum(most.values())) - sum(dealt.values())) // _PORTIONS)

    def gain(order: int) -> float:
        here, more = (purity_expected(histograms[order], size) for size in (dealt[order], dealt[order] + portion))
        return (more - here) * seen(spectra[order])

    while sum(dealt.values()) + portion <= rows and (wanting := [order for order in dealt if dealt[order] < most[order]]):
        dealt[max(wanting, key=gain)] += portion
    return {order: most[order] if size >= most[order] == ids else _rounded(min(size, most[order])) for order, size in dealt.items()}


def enough(curve: Curve) -> int:
    """Rows of a head in which the purity of an order's grams reaches ENOUGH."""
    counts, rows = histogram(curve), float(LEAST)
    while purity_expected(counts, int(rows)) < ENOUGH and rows < _MOST:
        rows *= _STEP
    return int(rows)


def with_sizes(recipe: Recipe, sizes: Mapping[int, int]) -> Recipe:
    """`recipe` with so many rows in each head of an order, or as few as the smallest where its family has one size for all."""
    size = tuple(sizes.values()) if recipe.hash.family == "demo" else (min(sizes.values()),)
    return replace(recipe, hash=replace(recipe.hash, orders=tuple(sizes), size=size))


def _rounded(size: int) -> int:
    """Rounded down to _DIGITS digits, as a person would write it."""
    unit = int("1".ljust(len(str(size)) - _DIGITS + 1, "0"))
    return max(LEAST, size // unit * unit)
