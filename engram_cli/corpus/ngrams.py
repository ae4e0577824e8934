"""Counting grams: plain functions on arrays and Arrow tables that know nothing of files, threads or machines.

A gram is packed into one u64, the oldest canonical id in the highest bits, so that sorting grams sorts them by their ids. A shard
of the corpus becomes a sorted run, runs merge into the counts of the whole; since counts only ever add up, neither how the corpus
was cut nor which run came first can be seen in the result. The windows are those of table/hashing.py: one per position and order,
with the pad id before a document's first token, so the counts of each order sum to the number of tokens.

Sorting packed keys and run-lengthening them does 10 to 40 M tokens/s a core; from text, the tokenizer takes fifty times longer.
Shapes: T tokens of a shard, G grams, D documents.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.errors import RecipeError
from engram_cli.store.schema import ngrams_schema

SHARD = 1 << 22  # tokens; about 250 MB while it is counted
Keys = npt.NDArray[np.uint64]


def gram_bits(canonical_vocab: int, order: int) -> int:
    """Bits per canonical id in packed grams. Raises RecipeError where grams of `order` do not fit 64 bits."""
    bits = max(1, (canonical_vocab - 1).bit_length())
    if order * bits > 64:
        raise RecipeError(
            f"a gram must fit 64 bits, but {order} ids of {bits} bits ({canonical_vocab:,} canonical ids) take "
            f"{order * bits}; count orders up to {64 // bits}, or use a tokenizer with fewer ids"
        )
    return bits


def pack(canonical_T: npt.NDArray[Any], position_T: npt.NDArray[Any], order: int, bits: int, pad: int) -> Keys:
    """The packed gram of `order` that ends at each position: uint64 [T].

    canonical_T: canonical ids; position_T: how many tokens precede each within its document; pad: canonical id in slots before a
    document's first token.
    """
    ids_T = canonical_T.astype(np.uint64)
    key_T = ids_T.copy()
    for back in range(1, order):
        older_T = np.full(len(ids_T), pad, dtype=np.uint64)
        np.copyto(older_T[back:], ids_T[:-back], where=position_T[back:] >= back)
        older_T <<= np.uint64(back * bits)
        key_T |= older_T
    return key_T


def unpack(gram_G: Keys, order: int, bits: int) -> npt.NDArray[np.int64]:
    """The canonical ids of packed grams, newest first as the hash takes them: int64 [G, order]."""
    shifts = (np.arange(order) * bits).astype(np.uint64)
    return ((gram_G[:, None] >> shifts) & np.uint64((1 << bits) - 1)).astype(np.int64)


def count_shard(
    canonical_T: npt.NDArray[Any], position_T: npt.NDArray[Any], order: int, bits: int, pad: int, context: int = 0
) -> pa.Table:
    """Count the grams of one order in a stretch of tokens: a sorted run of schema `ngrams_schema(order, bits)`.

    Arguments as for `pack`; the first `context` tokens are only looked back at, so that a stretch which begins inside a document
    (with the `order - 1` tokens before it as context) counts the same grams as the whole would there.
    """
    key_T = pack(canonical_T, position_T, order, bits, pad)[context:]
    key_T.sort()
    first_G = _group_starts(key_T)
    count_G = np.diff(first_G, append=len(key_T)).astype(np.uint64)
    return _run(key_T[first_G], count_G, ngrams_schema(order, bits))


def merge_runs(runs: Sequence[pa.Table]) -> pa.Table:
    """Merge sorted runs of one order (at least one) into one: sorted, counts of equal grams added."""
    if len(runs) == 1:
        return runs[0].combine_chunks()
    gram_G = np.concatenate([column(run, "gram") for run in runs])
    order_G = np.argsort(gram_G, kind="stable")  # takes presorted stretches as they are and merges them
    gram_G = gram_G[order_G]
    count_G = np.concatenate([column(run, "count") for run in runs])[order_G]
    first_G = _group_starts(gram_G)
    if len(first_G):
        count_G = np.add.reduceat(count_G, first_G)
    return _run(gram_G[first_G], count_G, runs[0].schema)


def count_tokens(
    canonical_T: Callable[[int, int], npt.NDArray[Any]],
    starts_D: npt.NDArray[np.int64],
    tokens: int,
    order: int,
    *,
    bits: int,
    pad: int,
    threads: int = 1,
    shard: int = SHARD,
    done: Callable[[int], None] = lambda tokens: None,
) -> pa.Table:
    """Count the grams of one order over documents laid end to end, shard by shard on `threads` threads.

    canonical_T(begin, end): the canonical ids of that stretch; starts_D: first token of each document; tokens: of all documents;
    done: told the tokens counted so far. The result does not depend on `threads` or `shard`.
    """

    def count(begin: int) -> pa.Table:
        context = min(begin, order - 1)
        end = min(begin + shard, tokens)
        position_T = positions(starts_D, begin - context, end)
        return count_shard(canonical_T(begin - context, end), position_T, order, bits, pad, context)

    begins = range(0, tokens, shard)
    runs: list[tuple[int, pa.Table]] = []  # (shards merged into it, run): sizes fall by half, as in a binary counter
    with ThreadPoolExecutor(threads) as pool:
        for number, run in enumerate(pool.map(count, begins), 1):
            runs.append((1, run))
            while len(runs) > 1 and runs[-2][0] == runs[-1][0]:
                (merged, older), (_, newer) = runs[-2:]
                runs[-2:] = [(2 * merged, merge_runs([older, newer]))]
            done(min(number * shard, tokens))
    return merge_runs([run for _, run in runs] or [ngrams_schema(order, bits).empty_table()])


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


def _group_starts(sorted_T: Keys) -> npt.NDArray[np.int64]:
    """Where each run of equal keys begins."""
    begins_T = np.ones(len(sorted_T), dtype=np.bool_)
    np.not_equal(sorted_T[1:], sorted_T[:-1], out=begins_T[1:])
    return np.flatnonzero(begins_T)


def _run(gram_G: Keys, count_G: Keys, schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(gram_G), pa.array(count_G)], schema=schema)
