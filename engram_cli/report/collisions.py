"""Collisions: which counted grams share buckets, against what random hashing predicts.

In a head of m rows, random hashing of n distinct grams occupies a bucket with probability 1 - (1 - 1/m)^n, and makes a gram share
its bucket with probability 1 - (1 - 1/m)^(n - 1). Both saturate: with more grams than rows nearly everything shares. So the
measure to look at is *purity*: the share of what a row is read for that belongs to its top gram, averaged over occurrences.

One head at a time, in blocks of grams: 8 bytes a gram and 20 bytes a row of the largest head, whatever else the table holds;
about 30 ns per gram and head where rows outgrow the cache.
Shapes: G grams of one order, R rows (buckets) of one head, N the order, newest id first.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.ngrams import Grams
from engram_cli.errors import ArtifactError, RecipeError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.report import Measure, Report, column, table
from engram_cli.store.resources import need_memory
from engram_cli.table.hashing import mixes
from engram_cli.table.layout import LayerLayout, Layout

_BLOCK = 1 << 18  # grams at a time
_BYTES_PER_GRAM, _BYTES_PER_ROW = 8 + 8, 4 + 8 + 8  # the mix, and a copy of it to sort; the arrays of `Buckets`
_NAMED = 3  # grams of a bucket that are written out
_ALL_MIXES = 2**63
Histogram = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

HEADS = [
    column("layer", pa.int32()),
    column("order", pa.int32()),
    column("head", pa.int32()),
    column("rows", pa.int64(), "rows"),
    column("grams", pa.int64(), "grams"),
    column("load", pa.float64(), "grams/row"),
    column("occupied", pa.float64(), "share"),
    column("occupied_expected", pa.float64(), "share"),
    column("grams_sharing", pa.float64(), "share"),
    column("occurrences_sharing", pa.float64(), "share"),
    column("sharing_expected", pa.float64(), "share"),
    column("purity", pa.float64(), "share"),
    column("purity_expected", pa.float64(), "share"),
]
ORDERS = [
    column("layer", pa.int32()),
    column("order", pa.int32()),
    column("heads", pa.int32()),
    column("rows", pa.int64(), "rows"),
    column("grams", pa.int64(), "grams"),
    column("occurrences", pa.int64(), "tokens"),
    column("purity", pa.float64(), "share"),
    column("sharing_in_every_head", pa.float64(), "share"),
    column("full_collisions", pa.int64(), "grams"),
    column("full_expected", pa.float64(), "grams"),
]
WORST = [
    column("layer", pa.int32()),
    column("order", pa.int32()),
    column("head", pa.int32()),
    column("bucket", pa.int64()),
    column("grams", pa.int64(), "grams"),
    column("occurrences", pa.int64(), "tokens"),
    column("not_the_top_gram", pa.int64(), "tokens"),
    column("top_grams", pa.string(), "text"),
]


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
    for block in _blocks(len(mix_G)):
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
    key_G = np.sort(mix_G % together if together < _ALL_MIXES else mix_G)
    same_G = key_G[1:] == key_G[:-1]
    with_neighbour = np.zeros(len(key_G), bool)
    with_neighbour[1:] |= same_G
    with_neighbour[:-1] |= same_G
    return int(np.count_nonzero(with_neighbour)), len(mix_G) * sharing_expected(len(mix_G), together)


def collisions(
    ngrams: NGrams,
    layout: Layout,
    *,
    name: str,
    layers: Sequence[int] | None = None,
    worst: int = 10,
    limit: float | None = None,
    progress: ProgressLike = SILENT,
) -> Report:
    """How the counted grams of `ngrams` fall into the buckets of `layout`, called `name`.

    layers: of the layout, all where None; worst: buckets written out per order; limit: largest share of occurrences that may share
    their bucket in any head (a note says where it is exceeded; see `exceeds`).
    Raises RecipeError for a layer that the layout lacks, ArtifactError for an order that was not counted, ResourceError where the
    largest head does not fit in memory.
    """
    chosen = _choose(layout, layers)
    _check_orders(ngrams, chosen)
    _check_memory(ngrams, chosen)
    tasks = [(layer, order) for layer in chosen for order in layer.orders]
    heads, orders, candidates = [], [], []
    for number, (layer, order) in enumerate(tasks, 1):
        progress.stage(number, len(tasks), f"layer {layer.layer}: {order}-grams into {layer.orders_H.count(order)} heads")
        found = _collide(ngrams, layer, order, worst, progress)
        heads += found.heads
        orders.append(found.order)
        candidates += found.worst
    tables = {
        "orders": table(ORDERS, orders, title="Orders (purity: average over heads)"),
        "heads": table(HEADS, heads, title="Heads (expected: by random hashing)"),
        "worst": table(WORST, _worst(candidates, worst), title="Worst buckets (most occurrences that are not the top gram's)"),
    }
    facts = _facts(ngrams, chosen, heads, limit)
    return Report("collisions", f"Collisions in the layout `{name}`", facts, tables, tuple(_notes(heads, limit)))


def exceeds(report: Report, limit: float) -> bool:
    """Whether in any head a larger share of occurrences than `limit` shares its bucket."""
    return any(share > limit for share in report.tables["heads"]["occurrences_sharing"].to_pylist())


@dataclass(frozen=True)
class _Found:
    heads: list[dict[str, Any]]
    order: dict[str, Any]
    worst: list[dict[str, Any]]


def _collide(ngrams: NGrams, layer: LayerLayout, order: int, worst: int, progress: ProgressLike) -> _Found:
    """The records of one layer and order."""
    grams_G, counts_G = ngrams.counts(order)
    mix_G = _mixes(ngrams, grams_G, layer, order)
    histogram = count_histogram(counts_G)
    primes = layer.primes_H[layer.heads_of(order)]
    heads, candidates = [], []
    sharing_G = np.ones(len(mix_G), bool)
    for head, prime in enumerate(primes):
        place = {"layer": layer.layer, "order": order, "head": head}
        buckets = fill_buckets(mix_G, counts_G, prime)
        heads.append(place | head_record(buckets, histogram))
        for block in _blocks(len(mix_G)):
            sharing_G[block] &= buckets.grams_R[mix_G[block] % prime] > 1
        candidates += [place | record for record in _worst_buckets(buckets, worst)]
        progress.advance((head + 1) * len(mix_G), len(primes) * len(mix_G), "grams")
    candidates = _worst(candidates, worst)
    for record in candidates:
        record["top_grams"] = _name_grams(ngrams, order, mix_G, primes[record["head"]], record["bucket"])
    full, full_expected = full_collisions(mix_G, primes)
    occurrences = int(counts_G.sum())
    summary = {
        "layer": layer.layer,
        "order": order,
        "heads": len(primes),
        "rows": sum(primes),
        "grams": len(mix_G),
        "occurrences": occurrences,
        "purity": sum(record["purity"] for record in heads) / len(heads),
        "sharing_in_every_head": int(counts_G[sharing_G].sum()) / (occurrences or 1),
        "full_collisions": full,
        "full_expected": full_expected,
    }
    return _Found(heads, summary, candidates)


def _mixes(ngrams: NGrams, grams_G: Grams, layer: LayerLayout, order: int) -> npt.NDArray[np.int64]:
    """The mix that all heads of the order share: int64 [G]."""
    multipliers_N1 = layer.multipliers_NH[:order, layer.heads_of(order)][:, :1]
    mix_G = np.empty(len(grams_G), np.int64)
    for block in _blocks(len(grams_G)):
        mix_G[block] = mixes(ngrams.unpack(grams_G[block], order), multipliers_N1)[:, 0]
    return mix_G


def _worst_buckets(buckets: Buckets, most: int) -> list[dict[str, Any]]:
    foreign_R = buckets.foreign_R
    most = min(most, len(foreign_R))
    chosen = np.argpartition(foreign_R, len(foreign_R) - most)[len(foreign_R) - most :] if most else np.empty(0, np.int64)
    return [
        {
            "bucket": int(bucket),
            "grams": int(buckets.grams_R[bucket]),
            "occurrences": int(buckets.occurrences_R[bucket]),
            "not_the_top_gram": int(foreign_R[bucket]),
        }
        for bucket in chosen
        if foreign_R[bucket]
    ]


def _worst(candidates: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The worst `most` of each order, worst first; equal ones by their place, so that the report is always the same."""
    ranked = sorted(candidates, key=lambda r: (r["order"], -r["not_the_top_gram"], r["layer"], r["head"], r["bucket"]))
    return [record for _, group in itertools.groupby(ranked, lambda r: r["order"]) for record in list(group)[:most]]


def _name_grams(ngrams: NGrams, order: int, mix_G: npt.NDArray[np.int64], prime: int, bucket: int) -> str:
    """`of the` 1,234 + `in a` 56 + 7 more"""
    grams_G, counts_G = ngrams.counts(order)
    inside = np.concatenate([block.start + np.flatnonzero(mix_G[block] % prime == bucket) for block in _blocks(len(mix_G))])
    inside = inside[np.argsort(counts_G[inside], kind="stable")[::-1]]
    windows_GN = ngrams.unpack(grams_G[inside[:_NAMED]], order)
    named = [
        f"`{ngrams.text(window[::-1])}` {int(counts_G[gram]):,}" for window, gram in zip(windows_GN, inside[:_NAMED], strict=True)
    ]
    more = [f"{len(inside) - _NAMED:,} more"] if len(inside) > _NAMED else []
    return " + ".join(named + more)


def _facts(ngrams: NGrams, chosen: Sequence[LayerLayout], heads: Sequence[dict[str, Any]], limit: float | None) -> dict[str, Any]:
    orders = chosen[0].orders
    facts: dict[str, Any] = {
        "n-grams": f"{sum(len(ngrams.counts(order)[0]) for order in orders):,} distinct, of orders {_words(orders)}",
        "rows": Measure(sum(layer.rows for layer in chosen), "rows"),
        "heads": sum(layer.heads for layer in chosen),
        "load": f"{min(r['load'] for r in heads):.2f} to {max(r['load'] for r in heads):.2f} grams per row",
        "purity": Measure(sum(record["purity"] for record in heads) / len(heads), "share"),
        "largest share of occurrences sharing a bucket": Measure(max(r["occurrences_sharing"] for r in heads), "share"),
    }
    return facts | ({"limit (--fail-over)": Measure(limit, "share")} if limit is not None else {})


def _notes(heads: Sequence[dict[str, Any]], limit: float | None) -> list[str]:
    notes = []
    saturated = sum(record["occurrences_sharing"] > 0.95 for record in heads)
    if saturated:
        notes.append(
            f"in {saturated} of {len(heads)} heads nearly every occurrence shares its bucket; look at purity: how much of what a "
            "row is read for belongs to its top gram"
        )
    over = [record for record in heads if limit is not None and record["occurrences_sharing"] > limit]
    if limit is not None and over:
        notes.append(
            f"the limit of {100 * limit:g} % of occurrences sharing a bucket is exceeded in {len(over)} of {len(heads)} heads"
        )
    return notes


def _choose(layout: Layout, layers: Sequence[int] | None) -> list[LayerLayout]:
    known = [layer.layer for layer in layout.layers]
    for layer in layers or ():
        if layer not in known:
            raise RecipeError(f"--layer is one of the layout's layers, {_words(known)}, but it is {layer}; choose one of them")
    return [layer for layer in layout.layers if layers is None or layer.layer in layers]


def _check_orders(ngrams: NGrams, chosen: Sequence[LayerLayout]) -> None:
    wanted = chosen[0].orders
    missing = [order for order in wanted if order not in ngrams.orders]
    if missing:
        raise ArtifactError(
            f"the layout hashes orders {_words(wanted)}, but {ngrams.artifact.path} counted only {_words(ngrams.orders)}; extract "
            f"it again with --orders {max(wanted)}"
        )


def _check_memory(ngrams: NGrams, chosen: Sequence[LayerLayout]) -> None:
    grams = max(len(ngrams.counts(order)[0]) for order in chosen[0].orders)
    rows = max(max(layer.primes_H) for layer in chosen)
    needed = grams * _BYTES_PER_GRAM + rows * _BYTES_PER_ROW
    need_memory(needed, f"a head of {rows:,} rows and {grams:,} grams", "give a smaller `hash.size`, or count fewer grams")


def _blocks(count: int) -> Iterator[slice]:
    """Slices of at most _BLOCK that cover 0 .. count; one empty slice where there is nothing."""
    return (slice(first, min(first + _BLOCK, count)) for first in range(0, max(1, count), _BLOCK))


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
