"""DeepSeek-V4.1: `layers.L.engram.embed.weight` [rows, dim], with `.scale` [rows, dim / 32] where it is F8_E4M3.

(vLLM, `vllm/models/deepseek_v41/common/engram.py`.) The rest of the memory is `wkv` (four keys, then the value; 32 x 32 blocks),
`q_weight` and `k_weight` (gains of the two norms). It is held to the config where it is there; rows can be looked into without it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engram_cli.recipe import HashRecipe
from engram_cli.store.matrix import Matrix
from engram_cli.store.shards import Shards
from engram_cli.store.tensors import Stored
from engram_cli.table.config import FoundHash
from engram_cli.table.formats.parts import RowTensors, expect, find_prefixes, plan_layers, whole
from engram_cli.table.layout import LayerLayout
from engram_cli.table.row_types import BLOCK, ROW_TYPES, RowType
from engram_cli.table.rows import Rows
from engram_cli.table.stored import WRONG_GRAM, StoredLayer

PATTERN = r"(?P<prefix>(?:.*\.)?engram\.)embed\.weight"
PREFIX = "layers.{}.engram."
SCALE_TYPES = ("F8_E8M0", "U8")
TYPES = {"F8_E4M3": "fp8-block", "BF16": "bf16", "F16": "f16", "F32": "f32"}


def find_layers(found: FoundHash, config: Mapping[str, Any], shards: Shards) -> tuple[StoredLayer, ...]:
    """The layers of `found` in `shards`. Raises ArtifactError where they are not there, or not as the config says."""
    prefixes = find_prefixes(shards, PATTERN, found.hash.host_layers)
    layers = []
    for layout in plan_layers(found, shards):
        prefix = prefixes[layout.layer]
        name = f"{prefix}embed.weight"
        tensors = {name: expect(shards, name, TYPES, (layout.rows, found.dim), WRONG_GRAM)}
        row_type = ROW_TYPES[TYPES[tensors[name].spec.dtype]]
        scales = None
        if row_type.scales:
            scale = f"{prefix}embed.scale"
            tensors[scale] = expect(shards, scale, SCALE_TYPES, (layout.rows, found.dim // BLOCK), "numbers without their scales")
            scales = Matrix([tensors[scale]])
        rows = Rows(row_type, Matrix([tensors[name]]), scales)
        tensors |= dict(_rest(prefix, layout.heads * found.dim, config, shards))
        layers.append(StoredLayer(layout, rows, tensors))
    return tuple(layers)


def _rest(prefix: str, memory: int, config: Mapping[str, Any], shards: Shards) -> Iterator[tuple[str, Stored]]:
    """The other tensors of the memory that are there, for a memory vector of so many numbers."""
    width, branches = whole(config, "hidden_size"), whole(config, "hc_mult")
    if width is None or branches is None:
        return
    tall = width * (branches + 1)
    shapes = {
        "wkv.weight": (("F8_E4M3", "BF16", "F16", "F32"), (tall, memory)),
        "wkv.scale": (SCALE_TYPES, (-(-tall // BLOCK), -(-memory // BLOCK))),
        "q_weight": (("BF16", "F16", "F32"), (branches, width)),
        "k_weight": (("BF16", "F16", "F32"), (branches, width)),
    }
    for name, (dtypes, shape) in shapes.items():
        if prefix + name in shards.headers:
            yield prefix + name, expect(shards, prefix + name, dtypes, shape)


def make_config(hash: HashRecipe, dim: int, vocab: int, pad: int, rows: Sequence[int]) -> dict[str, Any]:
    """What config.json says of a table; the hash must be one that this layout can tell."""
    text = {
        "engram_layer_ids": list(hash.layers),
        "engram_num_embeddings": list(rows),
        "engram_max_ngram_size": max(hash.orders),
        "engram_vocab_size": hash.size[0],
        "engram_n_heads": hash.heads,
        "engram_head_dim": dim,
        "engram_compressed_vocab_size": vocab,
        "engram_pad_token_id": pad,
    }
    return {"model_type": "deepseek_v41", "text_config": text}


def set_type(config: dict[str, Any], type: RowType) -> None:
    """Nothing: the config does not tell the type of rows."""


def plan_tensors(prefix: str, layer: LayerLayout, dim: int, type: RowType, config: Mapping[str, Any]) -> RowTensors:
    """The tensors that hold a layer's rows."""
    specs = type.tensors(layer.rows, dim)
    scales = {f"{prefix}embed.scale": specs["scales"]} if type.scales else {}
    return RowTensors({f"{prefix}embed.weight": specs["rows"]}, scales, {})
