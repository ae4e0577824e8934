"""Encoding a corpus: documents -> raw token ids on disk, with a record of each document.

Training documents come first in tokens.arrow and held-out ones after them, each in the order they were read, so that either is one
stretch of the mapped file. Every so many bytes what is done so far is flushed and put down, for --resume. What is kept in memory
is 36 bytes a document. Shapes: T tokens, D documents.
"""

import os
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus.checkpoint import Checkpoint
from engram_cli.corpus.duplicates import Seen
from engram_cli.corpus.encoder import Encoder, choose_encoder
from engram_cli.corpus.engine import Tokens
from engram_cli.corpus.reader import Document, Reader
from engram_cli.corpus.ready import ReadyBlock, ReadyReader
from engram_cli.progress import ProgressLike
from engram_cli.store import schema
from engram_cli.store.artifact import Draft
from engram_cli.store.stream import ColumnWriter

TOKENS = "tokens.arrow"
DOCUMENTS = "documents.arrow"
COMMIT = 1 << 27  # bytes of text between two commits
SAMPLE = 2 << 20  # bytes of text that the encoder is chosen on, whatever the memory
_BLOCK = 2 << 20  # bytes copied at once
_RECORDS = 1 << 16  # documents in one batch of documents.arrow
_AHEAD = 2  # batches that wait to be encoded
_LOW = (1 << 64) - 1
_RECORD = np.dtype([("length", "u8"), ("bytes", "u8"), ("high", "u8"), ("low", "u8"), ("source", "i4")])  # of a document
Ids = npt.NDArray[Any]  # uint16 or uint32


def is_held_out(document: Document, share: float) -> bool:
    """Whether a document is among the about `share` that are held out: decided by the digest of its text alone."""
    return document.digest < int(share * (1 << 128))


def batches(documents: Iterable[Document], most: int = SAMPLE) -> Iterator[list[Document]]:
    """Documents, and pieces of long ones, in batches of about `most` bytes of text."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.bytes
        if size >= most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _after(documents: Iterable[Document], read: int) -> Iterator[Document]:
    """The documents behind the first `read`, whose pieces are passed over."""
    for document in documents:
        if not read:
            yield document
        elif document.last:
            read -= 1


class Part:
    """Training documents, or held-out ones, laid end to end in a file of raw ids, and their records.

    work: folder for the records that are put down; state: what `commit` returned, where it goes on.
    """

    def __init__(self, path: Path, schema: pa.Schema, work: Path, state: dict[str, int] | None) -> None:
        self.records = work / f"{path.stem}.records"
        self.columns = [array(code) for code in "QQQQi"]
        self.length_D, self.bytes_D, self.high_D, self.low_D, self.source_D = self.columns
        self.committed = 0 if state is None else state["documents"]
        if self.committed:
            self._read_records()
        self.ids = ColumnWriter(path, schema, 0 if state is None else state["tokens"])
        self.bytes = sum(self.bytes_D)

    def add(self, document: Document, ids_T: Ids) -> None:
        """A document or its first piece, or where it goes on the next one."""
        self.ids.write([ids_T])
        self.bytes += document.bytes
        if not document.first:
            self.length_D[-1] += len(ids_T)
            self.bytes_D[-1] += document.bytes
            return
        self.length_D.append(len(ids_T))
        self.bytes_D.append(document.bytes)
        self.high_D.append(document.digest >> 64)
        self.low_D.append(document.digest & _LOW)
        self.source_D.append(document.source)

    def add_many(self, columns: Sequence[npt.NDArray[Any]], ids_T: Ids) -> None:
        """Documents by the columns of their records, and the ids that are there of them (the last may go on)."""
        self.ids.write([ids_T])
        for stored, column in zip(self.columns, columns, strict=True):
            stored.frombytes(np.ascontiguousarray(column, dtype=np.dtype(stored.typecode)).tobytes())
        self.bytes += int(columns[1].sum())

    def commit(self) -> dict[str, int]:
        """See that everything is on the disk; returns the state to go on from."""
        self.ids.flush()
        new = np.empty(self.documents - self.committed, dtype=_RECORD)
        for name, column in zip(_RECORD.names or (), self.columns, strict=True):
            new[name] = np.frombuffer(column, dtype=column.typecode)[self.committed :]
        with self.records.open("r+b" if self.committed else "wb") as file:
            file.seek(self.committed * _RECORD.itemsize)
            file.truncate()
            file.write(new.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.committed = self.documents
        return {"tokens": self.tokens, "documents": self.documents}

    def _read_records(self) -> None:
        records = np.fromfile(self.records, dtype=_RECORD, count=self.committed)
        for name, column in zip(_RECORD.names or (), self.columns, strict=True):
            column.frombytes(records[name].tobytes())

    @property
    def tokens(self) -> int:
        return self.ids.rows

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


class _Pending(NamedTuple):
    """A batch that is being encoded. done: how far the reader was with it; dropped: documents seen before; bytes: of the others."""

    batch: list[Document]
    ids: Future[list[Ids]]
    done: int
    dropped: int
    bytes: int


class TokenFiles:
    """The tokens and documents of an n-gram artifact while they are written into `draft`; a context that closes its files.

    checkpoint: where it goes on, and what it puts down; seen: documents to leave out, None where those that come again are kept;
    encoder: name of the one that was chosen, "" before; duplicates: documents left out so far.
    """

    def __init__(
        self, draft: Draft, vocab: int, end: int | None, held_out: float, checkpoint: Checkpoint, seen: Seen | None = None
    ) -> None:
        self.draft = draft
        self.end = end
        self.share = held_out
        self.checkpoint = checkpoint
        self.schema = schema.tokens_schema(vocab)
        self.dtype = np.dtype(self.schema.field("token").type.to_pandas_dtype())
        state = checkpoint.state or {"read": 0, "encoder": "", "last": "training", "duplicates": 0}
        self.read: int = state["read"]  # documents, or blocks of ready tokens
        self.encoder: str = state["encoder"]
        self.last: str = state["last"]  # the part that the last document went to, "" where it was left out
        self.duplicates: int = state["duplicates"]
        self.training = Part(draft.path / TOKENS, self.schema, draft.scratch, state.get("training"))
        self.held_out = Part(draft.scratch / "held_out", self.schema, draft.scratch, state.get("held_out"))
        self.seen = seen
        self.keeping = True  # the document whose pieces are read
        for part in (self.training, self.held_out):
            self._fresh(part.high_D, part.low_D)

    def __enter__(self) -> "TokenFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self.training.ids.abandon()
        self.held_out.ids.abandon()

    @property
    def tokens(self) -> int:
        return self.training.tokens + self.held_out.tokens

    def commit(self) -> None:
        """Put down what was done so far."""
        parts = {"training": self.training.commit(), "held_out": self.held_out.commit()}
        self.checkpoint.save(
            {"read": self.read, "encoder": self.encoder, "last": self.last, "duplicates": self.duplicates, **parts}
        )

    def encode(self, reader: Reader, tokenizer: Tokenizer, threads: int, progress: ProgressLike) -> None:
        """Encode all documents of `reader` that were not read before; the next batches are read while one is encoded."""
        uncommitted = 0

        def take(pending: _Pending) -> None:
            nonlocal uncommitted
            self.read += pending.dropped
            self.duplicates += pending.dropped
            self._add(pending.batch, pending.ids.result())
            progress.advance(pending.done, reader.bytes, "bytes", f"{self.tokens:,} tokens")
            uncommitted += pending.bytes
            if uncommitted >= COMMIT and (not pending.batch or pending.batch[-1].last):
                self.commit()
                uncommitted = 0

        encoder, documents = self._choose(reader, tokenizer, threads)
        most, ahead = reader.budget.batch(encoder.calls), _AHEAD + encoder.calls
        with ThreadPoolExecutor(encoder.calls) as pool:
            waiting: deque[_Pending] = deque()
            for batch in batches(documents, most):
                fresh, dropped = self._not_seen(batch)
                size = sum(document.bytes for document in fresh)
                while waiting and (len(waiting) > ahead or sum(other.bytes for other in waiting) + size > (ahead + 1) * most):
                    take(waiting.popleft())
                ids = pool.submit(encoder.encode, [document.text for document in fresh])
                waiting.append(_Pending(fresh, ids, reader.done, dropped, size))
            while waiting:
                take(waiting.popleft())
        self.commit()

    def _not_seen(self, batch: Sequence[Document]) -> tuple[list[Document], int]:
        """(the documents of a batch, or their pieces, that were not seen before; how many were)."""
        firsts = [document for document in batch if document.first]
        fresh = self._fresh([document.digest >> 64 for document in firsts], [document.digest & _LOW for document in firsts])
        answers, kept = iter(fresh), []
        for document in batch:
            self.keeping = bool(next(answers)) if document.first else self.keeping
            kept += [document] if self.keeping else []
        return kept, len(fresh) - int(fresh.sum())

    def take_ready(self, reader: ReadyReader, progress: ProgressLike) -> None:
        """Take the documents of ready tokens that were not read before."""
        committed, self.encoder = 0, "ready"
        for block in islice(reader, self.read, None):
            self._add_block(block)
            progress.advance(reader.done, reader.bytes, "bytes", f"{self.tokens:,} tokens")
            if reader.done - committed >= COMMIT:
                self.commit()
                committed = reader.done
        self.commit()

    def _add_block(self, block: ReadyBlock) -> None:
        """A block of ready tokens; its first may belong to the last document of the block before."""
        parts = {"training": self.training, "held_out": self.held_out}
        begin = int(block.starts_D[0]) if len(block.starts_D) else len(block.ids_T)
        if self.last:
            parts[self.last].ids.write([block.ids_T[:begin]])
        ids_T, here_D = block.ids_T[begin:], np.diff(block.starts_D, append=len(block.ids_T))
        limit = int(self.share * (1 << 128))
        high, low = np.uint64(limit >> 64), np.uint64(limit & _LOW)
        held_D = (block.high_D < high) | ((block.high_D == high) & (block.low_D < low))
        source_D = np.full(len(held_D), block.source)
        fresh_D = self._fresh(block.high_D, block.low_D)
        self.duplicates += len(fresh_D) - int(fresh_D.sum())
        for name, chosen_D in (("training", ~held_D & fresh_D), ("held_out", held_D & fresh_D)):
            columns = (block.lengths_D, block.bytes_D, block.high_D, block.low_D, source_D)
            if chosen_D.any():
                parts[name].add_many([column[chosen_D] for column in columns], ids_T[np.repeat(chosen_D, here_D)])
        if len(held_D):
            self.last = ("held_out" if held_D[-1] else "training") if fresh_D[-1] else ""
        self.read += 1

    def _fresh(self, high_D: Any, low_D: Any) -> npt.NDArray[np.bool_]:
        """Which documents were not seen before, by the halves of their digests: all of them where such are kept."""
        if self.seen is None:
            return np.ones(len(low_D), dtype=np.bool_)
        return self.seen.fresh(np.array(high_D, dtype=np.uint64), np.array(low_D, dtype=np.uint64))

    def _choose(self, reader: Reader, tokenizer: Tokenizer, threads: int) -> tuple[Encoder, Iterator[Document]]:
        """The encoder for texts like the first ones of the corpus, and the documents that were not read before."""
        documents = iter(reader)
        first = next(batches(documents, SAMPLE), [])
        sample = [document.text for document in first]
        encoder = choose_encoder(tokenizer, sample, self.dtype, self.end, threads)
        self.encoder = encoder.name
        return encoder, _after(chain(first, documents), self.read)

    def _add(self, batch: Sequence[Document], ids: Sequence[Ids]) -> None:
        for document, ids_T in zip(batch, ids, strict=True):
            self.read += document.last
            ids_T = ids_T if document.last or self.end is None else ids_T[:-1]  # the end token closes the last piece
            if len(ids_T) or not (document.first and document.last):
                (self.held_out if is_held_out(document, self.share) else self.training).add(document, ids_T)

    def stored(self, canonical_V: npt.NDArray[np.uint32]) -> Tokens:
        """The training tokens as counting takes them."""
        self.training.ids.flush()
        part = self.training
        return Tokens(part.ids.path, part.ids.begin, self.dtype, part.tokens, part.starts_D, canonical_V)

    def finish(self, sources: Sequence[str]) -> str:
        """Write tokens.arrow and documents.arrow; `sources`: names by number. Returns the digest of all documents' digests."""
        training, held_out = self.training.tokens, self.held_out.tokens
        self.held_out.ids.flush()
        with self.held_out.ids.path.open("rb") as file:
            file.seek(self.held_out.ids.begin)
            while block := file.read(_BLOCK):
                self.training.ids.write([np.frombuffer(block, dtype=self.dtype)])
        assert self.training.tokens == training + held_out
        self.training.ids.close()
        return self._write_documents(sources, {"training": 0, "held_out": training})

    def _write_documents(self, sources: Sequence[str], offsets: Mapping[str, int]) -> str:
        digest = xxhash.xxh3_128()
        names = pa.array(sources, pa.string())
        with self.draft.columns(DOCUMENTS, schema.DOCUMENTS) as writer:
            for part, offset in ((self.training, offsets["training"]), (self.held_out, offsets["held_out"])):
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
        return digest.hexdigest()
