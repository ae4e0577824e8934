"""Whether every byte is what was written: each file's bytes and digest against the manifest.

A published checkpoint has no manifest. What its files are when they are first seen is recorded beside them (store/digests.py), and
compared with from then on.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.store.artifact import Artifact, verify_files
from engram_cli.store.digests import KIND as CHECKPOINT
from engram_cli.store.digests import write_digests
from engram_cli.store.manifest import DIGESTS, FileRecord
from engram_cli.store.shards import open_shards

OK, CHANGED, MISSING, EXTRA, RECORDED = "ok", "changed", "missing", "extra", "recorded"
_FINE = (OK, RECORDED)
ARTIFACTS = [
    column("artifact", pa.string(), "text"),
    column("kind", pa.string(), "text"),
    column("digest", pa.string(), "text"),
    column("files", pa.int64(), "files"),
    column("damaged", pa.int64(), "files"),
]
FILES = [
    column("artifact", pa.string(), "text"),
    column("file", pa.string(), "text"),
    column("state", pa.string(), "text"),
    column("bytes", pa.int64()),
    column("xxh3_128", pa.string(), "text"),
]
DAMAGED = [*FILES, column("bytes_written", pa.int64()), column("xxh3_128_written", pa.string(), "text")]
_SHOWN = [field.name for field in FILES]


def verify(artifacts: Sequence[Artifact], progress: ProgressLike = SILENT, digests: Path | None = None) -> Report:
    """Read every byte of `artifacts` and compare with their manifests; see `damaged` for the verdict.

    digests: where those of a checkpoint are recorded that was not seen before; None for beside it.
    A file is "ok", "changed", "missing", "extra" (not in the manifest), or "recorded" (seen for the first time). The report's table
    `files` has them all as they are on disk, the table `damaged` those that are not fine, and what was written.
    Raises OSError where a file cannot be read, ArtifactError where digests cannot be recorded, or where a checkpoint that was not
    seen before shows by its own headers that it is damaged: that is not recorded as what it is.
    """
    for artifact in artifacts:
        if _is_new(artifact) and any(artifact.path.glob("*.safetensors")):
            open_shards(artifact.path)
    summaries: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for number, artifact in enumerate(artifacts, 1):
        progress.stage(number, len(artifacts), f"reading {artifact.path}")
        records = _records(artifact, progress)
        files += records
        manifest = artifact.manifest
        if _is_new(artifact):
            found = {record["file"]: FileRecord(record["bytes"], record["xxh3_128"]) for record in records}
            write_digests(digests or artifact.path / DIGESTS, found)
            manifest = replace(manifest, files=found)
        summaries.append(
            {
                "artifact": str(artifact.path),
                "kind": manifest.kind,
                "digest": manifest.digest,
                "files": len(records),
                "damaged": sum(record["state"] not in _FINE for record in records),
            }
        )
    bad = [record for record in files if record["state"] not in _FINE]
    new = sum(record["state"] == RECORDED for record in files)
    verdict = f"{len(bad)} of {len(files)} files are not what was written" if bad else "Every byte is what was written"
    if new and not bad:
        verdict = f"{new} of {len(files)} files are seen for the first time: the next run compares with what they are now"
    facts: dict[str, Scalar | Measure] = {
        "artifacts": len(artifacts),
        "files": len(files),
        "bytes": Measure(sum(r["bytes"] or 0 for r in files), "bytes"),
    }
    tables = {"artifacts": table(ARTIFACTS, summaries), "files": table(FILES, ({k: r[k] for k in _SHOWN} for r in files))}
    if bad:
        tables["damaged"] = table(DAMAGED, bad)
    notes = ["make a damaged artifact again, or take it from a copy; what was made from it is in doubt too"] if bad else []
    return Report("verify", verdict, facts, tables, notes)


def damaged(report: Report) -> bool:
    """Whether a `verify` report found anything that is not what was written."""
    return "damaged" in report.tables


def _records(artifact: Artifact, progress: ProgressLike) -> list[dict[str, Any]]:
    done, total = 0, artifact.manifest.bytes or None

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress.advance(done, total, "bytes")

    records = []
    for name, written, found in verify_files(artifact, read):
        records.append(
            {
                "artifact": str(artifact.path),
                "file": name,
                "state": RECORDED if _is_new(artifact) else _state(written, found),
                "bytes": found.bytes if found else None,
                "bytes_written": written.bytes if written else None,
                "xxh3_128": found.xxh3_128 if found else None,
                "xxh3_128_written": written.xxh3_128 if written else None,
            }
        )
    return records


def _is_new(artifact: Artifact) -> bool:
    """Whether it is a checkpoint that was not seen before."""
    return artifact.manifest.kind == CHECKPOINT and not artifact.manifest.files


def _state(written: FileRecord | None, found: FileRecord | None) -> str:
    if written is None:
        return EXTRA
    if found is None:
        return MISSING
    return OK if found == written else CHANGED
