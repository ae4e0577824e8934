"""Counting, against a dictionary in pure Python and against the windows that the hash sees."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus import ngrams
from engram_cli.corpus.ngrams import WideGrams, column, count_shard, from_arrow, gram_bits, merge_runs, positions, unpack
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
    rows = from_arrow(table)
    grams = unpack(rows.key if rows.top is None else WideGrams(rows.top, rows.key), order, bits)[:, ::-1]
    return dict(zip(map(tuple, grams.tolist()), rows.counts.tolist(), strict=True))


@given(documents(), st.integers(1, 6), st.sampled_from([BITS, 15, 17, 21]))
def test_counts_equal_a_dictionary_in_one_number_and_in_two(documents: list[list[int]], order: int, bits: int) -> None:
    ids_T, starts_D = laid_end_to_end(documents)
    table = count_shard(ids_T, positions(starts_D, 0, len(ids_T)), order, bits, PAD)
    assert counted(table, order, bits) == expected(documents, order)
    assert list(counted(table, order, bits)) == sorted(counted(table, order, bits))
    assert table.schema.equals(ngrams_schema(order, bits), check_metadata=True)


@given(documents(min_documents=1), orders, st.data())
def test_a_stretch_counts_what_the_whole_counts_there(documents: list[list[int]], order: int, data: st.DataObject) -> None:
    ids_T, starts_D = laid_end_to_end(documents)
    cut = data.draw(st.integers(0, len(ids_T)))
    context = min(cut, order - 1)
    runs = [
        count_shard(ids_T[:cut], positions(starts_D, 0, cut), order, BITS, PAD),
        count_shard(ids_T[cut - context :], positions(starts_D, cut - context, len(ids_T)), order, BITS, PAD, context),
    ]
    assert counted(merge_runs(runs), order) == expected(documents, order)


@given(documents(), orders)
def test_counted_grams_are_the_windows_of_the_hash(documents: list[list[int]], order: int) -> None:
    ids_T, starts_D = laid_end_to_end(documents)
    position_T = positions(starts_D, 0, len(ids_T))
    windows_TN = windows(ids_T, position_T, order, PAD)
    grams = unpack(column(count_shard(ids_T, position_T, order, BITS, PAD), "gram"), order, BITS)
    assert np.array_equal(grams[:, ::-1], np.unique(windows_TN[:, ::-1], axis=0).reshape(-1, order))


def test_buckets_of_any_skew_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "_BUCKET", 8)
    monkeypatch.setattr(ngrams, "_STEP", 4)
    chance = np.random.default_rng(0)
    for order, bits in ((2, 15), (3, 17), (5, 17), (6, 21)):
        ids_T = np.minimum(chance.geometric(0.3, 3000), (1 << bits) - 1).astype(np.uint32)
        ids_T[1000:1500] = 1
        position_T = np.arange(len(ids_T)) % 700
        documents = np.split(ids_T, np.flatnonzero(position_T == 0)[1:])
        table = count_shard(ids_T, position_T, order, bits, PAD)
        assert counted(table, order, bits) == expected([document.tolist() for document in documents], order)
        assert merge_runs([table, table.slice(0, 0), table]).num_rows == table.num_rows


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


def test_grams_beyond_128_bits_are_refused_with_the_highest_order_that_fits() -> None:
    assert gram_bits(2**21, 6) == 21
    with pytest.raises(RecipeError, match=r"6 ids of 22 bits \(3,000,000 canonical ids\) take 132; count orders up to 5"):
        gram_bits(3_000_000, 6)
