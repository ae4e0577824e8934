"""What a table is, wherever it lies: an artifact of ours or a checkpoint. And the checks that need its tokenizer.

Whatever contradicts itself is an error and not a line of the report: who reads on would read rows of other grams.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

from engram_cli.corpus.canonical import TokenMap, identity_map, token_map
from engram_cli.corpus.tokenizer import load_tokenizer, vocab_size
from engram_cli.errors import ArtifactError
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.store.tensors import Stored
from engram_cli.table.formats import open_stored_table
from engram_cli.table.layout import LayerLayout
from engram_cli.table.stored import WRONG_GRAM, StoredLayer, StoredTable

FORMS = {"engram": "table artifact", "deepseek-v4.1": "DeepSeek-V4.1", "qwen-ple": "Qwen PLE", "demo": "state of the paper's demo"}

_MEND = "put the tokenizer beside it that it was made with"

LAYERS = [
    column("layer", pa.int32()),
    column("heads", pa.int32()),
    column("rows", pa.int64(), "rows"),
    column("dim", pa.int32()),
    column("dtype", pa.string(), "text"),
    column("parameters", pa.int64(), "parameters"),
    column("bytes", pa.int64(), "bytes"),
    column("bytes_read_per_token", pa.int64(), "bytes"),
]
ORDERS = [
    column("layer", pa.int32()),
    column("order", pa.int32()),
    column("heads", pa.int32()),
    column("rows", pa.int64(), "rows"),
    column("first_prime", pa.int64()),
    column("last_prime", pa.int64()),
]
HEADS = [
    column("layer", pa.int32()),
    column("order", pa.int32()),
    column("head", pa.int32()),
    column("prime", pa.int64(), "rows"),
    column("first_row", pa.int64()),
]
TENSORS = [
    column("tensor", pa.string(), "text"),
    column("dtype", pa.string(), "text"),
    column("shape", pa.string(), "text"),
    column("bytes", pa.int64(), "bytes"),
    column("file", pa.string(), "text"),
    column("first_byte", pa.int64()),
]


def check_tokenizer(stored: StoredTable) -> TokenMap | None:
    """The token map of the tokenizer that lies beside a table, held to what the table records of it; None where none lies there.

    Raises ArtifactError where the table was made with another map: equal numbers of canonical ids do not mean equal maps.
    """
    return None if stored.tokenizer is None else hold_to_tokenizer(stored, load_tokenizer(stored.tokenizer))


def hold_to_tokenizer(stored: StoredTable, tokenizer: Tokenizer) -> TokenMap | None:
    """As `check_tokenizer`, where the tokenizer is open already; None where the family hashes raw ids."""
    if not stored.family.canonical:
        if stored.vocab is not None and vocab_size(tokenizer) > stored.vocab:
            raise ArtifactError(
                f"{stored.path} hashes {stored.vocab} raw ids, but its tokenizer has {vocab_size(tokenizer)}: {WRONG_GRAM}; {_MEND}"
            )
        return None
    folded = token_map(tokenizer)
    if stored.token_map_digest not in (None, folded.digest) and (raw := identity_map(tokenizer)).digest == stored.token_map_digest:
        return raw  # counted with --no-canonical
    stored.layout(folded.canonical_V)  # holds their number to what the table says
    if stored.token_map_digest not in (None, folded.digest):
        raise ArtifactError(
            f"{stored.path} was made with the token map {stored.token_map_digest}, but its tokenizer gives {folded.digest}, of as "
            f"many canonical ids ({folded.canonical_vocab}): {WRONG_GRAM}; {_MEND}"
        )
    return folded


def inspect_checkpoint(path: Path) -> Report:
    """What the table in a checkpoint is. Raises ArtifactError or TokenizerError where its parts contradict each other."""
    stored = open_stored_table(path)
    folded = check_tokenizer(stored)
    facts = {**dict(_facts(stored)), **dict(_ids(stored, folded))}
    tables = layer_tables(stored.layers)
    heads = [record for layer in stored.layers for record in _heads(layer.layout)]
    tensors = [_tensor(name, tensor) for layer in stored.layers for name, tensor in layer.tensors.items()]
    tables["heads"] = table(HEADS, heads, title="Heads", limit=0)
    tables["tensors"] = table(TENSORS, tensors, title="Tensors", limit=20)
    return Report("inspect", f"{path}: table of a checkpoint", facts, tables, tuple(_notes(stored)))


def layer_tables(layers: tuple[StoredLayer, ...]) -> dict[str, pa.Table]:
    """The tables of layers and of their orders."""
    by_layer, by_order = [], []
    for layer in layers:
        by_layer.append(
            {
                "layer": layer.layout.layer,
                "heads": layer.layout.heads,
                "rows": layer.rows.count,
                "dim": layer.rows.dim,
                "dtype": layer.rows.type.name,
                "parameters": layer.rows.count * layer.rows.dim,
                "bytes": layer.bytes,
                "bytes_read_per_token": layer.bytes_per_token,
            }
        )
        for order in layer.layout.orders:
            primes = layer.layout.primes_H[layer.layout.heads_of(order)]
            place = {"layer": layer.layout.layer, "order": order, "heads": len(primes), "rows": sum(primes)}
            by_order.append(place | {"first_prime": primes[0], "last_prime": primes[-1]})
    return {"layers": table(LAYERS, by_layer, title="Layers"), "orders": table(ORDERS, by_order, title="Orders")}


def _facts(stored: StoredTable) -> Iterator[tuple[str, Scalar | Measure]]:
    layers = stored.layers
    yield "layout of files", FORMS[stored.form]
    yield "hash family", stored.family.name
    yield "layers", ", ".join(str(layer.layout.layer) for layer in layers)
    yield "orders", ", ".join(map(str, layers[0].layout.orders))
    yield "rows", Measure(sum(layer.rows.count for layer in layers), "rows")
    yield "parameters", Measure(sum(layer.rows.count * layer.rows.dim for layer in layers), "parameters")
    yield "row type", ", ".join(sorted({layer.rows.type.name for layer in layers}))
    yield "size", Measure(sum(layer.bytes for layer in layers), "bytes")
    yield "bytes read per token", Measure(sum(layer.bytes_per_token for layer in layers), "bytes")


def _ids(stored: StoredTable, folded: TokenMap | None) -> Iterator[tuple[str, Scalar | Measure]]:
    """Which ids are hashed, by which tokenizer."""
    yield "ids hashed", "canonical ids" if stored.family.canonical else "raw ids"
    vocab = stored.vocab if folded is None else folded.canonical_vocab
    if vocab is not None:
        yield "number of ids", vocab
    yield "pad", stored.pad
    yield "tokenizer", "none beside it" if stored.tokenizer is None else stored.tokenizer.name
    if folded is not None:
        yield "raw ids", len(folded.canonical_V)
        yield "token map", folded.digest
        yield "token map recorded", stored.token_map_digest or "no"


def _heads(layout: LayerLayout) -> Iterator[dict[str, int]]:
    for head, (order, prime, offset) in enumerate(zip(layout.orders_H, layout.primes_H, layout.offsets_H, strict=True)):
        place = {"layer": layout.layer, "order": order, "head": head - layout.heads_of(order).start}
        yield place | {"prime": prime, "first_row": offset}


def _tensor(name: str, tensor: Stored) -> dict[str, object]:
    spec = tensor.spec
    shape = " x ".join(map(str, spec.shape)) or "1"
    stored = {"tensor": name, "dtype": spec.dtype, "shape": shape, "bytes": spec.bytes}
    return {**stored, "file": tensor.path.name, "first_byte": spec.offset}


def _notes(stored: StoredTable) -> Iterator[str]:
    """What was not checked, and why."""
    if stored.tokenizer is None:
        yield "No tokenizer.json lies beside the table: whether its ids are those of a tokenizer could not be checked."
    elif stored.family.canonical and stored.token_map_digest is None:
        yield (
            "The config records how many canonical ids there are, not which: their number agrees with the tokenizer's, and the "
            "digest of the map is shown to be compared with what others see."
        )
    if stored.missing:
        yield f"Not there, and not needed to read rows: {', '.join(stored.missing)}."
