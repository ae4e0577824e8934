"""The sources of a corpus in memory: the bytes of their names and 25 more of each, for there may be ten million files."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa
import xxhash

from engram_cli.errors import CorpusError

_MOST = (1 << 31) - 1  # bytes of all names, which documents.arrow holds in one array


class Source(NamedTuple):
    """One input.

    name: as the user knows it; path: where its bytes lie, or a file descriptor; format: "text", "jsonl" or "parquet"; bytes on disk
    and time of the last change in ns, as they were when it was found; codec: "gzip", "zstd" or None; once: it is stdin or a pipe,
    whose bytes come only once and must be spooled.
    """

    name: str
    path: str | int
    format: str
    bytes: int = 0
    changed: int = 0
    codec: str | None = None
    once: bool = False

    @property
    def stamp(self) -> tuple[int, int]:
        """(bytes, time of the last change) now. Raises OSError where it is not there any more."""
        if self.once:
            return self.bytes, self.changed
        status = os.stat(self.path)
        return status.st_size, status.st_mtime_ns


class Files(Sequence[Source]):
    """Sources, each made when it is asked for; those that come only once are kept as they are.

    Raises CorpusError where the names of all of them are longer than an artifact can hold.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self.paths, self.ends = bytearray(), array("Q")
        self.sizes, self.changes = array("Q"), array("q")
        self.kinds: list[tuple[str, str | None]] = []  # formats and codecs that occur
        self.kind = bytearray()  # number of each source's
        self.once: dict[int, Source] = {}
        for source in sources:
            self.append(source)

    def append(self, source: Source) -> None:
        if isinstance(source.path, str) and not source.once:
            self.paths += os.fsencode(source.path)
            if len(self.paths) > _MOST:
                raise CorpusError(
                    f"the names of all files take at most {_MOST:,} bytes together, but {source.name} is beyond that; extract a part of "
                    "the folders first, and each of the others with --add-to"
                )
        else:
            self.once[len(self)] = source
        self.kind.append(self._kind(source))
        self.ends.append(len(self.paths))
        self.sizes.append(source.bytes)
        self.changes.append(source.changed)

    def replace(self, number: int, spooled: Source) -> None:
        """Put in its place what a source that comes only once was spooled to."""
        self.once[number] = spooled
        self.sizes[number], self.kind[number] = spooled.bytes, self._kind(spooled)

    def _kind(self, source: Source) -> int:
        """The number of its format and codec."""
        kind = source.format, source.codec
        if kind not in self.kinds:
            self.kinds.append(kind)
        return self.kinds.index(kind)

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, number: int) -> Source: ...
    @overload
    def __getitem__(self, number: slice) -> list[Source]: ...
    def __getitem__(self, number: int | slice) -> Source | list[Source]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        format, codec = self.kinds[self.kind[number]]
        if number in self.once:
            return self.once[number]
        begin = self.ends[number - 1] if number else 0
        path = os.fsdecode(bytes(self.paths[begin : self.ends[number]]))
        return Source(shown(path), path, format, self.sizes[number], self.changes[number], codec)

    def __iter__(self) -> Iterator[Source]:
        return map(self.__getitem__, range(len(self)))

    @property
    def bytes(self) -> int:
        """Of all of them, on disk."""
        return sum(self.sizes)

    @property
    def packed_bytes(self) -> int:
        """Of those that are compressed, on disk."""
        packed = [number for number, (_, codec) in enumerate(self.kinds) if codec]
        return int(np.frombuffer(self.sizes, np.uint64)[np.isin(np.frombuffer(self.kind, np.uint8), packed)].sum())

    @property
    def identity(self) -> str:
        """What tells them from others, and from themselves after a change: the digest of names, sizes and times."""
        state = xxhash.xxh3_128(os.fsencode("\0".join([str(len(self)), *(source.name for source in self.once.values())])))
        for column in (self.ends, self.paths, self.sizes, self.changes):
            state.update(column)
        return state.hexdigest()

    @property
    def names(self) -> pa.StringArray:
        """The name of each; not copied where all are as they lie on disk."""
        if self.once:
            return pa.array([source.name for source in self], pa.string())
        ends = array("i", [0]) + array("i", self.ends)
        names = pa.StringArray.from_buffers(len(self), pa.py_buffer(ends), pa.py_buffer(self.paths))
        try:
            names.validate(full=True)
        except pa.ArrowInvalid:  # no UTF-8
            return pa.array([source.name for source in self], pa.string())
        return names


def shown(name: str) -> str:
    """The name of a file as text, bytes that are no UTF-8 as \\xff."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name
