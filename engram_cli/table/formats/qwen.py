"""Qwen4Exp's per-layer embedding (PLE): `...ple_embedding.ngram_embedding.shard_I.weight`, equal stretches of one matrix, the last
shorter, with one `weight_scale` where they are F8_E4M3.

(vLLM, `vllm/models/qwen4_exp/nvidia/ngram_embedding.py`.) Multipliers, primes and offsets lie in the checkpoint too: they are held
to what follows from the config. Extras (`hashstats_*`, `token_lookup`) are left alone, as loaders leave them.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from engram_cli.errors import ArtifactError
from engram_cli.recipe import HashRecipe
from engram_cli.store.matrix import Matrix
from engram_cli.store.shards import Shards
from engram_cli.store.tensors import Stored, TensorSpec
from engram_cli.table.config import FoundHash
from engram_cli.table.formats.parts import RowTensors, expect, find_prefixes, plan_layers, whole
from engram_cli.table.layout import LayerLayout
from engram_cli.table.row_types import ROW_TYPES, Floats, RowType
from engram_cli.table.rows import Rows
from engram_cli.table.stored import WRONG_GRAM, StoredLayer

PATTERN = r"(?P<prefix>(?:.*\.)?)ngram_embedding\.shard_[0-9]+\.weight"
PREFIX = "model.language_model.layers.{}.ple.ple_embedding."
TYPES = {"F8_E4M3": "fp8-scalar", "BF16": "bf16", "F16": "f16", "F32": "f32"}
_TYPE_NAMES = {"fp8-scalar": "float8_e4m3fn", "bf16": "bfloat16", "f16": "float16", "f32": "float32"}  # as torch has them
_PARTS = 128  # that a new table is split into, as the published one, or as many as it has rows
_SCALE_TYPES = ("BF16", "F32", "F16")


def find_layers(found: FoundHash, config: Mapping[str, Any], shards: Shards) -> tuple[StoredLayer, ...]:
    """The layers of `found` in `shards`. Raises ArtifactError where they are not there, or not as the config says."""
    prefixes = find_prefixes(shards, PATTERN, found.hash.host_layers)
    layers = []
    for layout in plan_layers(found, shards):
        prefix = prefixes[layout.layer]
        tensors = dict(_stretches(prefix, layout.rows, found.dim, config, shards))
        numbers = Matrix(list(tensors.values()))
        row_type = ROW_TYPES[TYPES[next(iter(tensors.values())).spec.dtype]]
        scale = None
        if row_type.scales:
            name = f"{prefix}ngram_embedding.weight_scale"
            tensors[name] = shards[name]
            scale = _scale(name, shards)
        tensors |= dict(_constants(prefix, layout, shards))
        layers.append(StoredLayer(layout, Rows(row_type, numbers, scale), tensors))
    return tuple(layers)


def _stretches(prefix: str, rows: int, dim: int, config: Mapping[str, Any], shards: Shards) -> Iterator[tuple[str, Stored]]:
    """The stretches of the matrix in order, each as long as vLLM expects it."""
    pattern = re.compile(re.escape(f"{prefix}ngram_embedding.shard_") + r"[0-9]+\.weight")
    there = sum(pattern.fullmatch(name) is not None for name in shards)
    parts = whole(config, "split_ngram_parts") or there
    if parts != there:
        raise ArtifactError(
            f"the config of {shards.directory} splits the rows into {parts} parts, but there are {there}: {WRONG_GRAM}; fetch the "
            "checkpoint again"
        )
    step = -(-rows // parts)
    dtypes: Collection[str] = TYPES
    for part in range(parts):
        name = f"{prefix}ngram_embedding.shard_{part}.weight"
        stored = expect(shards, name, dtypes, (max(0, min(step, rows - part * step)), dim), WRONG_GRAM)
        dtypes = (stored.spec.dtype,)  # all as the first
        yield name, stored


def _scale(name: str, shards: Shards) -> Floats:
    """The one scale of a matrix, f32 [1]."""
    shape = shards[name].spec.shape
    stored = expect(shards, name, _SCALE_TYPES, () if shape == () else (1,), "numbers without their scale")
    as_row = Stored(stored.path, stored.spec._replace(shape=(1,)))
    scale = ROW_TYPES[stored.spec.dtype.lower()].decode(Matrix([as_row]).read(0, 1))
    if not 0 < scale[0] < float("inf"):
        raise ArtifactError(
            f"{name} of {shards.directory} must be a positive number, but it is {scale[0]}; fetch the checkpoint again"
        )
    return scale


def _hash_constants(layout: LayerLayout) -> dict[str, tuple[int, ...]]:
    """What a checkpoint says of its own hash, beside its config."""
    return {
        "layer_multipliers": layout.multipliers_N,
        "ngram_heads_vocab_sizes": layout.primes_H,
        "ngram_heads_offsets": layout.offsets_H,
    }


def _constants(prefix: str, layout: LayerLayout, shards: Shards) -> Iterator[tuple[str, Stored]]:
    """What the checkpoint itself says of its hash, where it does."""
    for name, numbers in _hash_constants(layout).items():
        if prefix + name in shards.headers:
            stored = expect(shards, prefix + name, ("I64",), (len(numbers),), WRONG_GRAM)
            for place, (number, found) in enumerate(zip(numbers, Matrix([stored]).read(0, len(numbers)).tolist(), strict=True)):
                if number != found:
                    raise ArtifactError(
                        f"number {place} of {prefix}{name} must be {number} by the config of {shards.directory}, but it is "
                        f"{found}: {WRONG_GRAM}; config and shards of one checkpoint belong together: fetch it again"
                    )
            yield prefix + name, stored


def make_config(hash: HashRecipe, dim: int, vocab: int, pad: int, rows: Sequence[int]) -> dict[str, Any]:
    """What config.json says of a table; the hash must be one that this layout can tell."""
    text = {
        "vocab_size": vocab,
        "eos_token_id": pad,
        "ple_layer_ids": list(hash.layers),
        "ple_embed_dim": dim * hash.heads * len(hash.orders),
        "ngram_size": max(hash.orders),
        "heads_per_ngram": hash.heads,
        "ngram_vocab_size_base": hash.size[0],
        "make_ngram_vocab_size_divisible_by": hash.multiple,
        "split_ngram_parts": min(_PARTS, *rows),
        "seed": hash.seed,
    }
    return {"model_type": "qwen4_exp", "text_config": text}


def set_type(config: dict[str, Any], type: RowType) -> None:
    """Put the type of rows into the part of a config that speaks of the language model."""
    config["ple_embedding_dtype"] = _TYPE_NAMES[type.name]


def plan_tensors(prefix: str, layer: LayerLayout, dim: int, type: RowType, config: Mapping[str, Any]) -> RowTensors:
    """The tensors that hold a layer's rows, split as the config says."""
    parts = whole(config, "split_ngram_parts") or 1
    step = -(-layer.rows // parts)
    counts = [max(0, min(step, layer.rows - part * step)) for part in range(parts)]
    numbers = {
        f"{prefix}ngram_embedding.shard_{part}.weight": TensorSpec(type.numbers, (count, dim)) for part, count in enumerate(counts)
    }
    scales = {f"{prefix}ngram_embedding.weight_scale": TensorSpec("F32", (1,))} if type.scales else {}
    constants = {prefix + name: np.array(values, np.int64) for name, values in _hash_constants(layer).items()}
    return RowTensors(numbers, scales, constants)
