"""Which files a corpus consists of, and the bytes in them: files, folders, globs and `-`, plain or compressed.

The type follows from the extension: .txt and .md are text, .jsonl and .ndjson have a document per line, .parquet one per row; each
also with .gz or .zst. In folders, hidden files and other extensions are passed over; a file named explicitly is text whatever it
is called.
"""

import errno
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa

from engram_cli.errors import CorpusError

STDIN = "-"
_BLOCK = 1 << 20
_FORMATS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Source:
    """One input. name: as the user knows it; format: "text", "jsonl" or "parquet"; codec: "gzip", "zstd" or None.

    spool: where the bytes of a stream that can be read only once (stdin, a pipe) were put.
    """

    name: str
    format: str
    codec: str | None = None
    spool: IO[bytes] | None = field(default=None, compare=False)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return os.fstat(self.spool.fileno()).st_size if self.spool else os.stat(self.name).st_size


@dataclass(frozen=True)
class Found:
    """What `find_sources` found. passed_over: files in folders whose extension is not one of ours."""

    sources: tuple[Source, ...]
    passed_over: int


def find_sources(names: Sequence[str | Path], stdin_format: str = "text") -> Found:
    """The sources that files, folders, globs and `-` name: folders sorted, each file once.

    Raises CorpusError where nothing is there, a glob matches nothing, or a folder holds nothing of ours.
    """
    sources: dict[str, Source] = {}
    passed_over = 0
    for name in map(str, names):
        for found in _expand(name):
            if found == STDIN:
                sources[STDIN] = _spooled(STDIN, stdin_format)
            elif os.path.isdir(found):
                files = list(_walk(found))
                known = [file for file in files if _kind(file)[0] is not None]
                passed_over += len(files) - len(known)
                _refuse_empty_folder(found, files, known)
                for file in known:
                    sources.setdefault(os.path.realpath(file), _source(file))
            elif os.path.isfile(found):
                sources.setdefault(os.path.realpath(found), _source(found))
            else:
                sources[found] = _spooled(found, _source(found).format)
    return Found(tuple(sources.values()), passed_over)


def _expand(name: str) -> list[str]:
    if name == STDIN or os.path.exists(name):
        return [name]
    if not glob.has_magic(name):
        found = "is a link to nothing" if os.path.islink(name) else "is not there"
        raise CorpusError(f"a corpus consists of files that exist, but {name} {found}; check the name")
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise CorpusError(f"a glob must match a file, but {name} matches none; check the pattern")
    return matches


def _walk(folder: str) -> Iterator[str]:
    """Files below `folder`, sorted, hidden ones left out; links to folders are not followed, so a loop of links ends."""

    def refuse(error: OSError) -> None:
        raise CorpusError(f"a folder of the corpus must be readable, but {error.filename} is not ({error.strerror}); leave it out")

    for directory, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(directory, name) for name in sorted(files) if not name.startswith("."))


def _refuse_empty_folder(folder: str, files: list[str], known: list[str]) -> None:
    if not known:
        other = f", only {len(files)} other files such as {Path(files[0]).name}" if files else ""
        raise CorpusError(
            f"a folder of the corpus holds {', '.join(_FORMATS)} files (also .gz, .zst), but {folder} has none{other}; "
            "name files explicitly to read them as text"
        )


def _kind(name: str) -> tuple[str | None, str | None]:
    """(format or None, codec or None) by extension."""
    stem, extension = os.path.splitext(name.lower())
    codec = _CODECS.get(extension)
    if codec:
        extension = os.path.splitext(stem)[1]
    return _FORMATS.get(extension), codec


def _source(name: str) -> Source:
    format, codec = _kind(name)
    return Source(name, format or "text", codec)


def _spooled(name: str, format: str) -> Source:
    """Copy a stream that can be read only once into an unnamed temporary file; its compression is known by its first bytes."""
    spool = tempfile.TemporaryFile()
    try:
        if name == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, spool, _BLOCK)
        else:
            with open(name, "rb") as stream:
                shutil.copyfileobj(stream, spool, _BLOCK)
    except OSError as error:
        raise _unreadable(name, error) from None
    spool.seek(0)
    head = spool.read(4)
    codec = next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)
    return Source(name, format, codec, spool)


class Bytes:
    """The bytes of one source, decompressed, block by block.

    for block in Bytes(source): ...     `read_from_disk` says how far it is, in the bytes that lie on disk
    Raises CorpusError where the source cannot be read, or its compressed data is cut short or damaged.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.read_from_disk = 0

    def __iter__(self) -> Iterator[bytes]:
        with self.opened() as file:
            yield from self._blocks(file)

    def opened(self) -> IO[bytes]:
        """The file as it lies on disk."""
        if self.source.spool is not None:
            return os.fdopen(os.dup(self.source.spool.fileno()), "rb")
        try:
            return open(self.source.name, "rb")
        except OSError as error:
            raise _unreadable(self.source.name, error) from None

    def _blocks(self, file: IO[bytes]) -> Iterator[bytes]:
        file.seek(0)
        stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), self.source.codec) if self.source.codec else file
        while True:
            try:
                block = stream.read(_BLOCK)
                self.read_from_disk = file.tell()
            except OSError as error:
                raise self._damaged(error) from None
            if not block:
                return
            yield block

    def seekable(self) -> IO[bytes]:
        """The decompressed bytes as a file that can be sought in: the file itself, or a temporary one."""
        if self.source.codec is None:
            return self.opened()
        whole = tempfile.TemporaryFile()
        for block in self:
            whole.write(block)
        whole.seek(0)
        return whole

    def _damaged(self, error: OSError) -> CorpusError:
        if error.errno is not None:
            return _unreadable(self.source.name, error)
        found = "is cut short" if "runcated" in str(error) else f"is damaged ({error})"
        return CorpusError(
            f"{self.source.codec} data must be whole, but {self.source.name} {found}; fetch it again or leave it out"
        )


def _unreadable(name: str, error: OSError) -> CorpusError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return CorpusError(
            f"a corpus must be readable, but {name} is not ({error.strerror}); change its permissions or leave it out"
        )
    return CorpusError(f"a corpus must be readable, but {name} is not ({error.strerror or error}); leave it out")
