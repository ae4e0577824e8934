"""Collisions: equal to counting with dictionaries, and random hashing is what its formulas say."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.errors import ArtifactError, RecipeError, ResourceError
from engram_cli.model.data import layout_for
from engram_cli.recipe import HashRecipe
from engram_cli.report.buckets import (
    Buckets,
    count_histogram,
    fill_buckets,
    full_collisions,
    grams_inside,
    head_record,
    purity_expected,
)
from engram_cli.report.collisions import collisions, exceeds
from engram_cli.report.report import Report, read_report, write_report
from engram_cli.table.layout import Layout, plan_layout
from tests.corpora import write_ngrams

RECIPE = HashRecipe(orders=(2, 3), heads=2, size=(40, 90), layers=(0, 3))
MIXES = st.lists(st.integers(0, 40) | st.integers(0, 2**63 - 1), max_size=60)
COUNTS = st.lists(st.integers(1, 50), max_size=80)


def layout_of(ngrams: NGrams, recipe: HashRecipe = RECIPE) -> Layout:
    return plan_layout(recipe, ngrams.canonical_vocab, ngrams.canonical_pad)


def by_dictionary(ngrams: NGrams, layout: Layout) -> dict[tuple[int, int, int], dict[int, Counter[tuple[int, ...]]]]:
    """(layer, order, head) -> bucket -> gram -> count, from the tokens and not from the counts, in plain Python."""
    heads: dict[Any, Any] = defaultdict(lambda: defaultdict(Counter))
    stream = ngrams.stream(held_out=False)
    ids = [int(ngrams.canonical_V[token]) for token in stream.tokens_T]
    for at, before in enumerate(stream.position_T.tolist()):
        for layer in layout.layers:
            for head, (order, prime) in enumerate(zip(layer.orders_H, layer.primes_H, strict=True)):
                gram = tuple(ids[at - back] if back <= before else ngrams.canonical_pad for back in range(order))
                mix = 0
                for id, multiplier in zip(gram, layer.multipliers_N, strict=False):
                    mix ^= id * multiplier
                heads[layer.layer, order, head - layer.heads_of(order).start][mix % prime][gram] += 1
    return heads


@pytest.fixture(scope="module")
def report(ngrams: NGrams) -> Report:
    return collisions(ngrams, layout_of(ngrams), name="small")


@pytest.fixture(scope="module")
def expected(ngrams: NGrams) -> dict[tuple[int, int, int], dict[int, Counter[tuple[int, ...]]]]:
    return by_dictionary(ngrams, layout_of(ngrams))


def test_every_head_agrees_with_dictionaries(report: Report, expected: Any) -> None:
    records = report.tables["heads"].to_pylist()
    assert [(r["layer"], r["order"], r["head"]) for r in records] == list(expected)
    for record, buckets in zip(records, expected.values(), strict=True):
        grams = [gram for bucket in buckets.values() for gram in bucket]
        shared = [bucket for bucket in buckets.values() if len(bucket) > 1]
        total = sum(bucket.total() for bucket in buckets.values())
        assert record["grams"] == len(grams)
        assert record["load"] == len(grams) / record["rows"]
        assert record["occupied"] == len(buckets) / record["rows"]
        assert record["grams_sharing"] == sum(map(len, shared)) / len(grams)
        assert record["occurrences_sharing"] == sum(bucket.total() for bucket in shared) / total
        assert record["purity"] == sum(max(bucket.values()) for bucket in buckets.values()) / total


def test_every_order_agrees_with_dictionaries(report: Report, expected: Any, ngrams: NGrams) -> None:
    for record in report.tables["orders"].to_pylist():
        heads = [buckets for (layer, order, _), buckets in expected.items() if (layer, order) == (record["layer"], record["order"])]
        places: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for buckets in heads:
            for bucket, grams in buckets.items():
                for gram in grams:
                    places[gram].append(bucket)
        together = Counter(map(tuple, places.values()))
        assert record["full_collisions"] == sum(count for count in together.values() if count > 1)
        counts = Counter({gram: count for grams in heads[0].values() for gram, count in grams.items()})
        alone = {gram for buckets in heads for grams in buckets.values() if len(grams) == 1 for gram in grams}
        assert record["sharing_in_every_head"] == sum(c for gram, c in counts.items() if gram not in alone) / counts.total()
        assert record["occurrences"] == counts.total() == ngrams.artifact.manifest.facts["tokens"]
        assert record["rows"] == sum(head["rows"] for head in report.tables["heads"].to_pylist() if in_order(head, record))


def in_order(head: dict[str, Any], order: dict[str, Any]) -> bool:
    return bool((head["layer"], head["order"]) == (order["layer"], order["order"]))


def test_a_family_that_hashes_raw_ids_agrees_with_dictionaries(raw_ngrams: NGrams) -> None:
    layout = layout_for(replace(RECIPE, layers=(1, 4), family="qwen-ple"), raw_ngrams)
    found = collisions(raw_ngrams, layout, name="raw").tables["heads"].to_pylist()
    for record, buckets in zip(found, by_dictionary(raw_ngrams, layout).values(), strict=True):
        assert record["grams"] == sum(map(len, buckets.values()))
        assert record["occupied"] == len(buckets) / record["rows"]


def test_windows_that_begin_with_another_pad_were_not_counted(ngrams: NGrams) -> None:
    layout = layout_of(ngrams)
    with pytest.raises(ArtifactError, match=r"begin with the pad 7, but .* was counted with \d+; .* --pad-token"):
        collisions(ngrams, replace(layout, pad=7), name="other")


def test_the_worst_buckets_are_the_worst_and_name_their_grams(report: Report, expected: Any, ngrams: NGrams) -> None:
    worst = report.tables["worst"].to_pylist()
    for order in (2, 3):
        found = [record for record in worst if record["order"] == order]
        foreign = sorted(
            (grams.total() - max(grams.values()) for (_, o, _), head in expected.items() if o == order for grams in head.values()),
            reverse=True,
        )
        assert [record["not_the_top_gram"] for record in found] == foreign[:10]
    for record in worst:
        grams = expected[record["layer"], record["order"], record["head"]][record["bucket"]]
        assert (record["grams"], record["occurrences"]) == (len(grams), grams.total())
        top, count = grams.most_common(1)[0]
        ties = [ngrams.text(gram[::-1]) for gram, other in grams.items() if other == count]
        assert any(record["top_grams"].startswith(f"`{text}` {count:,}") for text in ties), (record, top)
        assert (f"{len(grams) - 3:,} more" in record["top_grams"]) == (len(grams) > 3)


def test_a_saved_report_is_the_same_and_has_a_picture(report: Report, tmp_path: Path) -> None:
    artifact = write_report(tmp_path / "made", report, inputs={})
    assert read_report(tmp_path / "made") == report
    assert artifact.file("collisions.png").read_bytes().startswith(b"\x89PNG")
    again = write_report(tmp_path / "again", report, inputs={})
    assert again.digest == artifact.digest


def test_random_hashing_is_what_the_formulas_say() -> None:
    """A million grams of Zipf counts in 300,000 rows: what the demo's hash does lies within a hair of the expectation."""
    random = np.random.default_rng(0)
    counts_G = np.sort((1e6 / np.arange(1, 1_000_001)).astype(np.uint64) + np.uint64(1))
    random.shuffle(counts_G)
    layer = plan_layout(HashRecipe((2,), 1, (300_000,), (0,)), 1 << 17, pad=0).layers[0]
    windows_GN = random.integers(0, 1 << 17, (len(counts_G), 2))
    record = head_record(fill_buckets(layer.row_ids(windows_GN)[:, 0], counts_G, layer.primes_H[0]), count_histogram(counts_G))
    assert record["occupied"] == pytest.approx(record["occupied_expected"], abs=0.002)
    assert record["grams_sharing"] == pytest.approx(record["sharing_expected"], abs=0.002)
    assert record["occurrences_sharing"] == pytest.approx(record["sharing_expected"], abs=0.03)
    assert record["purity"] == pytest.approx(record["purity_expected"], abs=0.005)


@given(counts=COUNTS, prime=st.sampled_from([2, 7, 101]), seed=st.integers(0, 99))
def test_buckets_agree_with_a_dictionary(counts: list[int], prime: int, seed: int) -> None:
    mix_G = np.random.default_rng(seed).integers(0, 2**62, len(counts))
    buckets = fill_buckets(mix_G, np.array(counts, np.uint64), prime)
    inside: dict[int, list[int]] = defaultdict(list)
    for mix, count in zip(mix_G.tolist(), counts, strict=True):
        inside[mix % prime].append(count)
    assert buckets.grams_R.tolist() == [len(inside[bucket]) for bucket in range(prime)]
    assert buckets.occurrences_R.tolist() == [sum(inside[bucket]) for bucket in range(prime)]
    assert buckets.top_R.tolist() == [max(inside[bucket], default=0) for bucket in range(prime)]
    for bucket in range(prime):
        assert grams_inside(mix_G, prime, bucket).tolist() == np.flatnonzero(mix_G % prime == bucket).tolist()


@given(foreign=st.lists(st.integers(0, 5), min_size=2, max_size=60), most=st.integers(0, 9), stretch=st.integers(1, 20))
def test_the_worst_buckets_are_found_without_sorting_all(foreign: list[int], most: int, stretch: int) -> None:
    buckets = Buckets(len(foreign))
    buckets.occurrences_R[:] = foreign
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engram_cli.report.buckets._STRETCH", stretch)
        found = buckets.worst(most).tolist()
    ranked = sorted((bucket for bucket, count in enumerate(foreign) if count), key=lambda bucket: (-foreign[bucket], bucket))
    assert found == ranked[:most]


@given(counts=COUNTS.filter(bool), rows=st.integers(2, 200))
def test_expected_purity_is_the_sum_over_ranks(counts: list[int], rows: int) -> None:
    ranked = sorted(counts, reverse=True)
    mean = sum(count * (1 - 1 / rows) ** rank for rank, count in enumerate(ranked)) / sum(counts)
    assert purity_expected(count_histogram(np.array(counts, np.uint64)), rows) == pytest.approx(mean)


@given(
    mixes=st.lists(st.integers(0, 40) | st.integers(0, 2**63 - 1), max_size=60), primes=st.sampled_from([(2,), (2, 3), (5, 7, 11)])
)
def test_full_collisions_share_the_buckets_of_all_heads(mixes: list[int], primes: tuple[int, ...]) -> None:
    places = Counter(tuple(mix % prime for prime in primes) for mix in mixes)
    found, expected = full_collisions(np.array(mixes, np.int64), primes)
    assert found == sum(count for count in places.values() if count > 1)
    assert 0 <= expected <= len(mixes)


def test_full_collisions_beyond_63_bits_are_equal_mixes() -> None:
    primes = (2_147_483_647, 2_147_483_629, 2_147_483_587)
    assert math.prod(primes) > 2**63
    found, expected = full_collisions(np.array([5, 9, 5, 2**62]), primes)
    assert found == 2
    assert expected < 1e-15


def test_one_layer_is_that_layer_of_all(report: Report, ngrams: NGrams) -> None:
    alone = collisions(ngrams, layout_of(ngrams), name="small", layers=[3])
    assert alone.tables["heads"] == report.tables["heads"].slice(4)
    with pytest.raises(RecipeError, match="one of the layout's layers, 0, 3, but it is 1"):
        collisions(ngrams, layout_of(ngrams), name="small", layers=[1])


def test_no_worst_buckets_are_listed_where_none_are_wanted(ngrams: NGrams) -> None:
    assert collisions(ngrams, layout_of(ngrams), name="small", worst=0).tables["worst"].num_rows == 0


def test_a_large_table_has_hardly_any_collisions_and_a_tiny_one_hardly_anything_else(ngrams: NGrams) -> None:
    large = collisions(ngrams, layout_of(ngrams, HashRecipe(heads=1, size=(10_000_019,))), name="large")
    tiny = collisions(ngrams, layout_of(ngrams, HashRecipe(heads=1, size=(2,))), name="tiny")
    assert min(large.tables["heads"]["purity"].to_pylist()) > 0.999
    assert large.tables["worst"].num_rows <= 3
    assert max(tiny.tables["heads"]["purity"].to_pylist()) < 0.2
    assert tiny.tables["heads"]["occurrences_sharing"].to_pylist() == [1.0, 1.0]
    assert "look at purity" in tiny.notes[0]
    assert not large.notes


def test_a_limit_is_exceeded_or_not(ngrams: NGrams, report: Report) -> None:
    most = max(report.tables["heads"]["occurrences_sharing"].to_pylist())
    assert exceeds(report, most - 1e-9)
    assert not exceeds(report, most)
    noted = collisions(ngrams, layout_of(ngrams), name="small", limit=0.0)
    assert "the limit of 0 % of occurrences sharing a bucket is exceeded in 8 of 8 heads" in noted.notes


def test_orders_that_were_not_counted_are_refused(tmp_path: Path) -> None:
    counted = open_ngrams(write_ngrams(tmp_path / "short", documents=20, orders=2))
    with pytest.raises(ArtifactError, match=r"hashes orders 2, 3, but .* counted only 1, 2; extract it again with --orders 3"):
        collisions(counted, layout_of(counted), name="small")


def test_heads_that_do_not_fit_in_memory_are_refused_before_anything_starts(ngrams: NGrams) -> None:
    with pytest.raises(ResourceError, match=r"a head of 1,099,511,627,\d+ rows .* takes 40\.0 TiB of memory"):
        collisions(ngrams, layout_of(ngrams, HashRecipe(heads=1, size=((1 << 40) - 87,))), name="huge")
