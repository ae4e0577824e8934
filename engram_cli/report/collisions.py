"""Collisions: which counted grams share buckets, against what random hashing predicts (the formulas are in buckets.py).

One head at a time: 17 bytes a gram and 40 bytes a row of the largest head, whatever else the table holds.
Shapes: G grams of one order, R rows (buckets) of one head, N the order, newest id first.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.ngrams import Grams
from engram_cli.errors import ArtifactError, RecipeError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.buckets import Buckets, blocks, count_histogram, fill_buckets, full_collisions, grams_inside, head_record
from engram_cli.report.report import Measure, Report, column, table
from engram_cli.store.resources import need_memory
from engram_cli.table.hashing import mixes
from engram_cli.table.layout import LayerLayout, Layout

_BYTES_PER_GRAM, _BYTES_PER_ROW = 8 + 8 + 1, 24 + 16  # the mix, a copy of it to sort, a mark; `Buckets`, and what is found in them
_NAMED = 3  # grams of a bucket that are written out

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
    Raises RecipeError for a layer that the layout lacks, ArtifactError for an order or a pad that was not counted,
    ResourceError where the largest head does not fit in memory.
    """
    chosen = _choose(layout, layers)
    check_windows(ngrams, layout, chosen[0].orders)
    _check_memory(ngrams, chosen)
    tasks = [(layer, order) for layer in chosen for order in layer.orders]
    heads, orders, candidates = [], [], []
    for number, (layer, order) in enumerate(tasks, 1):
        progress.stage(number, len(tasks), f"layer {layer.layer}: {order}-grams into {layer.orders_H.count(order)} heads")
        found = _collide(ngrams, layout, layer, order, worst, progress)
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


def _collide(ngrams: NGrams, layout: Layout, layer: LayerLayout, order: int, worst: int, progress: ProgressLike) -> _Found:
    """The records of one layer and order."""
    grams_G, counts_G = ngrams.counts(order)
    mix_G = _mixes(ngrams, grams_G, layout, layer, order)
    occurrences = _occurrences(ngrams, counts_G, order)
    histogram = count_histogram(counts_G)
    primes = layer.primes_H[layer.heads_of(order)]
    heads, candidates = [], []
    sharing_G = np.ones(len(mix_G), bool)
    for head, prime in enumerate(primes):
        place = {"layer": layer.layer, "order": order, "head": head}
        buckets = fill_buckets(mix_G, counts_G, prime)
        heads.append(place | head_record(buckets, histogram))
        buckets.keep_sharing(mix_G, sharing_G)
        candidates += [place | record for record in _worst_buckets(buckets, worst)]
        progress.advance((head + 1) * len(mix_G), len(primes) * len(mix_G), "grams")
    candidates = _worst(candidates, worst)
    for record in candidates:
        record["top_grams"] = _name_grams(ngrams, order, mix_G, primes[record["head"]], record["bucket"])
    full, full_expected = full_collisions(mix_G, primes)
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


def _occurrences(ngrams: NGrams, counts_G: npt.NDArray[np.uint64], order: int) -> int:
    """The sum of the counts. Raises ArtifactError where it is not the tokens less what --min-count pruned, as for every order."""
    facts = ngrams.artifact.manifest.facts
    occurrences = int(counts_G.sum())
    tokens = facts.get("tokens", 0) - facts.get("pruned_occurrences", {}).get(str(order), 0)
    if occurrences != tokens:
        raise ArtifactError(
            f"counts of an order add up to the tokens, {tokens}, but those of order {order} in {ngrams.artifact.path} to "
            f"{occurrences}: the artifact is damaged; run engram extract again"
        )
    return occurrences


def _mixes(ngrams: NGrams, grams_G: Grams, layout: Layout, layer: LayerLayout, order: int) -> npt.NDArray[np.int64]:
    """The mix that all heads of the order share: int64 [G]. Raises ArtifactError for ids that the token map does not have."""
    multipliers_N1 = layer.multipliers_NH[:order, layer.heads_of(order)][:, :1]
    mix_G = np.empty(len(grams_G), np.int64)
    for block in blocks(len(grams_G)):
        windows_GN = ngrams.unpack(grams_G[block], order)
        if windows_GN.max(initial=0) >= ngrams.canonical_vocab:
            raise ArtifactError(
                f"canonical ids end at {ngrams.canonical_vocab - 1}, but the {order}-grams of {ngrams.artifact.path} have "
                f"{windows_GN.max()}: the counts are damaged; run engram extract again"
            )
        mix_G[block] = mixes(layout.family.settle(windows_GN, layout.pad), multipliers_N1)[:, 0]
    return mix_G


def _worst_buckets(buckets: Buckets, most: int) -> list[dict[str, Any]]:
    records = []
    for bucket in buckets.worst(most).tolist():
        grams, occurrences, top = buckets.cells_R3[bucket].tolist()
        records.append({"bucket": bucket, "grams": grams, "occurrences": occurrences, "not_the_top_gram": occurrences - top})
    return records


def _worst(candidates: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The worst `most` of each order, worst first; equal ones by their place, so that the report is always the same."""
    ranked = sorted(candidates, key=lambda r: (r["order"], -r["not_the_top_gram"], r["layer"], r["head"], r["bucket"]))
    return [record for _, group in itertools.groupby(ranked, lambda r: r["order"]) for record in list(group)[:most]]


def _name_grams(ngrams: NGrams, order: int, mix_G: npt.NDArray[np.int64], prime: int, bucket: int) -> str:
    """`of the` 1,234 + `in a` 56 + 7 more"""
    grams_G, counts_G = ngrams.counts(order)
    inside = grams_inside(mix_G, prime, bucket)
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


def check_windows(ngrams: NGrams, layout: Layout, wanted: Sequence[int]) -> None:
    """Raises ArtifactError where counted is not what is hashed: the orders `wanted`, the pad before a document's first token."""
    missing = [order for order in wanted if order not in ngrams.orders]
    if missing:
        raise ArtifactError(
            f"the layout hashes orders {_words(wanted)}, but {ngrams.artifact.path} counted only {_words(ngrams.orders)}; extract "
            f"it again with --orders {max(wanted)}"
        )
    if layout.pad != ngrams.canonical_pad:
        raise ArtifactError(
            f"the layout's windows begin with the pad {layout.pad}, but {ngrams.artifact.path} was counted with "
            f"{ngrams.canonical_pad}; extract it again with the --pad-token of the table's n-grams"
        )


def _check_memory(ngrams: NGrams, chosen: Sequence[LayerLayout]) -> None:
    grams = max(len(ngrams.counts(order)[0]) for order in chosen[0].orders)
    rows = max(max(layer.primes_H) for layer in chosen)
    needed = grams * _BYTES_PER_GRAM + rows * _BYTES_PER_ROW
    need_memory(needed, f"a head of {rows:,} rows and {grams:,} grams", "give a smaller `hash.size`, or count fewer grams")


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
