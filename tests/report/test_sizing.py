"""Sizing: what is expected of counts is what hashing does to them, and rows are dealt out as well as they can be."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.curves import Curve
from engram_cli.recipe import HashRecipe
from engram_cli.report.buckets import count_histogram, fill_buckets, head_record
from engram_cli.report.collisions import collisions
from engram_cli.report.ngrams_summary import read_spectra
from engram_cli.report.sizing import ENOUGH, LEAST, Fit, deal, enough, fit, mean_purity, seen
from engram_cli.table.layout import plan_layout

CURVES = st.dictionaries(st.integers(1, 10**6), st.integers(1, 5000), min_size=1, max_size=8)
ROWS = st.integers(2 * LEAST, 1 << 24)


def curve_of(grams: dict[int, int]) -> Curve:
    """From count -> grams."""
    return Curve(*(np.array(part, dtype=np.uint64) for part in zip(*sorted(grams.items()), strict=True)))


def zipf(distinct: int) -> Curve:
    """`distinct` grams, the one of rank r occurring distinct / r times: half of them once."""
    return curve_of(Counter((distinct // np.arange(1, distinct + 1)).tolist()))


@pytest.mark.parametrize("size", [100, 300, 1000])
def test_what_is_expected_is_what_hashing_does(ngrams: NGrams, size: int) -> None:
    recipe = HashRecipe(orders=(2, 3), heads=4, size=(size,))
    layout = plan_layout(recipe, ngrams.canonical_vocab, ngrams.canonical_pad)
    found = collisions(ngrams, layout, name="small").tables
    spectra = read_spectra(ngrams)
    for order in (2, 3):
        heads = [record for record in found["heads"].to_pylist() if record["order"] == order]
        expected = fit(spectra[order], order, sum(record["rows"] for record in heads) // len(heads), recipe.heads)

        def mean(name: str, heads: list[dict[str, Any]] = heads) -> float:
            return float(np.mean([record[name] for record in heads]))

        assert expected.grams == heads[0]["grams"]
        assert expected.load == pytest.approx(mean("load"), rel=0.02)
        assert expected.occupied == pytest.approx(mean("occupied"), rel=0.04)
        assert expected.sharing == pytest.approx(mean("grams_sharing"), abs=0.04)
        assert expected.purity == pytest.approx(mean("purity"), abs=0.04)
        assert expected.purity <= expected.covered + 1e-9


@given(CURVES, st.integers(0, 50_000))
def test_covered_is_what_the_most_frequent_hold(grams: dict[int, int], top: int) -> None:
    counts = np.repeat(*(np.array(part) for part in zip(*sorted(grams.items(), reverse=True), strict=True)))
    assert curve_of(grams).held_by(top) == pytest.approx(counts[:top].sum() / counts.sum())


@given(CURVES, CURVES, ROWS)
def test_rows_are_dealt_within_what_there_is(short: dict[int, int], long: dict[int, int], rows: int) -> None:
    spectra = {2: curve_of(short), 3: curve_of(long)}
    dealt = deal(spectra, rows)
    assert list(dealt) == [2, 3]
    assert sum(dealt.values()) <= rows
    for order, size in dealt.items():
        assert LEAST <= size <= max(LEAST, enough(spectra[order]))


@pytest.mark.parametrize("rows", [10_000, 100_000, 1_000_000])
def test_no_other_split_is_better_by_much(rows: int) -> None:
    spectra = {2: zipf(60_000), 3: zipf(400_000)}

    def purity(sizes: dict[int, int]) -> float:
        return mean_purity([fit(spectra[order], order, size, 1) for order, size in sizes.items()])

    best = max(purity({2: int(share * rows), 3: int((1 - share) * rows)}) for share in np.linspace(0.02, 0.98, 97))
    assert purity(deal(spectra, rows)) > best - 0.005


@given(CURVES)
def test_enough_is_where_purity_is_reached(grams: dict[int, int]) -> None:
    curve = curve_of(grams)
    rows = enough(curve)
    assert fit(curve, 2, rows, 1).purity >= ENOUGH
    assert rows == LEAST or fit(curve, 2, int(rows / 1.3), 1).purity < ENOUGH


def test_an_order_counts_as_much_as_new_text_meets_it() -> None:
    curve = curve_of({1: 30, 5: 14})
    assert seen(curve) == 0.7
    half = Fit(3, 10, 10, 1.0, 0.5, 1.0, 0.5, 0.25, purity=0.5, seen=0.1)
    whole = Fit(2, 10, 10, 1.0, 0.5, 1.0, 0.5, 0.25, purity=1.0, seen=0.9)
    assert mean_purity([whole, half]) == pytest.approx(0.95)


def test_counts_of_nothing() -> None:
    empty = Curve(np.empty(0, np.uint64), np.empty(0, np.uint64))
    assert fit(empty, 2, LEAST, 2).covered == 1.0
    assert deal({2: empty}, 10**6) == {2: LEAST}


@pytest.mark.parametrize("rows", [4_001, 60_013, 1_000_003])
def test_what_is_expected_holds_for_many_grams(rows: int) -> None:
    curve = zipf(100_000)
    mix_G = np.random.default_rng(0).integers(0, 2**63 - 1, curve.distinct)
    counts_G = np.repeat(curve.count_C, curve.grams_C.astype(np.int64))
    found = head_record(fill_buckets(mix_G, counts_G, rows), count_histogram(counts_G))
    expected = fit(curve, 3, rows, 1)
    for name, value in {"load": expected.load, "occupied": expected.occupied, "purity": expected.purity}.items():
        assert value == pytest.approx(found[name], rel=0.02), name
    assert expected.sharing == pytest.approx(found["grams_sharing"], rel=0.05)  # of occurrences: as much on average


@pytest.mark.parametrize("ids", [LEAST, 8192, 5000])
def test_ids_alone_share_no_row_where_there_are_as_many(ids: int) -> None:
    layout = plan_layout(HashRecipe(orders=(1, 2), heads=2, size=(ids, LEAST)), vocab=ids, pad=0)
    layer = layout.layers[0]
    rows_TH = layer.row_ids(np.arange(ids, dtype=np.int64)[:, None].repeat(2, 1), layer.heads_of(1))
    assert all(len(np.unique(rows_T)) == ids for rows_T in rows_TH.T)
    curve = curve_of({1: ids // 2, 7: ids // 4})
    assert fit(curve, 1, ids, 2, ids).sharing == 0
    assert fit(curve, 1, ids, 2, ids).purity == 1
    assert fit(curve, 1, ids - 1, 2, ids).sharing > 0
    assert deal({1: curve}, 10**6, ids) == {1: min(ids, enough(curve))}
