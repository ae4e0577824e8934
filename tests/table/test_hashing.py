"""The hash: golden numbers of published tables, and agreement of numpy, torch and plain Python."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.errors import RecipeError
from engram_cli.recipe import HashRecipe, Recipe, load_recipe
from engram_cli.table.hashing import head_primes, multipliers, primes_above, row_ids, windows
from engram_cli.table.layout import LayerLayout, Layout, plan_layout
from tests.strategies import documents, laid_end_to_end

TABLES = Path(__file__).parents[2] / "tables"
DEEPSEEK_CANONICAL = 99_092  # canonical ids of the DeepSeek tokenizer
VOCABS = st.integers(2, 1 << 21)


def published(orders: tuple[int, ...], heads: int, size: int, layers: tuple[int, ...]) -> Layout:
    return plan_layout(HashRecipe(orders, heads, (size,), layers), DEEPSEEK_CANONICAL, pad=2)


def shipped(name: str) -> tuple[Recipe, Layout]:
    recipe = load_recipe(TABLES / f"{name}.toml")
    return recipe, plan_layout(recipe.hash, DEEPSEEK_CANONICAL, pad=2)


def test_demo_has_the_published_primes_and_rows() -> None:
    first, second = published((2, 3), 8, 646_400, (1, 15)).layers
    assert (first.primes_H[0], first.primes_H[-1], first.rows) == (646_403, 646_619, 10_344_164)
    assert (second.primes_H[0], second.primes_H[-1], second.rows) == (646_631, 646_879, 10_348_242)
    assert first.heads == second.heads == 16


def test_deepseek_v41_flash_has_the_published_rows_bytes_and_multipliers() -> None:
    recipe, layout = shipped("deepseek-v4.1-flash")
    first, second = layout.layers
    assert (first.rows, second.rows) == (384_006_168, 384_016_682)
    assert (first.primes_H[0], second.primes_H[0]) == (16_000_057, 16_000_477)
    assert first.multipliers_N == (76632096046245, 4839876093313, 35959672319349, 73987337458391)
    assert second.multipliers_N == (67716810739261, 51510806800915, 30921347202721, 82619226485591)
    assert recipe.rows.row_bytes == 264  # 256 FP8 numbers and 8 scales
    assert [round(layer.rows * 264 / 2**30, 3) for layer in layout.layers] == [94.415, 94.418]
    assert round(layout.rows * 264 / 2**30, 2) == 188.83
    assert (first.heads + second.heads) * 264 == 12_672  # bytes read per token


@pytest.mark.parametrize(("name", "billions"), [("engram-27b", 5.79), ("engram-40b", 18.53)])
def test_paper_tables_have_the_published_parameters(name: str, billions: float) -> None:
    recipe, layout = shipped(name)
    assert recipe.rows.dim == 80
    assert round(layout.rows * recipe.rows.dim / 1e9, 2) == billions


def test_qwen_has_the_published_primes_rows_and_bytes() -> None:
    recipe, layout = shipped("qwen-ple")
    (layer,) = layout.layers
    assert (layer.primes_H[0], layer.primes_H[-1], sum(layer.primes_H)) == (20_000_003, 20_000_171, 320_001_446)
    assert layer.rows == 320_001_536  # a multiple of 128
    assert (layer.layer, recipe.rows.row_bytes) == (1, 160)
    assert round(layer.rows * recipe.rows.row_bytes / 2**30, 2) == 47.68


def test_primes_are_prime_and_none_is_left_out() -> None:
    sieve = np.ones(5000, bool)
    sieve[:2] = False
    for number in range(2, 71):
        sieve[number * number :: number] = False
    found = list(itertools.takewhile(lambda prime: prime < 5000, primes_above(0)))
    assert found == np.flatnonzero(sieve).tolist()


@pytest.mark.parametrize("composite", [3_215_031_751, 3_825_123_056_546_413_051, 318_665_857_834_031_151_167_461])
def test_strong_pseudoprimes_are_not_taken_for_primes(composite: int) -> None:
    """Composites that pass Miller-Rabin with the first 4, 9 and 12 prime bases."""
    assert next(primes_above(composite - 1)) > composite


def test_no_prime_is_used_twice() -> None:
    primes = head_primes((0, 1, 5), (50, 50), 4)
    flat = [prime for layer in primes for order in layer for prime in order]
    assert flat == sorted(set(flat))
    assert flat[0] == 53


def test_sizes_of_orders_are_their_own() -> None:
    first, second = head_primes((0,), (100, 1000), 2)[0]
    assert (first, second) == ([101, 103], [1009, 1013])


def test_heads_without_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least 2 rows"):
        head_primes((0,), (1,), 2)


@given(seed=st.integers(0, 2**32), layer=st.integers(0, 100), order=st.integers(1, 6), vocab=VOCABS)
def test_products_never_overflow(seed: int, layer: int, order: int, vocab: int) -> None:
    factors = [int(factor) for factor in multipliers(seed, layer, order, vocab)]
    assert len(factors) == order
    assert all(factor % 2 == 1 and (vocab - 1) * factor < 2**63 for factor in factors)


@given(data=st.data(), seed=st.integers(0, 2**32), vocab=VOCABS)
def test_numpy_torch_and_python_integers_give_the_same_rows(data: st.DataObject, seed: int, vocab: int) -> None:
    (layer,) = plan_layout(HashRecipe((2, 3, 5), 3, (1000,), (seed % 40,), seed), vocab, pad=0).layers
    ids = st.integers(0, vocab - 1) | st.just(vocab - 1)  # the largest id is where products would overflow
    windows_TN = data.draw(st.lists(st.lists(ids, min_size=5, max_size=5), min_size=1, max_size=20))
    expected = [python_rows(layer, window) for window in windows_TN]
    assert layer.row_ids(np.array(windows_TN)).tolist() == expected
    assert layer.row_ids(torch.tensor(windows_TN)).tolist() == expected


@given(
    primes=st.lists(
        st.sampled_from([2, 3, 5, 65_537, 646_403, 20_000_003, 4_294_967_291, 4_294_967_311, 1_099_511_627_689]), min_size=1
    ),
    data=st.data(),
)
def test_the_compiled_remainder_is_exact_below_2_to_the_63(primes: list[int], data: st.DataObject) -> None:
    """One id and a multiplier of 1, so that the id is the mix: near multiples of the primes, near powers of 2, and anywhere."""
    layer = LayerLayout(0, (1,) * len(primes), tuple(primes), (1,))
    largest = 2**63 - 1
    near = st.builds(
        lambda prime, times, off: prime * times + off, st.sampled_from(primes), st.integers(0, 2**40), st.integers(-2, 2)
    )
    powers = st.builds(lambda power, off: 2**power + off, st.integers(0, 63), st.integers(-2, 2))
    last = st.builds(lambda prime, off: largest // prime * prime + off, st.sampled_from(primes), st.integers(-2, 2))
    mixes_T = data.draw(
        st.lists((near | powers | last | st.integers(0, largest)).filter(lambda mix: 0 <= mix <= largest), min_size=1)
    )
    expected = [[offset + mix % prime for prime, offset in zip(primes, layer.offsets_H, strict=True)] for mix in mixes_T]
    assert layer.row_ids(np.array(mixes_T, dtype=np.int64)[:, None]).tolist() == expected


@given(seed=st.integers(0, 2**32), vocab=VOCABS, heads=st.integers(1, 5))
def test_some_heads_are_hashed_as_all_are(seed: int, vocab: int, heads: int) -> None:
    (layer,) = plan_layout(HashRecipe((2, 3, 5), heads, (1000,), (1,), seed), vocab, pad=0).layers
    windows_TN = np.random.default_rng(seed).integers(0, vocab, (7, 5))
    rows_TH = layer.row_ids(windows_TN)
    for head, order in enumerate(layer.orders_H):
        assert np.array_equal(layer.row_ids(windows_TN, slice(head, head + 1)), rows_TH[:, head : head + 1])
        assert np.array_equal(layer.row_ids(windows_TN[:, :order], layer.heads_of(order)), rows_TH[:, layer.heads_of(order)])


def python_rows(layer: LayerLayout, window: list[int]) -> list[int]:
    """The hash as one would write it down, in integers without bounds."""
    rows, offset = [], 0
    for order, prime in zip(layer.orders_H, layer.primes_H, strict=True):
        mix = 0
        for id, multiplier in zip(window[:order], layer.multipliers_N, strict=False):
            mix ^= id * multiplier
        rows.append(offset + mix % prime)
        offset += prime
    return rows


def test_rows_keep_any_leading_shape() -> None:
    (layer,) = plan_layout(HashRecipe((2, 3), 2, (50,), (0,)), 30, pad=0).layers
    windows_BTN = np.arange(24).reshape(2, 4, 3)
    rows_BTH = layer.row_ids(windows_BTN)
    assert rows_BTH.shape == (2, 4, 4)
    assert np.array_equal(rows_BTH[1, 2], layer.row_ids(windows_BTN[1, 2]))


@given(documents=documents(), order=st.integers(1, 5))
def test_windows_end_at_documents(documents: list[list[int]], order: int) -> None:
    ids_T, starts_D = laid_end_to_end(documents)
    expected = [
        [document[at - back] if back <= at else 99 for back in range(order)]
        for document in documents
        for at in range(len(document))
    ]
    assert windows(ids_T, positions(documents), order, pad=99).tolist() == expected
    assert len(starts_D) == len(documents)


@given(documents=documents(min_documents=1), order=st.integers(1, 5), cut=st.floats(0, 1))
def test_windows_of_a_continued_stretch_equal_those_of_the_whole(documents: list[list[int]], order: int, cut: float) -> None:
    ids_T, _ = laid_end_to_end(documents)
    position_T = positions(documents)
    at = int(cut * len(ids_T))
    begin = max(0, at - (order - 1))
    first = windows(ids_T[:at], position_T[:at], order, pad=99)
    second = windows(ids_T[begin:], position_T[begin:], order, pad=99)[at - begin :]
    assert np.array_equal(np.concatenate([first, second]), windows(ids_T, position_T, order, pad=99))


def positions(documents: list[list[int]]) -> np.ndarray:
    """How many tokens precede each within its document."""
    return np.array([at for document in documents for at in range(len(document))], dtype=np.int64)


def test_seeds_and_layers_give_different_rows() -> None:
    ids = np.arange(1, 40).reshape(13, 3)
    args = (np.array([[1009, 1013]]), np.array([[0, 1009]]))
    rows = {
        (seed, layer): row_ids(ids, multipliers(seed, layer, 3, 50)[:, None].repeat(2, 1), *(a[0] for a in args)).tobytes()
        for seed in (0, 1)
        for layer in (0, 1)
    }
    assert len(set(rows.values())) == 4


def test_windows_of_a_stretch_shorter_than_the_order() -> None:
    """Looking further back than there are tokens once compared slices of different lengths."""
    assert windows(np.array([7, 8, 9]), np.arange(3), 5, pad=0)[2].tolist() == [9, 8, 7, 0, 0]
    assert windows(np.array([], np.int64), np.array([], np.int64), 3, pad=0).shape == (0, 3)
