"""Our own artifacts: the layout in layout.arrow, and the rows of each layer in rows-LL.safetensors."""

from pathlib import Path

from engram_cli.errors import ArtifactError
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact, open_artifact
from engram_cli.store.tensors import Stored
from engram_cli.table.layout import LayerLayout, Layout
from engram_cli.table.rows import Rows, rows_file
from engram_cli.table.stored import WRONG_GRAM, StoredLayer, StoredTable

LAYOUT_FILE = "layout.arrow"


def open_artifact_table(path: Path) -> StoredTable:
    """The table in an artifact. Raises ArtifactError where it is damaged, or where its rows are not those of its layout."""
    artifact = open_artifact(path, "table")
    layout = Layout.from_arrow(artifact.table(LAYOUT_FILE, schema.LAYOUT))
    facts = artifact.manifest.facts
    try:
        vocab, pad, digest = facts["canonical_vocab"], facts["pad"], facts["token_map_digest"]
    except KeyError as error:
        raise ArtifactError(f"the manifest of {path} lacks the fact {error}; build the table again") from None
    layers = tuple(open_layer(artifact, layer) for layer in layout.layers)
    tokenizer = artifact.file("tokenizer.json")
    return StoredTable(path, "engram", layout.family, layers, vocab, pad, tokenizer, digest, (), layout)


def open_layer(artifact: Artifact, layout: LayerLayout, dim: int | None = None) -> StoredLayer:
    """A layer's rows. Raises ArtifactError where they are not as many as its heads have, or not `dim` numbers wide."""
    path = artifact.file(rows_file(layout.layer))
    rows = Rows.open(path)
    if (rows.count, rows.dim) != (layout.rows, dim or rows.dim):
        raise ArtifactError(
            f"{path} must hold {layout.rows} x {dim or rows.dim} rows by the layout, but holds {rows.count} x {rows.dim}: "
            f"{WRONG_GRAM}; build the table again"
        )
    return StoredLayer(layout, rows, {name: Stored(path, spec) for name, spec in artifact.tensors(rows_file(layout.layer)).items()})
