"""DeepSeek-V4.1: `layers.L.engram.embed.weight` [rows, dim], with `.scale` [rows, dim / 32] where it is F8_E4M3.

(vLLM, `vllm/models/deepseek_v41/common/engram.py`.) The rest of the memory is `wkv` (four keys, then the value; 32 x 32 blocks),
`q_weight` and `k_weight` (gains of the two norms). It is held to the config where it is there; rows can be looked into without it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from engram_cli.store.matrix import Matrix
from engram_cli.store.shards import Shards
from engram_cli.store.tensors import Stored
from engram_cli.table.config import FoundHash
from engram_cli.table.formats.parts import expect, find_prefixes, plan_layers, whole
from engram_cli.table.row_types import BLOCK, ROW_TYPES
from engram_cli.table.rows import Rows
from engram_cli.table.stored import WRONG_GRAM, StoredLayer

PATTERN = r"(?P<prefix>(?:.*\.)?engram\.)embed\.weight"
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
