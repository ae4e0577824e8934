"""The layouts of files in which tables are found, one module for each, and the one way to open them all.

    engram          our own artifacts: layout.arrow, rows-LL.safetensors
    deepseek-v4.1   layers.L.engram.embed.weight and .scale in the shards of a checkpoint
    qwen-ple        layers.L.ple.ple_embedding.ngram_embedding.shard_I.weight and .weight_scale
    demo            layers.L.engram.multi_head_embedding.embedding.weight, and the demo's EngramConfig as config.json

Opening reads the config, the index and the headers of all shards, and maps what holds rows: no row is read. A further layout is one
more module with a function that finds the layers of a config in the shards, and a line in FORMS.
"""

import json
from pathlib import Path
from typing import Any

from engram_cli.errors import ArtifactError
from engram_cli.store.collector import collector_at_rest
from engram_cli.store.manifest import FILE_NAME
from engram_cli.store.shards import INDEX, open_shards
from engram_cli.store.tensors import unique_keys
from engram_cli.table.config import hash_of_config, text_config
from engram_cli.table.formats import deepseek, demo, engram, qwen
from engram_cli.table.stored import StoredTable

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
TOKEN_MAP_DIGEST = "engram_token_map_digest"  # a key of config.json, of no published checkpoint, that `engram convert` writes
FORMS = {"deepseek-v4.1": deepseek.find_layers, "qwen-ple": qwen.find_layers, "demo": demo.find_layers}


def is_checkpoint(path: str | Path) -> bool:
    """Whether a directory looks like a checkpoint of a model, and not like an artifact of ours."""
    directory = Path(path)
    files = (CONFIG, INDEX, "model.safetensors")
    return not (directory / FILE_NAME).exists() and any((directory / name).exists() for name in files)


@collector_at_rest()
def open_stored_table(path: str | Path) -> StoredTable:
    """Open the table in an artifact of ours, or in the directory of a checkpoint.

    Raises ArtifactError where there is none, where its parts contradict each other, or where it is damaged.
    """
    directory = Path(path)
    if not is_checkpoint(directory):
        return engram.open_artifact_table(directory)
    config = _read_config(directory / CONFIG)
    shards = open_shards(directory)
    found = hash_of_config(config, str(directory / CONFIG))
    if found is None:
        raise ArtifactError(
            f"the config of a model with a table names the layers that have one, but {directory / CONFIG} names none (neither "
            "`engram_layer_ids` nor `ple_layer_ids`); this model has no table, or the config is another's"
        )
    layers = FORMS[found.hash.family](found, text_config(config), shards)
    tokenizer = directory / TOKENIZER
    return StoredTable(
        path=directory,
        form=found.hash.family,
        family=found.family,
        layers=layers,
        vocab=found.vocab,
        pad=found.pad,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        token_map_digest=_digest(text_config(config), directory / CONFIG),
        missing=shards.missing,
        planned=found,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
        if not isinstance(config, dict):
            raise TypeError("it is no object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"a checkpoint has a {CONFIG} of one JSON object, but {path} cannot be read so ({why}); fetch it"
        ) from None
    return config


def _digest(config: Any, path: Path) -> str | None:
    digest = config.get(TOKEN_MAP_DIGEST)
    if digest is not None and type(digest) is not str:
        raise ArtifactError(
            f"`{TOKEN_MAP_DIGEST}` of {path} must be a digest in hex, but it is {digest!r}; convert the table again"
        )
    return digest
