"""One row of a table: whose it is, what it holds, how that is stored, and which grams of a corpus live in it."""

import re
from typing import Any

import numpy as np
import pyarrow as pa

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import RecipeError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.lookup import open_lookup
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.report.residents import KEPT, Place, Residents, find_residents
from engram_cli.table.row_types import BLOCK
from engram_cli.table.rows import Rows
from engram_cli.table.stored import StoredLayer, StoredTable

_SCREEN = 20  # grams shown

NUMBERS = [
    column("number", pa.int64()),
    column("value", pa.float64()),
    column("stored", pa.string(), "text"),  # its bits in hex
    column("scale", pa.float64()),
]
GRAMS = [
    column("gram", pa.string(), "text"),
    column("count", pa.int64(), "tokens"),
    column("share", pa.float64(), "share"),  # of what the row is read for
]


def look_at_row(stored: StoredTable, place: str, ngrams: NGrams | None = None, progress: ProgressLike = SILENT) -> Report:
    """The row `place`, "LAYER:ROW", row counted from 0 in the layer's matrix.

    Raises RecipeError where the table has no such row; with n-grams, ArtifactError as `open_lookup`.
    """
    layer, row = _parse(stored, place)
    layout, rows = layer.layout, layer.rows
    head = int(np.searchsorted(np.cumsum(layout.primes_H), row, side="right"))
    values_E = rows.read(row, 1)[0]
    facts: dict[str, Scalar | Measure] = {"layer": layout.layer, "row": row}
    if head < layout.heads:
        order = layout.orders_H[head]
        facts |= {"order": order, "head": head - layout.heads_of(order).start, "bucket": row - layout.offsets_H[head]}
    else:
        facts["head"] = "none: the row only fills the matrix up"
    norm, largest = np.linalg.norm(values_E.astype(np.float64)), np.abs(values_E).max()
    facts |= {"norm": float(norm), "largest magnitude": float(largest), "row type": rows.type.name}
    facts["stored in"] = Measure(rows.bytes_per_row, "bytes")
    tables = {}
    if ngrams is not None and head < layout.heads:
        lookup = open_lookup(stored, ngrams)
        hashed = next(each for each in lookup.layout.layers if each.layer == layout.layer)
        (found,) = find_residents(ngrams, lookup.layout, order, [Place(hashed, head, row)], progress)
        facts |= {"grams that live in it": Measure(found.grams, "grams"), "occurrences": Measure(found.occurrences, "tokens")}
        tables["grams"] = _grams(ngrams, found)
    tables["numbers"] = _numbers(rows, row)
    notes = [] if values_E.any() else ["All numbers of this row are zero: it was never written, or it lies in a hole of the file."]
    return Report("row", f"{stored.path}: row {row} of layer {layout.layer}", facts, tables, notes)


def _parse(stored: StoredTable, place: str) -> tuple[StoredLayer, int]:
    found = re.fullmatch(r"\s*(\d{1,18})\s*:\s*(\d[\d,_]{0,24})\s*", place, re.ASCII)
    if not found:
        raise RecipeError(f"--row is LAYER:ROW, as 1:123456, but it is {place!r}; change it")
    number, row = int(found[1]), int(re.sub("[,_]", "", found[2]))
    layers = {layer.layout.layer: layer for layer in stored.layers}
    if number not in layers:
        known = ", ".join(map(str, layers))
        raise RecipeError(f"the table of {stored.path} has rows in layers {known}, but --row asks for layer {number}; choose one")
    if row >= (count := layers[number].rows.count):
        raise RecipeError(
            f"layer {number} of {stored.path} has {count} rows, counted from 0, but --row asks for {row}; choose one of them"
        )
    return layers[number], row


def _grams(ngrams: NGrams, found: Residents) -> pa.Table:
    records = [
        {"gram": ngrams.text(gram), "count": count, "share": count / found.occurrences} for gram, count in found.top if count
    ]
    title = "Grams that live in it" if found.grams <= KEPT else f"Grams that live in it, the {KEPT:,} most frequent"
    return table(GRAMS, records, title=title, limit=_SCREEN)


def _numbers(rows: Rows, row: int) -> pa.Table:
    """Every number: its value, its bits, and the scale that it is multiplied by."""
    values_E = rows.read(row, 1)[0]
    numbers, scales = rows.read_stored(row, 1)
    width = 2 * numbers.dtype.itemsize
    bits = numbers[0].view(f"u{numbers.dtype.itemsize}").tolist()
    scale_E: Any = [None] * rows.dim
    if scales is not None:
        factors = 2.0 ** (scales[0].astype(np.float64) - 127) if rows.type.share == "block" else scales.astype(np.float64)
        scale_E = np.repeat(factors, BLOCK if rows.type.share == "block" else rows.dim).tolist()
    records = [
        {"number": at, "value": value, "stored": f"{bit:0{width}x}", "scale": scale}
        for at, (value, bit, scale) in enumerate(zip(values_E.tolist(), bits, scale_E, strict=True))
    ]
    return table(NUMBERS, records, title="Numbers", limit=_SCREEN)
