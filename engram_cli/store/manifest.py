"""`manifest.json`: what an artifact is, what it was made from, and the digest of every file in it, its own included.

The manifest is written last, so a directory without one is an artifact that was never finished. It holds no clock time and no
path of the machine: the same inputs give the same bytes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from engram_cli.errors import ArtifactError

FORMAT = 1
FILE_NAME = "manifest.json"
DIGESTS = ".engram-digests.json"  # of a checkpoint's files, which have no manifest (store/digests.py)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact: its size in bytes and the xxh3_128 of its content (hex)."""

    bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    kind: "ngrams", "table" or "report"; format: the version of the artifact format; tool: the version of engram that wrote it;
    recipe: the recipe's TOML text ("" where there is none); inputs: name -> digest of what it was made from; facts: figures of
    the artifact that are worth reading without opening a file; files: relative name -> FileRecord.
    """

    kind: str
    tool: str
    format: int = FORMAT
    recipe: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """xxh3_128 (hex) over kind, format, and every file's name and digest: equal digests, equal content."""
        state = xxhash.xxh3_128(f"{self.kind}\n{self.format}\n".encode())
        for name in sorted(self.files):
            state.update(f"{name}\n{self.files[name].xxh3_128}\n".encode())
        return state.hexdigest()

    @property
    def bytes(self) -> int:
        """Bytes of all files together, the manifest not counted."""
        return sum(record.bytes for record in self.files.values())

    def to_json(self) -> str:
        """The bytes of `manifest.json`; its last key is the xxh3_128 (hex) of the text without that key."""
        document = asdict(self)
        document["xxh3_128"] = xxhash.xxh3_128_hexdigest(_dump(document).encode())
        return _dump(document) + "\n"


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def file_digest(path: Path, read: Callable[[int], object] | None = None) -> str:
    """xxh3_128 (hex) of a file's content, read in blocks of 1 MiB; `read` is told the bytes of each block."""
    return RunningDigest(path).finish(read)


class RunningDigest:
    """The digest of a file that is written from its beginning on, taken while it is: a large file need not be read again.

    The first `start` bytes are there already. What does not follow on what was added before is left out, and read at the end.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path, self._state, self._position = path, xxhash.xxh3_128(), start
        if start:
            with path.open("rb") as file:
                self._state.update(file.read(start))

    def add(self, offset: int, written: npt.NDArray[Any]) -> None:
        """Bytes that were written from `offset` on."""
        if offset == self._position:
            self._state.update(written.reshape(-1).view(np.uint8).data)
            self._position += written.nbytes

    def finish(self, read: Callable[[int], object] | None = None) -> str:
        """xxh3_128 (hex) of the whole file; `read` is told the bytes of each block that is read from it."""
        block = memoryview(bytearray(_BLOCK))  # one and the same: it stays in the cache, which doubles the speed
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._position)
            while size := file.readinto(block):
                self._state.update(block[:size])
                if read:
                    read(size)
        return self._state.hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Read and check `directory/manifest.json`.

    Raises ArtifactError when there is no such directory, no manifest in it, when the manifest is not one, when a byte of it is not
    what was written, or when its format is newer than this tool.
    """
    if not directory.is_dir():
        found = "a file lies there" if directory.exists() else "nothing is there"
        raise ArtifactError(f"an artifact is a directory, but {found}: {directory}; name the --out of an engram command")
    path = directory / FILE_NAME
    try:
        text = path.read_bytes().decode()  # not read_text: it would hide a line feed that became a carriage return
        document = json.loads(text)
    except FileNotFoundError:
        raise ArtifactError(
            f"an artifact holds {FILE_NAME}, but {directory} has none: the command that was writing it did not finish, or it is "
            "no artifact; run that command again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as a manifest ({error}); make the artifact again") from None
    manifest = _parse(document, path)
    if manifest.to_json() != text:
        raise ArtifactError(f"{path} is not as it was written: a byte of it has changed; make the artifact again")
    return manifest


def _parse(document: Any, path: Path) -> Manifest:
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise ArtifactError(f"a manifest is a JSON object with a whole-number `format`, but {path} is not; make the artifact again")
    if document["format"] > FORMAT:
        raise ArtifactError(
            f"this engram reads artifact formats up to {FORMAT}, but {path.parent} has format {document['format']}: upgrade engram"
        )
    try:
        del document["xxh3_128"]  # of the bytes; `read_manifest` compares them all
        files = {name: FileRecord(**record) for name, record in document.pop("files").items()}
        manifest = Manifest(**document, files=files)
    except (TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path} lacks or misspells a key ({error}); make the artifact again") from None
    for key, kind in (("kind", str), ("tool", str), ("recipe", str), ("inputs", dict), ("facts", dict)):
        if not isinstance(getattr(manifest, key), kind):
            raise ArtifactError(f"`{key}` in {path} has the wrong type, {getattr(manifest, key)!r}; make the artifact again")
    for name, record in files.items():
        if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"an artifact's files lie inside it, but {path} names {name!r}; do not use this artifact")
        if type(record.bytes) is not int or record.bytes < 0 or not isinstance(record.xxh3_128, str):
            raise ArtifactError(f"{path} gives {name} impossible bytes or digest, {record}; make the artifact again")
    return manifest
