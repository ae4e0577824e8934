"""What the files of a checkpoint were when they were first seen: `.engram-digests.json`, in place of the manifest that it lacks.

One JSON object, name -> {"bytes", "xxh3_128"}, beside the files or, where that folder cannot be written to, wherever one says. It
says what was there then and not what was published: damage of before cannot be seen, later damage can.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from engram_cli.errors import ArtifactError
from engram_cli.store.artifact import Artifact, write_whole
from engram_cli.store.manifest import DIGESTS, FileRecord, Manifest
from engram_cli.store.tensors import unique_keys

KIND = "checkpoint"


def open_checkpoint(directory: Path, digests: Path | None = None) -> Artifact:
    """The files of a checkpoint as an artifact's, with the records of `digests` (None: DIGESTS in the directory) for a manifest;
    with none where there is no such file yet.

    Raises ArtifactError where it is there but cannot be read.
    """
    path = digests or directory / DIGESTS
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
        files = {name: FileRecord(**record) for name, record in document.items()}
        if not all(type(record.bytes) is int and type(record.xxh3_128) is str for record in files.values()):
            raise TypeError("bytes that are no number, or a digest that is no text")
    except FileNotFoundError:
        files = {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} must hold bytes and digest of each file, but cannot be read so ({error}); remove it to record them anew"
        ) from None
    return Artifact(directory, Manifest(kind=KIND, tool="", files=files))


def write_digests(path: Path, records: Mapping[str, FileRecord]) -> None:
    """Record bytes and digest of each file. Raises ArtifactError where `path` cannot be written."""
    text = json.dumps({name: asdict(record) for name, record in sorted(records.items())}, indent=2, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text)
    except OSError as error:
        raise ArtifactError(
            f"the digests of a checkpoint are recorded in {path}, but it cannot be written ({error.strerror}); give --digests FILE"
        ) from None
