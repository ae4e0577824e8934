"""Encoding a corpus: documents -> raw token ids on disk, with a record of each document.

Training documents come first in tokens.arrow and held-out ones after them, each in the order they were read, so that either is one
stretch of the mapped file. Every so many bytes what is done so far is flushed and put down, for --resume. Shapes: T tokens,
D documents.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from engram_cli.corpus.checkpoint import Checkpoint
from engram_cli.corpus.documents import BATCH, write_documents
from engram_cli.corpus.duplicates import Seen
from engram_cli.corpus.encoder import Encoded, Encoder
from engram_cli.corpus.engine import Engine, Tokens
from engram_cli.corpus.parts import Ids, Part, Records
from engram_cli.corpus.reader import Document, Reader
from engram_cli.corpus.ready import ReadyBlock, ReadyReader
from engram_cli.progress import ProgressLike
from engram_cli.store import schema
from engram_cli.store.artifact import Draft
from engram_cli.store.resources import release_memory

TOKENS = "tokens.arrow"
COMMIT = 1 << 27  # bytes of text between two commits
SAMPLE = 2 << 20  # bytes of text that the encoder is chosen on, whatever the memory
_BLOCK = 2 << 20  # bytes copied at once
_RELEASE = 1 << 24  # bytes of text after which freed memory is given back
_AHEAD = 2  # batches that wait to be encoded


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


class _Pending(NamedTuple):
    """A batch that is being encoded. last_D: whether each is the last piece of its document; done: how far the reader was with it;
    dropped: documents seen before; bytes: of the others."""

    records: Records
    last_D: npt.NDArray[np.bool_]
    encoded: Future[Encoded]
    done: int
    dropped: int
    bytes: int


class TokenFiles:
    """The tokens and documents of an n-gram artifact while they are written into `draft`; a context that closes its files.

    checkpoint: where it goes on, and what it puts down; seen: documents to leave out, None where those that come again are kept;
    encoder: name of the one that was chosen, "" before; watch: told the documents of each commit, to refuse too many; duplicates: documents left out so far.
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
        self.watch: Callable[[int], None] = lambda documents: None
        self.keeping = True  # the document whose pieces are read
        self.parts = {"training": self.training, "held_out": self.held_out}
        for part in self.parts.values():
            self._fresh(np.array(part.high_D), np.array(part.low_D))

    def __enter__(self) -> "TokenFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self.training.ids.abandon()
        self.held_out.ids.abandon()

    @property
    def tokens(self) -> int:
        return self.training.tokens + self.held_out.tokens

    @property
    def bytes(self) -> int:
        """Of the text of all documents so far."""
        return self.training.bytes + self.held_out.bytes

    def commit(self) -> None:
        """Put down what was done so far, and see that it can be counted."""
        parts = {"training": self.training.commit(), "held_out": self.held_out.commit()}
        self.checkpoint.save(
            {"read": self.read, "encoder": self.encoder, "last": self.last, "duplicates": self.duplicates, **parts}
        )
        self.watch(self.training.documents + self.held_out.documents)

    def encode(self, reader: Reader, tokenizer: Tokenizer, engine: Engine, progress: ProgressLike) -> None:
        """Encode all documents of `reader` that were not read before; the next batches are read while one is encoded."""
        uncommitted = unreleased = 0
        bytes_before, tokens_before = self.bytes, self.tokens

        def take(pending: _Pending) -> None:
            nonlocal uncommitted, unreleased
            self._add_encoded(pending)
            also = ((self.bytes - bytes_before, "bytes of text"), (self.tokens - tokens_before, "tokens"))
            progress.advance(pending.done, reader.bytes, "bytes", also=also)
            uncommitted += pending.bytes
            unreleased += pending.bytes
            if unreleased >= _RELEASE:  # also within a document, where nothing is committed
                release_memory()
                unreleased = 0
            if uncommitted >= COMMIT and pending.last_D[-1:].all():
                self.commit()
                uncommitted = 0

        encoder, documents = self._choose(reader, tokenizer, engine)
        most, ahead = reader.budget.batch(encoder.calls), _AHEAD + encoder.calls
        with ThreadPoolExecutor(encoder.calls) as pool:
            waiting: deque[_Pending] = deque()
            for batch in batches(documents, most):
                records = Records.of(batch)
                keep_D, dropped = self._not_seen(records)
                fresh = [document for document, keep in zip(batch, keep_D, strict=True) if keep]
                size = sum(document.bytes for document in fresh)
                while waiting and (len(waiting) > ahead or sum(other.bytes for other in waiting) + size > (ahead + 1) * most):
                    take(waiting.popleft())
                encoded = pool.submit(encoder.encode, [document.text for document in fresh])
                last_D = np.array([document.last for document in fresh], dtype=np.bool_)
                waiting.append(_Pending(records.chosen(keep_D), last_D, encoded, reader.done, dropped, size))
            while waiting:
                take(waiting.popleft())
        self.commit()
        progress.advance(reader.bytes, reader.bytes, "bytes", f"{self.tokens:,} tokens")

    def _not_seen(self, records: Records) -> tuple[npt.NDArray[np.bool_], int]:
        """(which documents of a batch, or pieces of them, were not seen before; how many documents were)."""
        first_D = records.first_D
        fresh = self._fresh(records.high_D[first_D], records.low_D[first_D])
        keep_D = np.append(self.keeping, fresh)[np.cumsum(first_D)]
        self.keeping = bool(keep_D[-1])
        return keep_D, len(fresh) - int(fresh.sum())

    def _add_encoded(self, pending: _Pending) -> None:
        ids_T, lengths_D = pending.encoded.result()
        first_D, last_D = pending.records.first_D, pending.last_D
        self.read += pending.dropped + int(last_D.sum())
        self.duplicates += pending.dropped
        if self.end is not None and not last_D.all():  # the end token closes the last piece
            ids_T = np.delete(ids_T, np.cumsum(lengths_D)[~last_D] - 1)
            lengths_D = lengths_D - ~last_D
        self._add(pending.records._replace(length_D=lengths_D), ids_T, lengths_D, (lengths_D > 0) | ~first_D | ~last_D)

    def take_ready(self, reader: ReadyReader, progress: ProgressLike) -> None:
        """Take the documents of ready tokens that were not read before."""
        committed, self.encoder = 0, "ready"
        tokens_before = self.tokens
        for block in islice(reader, self.read, None):
            self._add_block(block)
            also = ((reader.done, "bytes"), (self.tokens - tokens_before, "tokens"))
            progress.advance(reader.done, reader.bytes, "bytes", also=also)
            if reader.done - committed >= COMMIT:
                self.commit()
                committed = reader.done
        self.commit()
        progress.advance(reader.bytes, reader.bytes, "bytes", f"{self.tokens:,} tokens")

    def _add_block(self, block: ReadyBlock) -> None:
        """A block of ready tokens; its first may belong to the last document of the block before."""
        begin = int(block.starts_D[0]) if len(block.starts_D) else len(block.ids_T)
        if self.last:
            self.parts[self.last].ids.write([block.ids_T[:begin]])
        ids_T, here_D = block.ids_T[begin:], np.diff(block.starts_D, append=len(block.ids_T))
        source_D, first_D = np.full(len(here_D), block.source), np.ones(len(here_D), dtype=np.bool_)
        records = Records(block.lengths_D, block.bytes_D, block.high_D, block.low_D, source_D, first_D)
        fresh_D = self._fresh(block.high_D, block.low_D)
        self.duplicates += len(fresh_D) - int(fresh_D.sum())
        self._add(records, ids_T, here_D, fresh_D)
        if len(here_D):
            self.last = ("held_out" if records.held_out(self.share)[-1] else "training") if fresh_D[-1] else ""
        self.read += 1

    def _add(self, records: Records, ids_T: Ids, here_D: npt.NDArray[Any], keep_D: npt.NDArray[np.bool_]) -> None:
        """Add documents where `keep_D`, each to its part; here_D: how many of the ids are of each."""
        held_D = records.held_out(self.share)
        for name, chosen_D in (("training", ~held_D & keep_D), ("held_out", held_D & keep_D)):
            if chosen_D.all():
                self.parts[name].add(records, ids_T)
            elif chosen_D.any():
                self.parts[name].add(records.chosen(chosen_D), ids_T[np.repeat(chosen_D, here_D)])

    def _fresh(self, high_D: npt.NDArray[np.uint64], low_D: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which documents were not seen before, by the halves of their digests: all of them where such are kept."""
        if self.seen is None:
            return np.ones(len(low_D), dtype=np.bool_)
        return self.seen.fresh(high_D, low_D)

    def _choose(self, reader: Reader, tokenizer: Tokenizer, engine: Engine) -> tuple[Encoder, Iterator[Document]]:
        """The encoder for texts like the first ones of the corpus, and the documents that were not read before."""
        documents = iter(reader)
        first = next(batches(documents, SAMPLE), [])
        sample = [document.text for document in first]
        encoder = engine.encoder(tokenizer, sample, self.dtype, self.end)
        self.encoder = encoder.name
        return encoder, _after(chain(first, documents), self.read)

    def stored(self, canonical_V: npt.NDArray[np.uint32], held_out: bool = False) -> Tokens:
        """The training tokens, or those held out, as counting takes them."""
        part = self.held_out if held_out else self.training
        part.ids.flush()
        return Tokens(part.ids.path, part.ids.begin, self.dtype, part.tokens, part.starts_D, canonical_V)

    def finish(self, sources: pa.StringArray) -> str:
        """Write tokens.arrow and documents.arrow, which nothing may be added to then; `sources`: names by number. Returns the digest of all documents' digests."""
        training, held_out = self.training.tokens, self.held_out.tokens
        self.held_out.ids.flush()
        with self.held_out.ids.path.open("rb") as file:
            file.seek(self.held_out.ids.begin)
            while block := file.read(_BLOCK):
                self.training.ids.write([np.frombuffer(block, dtype=self.dtype)])
        assert self.training.tokens == training + held_out
        self.training.ids.close()
        self.draft.seal(TOKENS)
        parts = ((False, self.training), (True, self.held_out))
        return write_documents(self.draft, sources, ((held_out, records) for held_out, part in parts for records in part.batches(BATCH)))
