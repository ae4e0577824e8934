"""A whole table read once: per head the norms of its rows, zero rows, rows no gram names, what is no number, saturated, scales.

Threads take stretches of rows in turn, read each into memory of their own (not through the map, which would fill the process) and
weigh it where it lies (table/weighing.py). So a pass takes the time of reading, and a few megabytes. With n-grams, one byte a
row is kept for one layer and order at a time.
Shapes: R rows of a head, E numbers per row, B blocks of a row that have a scale each, K = R * B.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.corpus.artifact import NGrams
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.lookup import Lookup, open_lookup
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.store.matrix import Matrix
from engram_cli.table import weighing
from engram_cli.table.row_types import BLOCK
from engram_cli.table.rows import Rows
from engram_cli.table.stored import StoredLayer, StoredTable

_STRETCH = 1 << 20  # numbers that a thread reads at a time: they stay near its core
_LOOK = 0.1  # seconds between two looks at how far the threads are
_BIAS = 1023  # of an exponent of f64

HEADS = [
    column("layer", pa.int32()),
    column("order", pa.int32()),
    column("head", pa.int32()),
    column("rows", pa.int64(), "rows"),
    column("zero_rows", pa.int64(), "rows"),
    column("never_touched", pa.int64(), "rows"),  # rows that no gram names; without n-grams, the zero rows
    column("mean_norm", pa.float64()),  # of the rows without NaN or infinity
    column("largest_norm", pa.float64()),
    column("nan", pa.int64(), "numbers"),
    column("infinite", pa.int64(), "numbers"),
    column("saturated", pa.int64(), "numbers"),  # of the largest magnitude that FP8 has
    column("smallest_scale", pa.float64()),
    column("largest_scale", pa.float64()),
]
_PLACE = HEADS[:3]
NORMS = [
    *_PLACE,
    column("from", pa.float64()),
    column("below", pa.float64()),
    column("rows", pa.int64(), "rows"),
]
SCALES = [
    *_PLACE,
    column("scale", pa.float64()),  # from this power of two to the next
    column("scales", pa.int64(), "scales"),
]


@dataclass
class HeadWeight:
    """What the rows of one head weigh: arrays as in `weighing`, added up over stretches."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(weighing.KINDS, np.int64))
    norms: npt.NDArray[np.float64] = field(default_factory=lambda: np.array([0.0, 0.0, np.inf]))
    squares: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(weighing.EXPONENTS, np.int64))
    scales: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))  # by the exponent of an f32

    def add(self, other: "HeadWeight") -> None:
        """Add what another thread found."""
        self.counts += other.counts
        self.squares += other.squares
        self.scales += other.scales
        self.norms[weighing.SUM] += other.norms[weighing.SUM]
        self.norms[weighing.LARGEST] = max(self.norms[weighing.LARGEST], other.norms[weighing.LARGEST])
        self.norms[weighing.SMALLEST] = min(self.norms[weighing.SMALLEST], other.norms[weighing.SMALLEST])


def table_statistics(stored: StoredTable, ngrams: NGrams | None = None, progress: ProgressLike = SILENT) -> Report:
    """Read every row of `stored` that a head has. Raises ArtifactError where a file is cut meanwhile, or as `open_lookup`."""
    lookup = None if ngrams is None else open_lookup(stored, ngrams)
    stages = len(stored.layers) * (1 if lookup is None else 2)
    heads, norms, scales = [], [], []
    for number, layer in enumerate(stored.layers):
        progress.stage(number + 1, stages, f"reading the rows of layer {layer.layout.layer}")
        weights = weigh(layer, progress)
        untouched: list[int | None] = [None] * layer.layout.heads
        if lookup is not None:
            progress.stage(len(stored.layers) + number + 1, stages, f"looking for rows of layer {layer.layout.layer} no gram names")
            untouched = list(_untouched(lookup, number, progress))
        for head, (weight, never) in enumerate(zip(weights, untouched, strict=True)):
            order = layer.layout.orders_H[head]
            place = {"layer": layer.layout.layer, "order": order, "head": head - layer.layout.heads_of(order).start}
            heads.append(place | _head(weight, layer.layout.primes_H[head], never))
            norms += [place | record for record in _norms(weight)]
            scales += [place | record for record in _scales(weight)]
    tables = {
        "heads": table(HEADS, heads, title="Heads"),
        "norms": table(NORMS, norms, title="Rows by their norm", limit=0),
        "scales": table(SCALES, scales, title="Scales by their size", limit=0),
    }
    facts = dict(_facts(stored, heads))
    return Report("table-stats", f"{stored.path}: what its rows hold", facts, tables, tuple(_notes(stored, heads, lookup)))


def weigh(layer: StoredLayer, progress: ProgressLike = SILENT) -> list[HeadWeight]:
    """What the rows of each head weigh, each read once, by as many threads as there are cores."""
    weights = [HeadWeight() for _ in range(layer.layout.heads)]
    stretches, lock, stop = _stretches(layer), threading.Lock(), threading.Event()
    done, total = [0], sum(layer.layout.primes_H) * layer.rows.bytes_per_row

    def work() -> None:
        balance = _Balance(layer.rows)
        found: dict[int, HeadWeight] = {}
        while not stop.is_set():
            with lock:
                stretch = next(stretches, None)
            if stretch is None:
                break
            head, first, count = stretch
            balance.weigh(first, count, found.setdefault(head, HeadWeight()))
            with lock:
                done[0] += count * layer.rows.bytes_per_row
        with lock:
            for head, weight in found.items():
                weights[head].add(weight)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            working = {pool.submit(work) for _ in range(os.cpu_count() or 1)}
            while working:
                finished, working = wait(working, _LOOK)
                for each in finished:
                    each.result()
                progress.advance(done[0], total, "bytes")
        finally:
            stop.set()
    return weights


def _stretches(layer: StoredLayer) -> Iterator[tuple[int, int, int]]:
    """(head, first row, how many), none over the end of a head."""
    step = _stretch(layer.rows)
    for head, (prime, offset) in enumerate(zip(layer.layout.primes_H, layer.layout.offsets_H, strict=True)):
        for first in range(0, prime, step):
            yield head, offset + first, min(step, prime - first)


def _stretch(rows: Rows) -> int:
    """Rows that are read at a time."""
    return max(1, _STRETCH // rows.dim)


class _Balance:
    """One thread's view of rows: the memory it reads into, and how their numbers are weighed."""

    def __init__(self, rows: Rows) -> None:
        self.rows, step = rows, _stretch(rows)
        self.numbers_UB = np.empty((step, rows.numbers.row_bytes), np.uint8)
        self.scales = rows.scales if isinstance(rows.scales, Matrix) else None
        self.in_place = rows.type.numbers == "F8_E4M3" and rows.dim % BLOCK == 0
        self.scales_UB = np.zeros((step, self.scales.row_bytes if self.scales else rows.dim // BLOCK), np.uint8)
        self.unscaled = np.zeros(256, np.int64)  # where the matrix has one scale, nothing is to be counted
        self.factors: npt.NDArray[np.float64] = np.ones(256)
        if rows.type.share == "block":
            self.factors[:] = 2.0 ** (2 * (np.arange(256) - 127.0))
            self.factors[255] = np.nan
        elif isinstance(rows.scales, np.ndarray):
            self.factors[:] = float(rows.scales[0]) ** 2

    def weigh(self, first: int, count: int, weight: HeadWeight) -> None:
        """Read `count` rows and add them to `weight`."""
        rows, numbers_UB, scales_UB = self.rows, self.numbers_UB[:count], self.scales_UB[:count]
        rows.numbers.fill(first, numbers_UB)
        if self.scales is not None:
            self.scales.fill(first, scales_UB)
        if self.in_place:
            sizes = self.unscaled if self.scales is None else weight.scales
            found = (weight.counts, weight.norms, weight.squares, sizes)
            weighing.weigh_e4m3(numbers_UB.reshape(-1), scales_UB.reshape(-1), rows.dim // BLOCK, self.factors, *found)
            return
        numbers_UE = numbers_UB.view(rows.numbers.type).reshape(count, rows.dim)
        scales_U = None if self.scales is None else scales_UB.view(self.scales.type).reshape(count)
        scales = scales_U if isinstance(rows.scales, Matrix) else rows.scales
        weighing.weigh_floats(rows.type.decode(numbers_UE, scales), weight.counts, weight.norms, weight.squares)
        if rows.type.numbers == "F8_E4M3":
            weight.counts[weighing.SATURATED] += np.count_nonzero(numbers_UB & 0x7F == 0x7E)
        if scales_U is not None:
            weight.scales += np.bincount(scales_U.view(np.uint32) >> 23 & 255, minlength=256)


def _untouched(lookup: Lookup, number: int, progress: ProgressLike) -> Iterator[int]:
    """For each head of the layer with that number, how many of its rows no counted gram names."""
    assert lookup.ngrams is not None
    layer, done = lookup.layout.layers[number], 0
    total = sum(len(lookup.ngrams.counts(order)[1]) for order in layer.orders)
    for order in layer.orders:
        heads = layer.heads_of(order)
        start = layer.offsets_H[heads.start]
        touched_R = np.zeros(sum(layer.primes_H[heads]), np.bool_)
        for windows_GN, counts_G in lookup.ngrams.blocks(order):
            windows_GN = lookup.layout.family.settle(windows_GN, lookup.layout.pad)
            touched_R[layer.row_ids(windows_GN, heads).ravel() - start] = True
            done += len(counts_G)
            progress.advance(done, total, "grams")
        for prime, offset in zip(layer.primes_H[heads], layer.offsets_H[heads], strict=True):
            yield prime - int(np.count_nonzero(touched_R[offset - start : offset - start + prime]))


def _head(weight: HeadWeight, rows: int, never: int | None) -> dict[str, Any]:
    numbers = int(weight.squares.sum())  # rows whose norm is one
    sizes = list(_scales(weight))
    zero, nan, infinite, saturated = weight.counts.tolist()
    return {
        "rows": rows,
        "zero_rows": zero,
        "never_touched": zero if never is None else never,
        "mean_norm": float(weight.norms[weighing.SUM]) / numbers if numbers else None,
        "largest_norm": float(weight.norms[weighing.LARGEST]) if numbers else None,
        "nan": nan,
        "infinite": infinite,
        "saturated": saturated,
        "smallest_scale": sizes[0]["scale"] if sizes else None,
        "largest_scale": sizes[-1]["scale"] if sizes else None,
    }


def _norms(weight: HeadWeight) -> Iterator[dict[str, Any]]:
    """Rows by their norm, two steps to a doubling; zero rows first."""
    for exponent in np.flatnonzero(weight.squares).tolist():
        low, high = (2.0 ** ((exponent + step - _BIAS) / 2) for step in (0, 1))
        yield {"from": low if exponent else 0.0, "below": high, "rows": int(weight.squares[exponent])}


def _scales(weight: HeadWeight) -> Iterator[dict[str, Any]]:
    for byte in np.flatnonzero(weight.scales).tolist():
        yield {"scale": 2.0 ** (byte - 127) if byte < 255 else float("nan"), "scales": int(weight.scales[byte])}


def _facts(stored: StoredTable, heads: list[dict[str, Any]]) -> Iterator[tuple[str, Scalar | Measure]]:
    totals = {key: sum(record[key] for record in heads) for key in ("rows", "zero_rows", "never_touched")}
    yield "rows", Measure(totals["rows"], "rows")
    yield "bytes read", Measure(sum(sum(each.layout.primes_H) * each.rows.bytes_per_row for each in stored.layers), "bytes")
    yield "row type", ", ".join(sorted({layer.rows.type.name for layer in stored.layers}))
    yield "zero rows", Measure(totals["zero_rows"] / totals["rows"], "share")
    yield "rows never touched", Measure(totals["never_touched"] / totals["rows"], "share")
    for label, key in (("NaN", "nan"), ("infinite", "infinite"), ("saturated", "saturated")):
        yield label, Measure(sum(record[key] for record in heads), "numbers")
    if stored.layers[0].rows.type.share == "matrix":
        for layer in stored.layers:
            assert isinstance(layer.rows.scales, np.ndarray)
            yield f"scale of layer {layer.layout.layer}", float(layer.rows.scales[0])


def _notes(stored: StoredTable, heads: list[dict[str, Any]], lookup: Lookup | None) -> Iterator[str]:
    if lookup is None:
        yield "Without --ngrams nobody knows which rows a corpus names: rows never touched are those that are all zero."
    if any(record["nan"] + record["infinite"] for record in heads):
        yield "Rows with NaN or infinity in them have no norm and are in no mean: --row shows one of them."
    unused = sum(layer.rows.count - sum(layer.layout.primes_H) for layer in stored.layers)
    if unused:
        yield f"{unused:,} rows only fill a matrix up, belong to no head and were not read."
