"""A report: facts, tables and notes. Whatever a command shows is rendered from one, and `inspect` shows a saved one again.

    heads = table([column("order", pa.int32()), column("load", pa.float64(), "grams/row")], records, title="Heads")
    report = Report("collisions", "Collisions of demo/ngrams", {"grams": 1_234}, {"heads": heads})
    write_report("demo/collisions", report, inputs={"ngrams": digest})

On disk it is an artifact of kind "report": `report.json` (about, title, facts, notes, the order of the tables), one Arrow file
per table, one PNG per picture. Units are metadata of the Arrow fields, so a table read by DuckDB or pandas holds plain numbers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from engram_cli.errors import ArtifactError
from engram_cli.store.artifact import Artifact, open_artifact, write_artifact

FILE_NAME = "report.json"
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Measure:
    """A fact with a unit: "share" (0..1), "bytes", "seconds", "nats", "bits", or what is counted ("rows", "tokens", ...)."""

    value: Scalar
    unit: str


@dataclass(frozen=True)
class Report:
    """What a command found.

    about: "ngrams", "collisions", "bench", "inspect", "convert", "diff" or "verify"; title: one line; facts: label -> what, shown
    on top in order; tables: name -> Arrow table (see `column` and `table`); notes: sentences that a reader must not miss.
    """

    about: str
    title: str
    facts: Mapping[str, Scalar | Measure] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    notes: Sequence[str] = ()


def column(name: str, type: pa.DataType, unit: str = "") -> pa.Field:
    """A column of a report table; `unit` as for Measure, or "text"."""
    return pa.field(name, type, metadata={"unit": unit} if unit else None)


def table(
    fields: Sequence[pa.Field], records: Iterable[Mapping[str, Any]], *, title: str = "", limit: int | None = None
) -> pa.Table:
    """A report table from records (missing keys are null).

    title: shown above it instead of its name; limit: the screen shows at most so many rows of it (0: only that it is there), while
    --json and the Arrow file hold all.
    """
    metadata = {"title": title} if title else {}
    if limit is not None:
        metadata["limit"] = str(limit)
    return pa.Table.from_pylist(list(records), pa.schema(list(fields), metadata=metadata or None))


def metadata_of(item: pa.Field | pa.Schema, key: str) -> str:
    """A text from the metadata of a field ("unit") or a schema ("title", "limit"); "" where there is none."""
    metadata: Mapping[bytes, bytes] = item.metadata or {}
    return metadata.get(key.encode(), b"").decode()


def write_report(out: str | Path, report: Report, *, inputs: Mapping[str, str], recipe: str = "", force: bool = False) -> Artifact:
    """Write `report` with its pictures as a report artifact at `out`; `inputs`: name -> digest of what it was made from.

    Raises ArtifactError as `write_artifact` does.
    """
    from engram_cli.report.pictures import draw

    with write_artifact(out, "report", force=force) as draft:
        draft.inputs = dict(inputs)
        draft.recipe = recipe
        draft.facts = {"about": report.about, "title": report.title}
        document = {
            "about": report.about,
            "title": report.title,
            "facts": {
                label: {"value": fact.value, "unit": fact.unit} if isinstance(fact, Measure) else fact
                for label, fact in report.facts.items()
            },
            "tables": list(report.tables),
            "notes": list(report.notes),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (draft.path / FILE_NAME).write_text(text, encoding="utf-8")
        for name, content in report.tables.items():
            draft.table(f"{name}.arrow", content)
        draw(report, draft.path)
    return open_artifact(out, "report")


def read_report(path: str | Path) -> Report:
    """Read a saved report. Raises ArtifactError where there is none, or where its report.json is not one."""
    artifact = open_artifact(path, "report")
    source = artifact.file(FILE_NAME)
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
        facts = {label: Measure(**fact) if isinstance(fact, dict) else fact for label, fact in document["facts"].items()}
        tables = {name: artifact.table(f"{name}.arrow") for name in document["tables"]}
        return Report(document["about"], document["title"], facts, tables, tuple(document["notes"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{source} cannot be read as a report ({error}); make the report again") from None
