"""Counting, against a dictionary in pure Python and against the windows that the hash sees."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.ngrams import column, count_shard, count_tokens, gram_bits, merge_runs, pack, positions, unpack
from engram_cli.errors import RecipeError
from engram_cli.store.schema import ngrams_schema
from engram_cli.table.hashing import windows
from tests.strategies import MAX_ID, documents, laid_end_to_end

PAD = 3
BITS = 4
orders = st.integers(1, 4)


def expected(documents: list[list[int]], order: int, pad: int = PAD) -> Counter[tuple[int, ...]]:
    """Grams oldest first -> count, as anyone would write it."""
    counts: Counter[tuple[int, ...]] = Counter()
    for document in documents:
        padded = [pad] * (order - 1) + document
        counts.update(tuple(padded[at : at + order]) for at in range(len(document)))
    return counts


def counted(table: pa.Table, order: int, bits: int = BITS) -> dict[tuple[int, ...], int]:
    grams = unpack(column(table, "gram"), order, bits)[:, ::-1]
    return dict(zip(map(tuple, grams.tolist()), column(table, "count").tolist(), strict=True))


@given(documents(), orders, st.integers(1, 30), st.integers(1, 4))
def test_counts_equal_a_dictionary_whatever_the_shards_and_threads(
    documents: list[list[int]], order: int, shard: int, threads: int
) -> None:
    ids_T, starts_D = laid_end_to_end(documents)
    table = count_tokens(
        lambda begin, end: ids_T[begin:end], starts_D, len(ids_T), order, bits=BITS, pad=PAD, threads=threads, shard=shard
    )
    assert counted(table, order) == expected(documents, order)
    grams = column(table, "gram")
    assert (grams[1:] > grams[:-1]).all()
    assert table.schema.equals(ngrams_schema(order, BITS), check_metadata=True)
    assert all(chunks.num_chunks == 1 for chunks in table.columns)


@given(documents(), orders)
def test_packed_grams_are_the_windows_of_the_hash(documents: list[list[int]], order: int) -> None:
    ids_T, starts_D = laid_end_to_end(documents)
    position_T = positions(starts_D, 0, len(ids_T))
    windows_TN = windows(ids_T, position_T, order, PAD)
    assert np.array_equal(unpack(pack(ids_T, position_T, order, BITS, PAD), order, BITS), windows_TN)


@given(st.lists(documents(), min_size=1, max_size=4), orders)
def test_merging_runs_counts_the_whole(corpora: list[list[list[int]]], order: int) -> None:
    runs = []
    for corpus in corpora:
        ids_T, starts_D = laid_end_to_end(corpus)
        runs.append(count_shard(ids_T, positions(starts_D, 0, len(ids_T)), order, BITS, PAD))
    whole = expected([document for corpus in corpora for document in corpus], order)
    assert counted(merge_runs(runs), order) == whole
    assert merge_runs(runs[::-1]).equals(merge_runs(runs))


@given(documents(min_documents=1), st.data())
def test_positions_count_the_tokens_before_in_the_document(documents: list[list[int]], data: st.DataObject) -> None:
    _, starts_D = laid_end_to_end(documents)
    whole = [at for document in documents for at in range(len(document))]
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    assert positions(starts_D, begin, end).tolist() == whole[begin:end]


def test_a_gram_may_fill_all_64_bits() -> None:
    ids_T = np.full(5, 0xFFFF, dtype=np.uint32)
    table = count_shard(ids_T, np.arange(5), 4, 16, 0xFFFF)
    assert column(table, "gram").tolist() == [2**64 - 1]
    assert column(table, "count").tolist() == [5]


def test_counts_add_exactly_where_floats_would_round() -> None:
    run = pa.table({"gram": [2**63 + 1], "count": [2**60 + 1]}, schema=ngrams_schema(1, 64))
    assert merge_runs([run, run]).to_pydict() == {"gram": [2**63 + 1], "count": [2**61 + 2]}


def test_bits_hold_every_canonical_id() -> None:
    assert [gram_bits(vocab, 2) for vocab in (1, 2, 3, 256, 257, 99_092)] == [1, 1, 2, 8, 9, 17]
    assert gram_bits(MAX_ID + 1, 4) == BITS


def test_grams_beyond_64_bits_are_refused_with_the_highest_order_that_fits() -> None:
    with pytest.raises(RecipeError, match=r"4 ids of 17 bits \(99,092 canonical ids\) take 68; count orders up to 3"):
        gram_bits(99_092, 4)
