"""Encoding a corpus: documents -> raw token ids on disk, with a record of each document.

Training documents come first in tokens.arrow and held-out ones after them, each in the order they were read, so that either is one
stretch of the mapped file. What is kept in memory is 36 bytes a document.
"""

import shutil
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus.reader import Document, Reader
from engram_cli.progress import ProgressLike
from engram_cli.store import schema
from engram_cli.store.artifact import Draft

TOKENS = "tokens.arrow"
DOCUMENTS = "documents.arrow"
_BATCH = 2 << 20  # bytes of text encoded in one call
_RECORDS = 1 << 16  # documents in one batch of documents.arrow
_LOW = (1 << 64) - 1
Ids = npt.NDArray[Any]  # uint16 or uint32


def is_held_out(document: Document, share: float) -> bool:
    """Whether a document is among the about `share` that are held out: decided by the digest of its text alone."""
    return document.digest < int(share * (1 << 128))


def batches(reader: Reader) -> Iterator[list[Document]]:
    """Documents in batches of about 2 MiB of text."""
    batch: list[Document] = []
    size = 0
    for document in reader:
        batch.append(document)
        size += document.bytes
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Part:
    """Training documents, or held-out ones, laid end to end in a file of raw ids, and their records."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.file = path.open("wb")
        self.tokens = self.bytes = 0
        self.length_D, self.bytes_D, self.high_D, self.low_D, self.source_D = (array(code) for code in "QQQQi")

    def add(self, document: Document, ids_T: Ids) -> None:
        self.file.write(ids_T.tobytes())
        self.tokens += len(ids_T)
        self.bytes += document.bytes
        self.length_D.append(len(ids_T))
        self.bytes_D.append(document.bytes)
        self.high_D.append(document.digest >> 64)
        self.low_D.append(document.digest & _LOW)
        self.source_D.append(document.source)

    @property
    def documents(self) -> int:
        return len(self.length_D)

    @property
    def starts_D(self) -> npt.NDArray[np.int64]:
        """First token of each document within the part."""
        lengths_D = np.array(self.length_D, dtype=np.int64)
        return np.cumsum(lengths_D) - lengths_D

    @property
    def digests_D(self) -> list[str]:
        """Digest of each document, hex."""
        return [f"{high:016x}{low:016x}" for high, low in zip(self.high_D, self.low_D, strict=True)]

    def mapped(self) -> Ids:
        """The ids so far, [T], memory-mapped."""
        self.file.flush()
        return np.memmap(self.path, self.dtype, "r", shape=(self.tokens,))


class TokenFiles:
    """The tokens and documents of an n-gram artifact while they are written into `draft`; a context that closes its files."""

    def __init__(self, draft: Draft, vocab: int, end: int | None, held_out: float) -> None:
        self.draft = draft
        self.end = end
        self.share = held_out
        self.schema = schema.tokens_schema(vocab)
        dtype = self.schema.field("token").type.to_pandas_dtype()
        self.training = Part(draft.path / "training.ids", dtype)
        self.held_out = Part(draft.path / "held_out.ids", dtype)

    def __enter__(self) -> "TokenFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self.training.file.close()
        self.held_out.file.close()

    def encode(self, reader: Reader, tokenizer: Tokenizer, progress: ProgressLike) -> None:
        """Encode all documents of `reader`; the next batch is read while one is encoded."""

        def take(batch: Sequence[Document], ids: Future[list[Ids]], done: int) -> None:
            self._add(batch, ids.result())
            progress.advance(done, reader.bytes, "bytes", f"{self.training.tokens + self.held_out.tokens:,} tokens")

        with ThreadPoolExecutor(1) as pool:
            pending = None
            for batch in batches(reader):
                following = batch, pool.submit(self._encode, tokenizer, batch), reader.done
                if pending:
                    take(*pending)
                pending = following
            if pending:
                take(*pending)

    def _encode(self, tokenizer: Tokenizer, batch: Sequence[Document]) -> list[Ids]:
        closing = [] if self.end is None else [self.end]
        encodings = tokenizer.encode_batch_fast([document.text for document in batch], add_special_tokens=False)
        return [np.array(encoding.ids + closing, dtype=self.training.dtype) for encoding in encodings]

    def _add(self, batch: Sequence[Document], ids: Sequence[Ids]) -> None:
        for document, ids_T in zip(batch, ids, strict=True):
            if len(ids_T):
                (self.held_out if is_held_out(document, self.share) else self.training).add(document, ids_T)

    def finish(self, sources: Sequence[str]) -> str:
        """Write tokens.arrow and documents.arrow; `sources`: names by number. Returns the digest of all documents' digests."""
        self.held_out.file.close()
        with self.held_out.path.open("rb") as held_out:
            shutil.copyfileobj(held_out, self.training.file, 1 << 22)
        self.training.file.close()
        with pa.memory_map(str(self.training.path)) as mapped:
            tokens = self.training.tokens + self.held_out.tokens
            ids = pa.Array.from_buffers(self.schema.field(0).type, tokens, [None, mapped.read_buffer()])
            self.draft.table(TOKENS, pa.table([ids], schema=self.schema))
        self.training.path.unlink()
        self.held_out.path.unlink()
        return self._write_documents(sources)

    def _write_documents(self, sources: Sequence[str]) -> str:
        digest = xxhash.xxh3_128()
        offset = 0
        names = pa.array(sources, pa.string())
        with self.draft.columns(DOCUMENTS, schema.DOCUMENTS) as writer:
            for part in (self.training, self.held_out):
                digests_D = part.digests_D
                columns = {
                    "offset": pa.array((part.starts_D + offset).astype(np.uint64)),
                    "length": pa.array(np.array(part.length_D)),
                    "bytes": pa.array(np.array(part.bytes_D)),
                    "held_out": pa.array(np.full(part.documents, part is self.held_out)),
                    "source": pa.DictionaryArray.from_arrays(pa.array(np.array(part.source_D)), names),
                    "digest": pa.array(digests_D, pa.string()),
                }
                writer.write_table(pa.table(columns, schema=schema.DOCUMENTS), max_chunksize=_RECORDS)
                digest.update("".join(digests_D).encode())
                offset += part.tokens
        return digest.hexdigest()
