"""The documents of a corpus while they are encoded: raw ids end to end on disk, and a record of each in memory, 36 bytes of it.

Documents come many at a time, as arrays; a long one may come in pieces, one after the other. Shapes: T tokens, D documents.
"""

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.corpus.reader import Document
from engram_cli.store.stream import ColumnWriter

_LOW = (1 << 64) - 1
_RECORD = np.dtype([("length", "u8"), ("bytes", "u8"), ("high", "u8"), ("low", "u8"), ("source", "i4")])  # of a document
Ids = npt.NDArray[Any]  # uint16 or uint32


class Records(NamedTuple):
    """What is known of documents, or of pieces of long ones. length_D: tokens; bytes_D: of their texts; high_D, low_D: halves of
    their digests; source_D: number of the source of each; first_D: whether it is the first piece."""

    length_D: npt.NDArray[Any]
    bytes_D: npt.NDArray[Any]
    high_D: npt.NDArray[np.uint64]
    low_D: npt.NDArray[np.uint64]
    source_D: npt.NDArray[Any]
    first_D: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, documents: Sequence[Document]) -> "Records":
        """Those of documents that are yet to be encoded."""
        high, low = [document.digest >> 64 for document in documents], [document.digest & _LOW for document in documents]
        bytes_D, source_D = [document.bytes for document in documents], [document.source for document in documents]
        columns = [np.array(column, dtype=np.uint64) for column in ([0] * len(documents), bytes_D, high, low, source_D)]
        return cls._make([*columns, np.array([document.first for document in documents], dtype=np.bool_)])

    def chosen(self, chosen_D: npt.NDArray[np.bool_]) -> "Records":
        return Records._make(column[chosen_D] for column in self)

    def folded(self, begins: npt.NDArray[np.int64]) -> "Records":
        """Whole documents, of which each begins at one of `begins` and goes on to the next."""
        sums = [np.add.reduceat(column, begins) if len(begins) else column[:0] for column in self[:2]]
        return Records._make([*sums, *(column[begins] for column in self[2:])])

    def held_out(self, share: float) -> npt.NDArray[np.bool_]:
        """Which of them `is_held_out` names."""
        limit = int(share * (1 << 128))
        high, low = np.uint64(limit >> 64), np.uint64(limit & _LOW)
        held_D: npt.NDArray[np.bool_] = (self.high_D < high) | ((self.high_D == high) & (self.low_D < low))
        return held_D


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

    def add(self, records: Records, ids_T: Ids) -> None:
        """Documents, or what follows of the one before, and the ids that are there of them."""
        self.ids.write([ids_T])
        self.bytes += int(records.bytes_D.sum())
        begins = np.flatnonzero(records.first_D)
        if len(begins) < len(records.first_D):  # pieces
            if not records.first_D[0]:
                following = slice(0, begins[0] if len(begins) else None)
                self.length_D[-1] += int(records.length_D[following].sum())
                self.bytes_D[-1] += int(records.bytes_D[following].sum())
            records = records.folded(begins)
        for stored, column in zip(self.columns, records, strict=False):
            stored.frombytes(column.astype(stored.typecode).tobytes())

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

    def batches(self, documents: int) -> Iterator[Records]:
        """The records, so many at a time."""
        for begin in range(0, self.documents, documents):
            columns = [np.array(column[begin : begin + documents]) for column in self.columns]
            yield Records._make([*columns, np.ones(len(columns[0]), dtype=np.bool_)])
