"""The paper's demo: `layers.L.engram.multi_head_embedding.embedding.weight` [rows, dim], with its EngramConfig as config.json.

(`engram_demo_v1.py`, which saves nothing itself: this is its state as `safetensors` saves it, by the names of its modules.) The
offsets of the heads lie in the state too and are held to what follows from the config. How many ids are hashed only the tokenizer
says.
"""

from collections.abc import Mapping
from typing import Any

from engram_cli.errors import ArtifactError
from engram_cli.store.matrix import Matrix
from engram_cli.store.shards import Shards
from engram_cli.table.config import FoundHash
from engram_cli.table.formats.parts import expect, find_prefixes, plan_layers
from engram_cli.table.row_types import ROW_TYPES
from engram_cli.table.rows import Rows
from engram_cli.table.stored import WRONG_GRAM, StoredLayer

PATTERN = r"(?P<prefix>(?:.*\.)?multi_head_embedding\.)embedding\.weight"
TYPES = {"F32": "f32", "BF16": "bf16", "F16": "f16"}


def find_layers(found: FoundHash, config: Mapping[str, Any], shards: Shards) -> tuple[StoredLayer, ...]:
    """The layers of `found` in `shards`. Raises ArtifactError where they are not there, or not as the config says."""
    prefixes = find_prefixes(shards, PATTERN, found.hash.host_layers)
    layers = []
    for layout in plan_layers(found, shards):
        prefix = prefixes[layout.layer]
        name, offsets = f"{prefix}embedding.weight", f"{prefix}offsets"
        tensors = {name: expect(shards, name, TYPES, (layout.rows, found.dim), WRONG_GRAM)}
        if offsets in shards.headers:
            tensors[offsets] = expect(shards, offsets, ("I64",), (layout.heads,), WRONG_GRAM)
            saved = tuple(Matrix([tensors[offsets]]).read(0, layout.heads).tolist())
            if saved != layout.offsets_H:
                raise ArtifactError(
                    f"the heads of layer {layout.layer} begin at {layout.offsets_H} by the config of {shards.directory}, but at "
                    f"{saved} by {offsets}: {WRONG_GRAM}; save config and state of one model"
                )
        rows = Rows(ROW_TYPES[TYPES[tensors[name].spec.dtype]], Matrix([tensors[name]]))
        layers.append(StoredLayer(layout, rows, tensors))
    return tuple(layers)
