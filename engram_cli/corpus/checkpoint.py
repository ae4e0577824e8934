"""What an extraction has done so far, so that one that was killed goes on where it was.

Everything lies in the draft's `scratch` folder and goes with it. `progress.json` is renamed into place after what it speaks of is on
the disk, so that it is true at any moment; counting is begun again, which takes seconds where encoding takes minutes.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from engram_cli.errors import ArtifactError, ClusterError, ResourceError
from engram_cli.progress import ProgressLike
from engram_cli.store.artifact import check_unfinished, partial_path, scratch_path

FILE = "progress.json"
_WORTH_KEEPING = 1 << 24  # tokens: encoding them again takes a quarter of a minute


def goes_on(final: Path, resume: bool, force: bool, progress: ProgressLike) -> bool:
    """Whether the extraction to `final` goes on where one was killed; if not, nothing is left of that.

    Raises ArtifactError where there is one and neither `resume` nor `force` says what to do with it.
    """
    partial = partial_path(final)
    unfinished = (scratch_path(partial) / FILE).is_file()
    check_unfinished(final, unfinished, resume, force)
    if resume and unfinished:
        return True
    if resume:
        progress.warn(f"--resume found no unfinished run of {final}: it begins anew")
    shutil.rmtree(partial, ignore_errors=True)
    return False


def keep_or_remove(partial: Path, error: BaseException, resumed: bool, progress: ProgressLike) -> None:
    """After `error`: keep what took long, or what a full disk interrupted, or was kept before; remove the rest."""
    with suppress(OSError, ValueError):
        state = json.loads((scratch_path(partial) / FILE).read_bytes())["state"]
        tokens = state["training"]["tokens"] + state["held_out"]["tokens"]
        if resumed or tokens >= _WORTH_KEEPING or isinstance(error, (ResourceError, ClusterError)):
            progress.warn(f"what was encoded so far, {tokens:,} tokens, is kept in {partial}: --resume goes on from there")
            return
    shutil.rmtree(partial, ignore_errors=True)


class Checkpoint:
    """The progress of one extraction in `folder`. identity: what the result follows from; `state`: what was saved last, or None.

    Raises ArtifactError where what lies there was begun with something else.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        self.state: dict[str, Any] | None = None
        folder.mkdir(exist_ok=True)
        try:
            saved = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        differing = [name for name, value in self.identity.items() if saved["identity"].get(name) != value]
        if differing:
            raise ArtifactError(
                f"--resume goes on with the corpus and the settings of before, but {', '.join(differing)} changed; "
                "start anew with --force in its place"
            )
        self.state = saved["state"]

    def save(self, state: Mapping[str, Any]) -> None:
        """Put `state` down; whatever it speaks of is on the disk already."""
        write_whole(self.folder / FILE, json.dumps({"identity": self.identity, "state": state}).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, whenever the machine stops."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def digest_of(path: Path) -> str:
    """xxh3_128 (hex) of a file that fits in memory."""
    return xxhash.xxh3_128_hexdigest(path.read_bytes())
