"""Corpora that are tokenised already: token ids in files, read as blocks of documents.

    sources = find_ready(["train.bin"], token_dtype="u16").sources  none where the names are of text
    for block in ReadyReader(sources, tokenizer, np.uint16, end): ...

    .npy                one array of ids                             documents end with the end token
    .bin                ids, u16 or u32 as --token-dtype says        (as nanoGPT writes them)     the same
    .idx + .bin         Megatron's indexed data set                  documents as the index has them
    .parquet .arrow     a column of id lists, --token-field          a row is a document
    an n-gram artifact  its tokens.arrow                             its documents, held out as they were

Where a document does not end with the end token it is closed by one. A document of ids is known by the digest of its ids as
little-endian u32, one of an n-gram artifact by that of its text. Shapes: T tokens, D documents.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus.budget import AMPLE, Budget
from engram_cli.corpus.documents import Digests
from engram_cli.corpus.parquet import check_pages, chunks, open_parquet
from engram_cli.corpus.parquet_pages import longest_row
from engram_cli.corpus.ready_files import Documents, Ids, lists_of, mapped_documents
from engram_cli.corpus.files import shown
from engram_cli.corpus.sources import expand, walk
from engram_cli.corpus.tokenizer import byte_lengths
from engram_cli.errors import CorpusError
from engram_cli.store.manifest import FILE_NAME

if TYPE_CHECKING:
    import pyarrow.parquet as pq

TOKEN_DTYPES: dict[str, np.dtype[Any]] = {"u16": np.dtype("<u2"), "u32": np.dtype("<u4")}
BLOCK = 1 << 20  # tokens
_ROWS = 4096  # of Parquet at once
_LISTED = 24  # bytes of memory for an id of a row of Parquet
_COLUMNS = (".parquet", ".arrow", ".feather")
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ReadySource:
    """One input. name: as the user knows it; kind: "npy", "bin", "megatron", "columns" or "artifact"; bytes on disk and time of the
    last change in ns (where it is several files, sums of them), as they were when it was found."""

    name: str
    path: Path
    kind: str
    bytes: int
    changed: int

    @property
    def stamp(self) -> tuple[int, int]:
        """(bytes, time of the last change) now."""
        return _stamp(self.path, self.kind)


def _stamp(path: Path, kind: str) -> tuple[int, int]:
    """(bytes, times of the last changes), each summed over all files whose bytes are read."""
    names = {"artifact": [path / "tokens.arrow", path / "documents.arrow"], "megatron": [path, path.with_suffix(".idx")]}
    found = [file.stat() for file in names.get(kind, [path]) if file.exists()]
    return sum(status.st_size for status in found), sum(status.st_mtime_ns for status in found)


@dataclass(frozen=True)
class ReadyBlock:
    """Documents laid end to end; the last may go on in the next block, whose first tokens then belong to it.

    ids_T: raw ids, all below the vocabulary; starts_D: where documents begin within ids_T, int64; lengths_D: tokens of each, all
    of them, the closing end token included; bytes_D: bytes of its text; high_D, low_D: the halves of its digest, uint64; source:
    number of the source.
    """

    ids_T: Ids
    starts_D: npt.NDArray[np.int64]
    lengths_D: npt.NDArray[np.int64]
    bytes_D: Keys
    high_D: Keys
    low_D: Keys
    source: int


@dataclass(frozen=True)
class FoundReady:
    """What `find_ready` found. passed_over: files in the same folders that hold no tokens."""

    sources: tuple[ReadySource, ...]
    passed_over: int


def find_ready(names: Sequence[str | Path], token_dtype: str | None = None, token_field: str | None = None) -> FoundReady:
    """The sources of ready tokens that `names` name, each once; none where they are of text.

    Raises CorpusError where some are and some are not, or where a .bin file comes without what its numbers are.
    """
    if token_dtype is not None and token_dtype not in TOKEN_DTYPES:
        raise CorpusError(f"--token-dtype is one of {', '.join(TOKEN_DTYPES)}, but it is {token_dtype!r}; change it")
    found: dict[Path, ReadySource] = {}
    others, passed_over = [], 0
    for name in (match for given in names for match in expand(str(given))):
        sources, without = _sources(Path(name), token_dtype, token_field)
        passed_over += without
        found |= {source.path.resolve(): source for source in sources}
        others += [] if sources else [name]
    if found and others:
        ready = next(iter(found.values())).name
        raise CorpusError(
            f"a corpus is text or ready tokens, but {ready} holds tokens and {others[0]} does not; extract them apart and "
            "join them with engram merge"
        )
    if not found and (token_dtype or token_field):
        option = "--token-dtype" if token_dtype else "--token-field"
        raise CorpusError(f"{option} is for files of token ids, but {others[0]} is none; leave the option out")
    return FoundReady(tuple(found.values()), passed_over)


def _sources(path: Path, token_dtype: str | None, token_field: str | None) -> tuple[list[ReadySource], int]:
    """(the sources of a file or folder, how many files of the folder are none)."""
    if not path.is_dir():
        return _file_sources(path, token_dtype, token_field), 0
    if (path / FILE_NAME).is_file():
        return [_source(path, "artifact")], 0
    if not (token_dtype or token_field or any(_is_ready(file) for file in walk(str(path)))):
        return [], 0
    found = [_file_sources(Path(file), token_dtype, token_field) for file in walk(str(path))]
    return [source for sources in found for source in sources], sum(not sources for sources in found)


def _is_ready(name: str) -> bool:
    return name.endswith(".npy") or (name.endswith(".idx") and os.path.isfile(name.removesuffix(".idx") + ".bin"))


def _source(path: Path, kind: str) -> ReadySource:
    return ReadySource(shown(str(path)), path, kind, *_stamp(path, kind))


def _file_sources(path: Path, token_dtype: str | None, token_field: str | None) -> list[ReadySource]:
    if path.suffix == ".npy":
        return [_source(path, "npy")]
    if path.suffix in (".bin", ".idx") and path.with_suffix(".idx").is_file():
        return [_source(path.with_suffix(".bin"), "megatron")]
    if path.suffix == ".bin":
        if token_dtype is None:
            raise CorpusError(
                f"a .bin file holds token ids of a known width, but none is given for {path}, and no .idx lies beside it; "
                "say --token-dtype u16 or u32"
            )
        return [_source(path, "bin")]
    return [_source(path, "columns")] if token_field and path.suffix in _COLUMNS else []


class ReadyReader:
    """The documents of ready tokens, block by block; may be read again from the start.

    dtype: of the ids given, uint16 or uint32; end: the raw id that closes documents, or None; token_dtype: of .bin files;
    token_field: the column of id lists; budget: how much may be held. `bytes` on disk in all, `done` of them read; `blank` documents (of nothing but an end)
    passed over, `empty` sources (their numbers). Reading raises CorpusError for what cannot be read, and for ids that the tokenizer does not have.
    """

    def __init__(
        self,
        sources: Sequence[ReadySource],
        tokenizer: Tokenizer,
        dtype: npt.DTypeLike,
        end: int | None,
        *,
        token_dtype: str | None = None,
        token_field: str | None = None,
        budget: Budget = AMPLE,
    ) -> None:
        self.sources = tuple(sources)
        self.budget = budget
        self.tokenizer = tokenizer
        self.dtype = np.dtype(dtype)
        self.end = end
        self.token_dtype = TOKEN_DTYPES[token_dtype] if token_dtype else None
        self.token_field = token_field
        self.bytes = sum(source.bytes for source in self.sources)
        self.done = self.blank = 0
        self.empty = array("q")
        self.bytes_V = byte_lengths(tokenizer)
        if end is not None:
            self.bytes_V[end] = 0  # no text

    def __iter__(self) -> Iterator[ReadyBlock]:
        self.done, self.blank, self.empty = 0, 0, array("q")
        for number, source in enumerate(self.sources):
            before, blocks, size = self.done, 0, source.bytes
            for documents, share in self._documents(source):
                for block in self._blocks(documents, number):
                    blocks += 1
                    yield block
                self.done = before + int(size * share)
            self.done = before + size
            if not blocks:
                self.empty.append(number)

    def _documents(self, source: ReadySource) -> Iterator[tuple[Documents, float]]:
        """(documents, share of the source read with them)."""
        try:
            if source.kind == "columns":
                yield from self._columns(source)
            else:
                documents = mapped_documents(source.kind, source.path, self.tokenizer, self.token_dtype, self.end)
                total = max(1, int(documents.lengths_D.sum()))
                read = 0
                for part in documents.groups(BLOCK):
                    read += int(part.lengths_D.sum())
                    yield part, read / total
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorpusError(f"a file of tokens must be whole, but {source.name} cannot be read ({error}); leave it out") from None

    def _columns(self, source: ReadySource) -> Iterator[tuple[Documents, float]]:
        assert self.token_field is not None
        if source.path.suffix == ".parquet":
            with source.path.open("rb") as file, open_parquet(file) as parquet:
                rows, read = max(1, parquet.metadata.num_rows), 0
                lists_of(parquet.schema_arrow.empty_table(), self.token_field, source.name)
                check_pages(parquet, file, self.token_field, self.budget, source.name)
                for group, at_once in enumerate(self._rows_at_once(parquet, file, source.name)):
                    for batch in parquet.iter_batches(at_once, row_groups=[group], columns=[self.token_field]):
                        read += batch.num_rows
                        yield lists_of(batch, self.token_field, source.name), read / rows
            return
        with pa.memory_map(str(source.path)) as mapped:
            try:
                file = pa.ipc.open_file(mapped)
            except pa.ArrowInvalid:  # a stream, as the datasets library writes
                mapped.seek(0)
                for batch in pa.ipc.open_stream(mapped):
                    yield lists_of(batch, self.token_field, source.name), mapped.tell() / mapped.size()
                return
            for number in range(file.num_record_batches):
                share = (number + 1) / file.num_record_batches
                yield lists_of(file.get_batch(number), self.token_field, source.name), share

    def _rows_at_once(self, parquet: "pq.ParquetFile", file: IO[bytes], name: str) -> Iterator[int]:
        """For each row group so many rows that they are about a block, and fit memory however they lie. Raises CorpusError where one
        alone does not. Bytes do not tell, since repeated ids take none."""
        assert self.token_field is not None
        most = self.budget.page // _LISTED
        for chunk, rows in chunks(parquet, self.token_field):
            at_once = min(_ROWS, BLOCK * rows // max(1, chunk.num_values))
            longest = longest_row(file, chunk) if chunk.num_values > most else 1
            if longest > most:
                raise CorpusError(
                    f"a row of ids is held in memory whole, up to {most:,} of them, but {name} has {longest:,} in a row; "
                    f"give --memory {self.budget.to_unpack(longest * _LISTED)} or more, or write shorter rows"
                )
            yield max(1, min(at_once, most // longest))

    def _blocks(self, documents: Documents, number: int) -> Iterator[ReadyBlock]:
        """One block of small documents, or several of a document that is greater than a block."""
        name = self.sources[number].name
        if len(documents.lengths_D) == 1 and documents.lengths_D[0] > BLOCK:
            yield from self._huge(documents, number)
            return
        ids_T = self._checked(documents.read(0, int(documents.lengths_D.sum())), name, documents.first)
        lengths_D = documents.lengths_D
        kept_D = self._not_blank(ids_T, lengths_D)
        self.blank += len(kept_D) - int(kept_D.sum())
        if not kept_D.all():
            ids_T, lengths_D = ids_T[np.repeat(kept_D, lengths_D)], lengths_D[kept_D]
        if not len(lengths_D):
            return
        ids_T, lengths_D = self._closed(ids_T, lengths_D)
        starts_D = np.cumsum(lengths_D) - lengths_D
        if documents.digests is None:
            digests = _halves(xxhash.xxh3_128_digest(document.tobytes()) for document in np.split(ids_T.astype("<u4"), starts_D[1:]))
        else:
            digests = documents.digests.chosen(kept_D)
        bytes_D = np.add.reduceat(self.bytes_V[ids_T], starts_D) if documents.bytes_D is None else documents.bytes_D[kept_D]
        yield self._block(ids_T, starts_D, lengths_D, bytes_D, digests, number)

    def _huge(self, documents: Documents, number: int) -> Iterator[ReadyBlock]:
        """A document in several blocks: read once for its digest, and again for its tokens."""
        length = int(documents.lengths_D[0])
        name = self.sources[number].name
        state, size, closing = xxhash.xxh3_128(), 0, False
        for begin in range(0, length, BLOCK):
            ids_T = self._checked(documents.read(begin, min(begin + BLOCK, length)), name, documents.first + begin)
            state.update(ids_T.astype("<u4").tobytes())
            size += int(self.bytes_V[ids_T].sum())
            closing = self.end is not None and int(ids_T[-1]) != self.end
        if closing:
            state.update(np.array([self.end], dtype="<u4").tobytes())
        digests = documents.digests or _halves([state.digest()])
        bytes_D = np.array([size], np.uint64) if documents.bytes_D is None else documents.bytes_D
        none = np.empty(0, np.int64)
        for begin in range(0, length, BLOCK):
            last = begin + BLOCK >= length
            ids_T = documents.read(begin, min(begin + BLOCK, length)).astype(self.dtype)
            if last and closing:
                ids_T = np.append(ids_T, np.array([self.end], dtype=self.dtype))
            if begin:
                yield self._block(ids_T, none, none, none, _halves([]), number)
            else:
                whole = np.array([length + closing], np.int64)
                yield self._block(ids_T, np.zeros(1, np.int64), whole, bytes_D, digests, number)

    def _block(self, ids_T: Ids, starts_D: Any, lengths_D: Any, bytes_D: Any, digests: Digests, number: int) -> ReadyBlock:
        return ReadyBlock(ids_T, starts_D, lengths_D, bytes_D.astype(np.uint64), *digests, number)

    def _checked(self, ids_T: Ids, name: str, first: int) -> Ids:
        """The ids in the dtype wanted. Raises CorpusError where one has no token; `first`: number of the first one."""
        if ids_T.dtype.kind not in "iu":
            raise CorpusError(f"token ids are whole numbers, but those of {name} are {ids_T.dtype}; convert them")
        vocab = len(self.bytes_V)
        if len(ids_T) and (int(ids_T.max()) >= vocab or int(ids_T.min()) < 0):
            at = int(np.flatnonzero((ids_T >= vocab) | (ids_T < 0))[0])
            raise CorpusError(
                f"token ids are those of the tokenizer, 0 to {vocab - 1:,}, but token {first + at:,} of {name} is "
                f"{int(ids_T[at]):,}; name the tokenizer that made them, or check --token-dtype"
            )
        return ids_T.astype(self.dtype)

    def _not_blank(self, ids_T: Ids, lengths_D: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        if self.end is None:
            return lengths_D > 0
        last_D = np.zeros(len(lengths_D), dtype=np.int64)
        filled_D = lengths_D > 0
        last_D[filled_D] = ids_T[np.cumsum(lengths_D)[filled_D] - 1]
        alone_D: npt.NDArray[np.bool_] = (lengths_D == 1) & (last_D == self.end)
        return filled_D & ~alone_D

    def _closed(self, ids_T: Ids, lengths_D: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Every document closed by the end token."""
        if self.end is None:
            return ids_T, lengths_D
        ends_D = np.cumsum(lengths_D)
        open_D = ids_T[ends_D - 1] != self.end
        if not open_D.any():
            return ids_T, lengths_D
        return np.insert(ids_T, ends_D[open_D], self.end), lengths_D + open_D


def _halves(digests: Iterable[bytes]) -> Digests:
    """Digests of 16 bytes each, in halves."""
    return Digests(*np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).T.astype(np.uint64))
