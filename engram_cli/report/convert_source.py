"""What `convert` converts: an open table with all that belongs to it, and is written again or kept beside it.

A table is its rows, its hash and its tokenizer: any layout of files holds those, or is refused. What else there is goes along:

    of an artifact (host, memory, training ...)    in a checkpoint into the folder `engram/`, file by file
    of a checkpoint (the memory's other tensors)   in a checkpoint beside the rows, in an artifact into `checkpoint/`

so that converting back gives what there was. A checkpoint's other tensors (its experts) are a model and not a table: they stay.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from engram_cli.corpus.canonical import TokenMap, identity_map
from engram_cli.corpus.tokenizer import load_tokenizer
from engram_cli.errors import ArtifactError
from engram_cli.report.stored import check_tokenizer
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact, open_artifact
from engram_cli.store.manifest import FileRecord, file_digest
from engram_cli.store.shards import open_shards
from engram_cli.store.tensors import Stored, read_tensor_specs
from engram_cli.table.config import text_config
from engram_cli.table.formats import CONFIG, TOKENIZER, deepseek, open_stored_table, qwen
from engram_cli.table.formats.engram import LAYOUT_FILE
from engram_cli.table.layout import Layout
from engram_cli.table.rows import rows_file
from engram_cli.table.stored import StoredTable

KEPT, ORIGIN = "engram", "origin.json"  # in a checkpoint: files of an artifact, and what its manifest said
KEPT_CONFIG, KEPT_TENSORS = f"checkpoint/{CONFIG}", "checkpoint/rest.safetensors"  # in an artifact: what was a checkpoint's
TOKEN_MAP = "token_map.arrow"
WRITERS: Mapping[str, ModuleType] = {"deepseek-v4.1": deepseek, "qwen-ple": qwen}


@dataclass(frozen=True)
class Source:
    """A table to convert.

    digest: changes where what is read does; known_by: name -> digest, among the inputs of what is made of it; files: of an
    artifact, without rows, by name; origin: facts, recipe and inputs of its manifest; config, prefixes, rest: what a checkpoint
    says, what its tensors' names begin with (layer -> text), and its memory's other tensors, both also where an artifact keeps
    them; others: how many tensors of a model lie beside the table.
    """

    stored: StoredTable
    layout: Layout | None
    token_map: TokenMap | None
    digest: str
    known_by: Mapping[str, str]
    files: Mapping[str, Path]
    origin: Mapping[str, Any]
    config: Mapping[str, Any] | None
    prefixes: Mapping[int, str]
    rest: Mapping[str, Stored]
    others: int

    @property
    def keeps_config(self) -> bool:
        """Whether an artifact keeps the config: not where that was made from an artifact's recipe."""
        return self.config is not None and not self.files


def open_source(path: Path) -> Source:
    """Open the table at `path`. Raises ArtifactError where there is none, or where its parts contradict each other."""
    stored = open_stored_table(path)
    return _artifact(stored) if stored.form == "engram" else _checkpoint(stored)


def _artifact(stored: StoredTable) -> Source:
    artifact = open_artifact(stored.path, "table")
    manifest = artifact.manifest
    rows = {rows_file(layer.layout.layer) for layer in stored.layers}
    names = manifest.files.keys() - rows - {KEPT_CONFIG, KEPT_TENSORS, TOKENIZER}
    follows = names <= {LAYOUT_FILE, TOKEN_MAP}  # from config and tokenizer: it was made of a checkpoint
    files = {} if follows else {name: artifact.file(name) for name in sorted(names)}
    config: dict[str, Any] | None = None
    rest: dict[str, Stored] = {}
    if KEPT_CONFIG in manifest.files:
        config = _json(artifact.file(KEPT_CONFIG))
    if KEPT_TENSORS in manifest.files:
        path = artifact.file(KEPT_TENSORS)
        rest = {name: Stored(path, spec) for name, spec in read_tensor_specs(path).items()}
    origin = {"facts": manifest.facts, "recipe": manifest.recipe, "inputs": manifest.inputs}
    prefixes = {int(layer): prefix for layer, prefix in manifest.facts.get("prefixes", {}).items()}
    assert isinstance(stored.planned, Layout)
    known_by = {"table": artifact.digest}
    return Source(stored, stored.planned, _map_of(artifact), artifact.digest, known_by, files, origin, config, prefixes, rest, 0)


def _map_of(artifact: Artifact) -> TokenMap:
    saved = artifact.table(TOKEN_MAP, schema.TOKEN_MAP)
    return TokenMap(np.asarray(saved[0]), tuple(saved[1].to_pylist()))


def _checkpoint(stored: StoredTable) -> Source:
    folded, layout = check_tokenizer(stored), None
    if stored.tokenizer is not None:
        folded = folded or identity_map(load_tokenizer(stored.tokenizer))
        layout = stored.layout(folded.canonical_V)
    elif not stored.family.canonical:
        layout = stored.layout(np.zeros(1, np.uint32))
    config = _json(stored.path / CONFIG)
    prefixes: dict[int, str] = {}
    rest: dict[str, Stored] = {}
    writer = WRITERS.get(stored.form)
    for layer in stored.layers if writer else ():
        assert writer is not None
        first = layer.rows.numbers.tensors[0]
        name = next(name for name, tensor in layer.tensors.items() if tensor == first)
        prefix = prefixes[layer.layout.layer] = name.removesuffix("embed.weight").partition("ngram_embedding.")[0]
        planned = writer.plan_tensors(prefix, layer.layout, layer.rows.dim, layer.rows.type, text_config(config))
        rest |= {name: tensor for name, tensor in layer.tensors.items() if name not in planned.specs}
    shards = open_shards(stored.path)
    others = len(shards) - sum(len(layer.tensors) for layer in stored.layers)
    files, origin = _kept(stored.path, layout)
    digest, known_by = _fingerprint(stored, shards), {"config": file_digest(stored.path / CONFIG)}
    return Source(stored, layout, folded, digest, known_by, files, origin, config, prefixes, rest, others)


def _kept(path: Path, layout: Layout | None) -> tuple[dict[str, Path], Mapping[str, Any]]:
    """What an artifact had beside its rows, where the checkpoint was made from one."""
    folder = path / KEPT
    if not (folder / ORIGIN).is_file():
        return {}, {}
    document = _json(folder / ORIGIN)
    try:
        for name, record in document["files"].items():
            found = FileRecord((folder / name).stat().st_size, file_digest(folder / name))
            if Path(name).name != name or found != FileRecord(**record):
                raise ValueError(f"{name} is not as it was written")
        files = {name: folder / name for name in document["files"]}
        layout_table = pa.ipc.open_file(pa.memory_map(str(files[LAYOUT_FILE]))).read_all()
        if layout is not None and Layout.from_arrow(layout_table) != layout:
            raise ValueError(f"{LAYOUT_FILE} is not what follows from {CONFIG}")
        return files, {key: document[key] for key in ("facts", "recipe", "inputs")}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{folder} holds what an artifact had beside its rows, but {error}; convert the artifact again, or remove that folder"
        ) from None


def _fingerprint(stored: StoredTable, shards: Any) -> str:
    """Changes where the files of a checkpoint do: config and tokenizer by content, shards by size and time."""
    parts = [file_digest(path) for path in (stored.path / CONFIG, stored.path / TOKENIZER) if path.is_file()]
    for path in sorted({header.path for header in shards.headers.values()}):
        state = path.stat()
        parts.append(f"{path.name} {state.st_size} {state.st_mtime_ns}")
    return "\n".join(parts)


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise TypeError("it is no object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} must hold one JSON object, but cannot be read so ({error}); convert the table again") from None
    return document
