"""What an artifact is and where it came from, answered from its manifest and the heads of its files; no rows are read.

Every artifact has a digest, inputs and files; an n-gram artifact adds what was counted, a table its layout, weights, training and
recipe; a report is read back as it was saved.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError
from engram_cli.report.ngrams_summary import summarise
from engram_cli.report.report import Measure, Report, Scalar, column, read_report, table
from engram_cli.report.stored import layer_tables
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact
from engram_cli.table.formats.engram import LAYOUT_FILE, open_layer
from engram_cli.table.layout import Layout

KINDS = {"ngrams": "n-gram artifact", "table": "table artifact"}
_NATS = ("held_out_loss", "held_out_loss_before_rounding", "held_out_loss_of_host_alone")
_UNITS = {**dict.fromkeys(_NATS, "nats"), "bits_per_byte": "bits"}
_EVALUATIONS = 12  # of a training run that are shown

FILES = [
    column("file", pa.string(), "text"),
    column("bytes", pa.int64(), "bytes"),
    column("xxh3_128", pa.string(), "text"),
]
SETTINGS = [column("setting", pa.string(), "text"), column("value", pa.string(), "text")]
WEIGHTS = [
    column("file", pa.string(), "text"),
    column("tensors", pa.int64()),
    column("parameters", pa.int64(), "parameters"),
    column("bytes", pa.int64(), "bytes"),
]
TRAINING = [
    column("step", pa.int64()),
    column("tokens", pa.int64(), "tokens"),
    column("seconds", pa.float64(), "seconds"),
    column("loss", pa.float64(), "nats"),
    column("held_out_loss", pa.float64(), "nats"),
]


def inspect(artifact: Artifact) -> Report:
    """What `artifact` is. Raises ArtifactError where a file that is looked into is missing or damaged."""
    kind = artifact.manifest.kind
    if kind == "report":
        return read_report(artifact.path)
    title = f"{artifact.path}: {KINDS.get(kind, kind)}"
    files = [{"file": name, "bytes": r.bytes, "xxh3_128": r.xxh3_128} for name, r in artifact.manifest.files.items()]
    tables = {"files": table(FILES, files, title="Files")}
    if kind == "ngrams":
        try:
            found = summarise(NGrams(artifact))
        except KeyError as error:
            raise ArtifactError(f"the manifest of {artifact.path} lacks the figure {error}; make the artifact again") from None
        facts = {**dict(_origin(artifact)), **found.facts}
        return Report(found.about, found.title, facts, {**found.tables, **tables}, found.notes)
    facts = {**dict(_origin(artifact)), **dict(_facts(artifact))}
    return Report("inspect", title, facts, {**(_table_parts(artifact) if kind == "table" else {}), **tables})


def _origin(artifact: Artifact) -> Iterator[tuple[str, Scalar | Measure]]:
    """What identifies the artifact, and what it was made from."""
    manifest = artifact.manifest
    yield "digest", artifact.digest
    yield "made by", f"engram {manifest.tool}, format {manifest.format}"
    for name, digest in manifest.inputs.items():
        yield f"made from {name}", digest
    if "token_map_digest" in manifest.facts:
        yield "token map", manifest.facts["token_map_digest"]
    yield "size", Measure(manifest.bytes, "bytes")


def _facts(artifact: Artifact) -> Iterator[tuple[str, Scalar | Measure]]:
    """The manifest's facts, nested ones by dotted keys."""
    for key, value in _flat({key: value for key, value in artifact.manifest.facts.items() if key != "token_map_digest"}):
        label = key.replace("_", " ").replace(".", ": ")
        yield label, Measure(value, _UNITS[key]) if key in _UNITS else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Nested values as (dotted key, scalar or text)."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", value


def _settings(artifact: Artifact) -> list[dict[str, str]]:
    """What the recipe says, key by key."""
    try:
        document = tomllib.loads(artifact.manifest.recipe)
    except tomllib.TOMLDecodeError as error:
        raise ArtifactError(
            f"the recipe in {artifact.path} is not TOML ({error}): the manifest is damaged; make it again"
        ) from None
    return [{"setting": key, "value": str(value)} for key, value in _flat(document)]


def _table_parts(artifact: Artifact) -> dict[str, pa.Table]:
    """The tables that only a table artifact has: layers, orders, weights, training."""
    layout = Layout.from_arrow(artifact.table(LAYOUT_FILE, schema.LAYOUT))
    layers = tuple(open_layer(artifact, layer) for layer in layout.layers)
    weights = [name for name in artifact.manifest.files if name.endswith(".safetensors") and not name.startswith("rows-")]
    parts = {
        **layer_tables(layers),
        "weights": table(WEIGHTS, [_weights(artifact, name) for name in weights], title="Weights"),
    }
    if "training.arrow" in artifact.manifest.files:
        parts["training"] = table(TRAINING, _training(artifact), title="Training")
    parts["settings"] = table(SETTINGS, _settings(artifact), title="Recipe")
    return parts


def _weights(artifact: Artifact, name: str) -> dict[str, Any]:
    specs = artifact.tensors(name).values()
    parameters, size = sum(math.prod(spec.shape) for spec in specs), sum(spec.bytes for spec in specs)
    return {"file": name, "tensors": len(specs), "parameters": parameters, "bytes": size}


def _training(artifact: Artifact) -> list[dict[str, Any]]:
    """First and last step and the evaluations between them, thinned evenly where there are many."""
    log = artifact.table("training.arrow", schema.TRAINING).select([field.name for field in TRAINING]).to_pylist()
    inner = [record for record in log[1:-1] if record["held_out_loss"] is not None]
    step = max(1, math.ceil(len(inner) / _EVALUATIONS))
    return log if len(log) <= 2 else [log[0], *inner[step - 1 :: step], log[-1]]
