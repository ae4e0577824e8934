"""documents.arrow: written and read a batch of documents at a time, so that memory holds a batch and not all of them.

A document's digest is 128 bits: 32 letters in the file, two halves in memory, 16 bytes instead of the 80 of a Python text.
Shapes: D documents, L letters, B bytes.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from engram_cli.corpus.parts import Records
from engram_cli.errors import ArtifactError
from engram_cli.store import schema
from engram_cli.store.artifact import Draft

DOCUMENTS = "documents.arrow"
BATCH = 1 << 16  # documents
_LETTERS = 32  # of a digest
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGIT = np.zeros(256, np.uint8)  # what a letter stands for
_DIGIT[_HEX] = np.arange(16)


class Digests(NamedTuple):
    """Digests by their halves."""

    high_D: npt.NDArray[np.uint64]
    low_D: npt.NDArray[np.uint64]

    def chosen(self, chosen_D: slice | npt.NDArray[np.bool_]) -> "Digests":
        return Digests(self.high_D[chosen_D], self.low_D[chosen_D])


def all_digests(column: pa.ChunkedArray) -> Digests:
    """The digests in a column of documents.arrow. Raises ArtifactError as `read_digests`."""
    none = np.empty(0, np.uint64)
    return Digests(*map(np.concatenate, zip(Digests(none, none), *read_digests(column), strict=True)))


def read_digests(column: pa.ChunkedArray) -> Iterator[Digests]:
    """The digests in a column of documents.arrow, those of a batch at a time. Raises ArtifactError where one is no digest."""
    for chunk in column.chunks:
        digits_DL = _DIGIT[_letters(chunk)].reshape(-1, _LETTERS)
        bytes_DB = digits_DL[:, ::2] << 4 | digits_DL[:, 1::2]
        yield Digests(*bytes_DB.view(">u8").T.astype(np.uint64))


def write_documents(draft: Draft, sources: pa.StringArray, batches: Iterable[tuple[bool, Records]]) -> str:
    """Write documents.arrow of batches of documents, each with whether they are held out; returns the digest of all their digests.

    sources: names by number.
    """
    digest, offset = xxhash.xxh3_128(), 0
    with draft.columns(DOCUMENTS, schema.DOCUMENTS) as writer:
        for held_out, records in batches:
            ends_D = offset + np.cumsum(records.length_D, dtype=np.uint64)
            digests_D = _written(records.high_D, records.low_D)
            columns = {
                "offset": ends_D - records.length_D,
                "length": records.length_D,
                "bytes": records.bytes_D,
                "held_out": pa.array(np.full(len(ends_D), held_out)),
                "source": pa.DictionaryArray.from_arrays(records.source_D, sources),
                "digest": digests_D,
            }
            writer.write_batch(pa.record_batch(columns, schema=schema.DOCUMENTS))
            digest.update(_letters(digests_D).data)
            offset = ends_D[-1]
    return digest.hexdigest()


def _written(high_D: npt.NDArray[np.uint64], low_D: npt.NDArray[np.uint64]) -> pa.Array:
    """Digests as strings."""
    bytes_DB = np.stack([high_D, low_D], axis=1).astype(">u8").view(np.uint8)
    letters_DL = _HEX[np.stack([bytes_DB >> 4, bytes_DB & 15], axis=2)]
    offsets_D = np.arange(0, letters_DL.size + 1, _LETTERS, dtype=np.int32)
    return pa.StringArray.from_buffers(len(low_D), pa.py_buffer(offsets_D), pa.py_buffer(letters_DL))


def _letters(digests_D: pa.Array) -> npt.NDArray[np.uint8]:
    """The letters of digests, end to end and not copied."""
    _, offsets, letters = digests_D.buffers()
    size = len(digests_D)
    begin_D = np.frombuffer(offsets or b"", np.int32)[digests_D.offset : digests_D.offset + size + 1]
    if digests_D.null_count or (np.diff(begin_D) != _LETTERS).any():
        raise ArtifactError(f"a document's digest has {_LETTERS} letters, but one in {DOCUMENTS} has not: make the artifact again")
    return np.frombuffer(letters or b"", np.uint8)[begin_D[0] : begin_D[-1]] if size else np.empty(0, np.uint8)
