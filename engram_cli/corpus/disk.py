"""The disk that an extraction takes: told, and compared with what there is, before it starts."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engram_cli.corpus.files import Files
from engram_cli.corpus.ready import ReadySource
from engram_cli.errors import ResourceError
from engram_cli.progress import ProgressLike
from engram_cli.store.resources import format_bytes, free_disk

_UNPACKED = 4  # bytes of text in one of a compressed file
_TEXT, _READY = 3.5, 2.0  # bytes of a token
_TOKEN, _GRAM, _RUN = 2, 16, 3  # bytes on disk: of a token, of a gram, of runs for each token
_GRAMS = (0.001, 0.1, 0.4, 0.6, 0.7, 0.75)  # different grams of each order in a token of prose


@dataclass(frozen=True)
class Disk:
    """About so many bytes. artifact: what is written; runs: what is put down meanwhile where memory is short."""

    artifact: float
    runs: float

    def __str__(self) -> str:
        return f"about {format_bytes(self.artifact)} of disk needed, {format_bytes(self.runs)} of --tmp if memory is short"

    def warn(self, folder: Path, progress: ProgressLike) -> None:
        """Warn where the disk of `folder` has no room for the artifact; it is no more than a warning, since the figure is rough."""
        free = free_disk(folder)
        if self.artifact > free:
            progress.warn(
                f"the disk may fill up: about {format_bytes(self.artifact)} are needed, but {format_bytes(free)} are free where --out "
                "is; make room, or choose another --out or lower --orders"
            )


def expected(corpus: Files | Sequence[ReadySource], orders: int) -> Disk:
    """What orders 1 to `orders` of a corpus take, roughly."""
    if isinstance(corpus, Files):
        tokens = (corpus.bytes + (_UNPACKED - 1) * corpus.packed_bytes) / _TEXT
    else:
        tokens = sum(source.bytes for source in corpus) / _READY
    return Disk(_TOKEN * tokens + _GRAM * tokens * sum(_GRAMS[:orders]), _RUN * tokens)


def spill_folder(tmp: str | Path | None) -> Path | None:
    """The folder `tmp`, made where it is not there. Raises ResourceError where nothing can be written to it: else that would be told
    when memory is full, hours later."""
    if tmp is None:
        return None
    folder = Path(tmp).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ResourceError(
            f"--tmp must be a folder that can be written to, but {folder} is not ({error.strerror}); name another"
        ) from None
