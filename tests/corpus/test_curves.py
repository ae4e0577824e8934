"""Curves read off the spectrum, against the counts themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.curves import Spectrum, from_arrow, to_arrow

COUNTS = st.lists(st.one_of(st.integers(1, 9), st.integers(65_530, 65_540), st.integers(1, 1 << 40)), min_size=1, max_size=40)


@given(counts=COUNTS, cut=st.integers(0, 40))
def test_curves_are_those_of_the_counts(counts: list[int], cut: int) -> None:
    spectrum = Spectrum()
    for part in (counts[:cut], counts[cut:]):
        spectrum.add(np.array(part, dtype=np.uint64))
    curve = spectrum.curve()
    falling = sorted(counts, reverse=True)
    assert (curve.distinct, curve.occurrences, curve.singletons) == (len(counts), sum(counts), counts.count(1))
    ranks, values = curve.zipf()
    assert [falling[rank - 1] for rank in ranks] == values.tolist() == sorted(set(counts), reverse=True)
    tops, shares = curve.coverage()
    assert tops[-1] == len(counts)
    assert shares.tolist() == pytest.approx([sum(falling[:top]) / sum(counts) for top in tops])
    read = from_arrow(to_arrow({3: curve}))[3]
    assert np.array_equal(read.count_C, curve.count_C)
    assert np.array_equal(read.grams_C, curve.grams_C)


def test_growth_is_what_drawing_tokens_gives() -> None:
    chance = np.random.default_rng(0)
    tokens = chance.geometric(0.01, 20_000)
    spectrum = Spectrum()
    spectrum.add(np.unique(tokens, return_counts=True)[1].astype(np.uint64))
    curve = spectrum.curve()
    sizes, expected = curve.growth()
    assert (sizes[-1], expected[-1]) == (20_000, curve.distinct)
    for size, distinct in zip(sizes.tolist()[8:], expected.tolist()[8:], strict=True):
        drawn = np.mean([len(np.unique(chance.choice(tokens, size, replace=False))) for _ in range(20)])
        assert distinct == pytest.approx(drawn, rel=0.08)
    assert 0 < (curve.exponent() or 0) < 1


def test_nothing_counted_gives_no_points() -> None:
    curve = Spectrum().curve()
    assert [len(part) for part in (*curve.zipf(), *curve.coverage(), *curve.growth())] == [0] * 6
    assert curve.exponent() is None
