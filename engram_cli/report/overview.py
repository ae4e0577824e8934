"""The artifacts that lie in a folder, as one report: what they are, which was made from which, and the figures that matter.

An artifact names its inputs by digest, so whatever the folders are called, what a table was counted from is found again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from engram_cli.report.report import Measure, Report, column, read_report, table
from engram_cli.store.artifact import KINDS, Artifact, open_artifact
from engram_cli.store.manifest import FILE_NAME

ARTIFACTS = [
    column("artifact", pa.string(), "text"),
    column("kind", pa.string(), "text"),
    column("size", pa.int64(), "bytes"),
    column("made_from", pa.string(), "text"),
    column("pictures", pa.string(), "text"),
]

FIGURES = {"rows": "rows", "tokens": "tokens", "held_out_tokens": "tokens", "held_out_loss": "nats", "bits_per_byte": "bits"}


def artifacts_in(folder: Path) -> list[Artifact]:
    """The artifacts directly in `folder`, in the order of the pipeline; none where it is an artifact itself or no folder."""
    if (folder / FILE_NAME).exists() or not folder.is_dir():
        return []
    finished = [path for path in folder.iterdir() if (path / FILE_NAME).is_file() and not path.name.startswith(".")]
    order = list(KINDS)
    return sorted(map(open_artifact, finished), key=lambda one: (order.index(one.manifest.kind), one.path.name))


def overview(folder: Path, artifacts: Sequence[Artifact]) -> Report:
    """What `artifacts_in(folder)` are. Raises ArtifactError where a report among them is damaged."""
    names = {artifact.digest: artifact.path.name for artifact in artifacts}
    records = [
        {
            "artifact": str(artifact.path),
            "kind": artifact.manifest.kind,
            "size": artifact.manifest.bytes,
            "made_from": ", ".join(names.get(digest, kind) for kind, digest in artifact.manifest.inputs.items()),
            "pictures": ", ".join(name for name in artifact.manifest.files if name.endswith(".png")),
        }
        for artifact in artifacts
    ]
    facts = {f"{one.path.name}: {label}": fact for one in artifacts for label, fact in _figures(one)}
    return Report(
        "inspect", f"{folder}: {len(artifacts)} artifacts", facts, {"artifacts": table(ARTIFACTS, records, title="Artifacts")}
    )


def _figures(artifact: Artifact) -> Iterator[tuple[str, Measure]]:
    """What a report measured, or the facts of a manifest that FIGURES names."""
    if artifact.manifest.kind == "report":
        yield from ((label, fact) for label, fact in read_report(artifact.path).facts.items() if isinstance(fact, Measure))
    facts = artifact.manifest.facts
    for key, unit in FIGURES.items():
        if key in facts:
            yield key.replace("_", " "), Measure(facts[key], unit)
    for order, distinct in facts.get("distinct", {}).items():
        yield f"distinct {order}-grams", Measure(distinct, "grams")
