"""Whether every byte of an artifact is what was written: each file's bytes and digest against the manifest."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.store.artifact import Artifact, verify_files
from engram_cli.store.manifest import FileRecord

OK, CHANGED, MISSING, EXTRA = "ok", "changed", "missing", "extra"
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


def verify(artifacts: Sequence[Artifact], progress: ProgressLike = SILENT) -> Report:
    """Read every byte of `artifacts` and compare with their manifests; see `damaged` for the verdict.

    A file is "ok", "changed", "missing", or "extra" (not in the manifest). The report's table `files` has them all as they are on
    disk, the table `damaged` those that are not ok, and what was written. Raises OSError where a file cannot be read.
    """
    summaries: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for number, artifact in enumerate(artifacts, 1):
        progress.stage(number, len(artifacts), f"reading {artifact.path}")
        records = _records(artifact, progress)
        files += records
        summaries.append(
            {
                "artifact": str(artifact.path),
                "kind": artifact.manifest.kind,
                "digest": artifact.digest,
                "files": len(records),
                "damaged": sum(record["state"] != OK for record in records),
            }
        )
    bad = [record for record in files if record["state"] != OK]
    verdict = f"{len(bad)} of {len(files)} files are not what was written" if bad else "Every byte is what was written"
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
    done, total = 0, artifact.manifest.bytes

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
                "state": _state(written, found),
                "bytes": found.bytes if found else None,
                "bytes_written": written.bytes if written else None,
                "xxh3_128": found.xxh3_128 if found else None,
                "xxh3_128_written": written.xxh3_128 if written else None,
            }
        )
    return records


def _state(written: FileRecord | None, found: FileRecord | None) -> str:
    if written is None:
        return EXTRA
    if found is None:
        return MISSING
    return OK if found == written else CHANGED
