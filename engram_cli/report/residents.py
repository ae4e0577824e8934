"""Which counted grams live in given rows: the hash cannot be turned back, so all grams of an order are hashed and compared.

One pass over the counts in blocks, read past the map, so memory stays small however many grams were counted; about 30 ns per gram
and layer. Shapes: G grams, N the order, H heads.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engram_cli.corpus.artifact import NGrams
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.table.layout import LayerLayout, Layout

KEPT = 1000  # grams of one row that are remembered


@dataclass(frozen=True)
class Place:
    """A row of a layer's matrix, and the head, among all of the layer, that it is in."""

    layer: LayerLayout
    head: int
    row: int


@dataclass
class Residents:
    """What lives in a row: so many grams with so many occurrences; top: the most frequent of them, at most KEPT, as (canonical ids,
    oldest first; count), equal counts by their ids."""

    grams: int = 0
    occurrences: int = 0
    top: list[tuple[tuple[int, ...], int]] = field(default_factory=list)


def find_residents(
    ngrams: NGrams, layout: Layout, order: int, places: Sequence[Place], progress: ProgressLike = SILENT
) -> list[Residents]:
    """The grams that live in each of `places`, whose heads are of `order`. Raises ArtifactError as `NGrams.blocks`."""
    total, done = len(ngrams.counts(order)[1]), 0
    found = [Residents() for _ in places]
    by_layer: dict[LayerLayout, list[int]] = {}
    for number, place in enumerate(places):
        by_layer.setdefault(place.layer, []).append(number)
    progress.stage(1, 1, f"looking for {order}-grams in {len(places)} rows")
    for windows_GN, counts_G in ngrams.blocks(order):
        windows_GN = layout.family.settle(windows_GN, layout.pad)
        for layer, numbers in by_layer.items():
            first = min(places[number].head for number in numbers)
            heads = slice(first, max(places[number].head for number in numbers) + 1)
            rows_GH = layer.row_ids(windows_GN, heads)
            for number in numbers:
                inside = np.flatnonzero(rows_GH[:, places[number].head - first] == places[number].row)
                grams = zip(map(tuple, windows_GN[inside, ::-1].tolist()), counts_G[inside].tolist(), strict=True)
                found[number].grams += len(inside)
                found[number].occurrences += int(counts_G[inside].sum())
                found[number].top = heapq.nsmallest(KEPT, [*found[number].top, *grams], key=lambda each: (-each[1], each[0]))
        done += len(counts_G)
        progress.advance(done, total, "grams")
    return found
