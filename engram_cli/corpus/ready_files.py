"""What lies in files of ready tokens: ids by plain reads, so that memory holds a block of them, and where documents begin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from engram_cli.corpus.documents import DOCUMENTS, Digests, all_digests
from engram_cli.errors import CorpusError
from engram_cli.store.stream import column_places

Ids = npt.NDArray[Any]
_SCAN = 1 << 22  # tokens
_INDEX_MAGIC = b"MMIDIDX\0\0"
_INDEX_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


@dataclass(frozen=True)
class Documents:
    """Documents laid end to end. read(begin, end): their tokens; lengths_D: tokens of each, int64; first: number of the first token
    within its source; digests, bytes_D: where they are known."""

    read: Callable[[int, int], Ids]
    lengths_D: npt.NDArray[np.int64]
    first: int = 0
    digests: Digests | None = None
    bytes_D: npt.NDArray[np.uint64] | None = None

    def groups(self, tokens: int) -> Iterator["Documents"]:
        """The documents in groups of at most `tokens` tokens, or of one document."""
        ends_D = np.cumsum(self.lengths_D)
        begin = done = 0
        while begin < len(ends_D):
            end = max(begin + 1, int(np.searchsorted(ends_D, done + tokens, side="right")))
            chosen = slice(begin, end)
            yield Documents(
                lambda a, b, done=done: self.read(done + a, done + b),  # type: ignore[misc]
                self.lengths_D[chosen],
                done,
                None if self.digests is None else self.digests.chosen(chosen),
                None if self.bytes_D is None else self.bytes_D[chosen],
            )
            begin, done = end, int(ends_D[end - 1])


def mapped_documents(kind: str, path: Path, tokenizer: Tokenizer, dtype: npt.DTypeLike | None, end: int | None) -> Documents:
    """The documents of a .npy, .bin, Megatron file or n-gram artifact. Raises CorpusError, OSError or ValueError."""
    if kind == "artifact":
        return _artifact(path, tokenizer)
    if kind == "megatron":
        return _megatron(path)
    if kind == "npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != 1:
            raise CorpusError(f"a .npy file of tokens is one row of ids, but {path} has the shape {array.shape}; flatten it")
        found, tokens, offset = array.dtype, len(array), int(array.offset)
    else:
        found, offset, size = np.dtype(dtype), 0, path.stat().st_size
        if size % found.itemsize:
            raise CorpusError(
                f"a .bin file of {found.itemsize * 8}-bit ids has a multiple of {found.itemsize} bytes, but {path} has {size:,}; "
                "check --token-dtype"
            )
        tokens = size // found.itemsize
    read = reader(path, found, offset)
    return Documents(read, _lengths(read, tokens, end))


def lists_of(batch: pa.RecordBatch | pa.Table, field: str, name: str) -> Documents:
    """The documents of a column of id lists. Raises CorpusError where it is not there or not such a column."""
    index = batch.schema.get_field_index(field)
    if index < 0:
        raise CorpusError(
            f"the column --token-field {field!r} must be there, but {name} has only "
            f"{', '.join(map(repr, batch.schema.names)) or 'none'}; choose one"
        )
    kind = batch.schema.field(field).type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not pa.types.is_integer(kind.value_type):
        raise CorpusError(f"a column of tokens holds lists of ids, but {field!r} of {name} is {kind}; choose another --token-field")
    column = batch.column(index)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    ids_T = column.flatten()
    if ids_T.null_count:
        raise CorpusError(f"token ids are numbers, but {field!r} of {name} has {ids_T.null_count:,} that are null; leave those out")
    lengths_D = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    array_T = ids_T.to_numpy(zero_copy_only=False)
    return Documents(lambda begin, end: array_T[begin:end], lengths_D)


def reader(path: Path, dtype: npt.DTypeLike, offset: int) -> Callable[[int, int], Ids]:
    width = np.dtype(dtype).itemsize

    def read(begin: int, end: int) -> Ids:
        ids_T = np.fromfile(path, dtype, end - begin, offset=offset + begin * width)
        if len(ids_T) < end - begin:
            raise CorpusError(f"a file of tokens must not change while it is read, but {path} became shorter; begin again")
        return ids_T

    return read


def _lengths(read: Callable[[int, int], Ids], tokens: int, end: int | None) -> npt.NDArray[np.int64]:
    """Tokens of each document of a file in which the end token alone tells where one ends."""
    found = [np.empty(0, np.int64)]
    if end is not None:
        for begin in range(0, tokens, _SCAN):
            found.append(begin + 1 + np.flatnonzero(read(begin, min(begin + _SCAN, tokens)) == end))
    ends_D = np.concatenate(found)
    if tokens and (not len(ends_D) or ends_D[-1] < tokens):
        ends_D = np.append(ends_D, tokens)
    return np.diff(ends_D, prepend=0)


def _megatron(path: Path) -> Documents:
    index = path.with_suffix(".idx")
    with index.open("rb") as file:
        magic, version, code = file.read(9), file.read(8), file.read(1)
        if magic != _INDEX_MAGIC or int.from_bytes(version, "little") != 1 or not code or code[0] not in _INDEX_DTYPES:
            raise CorpusError(f"a .idx file is the index of a Megatron data set of whole numbers, but {index} is not; leave it out")
        dtype = np.dtype(_INDEX_DTYPES[code[0]])
        sequences, documents = (int.from_bytes(file.read(8), "little") for _ in range(2))
        left = index.stat().st_size - file.tell()
        if left < 12 * sequences + 8 * documents:
            raise CorpusError(f"an index is whole, but {index} is cut short: it tells of {sequences:,} sequences; fetch it again")
        lengths_S = np.fromfile(file, "<i4", sequences).astype(np.int64)
        pointers_S = np.fromfile(file, "<i8", sequences)
        bounds_D = np.fromfile(file, "<i8", documents)
    ends_S = np.cumsum(lengths_S)
    size = path.stat().st_size if path.is_file() else None
    total = int(ends_S[-1]) if sequences else 0
    ascending = bool((np.diff(bounds_D, prepend=0) >= 0).all()) and (not documents or int(bounds_D[-1]) <= sequences)
    tells = ""
    if size != total * dtype.itemsize:
        tells = f"{total * dtype.itemsize:,} bytes, and {path.name} {'is missing' if size is None else f'has {size:,}'}"
    elif not np.array_equal(pointers_S, (ends_S - lengths_S) * dtype.itemsize):
        tells = "sequences that do not lie end to end"
    elif not ascending:
        tells = f"documents that are not made of its {sequences:,} sequences in their order"
    if tells:
        raise CorpusError(f"a Megatron .idx and its .bin agree, but {index} tells of {tells}; fetch both again")
    tokens_S = np.append(0, ends_S)
    cuts_D = np.unique(np.concatenate([[0], tokens_S[bounds_D], [total]]))
    return Documents(reader(path, dtype, 0), np.diff(cuts_D))


def _artifact(path: Path, tokenizer: Tokenizer) -> Documents:
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.corpus.tokens import TOKENS

    ngrams = open_ngrams(path)
    if ngrams.tokenizer.to_str() != tokenizer.to_str():
        raise CorpusError(
            f"ready tokens are read with the tokenizer that made them, but that of {path} is another; give {path}/tokenizer.json"
        )
    documents = ngrams.artifact.table(DOCUMENTS)
    lengths_D, bytes_D = documents["length"].to_numpy().astype(np.int64), documents["bytes"].to_numpy()
    read = column_reader(ngrams.artifact.file(TOKENS), "token")
    return Documents(read, lengths_D, 0, all_digests(documents["digest"]), bytes_D)


def column_reader(path: Path, name: str) -> Callable[[int, int], Ids]:
    """read(begin, end) for a column of numbers of an uncompressed Arrow file whose rows are one record batch."""
    dtype = np.dtype(pa.ipc.open_file(pa.memory_map(str(path))).schema.field(name).type.to_pandas_dtype())
    _, places = column_places(path)
    return reader(path, dtype, places[name]) if places else lambda begin, end: np.empty(0, dtype)
