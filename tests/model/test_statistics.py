"""Rows from counts, against dictionaries in plain Python; and what leaving one occurrence out is worth, exactly."""

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_cli.model import statistics
from engram_cli.model.data import Windowed
from engram_cli.model.host import Host, initialise
from engram_cli.model.memory import Memory
from engram_cli.model.statistics import (
    EMBEDDING_SCALE,
    VALUE_GAIN,
    TokenVectors,
    fill_rows,
    initialise_host,
    leave_one_out,
    token_vectors,
)
from engram_cli.recipe import HashRecipe, HostRecipe
from engram_cli.table.layout import LayerLayout, plan_layout
from engram_cli.table.rows import Rows
from tests.strategies import MAX_ID, documents
from tests.training import PAD, windowed

VOCAB, DIM, HEADS = MAX_ID + 1, 3, 2
DOCUMENTS = documents(min_documents=2)
Floats = npt.NDArray[np.float64]


def layer_of(*orders: int) -> LayerLayout:
    """Few rows, so that grams collide."""
    return plan_layout(HashRecipe(orders=orders, heads=HEADS, size=(7,)), VOCAB, PAD).layers[0]


def vectors_of(seed: int = 0) -> TokenVectors:
    generator = torch.Generator().manual_seed(seed)
    return TokenVectors(torch.randn(VOCAB, HEADS * DIM, generator=generator), torch.eye(HEADS * DIM))


def filled(layer: LayerLayout, source: Windowed, vectors: TokenVectors) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(rows, occurrences) by `fill_rows`."""
    occurrences_R = np.zeros(layer.rows, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows.create(Path(folder) / "rows.safetensors", layer.rows, DIM, "f32")
        fill_rows(layer, rows, occurrences_R, source, vectors)
        return np.array(rows.take(np.arange(layer.rows))), occurrences_R


def by_dictionary(
    layer: LayerLayout, source: Windowed, vectors: TokenVectors, skip: int = -1, shorter_RE: Floats | None = None
) -> tuple[Floats, Floats]:
    """(rows, occurrences) as anyone would compute them. skip: a position that is not counted; shorter_RE: rows whose shorter orders
    have spoken (None: those that are being filled)."""
    tokens = source.stream.tokens_T.tolist()
    ids_TH = layer.row_ids(source.windows(0, len(tokens)))
    rows_RE, occurrences_R = np.zeros((layer.rows, DIM)), np.zeros(layer.rows)
    for order in layer.orders:
        heads = range(*layer.heads_of(order).indices(layer.heads))
        sums: dict[int, Floats] = defaultdict(lambda: np.zeros(DIM))
        for at, following in enumerate(tokens[1:]):
            for place, head in enumerate(heads):
                spoken = rows_RE if shorter_RE is None else shorter_RE
                said = sum(spoken[ids_TH[at, place + HEADS * shorter]] for shorter in range(layer.orders.index(order)))
                if at != skip:
                    sums[ids_TH[at, head]] += vectors.vectors_VC[following, place * DIM : (place + 1) * DIM].numpy() - said
                    occurrences_R[ids_TH[at, head]] += 1
        for row, total in sums.items():
            rows_RE[row] = total / (occurrences_R[row] + 1)
    return rows_RE, occurrences_R


@given(documents=DOCUMENTS, orders=st.sampled_from([(2,), (2, 3), (3, 4), (2, 3, 4)]), chunk=st.integers(1, 20), data=st.data())
@settings(max_examples=40)
def test_rows_are_what_a_dictionary_gives_whatever_the_chunks_and_threads(
    documents: list[list[int]], orders: tuple[int, ...], chunk: int, data: st.DataObject
) -> None:
    layer, source, vectors = layer_of(*orders), windowed(documents, VOCAB, max(orders)), vectors_of()
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_CHUNK", chunk)
        torch.set_num_threads(data.draw(st.sampled_from([1, 3])))
        rows_RE, occurrences_R = filled(layer, source, vectors)
        torch.set_num_threads(threads)
    expected_RE, expected_R = by_dictionary(layer, source, vectors)
    np.testing.assert_allclose(rows_RE, expected_RE, rtol=1e-4, atol=1e-5)
    assert np.array_equal(occurrences_R, expected_R)
    assert all(
        occurrences_R[first : first + prime].sum() == len(source.stream.tokens_T) - 1
        for first, prime in zip(layer.offsets_H, layer.primes_H, strict=True)
    )


def left_out(layer: LayerLayout, source: Windowed, vectors: TokenVectors, at: int) -> npt.NDArray[np.float32]:
    """What position `at` looks up without itself, [H, E]."""
    rows_RE, occurrences_R = filled(layer, source, vectors)
    ids_H = layer.row_ids(source.windows(at, at + 1))[0]
    looked_up = torch.from_numpy(rows_RE[ids_H])[None, None]
    target = torch.tensor([[int(source.stream.tokens_T[at + 1])]])
    correction = leave_one_out(layer, looked_up, torch.from_numpy(occurrences_R[ids_H])[None, None], target, vectors)
    return (looked_up + correction)[0, 0].numpy()


@given(documents=DOCUMENTS, order=st.integers(2, 4), data=st.data())
@settings(max_examples=40)
def test_one_order_left_out_is_as_if_it_had_never_been_counted(documents: list[list[int]], order: int, data: st.DataObject) -> None:
    layer, source, vectors = layer_of(order), windowed(documents, VOCAB, order), vectors_of()
    at = data.draw(st.integers(0, len(source.stream.tokens_T) - 2))
    expected_RE, _ = by_dictionary(layer, source, vectors, skip=at)
    ids_H = layer.row_ids(source.windows(at, at + 1))[0]
    np.testing.assert_allclose(left_out(layer, source, vectors, at), expected_RE[ids_H], rtol=1e-3, atol=1e-4)


@given(documents=DOCUMENTS, orders=st.sampled_from([(2, 3), (2, 3, 4)]), data=st.data())
@settings(max_examples=40)
def test_longer_orders_left_out_are_exact_given_what_the_shorter_ones_said(
    documents: list[list[int]], orders: tuple[int, ...], data: st.DataObject
) -> None:
    """The lowest order is as if never counted. A longer one is as if only its own occurrence had not been counted: what the other
    occurrences hold is what the shorter orders, this position counted, had left of them."""
    layer, source, vectors = layer_of(*orders), windowed(documents, VOCAB, max(orders)), vectors_of()
    at = data.draw(st.integers(0, len(source.stream.tokens_T) - 2))
    counted_RE, _ = by_dictionary(layer, source, vectors)
    expected_RE, _ = by_dictionary(layer, source, vectors, skip=at, shorter_RE=counted_RE)
    ids_H = layer.row_ids(source.windows(at, at + 1))[0]
    np.testing.assert_allclose(left_out(layer, source, vectors, at), expected_RE[ids_H], rtol=1e-3, atol=1e-4)


def test_an_occurrence_that_was_alone_leaves_nothing() -> None:
    source = windowed([[1, 5, 9]], VOCAB, 3)
    layer = plan_layout(HashRecipe(orders=(2, 3), heads=HEADS, size=(1009,)), VOCAB, PAD).layers[0]
    assert not np.abs(left_out(layer, source, vectors_of(), 1)).max() > 1e-6


def test_leaving_out_has_no_gradient() -> None:
    layer = layer_of(2)
    values_BTHE = torch.randn(1, 2, HEADS, DIM, requires_grad=True)
    assert not leave_one_out(
        layer, values_BTHE, torch.ones(1, 2, HEADS), torch.zeros(1, 2, dtype=torch.long), vectors_of()
    ).requires_grad


# token vectors --------------------------------------------------------------------------------------------------------
def random_tokens(vocab: int, seed: int = 0) -> npt.NDArray[np.uint16]:
    """A chain in which every token has its own likely followers, and not all tokens are equally frequent."""
    random = np.random.default_rng(seed)
    likely = random.integers(0, vocab, size=(vocab, 3))
    tokens = [0]
    for _ in range(3000):
        tokens.append(int(random.choice(likely[tokens[-1]])) if random.random() < 0.7 else int(vocab * random.random() ** 2))
    return np.array(tokens, dtype=np.uint16)


@pytest.mark.parametrize(("vocab", "size", "width"), [(40, 8, 8), (40, 8, 5), (40, 8, 20), (200, 16, 16)])
def test_vectors_are_centred_and_of_unit_variance(vocab: int, size: int, width: int) -> None:
    tokens_T = random_tokens(vocab)
    vectors = token_vectors(tokens_T, vocab, size, width, seed=0)
    assert (vectors.vectors_VC.shape, vectors.to_width_DC.shape) == ((vocab, size), (width, size))
    frequency_V1 = torch.from_numpy(np.bincount(tokens_T[1:], minlength=vocab) / (len(tokens_T) - 1)).float()[:, None]
    reached = min(width, size)
    in_width_VD = vectors.vectors_VC @ vectors.to_width_DC.T
    for of_VC in (vectors.vectors_VC, in_width_VD[:, :reached]):
        assert (frequency_V1 * of_VC).sum(0).abs().max() < 1e-4
    torch.testing.assert_close((frequency_V1 * in_width_VD[:, :reached].square()).sum(0), torch.ones(reached), rtol=1e-3, atol=0)
    assert float((frequency_V1 * vectors.vectors_VC.square()).sum()) == pytest.approx(size, rel=1e-3)
    assert not in_width_VD[:, reached:].any()


@pytest.mark.parametrize(("size", "width"), [(8, 8), (8, 5), (8, 20)])
def test_the_map_to_the_width_is_orthogonal(size: int, width: int) -> None:
    to_width_DC = token_vectors(random_tokens(40), 40, size, width, seed=3).to_width_DC
    reached = min(size, width)
    product = to_width_DC @ to_width_DC.T if width <= size else to_width_DC.T @ to_width_DC
    torch.testing.assert_close(product, torch.eye(reached), rtol=0, atol=1e-5)
    assert not to_width_DC[reached:].any()


def test_tokens_with_the_same_past_get_the_same_vector_and_others_do_not() -> None:
    """Tokens 3 and 4 follow 1, tokens 5 and 6 follow 2."""
    random = np.random.default_rng(0)
    pairs = [(1, 3), (1, 4), (2, 5), (2, 6)]
    tokens_T = np.array([token for pair in random.integers(0, 4, 2000) for token in (0, *pairs[pair])])
    vectors_VC = token_vectors(tokens_T, 7, 4, 4, seed=0).vectors_VC
    distance = torch.cdist(vectors_VC, vectors_VC)
    assert max(distance[3, 4], distance[5, 6]) < 0.1 * min(distance[3, 5], distance[4, 6])


def test_vectors_follow_the_seed() -> None:
    tokens_T = random_tokens(40)
    first, again, other = (token_vectors(tokens_T, 40, 8, 8, seed) for seed in (1, 1, 2))
    assert torch.equal(first.vectors_VC, again.vectors_VC)
    assert torch.equal(first.to_width_DC, again.to_width_DC)
    assert not torch.allclose(first.vectors_VC, other.vectors_VC, atol=0.1)
    torch.testing.assert_close(first.vectors_VC @ first.vectors_VC.T, other.vectors_VC @ other.vectors_VC.T, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("tokens", [[0, 1], [3, 3, 3], [0, 1, 2, 0, 1, 2, 3, 0]])
def test_more_numbers_than_tokens_are_fine(tokens: list[int]) -> None:
    vectors = token_vectors(np.array(tokens), 5, 12, 7, seed=0)
    assert vectors.vectors_VC.shape == (5, 12)
    assert vectors.vectors_VC.isfinite().all()
    torch.testing.assert_close(vectors.to_width_DC @ vectors.to_width_DC.T, torch.eye(7), rtol=0, atol=1e-5)


# the host's start -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [4, 6, 10])
def test_the_host_starts_where_rows_and_embedding_agree(width: int) -> None:
    """What W_V makes of one order's row for a token points where the token's embedding points."""
    vectors = token_vectors(random_tokens(VOCAB), VOCAB, HEADS * DIM, width, seed=0)
    orders = 2
    host = Host(VOCAB, HostRecipe(width, 2, 1, 8, 8), {layer: Memory(width, orders * HEADS * DIM) for layer in (0, 1)})
    initialise(host, torch.Generator().manual_seed(0))
    before_VD = host.embedding.weight.detach().clone()
    initialise_host(host, vectors)
    reached = min(width, HEADS * DIM)
    embedding_VD = host.embedding.weight.detach()
    expected_VD = EMBEDDING_SCALE * vectors.vectors_VC @ vectors.to_width_DC.T
    torch.testing.assert_close(embedding_VD[:, :reached], expected_VD[:, :reached])
    assert torch.equal(embedding_VD[:, reached:], before_VD[:, reached:])
    for layer in (0, 1):
        for order in range(orders):
            looked_up_VM = torch.zeros(VOCAB, orders, HEADS * DIM)
            looked_up_VM[:, order] = vectors.vectors_VC
            value_VD = host.memories[str(layer)].value(looked_up_VM.flatten(1)).detach()
            torch.testing.assert_close(value_VD, expected_VD * VALUE_GAIN / 2, rtol=1e-4, atol=1e-5)
