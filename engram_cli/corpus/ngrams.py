"""Counting grams: plain functions on arrays and Arrow tables that know nothing of files, threads or machines.

A gram is packed into one integer, the oldest canonical id in the highest bits, so that sorting grams sorts them by their ids. A
shard of the corpus becomes a sorted run, runs merge into the counts of the whole; since counts only ever add up, neither how the
corpus was cut nor which run came first can be seen in the result. The windows are those of table/hashing.py: one per position and
order, with the pad id before a document's first token, so the counts of each order sum to the number of tokens.

Up to 64 bits a gram is a u64; above, it is two, `WideGrams`. What is on top of these functions, the threads, the memory and the
disk, is in engine.py. Shapes: T tokens of a shard, G grams, D documents, P prefixes, B buckets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.errors import RecipeError
from engram_cli.store.schema import ngrams_schema

WIDEST = 128  # bits of a gram
_BUCKET = 1 << 15  # grams; half as many where they are wide. With the two buffers they are sorted through, they fit 1 MiB
_STEP = 1 << 15  # rows that one round of merging takes from all runs together
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class WideGrams:
    """Sorted grams of more than 64 bits: the bits above the low 64, and those, uint64 [G] each. Taken apart like an array."""

    high: Keys
    low: Keys

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, chosen: Any) -> "WideGrams":
        return WideGrams(self.high[chosen], self.low[chosen])


Grams = Keys | WideGrams


class Rows(NamedTuple):
    """Grams and counts as the kernels have them. key: the low 64 bits; top: those above, or None; counts: uint32 or uint64."""

    key: Keys
    top: Keys | None
    counts: npt.NDArray[Any]

    def part(self, begin: int, end: int) -> "Rows":
        return Rows(self.key[begin:end], None if self.top is None else self.top[begin:end], self.counts[begin:end])

    def columns(self) -> list[Keys]:
        """The columns of `ngrams_schema`."""
        grams = [self.key] if self.top is None else [self.top, self.key]
        return [*grams, self.counts.astype(np.uint64, copy=False)]


@dataclass(frozen=True)
class Packing:
    """How the grams of one order are packed. bits: per canonical id; pad: canonical id in slots before a document's first token."""

    order: int
    bits: int
    pad: int

    @property
    def width(self) -> int:
        """Bits of a gram."""
        return self.order * self.bits

    @property
    def wide(self) -> bool:
        return self.width > 64

    @property
    def mask(self) -> tuple[np.uint64, np.uint64]:
        """(top, key) of all bits that are used."""
        return _halves((1 << self.width) - 1)

    @property
    def blank(self) -> tuple[np.uint64, np.uint64]:
        """(top, key) of the gram of nothing but pads."""
        return _halves(sum(self.pad << (slot * self.bits) for slot in range(self.order)))


@dataclass
class Buffers:
    """Memory that counting stretch after stretch goes through: touched once, kept."""

    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def take(self, name: str, size: int, dtype: npt.DTypeLike = np.uint64) -> npt.NDArray[Any]:
        if name not in self.arrays or len(self.arrays[name]) < size:
            self.arrays[name] = np.empty(size, dtype)
        return self.arrays[name]


def gram_bits(canonical_vocab: int, order: int) -> int:
    """Bits per canonical id in packed grams. Raises RecipeError where grams of `order` do not fit 128 bits."""
    bits = max(1, (canonical_vocab - 1).bit_length())
    if order * bits > WIDEST:
        raise RecipeError(
            f"a gram must fit {WIDEST} bits, but {order} ids of {bits} bits ({canonical_vocab:,} canonical ids) take "
            f"{order * bits}; count orders up to {WIDEST // bits}, or use a tokenizer with fewer ids"
        )
    return bits


def unpack(grams_G: Grams, order: int, bits: int) -> npt.NDArray[np.int64]:
    """The canonical ids of packed grams, newest first as the hash takes them: int64 [G, order]."""
    wide = isinstance(grams_G, WideGrams)
    low_G = grams_G.low if isinstance(grams_G, WideGrams) else grams_G
    ids_GN = np.empty((len(grams_G), order), dtype=np.int64)
    mask = np.uint64((1 << bits) - 1)
    for back in range(order):
        shift = back * bits
        id_G = low_G >> np.uint64(shift) if shift < 64 else np.zeros(len(low_G), dtype=np.uint64)
        if wide and shift + bits > 64:
            high_G = grams_G.high  # type: ignore[union-attr]
            id_G = id_G | (high_G << np.uint64(64 - shift) if shift < 64 else high_G >> np.uint64(shift - 64))
        ids_GN[:, back] = id_G & mask
    return ids_GN


def count_shard(
    canonical_T: npt.NDArray[Any], position_T: npt.NDArray[Any], order: int, bits: int, pad: int, context: int = 0
) -> pa.Table:
    """Count the grams of one order in a stretch of tokens: a sorted run of schema `ngrams_schema(order, bits)`.

    canonical_T: canonical ids; position_T: how many tokens precede each within its document; pad: canonical id in slots before a
    document's first token; the first `context` tokens are only looked back at, so that a stretch which begins inside a document
    (with the `order - 1` tokens before it as context) counts the same grams as the whole would there.
    """
    starts = np.flatnonzero(np.asarray(position_T) == 0)
    identity_V = np.arange(int(canonical_T.max(initial=0)) + 1, dtype=np.uint32)
    rows = count_stretch(np.array(canonical_T), identity_V, starts, context, Packing(order, bits, pad), Buffers())
    return to_arrow(rows, order, bits)


def count_stretch(
    ids_T: npt.NDArray[Any],
    canonical_V: npt.NDArray[np.uint32],
    starts: npt.NDArray[np.int64],
    context: int,
    packing: Packing,
    buffers: Buffers,
) -> Rows:
    """Count as `count_shard` does, raw ids in and rows out, which lie in `buffers` until it is used again.

    ids_T: raw ids, writeable; canonical_V: the canonical id of each; starts: where documents begin within ids_T.
    """
    from engram_cli.corpus import kernels

    size = len(ids_T) - context
    windows = (np.array(packing.blank), np.array(packing.mask), np.uint64(packing.bits))
    shift = np.uint64(max(0, packing.width - kernels.FIRST))
    key = buffers.take("key", size)
    top = buffers.take("top", size) if packing.wide else None
    counts_P = np.zeros(1 << min(packing.width, kernels.FIRST), dtype=np.int64)
    kernels.tally(ids_T, canonical_V, starts, context, *windows, shift, top, counts_P)
    bucket = _BUCKET >> packing.wide
    bucket_P, bounds_B = _buckets(counts_P, bucket)
    kernels.scatter(ids_T, canonical_V, starts, context, *windows, shift, bucket_P, bounds_B[:-1].astype(np.uint64), key, top)
    return _sort_and_fold(key, top, bounds_B, bucket, buffers)


def count_keys(key: Keys, top: Keys | None, buffers: Buffers) -> Rows:
    """Sort grams in place and fold equal ones; the rows lie where the grams did."""
    return _sort_and_fold(key, top, np.array([0, len(key)]), _BUCKET >> (top is not None), buffers)


def _sort_and_fold(key: Keys, top: Keys | None, bounds_B: npt.NDArray[np.int64], bucket: int, buffers: Buffers) -> Rows:
    from engram_cli.corpus import kernels

    size, largest = int(bounds_B[-1]), int(np.diff(bounds_B).max(initial=0))
    spare_size = largest if largest > bucket else 0
    spare = buffers.take("spare", spare_size)
    spare_top = None if top is None else buffers.take("spare_top", spare_size)
    counts = buffers.take("counts", size, np.uint32)
    small = max(1, min(bucket, largest))
    return Rows(key, top, counts).part(0, kernels.sort_and_fold(key, top, bounds_B, spare, spare_top, counts, small))


def _buckets(counts_P: npt.NDArray[np.int64], size: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """(the bucket of each prefix, where buckets begin and end): neighbouring prefixes share one of about `size` grams."""
    before_P = np.cumsum(counts_P) - counts_P
    heavy_P = counts_P > size
    after_heavy_P = np.concatenate([[False], heavy_P[:-1]])
    begins_P = heavy_P | after_heavy_P | (np.diff(before_P // size, prepend=-1) > 0)
    bucket_P = (np.cumsum(begins_P) - 1).astype(np.uint32)
    return bucket_P, np.append(before_P[begins_P], counts_P.sum())


def merge_runs(runs: Sequence[pa.Table]) -> pa.Table:
    """Merge sorted runs of one order (at least one) into one: sorted, counts of equal grams added."""
    if len(runs) == 1:
        return runs[0].combine_chunks()
    parts = [from_arrow(run) for run in runs]
    key, counts = (np.concatenate([part[column] for part in parts]) for column in (0, 2))
    top = None if parts[0].top is None else np.concatenate([part.top for part in parts if part.top is not None])
    end_K = np.cumsum([len(part.key) for part in parts])
    begin_K = end_K - [len(part.key) for part in parts]
    order, bits = (int(runs[0].schema.metadata[name]) for name in (b"order", b"bits"))
    return to_arrow(merge_rows(Rows(key, top, counts), begin_K, end_K), order, bits)


def merge_rows(rows: Rows, begin_K: npt.NDArray[np.int64], end_K: npt.NDArray[np.int64]) -> Rows:
    """Merge K runs, each a stretch of `rows`, into new rows with uint64 counts."""
    from engram_cli.corpus import merge_kernels

    size = int((end_K - begin_K).sum())
    if len(begin_K) == 1:
        only = rows.part(int(begin_K[0]), int(end_K[0]))
        return only._replace(counts=only.counts.astype(np.uint64))
    merged = Rows(np.empty(size, np.uint64), None if rows.top is None else np.empty(size, np.uint64), np.empty(size, np.uint64))
    step = min(max(16, _STEP // max(1, len(begin_K))), max(1, size))
    return merged.part(0, merge_kernels.merge(*rows, begin_K, end_K, step, *merged))


def to_arrow(rows: Rows, order: int, bits: int) -> pa.Table:
    return pa.table([pa.array(column) for column in rows.columns()], schema=ngrams_schema(order, bits))


def from_arrow(run: pa.Table) -> Rows:
    if "gram_low" in run.column_names:
        return Rows(column(run, "gram_low"), column(run, "gram"), column(run, "count"))
    return Rows(column(run, "gram"), None, column(run, "count"))


def positions(starts_D: npt.NDArray[np.int64], begin: int, end: int) -> npt.NDArray[np.int64]:
    """How many tokens precede each of the tokens begin..end within its document: int64 [end - begin].

    starts_D: first token of each document, ascending, the first 0.
    """
    first = max(0, int(np.searchsorted(starts_D, begin, side="right")) - 1)
    last = int(np.searchsorted(starts_D, end, side="left"))
    starts = starts_D[first:last]
    lengths = np.diff(np.maximum(starts, begin), append=end)
    return np.arange(begin, end) - np.repeat(starts, lengths)


def column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column as a numpy array, without a copy where it is one chunk, as those of runs and artifacts are."""
    chunks = table[name]
    return chunks.chunk(0).to_numpy() if chunks.num_chunks == 1 else chunks.to_numpy()  # type: ignore[no-any-return]


def _halves(value: int) -> tuple[np.uint64, np.uint64]:
    return np.uint64(value >> 64), np.uint64(value & (2**64 - 1))
