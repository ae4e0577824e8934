"""Which rows of two tables differ, and by how much, head by head; wherever the tables lie and however their numbers are stored.

Blocks whose stored bytes are equal are not decoded; others are compared as the f32 that a reader of each sees. Two NaN are equal
here, and so are 0 and -0. Only tables whose heads have the same rows can be compared.
Shapes: R rows of a block, E numbers per row, H heads over all orders.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.errors import ArtifactError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.report.stored import FORMS
from engram_cli.store.artifact import open_artifact
from engram_cli.table.convert import in_order
from engram_cli.table.formats import open_stored_table
from engram_cli.table.layout import LayerLayout
from engram_cli.table.rows import Rows
from engram_cli.table.stored import StoredLayer, StoredTable

_FIRST_ROWS = 10  # of those that differ, told one by one
_NUMBERS = 1 << 19  # of a block

HEADS = [
    column("layer", pa.int32()),
    column("order", pa.int32()),
    column("head", pa.int32()),
    column("rows", pa.int64(), "rows"),
    column("differ", pa.int64(), "rows"),
    column("share", pa.float64(), "share"),
    column("largest_difference", pa.float64()),
    column("rms_difference", pa.float64()),
]
ROWS = [
    column("layer", pa.int32()),
    column("row", pa.int64()),
    column("order", pa.int32()),
    column("head", pa.int32()),
    column("largest_difference", pa.float64()),
    column("rms_difference", pa.float64()),
]


def diff(first: str | Path, second: str | Path, progress: ProgressLike = SILENT) -> Report:
    """Compare the rows of two tables, artifacts or checkpoints; see `differs` for the verdict.

    The table `heads` has for each head how many rows differ, and the largest and the RMS difference of the numbers in those;
    `rows` the first rows that differ. Raises ArtifactError where the tables do not have the same heads of the same width.
    """
    tables = [open_stored_table(path) for path in (first, second)]
    facts: dict[str, Scalar | Measure] = {
        name: f"{one.path} ({FORMS[one.form]}, {', '.join(sorted({layer.rows.type.name for layer in one.layers}))})"
        for name, one in zip(("first", "second"), tables, strict=True)
    }
    digests = {open_artifact(one.path).digest if one.form == "engram" else None for one in tables}
    if len(digests) == 1 and None not in digests:
        return Report("diff", "The tables are the same: their digests are equal", facts | {"digest": digests.pop()}, {}, ())
    _hold(*tables)
    heads: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    pairs = list(zip(tables[0].layers, tables[1].layers, strict=True))
    for number, (ours, theirs) in enumerate(pairs, 1):
        progress.stage(number, len(pairs), f"comparing {ours.rows.count:,} rows of layer {ours.layout.layer}")
        found = _Layer(ours, theirs)
        found.compare(progress)
        heads += found.heads()
        rows += found.rows[: _FIRST_ROWS - len(rows)]
    changed, total = sum(head["differ"] for head in heads), sum(layer.rows.count for layer, _ in pairs)
    facts["rows"] = Measure(total, "rows")
    facts["rows that differ"] = Measure(changed, "rows")
    facts["share"] = Measure(changed / total, "share")
    facts["largest difference"] = max((head["largest_difference"] for head in heads), default=0.0)
    title = f"{changed:,} of {total:,} rows differ" if changed else f"All {total:,} rows are the same"
    shown = {"heads": table(HEADS, heads, title="Heads")}
    if rows:
        shown["rows"] = table(ROWS, rows, title="First rows that differ")
    return Report("diff", title, facts, shown, tuple(_notes(*tables)))


def differs(report: Report) -> bool:
    """Whether a `diff` report found a row that differs."""
    return "rows" in report.tables


class _Layer:
    """The comparison of one layer: sums for each head, and for the unused rows at the end, which are the last of `edges`."""

    def __init__(self, ours: StoredLayer, theirs: StoredLayer) -> None:
        self.ours, self.theirs, self.layout = ours.rows, theirs.rows, ours.layout
        self.edges = np.array([*self.layout.offsets_H, sum(self.layout.primes_H)])
        self.differ = np.zeros(len(self.edges), np.int64)
        self.largest, self.squares = np.zeros((2, len(self.edges)))
        self.rows: list[dict[str, Any]] = []

    def compare(self, progress: ProgressLike) -> None:
        """Read both through."""
        step = max(1, _NUMBERS // self.ours.dim)
        blocks = ((first, min(step, self.ours.count - first)) for first in range(0, self.ours.count, step))
        total = self.ours.count * (self.ours.bytes_per_row + self.theirs.bytes_per_row)
        for done, found in in_order(lambda block: (sum(block), _differences(self.ours, self.theirs, *block)), blocks):
            progress.advance(total * done / self.ours.count, total, "bytes")
            if found is not None:
                self._add(*found)

    def _add(self, ids: npt.NDArray[np.int64], largest: npt.NDArray[np.float64], squares: npt.NDArray[np.float64]) -> None:
        heads = np.searchsorted(self.edges, ids, "right") - 1
        self.differ += np.bincount(heads, minlength=len(self.edges))
        np.maximum.at(self.largest, heads, largest)
        np.add.at(self.squares, heads, squares)
        for place in range(min(len(ids), _FIRST_ROWS - len(self.rows))):
            rms = float(np.sqrt(squares[place] / self.ours.dim))
            numbers = {"row": int(ids[place]), "largest_difference": float(largest[place]), "rms_difference": rms}
            self.rows.append(_place(self.layout, int(heads[place])) | numbers)

    def heads(self) -> Iterator[dict[str, Any]]:
        """A record for each head, and for unused rows where they differ."""
        ends = [*self.edges[1:], self.ours.count]
        for head, (start, end) in enumerate(zip(self.edges, ends, strict=True)):
            if head == self.layout.heads and not self.differ[head]:
                continue
            count, differ = int(end - start), int(self.differ[head])
            rms = float(np.sqrt(self.squares[head] / (differ * self.ours.dim))) if differ else 0.0
            found = {"differ": differ, "share": differ / count, "largest_difference": float(self.largest[head])}
            yield _place(self.layout, head) | {"rows": count, "rms_difference": rms} | found


def _differences(ours: Rows, theirs: Rows, first: int, count: int) -> Any:
    """(rows, largest difference, sum of squares) of those rows of a block that differ; None where none does."""
    stored, others = ours.read_stored(first, count), theirs.read_stored(first, count)
    if ours.type is theirs.type and all(_same_bytes(a, b) for a, b in zip(stored, others, strict=True)):
        return None
    a_RE, b_RE = ours.type.decode(*stored), theirs.type.decode(*others)
    with np.errstate(invalid="ignore"):
        differ_R = ~((a_RE == b_RE) | (np.isnan(a_RE) & np.isnan(b_RE))).all(1)
    if not differ_R.any():
        return None
    with np.errstate(invalid="ignore"):
        change_UE = np.abs(a_RE[differ_R].astype(np.float64) - b_RE[differ_R])
    change_UE[a_RE[differ_R] == b_RE[differ_R]] = 0  # infinities
    change_UE[np.isnan(a_RE[differ_R]) & np.isnan(b_RE[differ_R])] = 0
    change_UE[np.isnan(change_UE)] = np.inf
    return first + np.flatnonzero(differ_R), change_UE.max(1), (change_UE**2).sum(1)


def _same_bytes(a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.tobytes() == b.tobytes() if a.size < 64 else bool(np.array_equal(a.view(np.uint8), b.view(np.uint8)))


def _place(layout: LayerLayout, head: int) -> dict[str, Any]:
    """Layer, order and head of the head at `head`; neither of the last two for unused rows."""
    if head == layout.heads:
        return {"layer": layout.layer}
    order = layout.orders_H[head]
    return {"layer": layout.layer, "order": order, "head": head - layout.heads_of(order).start}


def _hold(first: StoredTable, second: StoredTable) -> None:
    """Raises ArtifactError where the two do not have the same heads and widths."""
    ours, theirs = ([layer.layout.layer for layer in one.layers] for one in (first, second))
    if ours != theirs:
        raise ArtifactError(
            f"rows are compared layer by layer, but {first.path} has layers {', '.join(map(str, ours))} and {second.path} has "
            f"{', '.join(map(str, theirs))}; name two tables of one layout"
        )
    for one, other in zip(first.layers, second.layers, strict=True):
        if _heads(one) != _heads(other):
            raise ArtifactError(
                f"rows are compared one by one, but layer {one.layout.layer} of {first.path} has {_told(one)}, and of "
                f"{second.path} {_told(other)}; name two tables of one layout"
            )


def _heads(layer: StoredLayer) -> tuple[Any, ...]:
    return layer.layout.orders_H, layer.layout.primes_H, layer.rows.count, layer.rows.dim


def _told(layer: StoredLayer) -> str:
    primes = layer.layout.primes_H
    return f"{layer.rows.count:,} rows x {layer.rows.dim} of {len(primes)} heads (primes {primes[0]:,} to {primes[-1]:,})"


def _notes(first: StoredTable, second: StoredTable) -> Iterator[str]:
    """Where equal rows are yet those of other grams."""
    tables = (first, second)
    maps = {one.token_map_digest for one in tables} - {None}
    multipliers = {
        tuple(layer.layout.multipliers_N for layer in one.layers) for one in tables if one.layers[0].layout.multipliers_N
    }
    if len(maps) > 1 or first.family != second.family or len(multipliers) > 1:
        yield (
            "The tables hash by another token map, family or multipliers: a row of one is not about the grams of the same row of "
            "the other."
        )
