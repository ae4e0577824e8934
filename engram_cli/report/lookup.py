"""Looking into a table with words: which rows a text names, and what those hold.

    lookup = open_lookup(open_stored_table("checkpoint/"), open_ngrams("demo/ngrams"))      n-grams may be left out
    look_up_text(lookup, "Only Alexander the Great")         per position and order: the gram, its row in every head
    look_up_gram(lookup, "Alexander the Great")              one gram; with n-grams, what else lives in each of its rows

Tables of any size: besides the config and the tokenizer only the rows that are shown are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.canonical import map_digest
from engram_cli.corpus.tokenizer import load_tokenizer, vocab_size
from engram_cli.errors import ArtifactError, RecipeError, TokenizerError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.collisions import check_windows
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.report.residents import Place, find_residents
from engram_cli.report.stored import hold_to_tokenizer
from engram_cli.table.layout import Layout
from engram_cli.table.stored import WRONG_GRAM, StoredLayer, StoredTable

BEFORE = "⊢"  # stands for the pad: before the document's first token
_VISIBLE = str.maketrans({"\n": "⏎", "\r": "␍", "\t": "⇥"})
_FIRST = 4  # numbers of a row that are shown
_NAMED = 3  # grams of a row that are written out
_SHOWN = 60  # letters of a text in messages

HOLDS = [
    column("row", pa.int64()),
    column("dtype", pa.string(), "text"),
    column("norm", pa.float64()),
    column("first_numbers", pa.string(), "text"),
]


@dataclass(frozen=True)
class Lookup:
    """A table with what makes grams of a text: its tokenizer, the token map (raw ids themselves where the family hashes those), and
    the layout that hashes; and the n-grams that are asked about, if any."""

    stored: StoredTable
    tokenizer: Tokenizer
    canonical_V: npt.NDArray[np.uint32]
    layout: Layout
    ngrams: NGrams | None = None

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """Raw ids of `text`, int64 [T]. Raises TokenizerError where it has none, or is not made of the tokenizer's tokens."""
        shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
        try:
            encoded = self.tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception; UnicodeError for what is no text
            raise TokenizerError(f"a text is made of the tokenizer's tokens, but {shown} is not ({error}); change it") from None
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        covered = {at for start, stop in encoded.offsets for at in range(start, stop)}
        lost = {letter for at, letter in enumerate(text) if at not in covered and not letter.isspace()}
        lost |= {text[slice(*encoded.offsets[at])] for at, token in enumerate(encoded.tokens) if unknown and token == unknown}
        if lost:
            raise TokenizerError(
                f"a text is made of the tokenizer's tokens, but {', '.join(map(repr, sorted(lost)))} in {shown} has none; change it"
            )
        if not encoded.ids:
            raise TokenizerError(f"a text has at least one token, but {shown} has none; give some text")
        return np.array(encoded.ids, np.int64)

    def text(self, raw_T: npt.NDArray[np.int64], start: int, stop: int) -> str:
        """The ids from `start` to `stop` as they were written: ⊢ for each before the first, ⏎ for a line break."""
        text: str = self.tokenizer.decode(raw_T[max(0, start) : stop].tolist(), skip_special_tokens=False)
        return BEFORE * max(0, -start) + text.translate(_VISIBLE)


def open_lookup(stored: StoredTable, ngrams: NGrams | None = None) -> Lookup:
    """Raises ArtifactError where no tokenizer lies beside the table, where it is another's, or where the n-grams are."""
    if stored.tokenizer is None:
        raise ArtifactError(
            f"grams are named by a tokenizer, but none lies beside the table of {stored.path}; put its tokenizer.json there"
        )
    tokenizer = load_tokenizer(stored.tokenizer)
    folded = hold_to_tokenizer(stored, tokenizer)
    canonical_V = np.arange(vocab_size(tokenizer), dtype=np.uint32) if folded is None else folded.canonical_V
    layout = stored.layout(canonical_V)
    if ngrams is not None:
        _check_ngrams(stored, tokenizer, map_digest(canonical_V), ngrams)
        check_windows(ngrams, layout, layout.layers[0].orders)
    return Lookup(stored, tokenizer, canonical_V, layout, ngrams)


def _check_ngrams(stored: StoredTable, tokenizer: Tokenizer, digest: str, ngrams: NGrams) -> None:
    counted = ngrams.artifact.manifest.facts.get("token_map_digest")
    if counted != digest:
        raise ArtifactError(
            f"table and n-grams must have one token map, but {stored.path} has {digest} and {ngrams.artifact.path} has {counted}: "
            f"{WRONG_GRAM}; give n-grams counted with the table's tokenizer"
        )
    if not stored.family.canonical and ngrams.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ArtifactError(
            f"{stored.path} hashes raw ids, and those of {ngrams.artifact.path} are another tokenizer's: {WRONG_GRAM}; give "
            "n-grams counted with the table's tokenizer"
        )


def look_up_text(lookup: Lookup, text: str) -> Report:
    """Every row that `text`, as a document of its own, names, and what it holds. Raises TokenizerError as `Lookup.encode`."""
    raw_T = lookup.encode(text)
    windows_TN = lookup.layout.windows(lookup.canonical_V[raw_T], np.arange(len(raw_T)))
    rows = [layer.layout.row_ids(windows_TN) for layer in _layers(lookup)]
    grams, holds = [], []
    for at, order in ((at, order) for at in range(len(raw_T)) for order in lookup.layout.layers[0].orders):
        gram = lookup.text(raw_T, at + 1 - order, at + 1)
        record: dict[str, Any] = {"position": at, "token": lookup.text(raw_T, at, at + 1), "order": order, "gram": gram}
        if lookup.ngrams is not None:
            record["count"] = lookup.ngrams.count(windows_TN[at, order - 1 :: -1].tolist())
        for layer, rows_TH in zip(_layers(lookup), rows, strict=True):
            heads = layer.layout.heads_of(order)
            record[f"rows_layer_{layer.layout.layer}"] = " ".join(map(str, rows_TH[at, heads].tolist()))
            where = {"layer": layer.layout.layer, "position": at, "order": order, "gram": gram}
            for head, held in enumerate(describe(layer, rows_TH[at, heads])):
                holds.append({**where, "head": head, **held})
        grams.append(record)
    fields = [column("position", pa.int64()), column("token", pa.string(), "text"), column("order", pa.int32())]
    fields += [column("gram", pa.string(), "text"), *([column("count", pa.int64(), "tokens")] if lookup.ngrams else [])]
    fields += [column(f"rows_layer_{layer.layer}", pa.string(), "text") for layer in lookup.layout.layers]
    place = [column("layer", pa.int32()), column("position", pa.int64()), column("order", pa.int32())]
    place += [column("gram", pa.string(), "text"), column("head", pa.int32())]
    facts: dict[str, Scalar | Measure] = {
        "text": text,
        "tokens": len(raw_T),
        "rows named": Measure(len(holds), "rows"),
        "bytes of those rows": Measure(sum(layer.bytes_per_token for layer in lookup.stored.layers) * len(raw_T), "bytes"),
    }
    tables = {
        "grams": table(fields, grams, title="Grams, and the row of each head by layer"),
        "rows": table([*place, *HOLDS], holds, title="What the rows hold"),
    }
    return Report("lookup", f"{lookup.stored.path}: rows of a text", facts, tables)


def look_up_gram(lookup: Lookup, text: str, progress: ProgressLike = SILENT) -> Report:
    """The rows of the one gram that `text` is, in every layer and head; with n-grams, its count and what shares each row.

    Raises RecipeError where it is of no order that the table has, TokenizerError as `Lookup.encode`.
    """
    raw_T = lookup.encode(text)
    order, orders = len(raw_T), lookup.layout.layers[0].orders
    if order not in orders:
        tokens = " | ".join(lookup.text(raw_T, at, at + 1) for at in range(min(order, _SHOWN)))
        raise RecipeError(
            f"a gram of this table has {' or '.join(map(str, orders))} tokens, but {text[:_SHOWN]!r} has {order} ({tokens}); give "
            "one of those, or ask for all grams of a text with --text"
        )
    window_1N = lookup.canonical_V[raw_T].astype(np.int64)[None, ::-1].copy()
    window_1N = lookup.layout.family.settle(window_1N, lookup.layout.pad)
    records, places = [], []
    for layer in _layers(lookup):
        heads = layer.layout.heads_of(order)
        rows_H = layer.layout.row_ids(window_1N, heads)[0]
        for head, (row, held) in enumerate(zip(rows_H.tolist(), describe(layer, rows_H), strict=True)):
            places.append(Place(layer.layout, heads.start + head, row))
            bucket = row - layer.layout.offsets_H[heads.start + head]
            records.append({"layer": layer.layout.layer, "head": head, "bucket": bucket, **held})
    facts: dict[str, Scalar | Measure] = {
        "gram": lookup.text(raw_T, 0, order),
        "order": order,
        "raw ids": " ".join(map(str, raw_T.tolist())),
        "hashed ids": " ".join(map(str, window_1N[0, ::-1].tolist())),
    }
    fields = [column("layer", pa.int32()), column("head", pa.int32()), column("bucket", pa.int64()), *HOLDS]
    if lookup.ngrams is not None:
        ids = window_1N[0, ::-1].tolist()
        facts["occurrences in the n-grams"] = Measure(lookup.ngrams.count(ids), "tokens")
        fields += [column("grams", pa.int64(), "grams"), column("occurrences", pa.int64(), "tokens")]
        fields += [column("others", pa.string(), "text")]
        for record, found in zip(records, find_residents(lookup.ngrams, lookup.layout, order, places, progress), strict=True):
            others = [f"`{lookup.ngrams.text(gram)}` {count:,}" for gram, count in found.top[: _NAMED + 1] if list(gram) != ids]
            record |= {"grams": found.grams, "occurrences": found.occurrences, "others": " + ".join(others[:_NAMED]) or "none"}
    rows = table(
        fields, records, title=f"Rows (order {order}; others: what else is most frequent there)" if lookup.ngrams else "Rows"
    )
    return Report("lookup", f"{lookup.stored.path}: rows of a gram", facts, {"rows": rows})


def describe(layer: StoredLayer, rows_U: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """What rows hold, as records of HOLDS."""
    values_UE = layer.rows.take(rows_U)
    norm_U = np.sqrt(np.square(values_UE, dtype=np.float64).sum(axis=-1))
    for row, norm, values_E in zip(rows_U.tolist(), norm_U.tolist(), values_UE, strict=True):
        numbers = " ".join(f"{value:.4g}" for value in values_E[:_FIRST].tolist())
        yield {"row": row, "dtype": layer.rows.type.name, "norm": norm, "first_numbers": numbers}


def _layers(lookup: Lookup) -> list[StoredLayer]:
    """The layers with the multipliers that hash, which a checkpoint's have only once its tokenizer is known."""
    pairs = zip(lookup.stored.layers, lookup.layout.layers, strict=True)
    return [StoredLayer(layout, layer.rows, layer.tensors) for layer, layout in pairs]
