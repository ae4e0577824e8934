"""Which files a corpus consists of, and the bytes in them: files, folders, globs and `-`, plain or compressed.

The type follows from the extension: .txt and .md are text, .jsonl and .ndjson have a document per line, .parquet one per row; each
also with .gz or .zst. In folders, hidden files and other extensions are passed over; a file named explicitly is text whatever it
is called.
"""

import errno
import glob
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from engram_cli.corpus.files import Files, Source, shown
from engram_cli.errors import CorpusError

STDIN = "-"
_STDIN_DESCRIPTOR = 0
_BLOCK = 1 << 20
_FORMATS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Found:
    """What `find_sources` found. passed_over: files in folders whose extension is not one of ours."""

    sources: Files
    passed_over: int


def find_sources(names: Sequence[str | Path], stdin_format: str = "text") -> Found:
    """The sources that files, folders, globs and `-` name: folders sorted, each file once.

    Raises CorpusError where nothing is there, a glob matches nothing, or a folder holds nothing of ours.
    """
    sources = Files()
    passed_over, linked = 0, False
    given = [found for name in map(str, names) for found in expand(name)]
    for found in given:
        if found == STDIN:
            sources.append(Source("stdin", _STDIN_DESCRIPTOR, stdin_format, once=True))
        elif os.path.isdir(found):
            before, other, example = len(sources), 0, ""
            for file in walk(found):
                if _kind(file)[0] is None:
                    other, example = other + 1, example or file
                else:
                    linked |= _append(sources, file)
            passed_over += other
            if len(sources) == before:
                _refuse_empty_folder(found, other, example)
        else:
            linked |= _append(sources, found)
    return Found(Files(_each_once(sources)) if len(given) > 1 or linked else sources, passed_over)


def _each_once(sources: Files) -> Iterator[Source]:
    """The sources, of those that are one file the first."""
    seen = set()
    for source in sources:
        place = os.path.realpath(source.path) if isinstance(source.path, str) else source.path
        if place not in seen:
            seen.add(place)
            yield source


def expand(name: str) -> list[str]:
    """The files and folders that a name or a glob names. Raises CorpusError where there are none."""
    if name == STDIN or os.path.exists(name):
        return [name]
    if not glob.has_magic(name):
        found = "is a link to nothing" if os.path.islink(name) else "is not there"
        raise CorpusError(f"a corpus consists of files that exist, but {name} {found}; check the name")
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise CorpusError(f"a glob must match a file, but {name} matches none; check the pattern")
    return matches


def walk(folder: str) -> Iterator[str]:
    """Files below `folder`, sorted, hidden ones left out; links to folders are not followed, so a loop of links ends."""

    def refuse(error: OSError) -> None:
        raise CorpusError(f"a folder of the corpus must be readable, but {error.filename} is not ({error.strerror}); leave it out")

    for directory, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(directory, name) for name in sorted(files) if not name.startswith("."))


def _refuse_empty_folder(folder: str, others: int, example: str) -> None:
    other = f", only {others:,} other files such as {os.path.basename(example)}" if others else ""
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


def _append(sources: Files, name: str) -> bool:
    """Append the source called `name`; returns whether it is a link."""
    format, codec = _kind(name)
    try:
        status = os.lstat(name)
        linked = stat.S_ISLNK(status.st_mode)
        status = os.stat(name) if linked else status
    except OSError as error:
        raise _unreadable(name, error) from None
    if stat.S_ISREG(status.st_mode):
        sources.append(Source(shown(name), name, format or "text", status.st_size, status.st_mtime_ns, codec))
    else:  # a pipe, whose first bytes tell how it is compressed
        sources.append(Source(shown(name), name, format or "text", once=True))
    return linked


def spool_all(files: Files, folder: Path) -> None:
    """Spool the sources that come only once to `folder`."""
    folder.mkdir(exist_ok=True)
    for number, source in list(files.once.items()):
        files.replace(number, spool(source, folder / str(number)))


def spool(source: Source, path: Path) -> Source:
    """Copy a source whose bytes come only once to `path`, to be read from there; its first bytes tell how it is compressed.

    Raises CorpusError where it cannot be read.
    """
    if not path.exists():  # else it was spooled before
        new = path.with_name(f"{path.name}.new")
        with new.open("wb") as copy, opened(source) as stream:
            while block := _read(stream, source):
                copy.write(block)
        new.rename(path)
    with path.open("rb") as copy:
        head = copy.read(4)
    codec = next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)
    return source._replace(path=str(path), bytes=path.stat().st_size, codec=codec)


def opened(source: Source) -> IO[bytes]:
    """The bytes of `source` as they lie on disk. Raises CorpusError where it cannot be opened."""
    try:
        return open(source.path, "rb", closefd=source.path != _STDIN_DESCRIPTOR)
    except OSError as error:
        raise _unreadable(source.name, error) from None


@contextmanager
def seekable(stream: "Bytes") -> Iterator[IO[bytes]]:
    """The decompressed bytes as a file that can be sought in: the file itself, or a temporary one."""
    if stream.source.codec is None:
        with opened(stream.source) as file:
            yield file
        return
    with tempfile.TemporaryFile() as whole:
        for block in stream:
            whole.write(block)
        whole.seek(0)
        yield whole


class Bytes:
    """The bytes of one source, decompressed, block by block.

    for block in Bytes(source): ...     `done` says how far it is, in the bytes that lie on disk
    Raises CorpusError where the source cannot be read, or its compressed data is cut short or damaged.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.done = 0

    def __iter__(self) -> Iterator[bytes]:
        with opened(self.source) as file:
            codec = self.source.codec
            stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) if codec else file
            while block := _read(stream, self.source):
                self.done = file.tell()
                yield block


class Again:
    """A second stream over a source, which follows the first: what was read there is read once more, stretch after stretch.

    Whatever the stretches, the source is read at most twice, and nothing is kept.
    """

    def __init__(self, source: Source) -> None:
        self.blocks = iter(Bytes(source))
        self.block, self.at = b"", 0  # the block last read, and where it begins in the (decompressed) source

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        """The bytes from `begin` to before `end`; `begin` lies not before where the last stretch ended."""
        while begin < end:
            if begin >= self.at + len(self.block):
                self.at += len(self.block)
                self.block = next(self.blocks, b"")
                if not self.block:
                    return  # it became shorter: that it changed is told at the end
            part = self.block[max(0, begin - self.at) : end - self.at]
            if part:
                begin += len(part)
                yield part


def _read(stream: IO[bytes], source: Source) -> bytes:
    try:
        return stream.read(_BLOCK)
    except OSError as error:
        if error.errno is not None:
            raise _unreadable(source.name, error) from None
        if "too much memory" in str(error):
            raise CorpusError(
                f"zstd data is unpacked with a window of at most 128 MiB, but {source.name} was packed with a longer one; pack it again "
                "with --long=27 or less"
            ) from None
        found = "is cut short" if "runcated" in str(error) else f"is damaged ({error})"
        raise CorpusError(f"{source.codec} data must be whole, but {source.name} {found}; fetch it again or leave it out") from None


def _unreadable(name: str, error: OSError) -> CorpusError:
    denied = error.errno in (errno.EACCES, errno.EPERM)
    way_out = "change its permissions or leave it out" if denied else "leave it out"
    return CorpusError(f"a corpus must be readable, but {name} is not ({error.strerror}); {way_out}")
