"""Token vectors, and a host that starts in their coordinates."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch

from engram_cli.model.host import Host, initialise
from engram_cli.model.memory import Memory
from engram_cli.model.mixture import Mixture
from engram_cli.model.statistics import EMBEDDING_SCALE, initialise_host, token_vectors
from engram_cli.recipe import HostRecipe, MemoryRecipe
from tests.strategies import MAX_ID

VOCAB, DIM, HEADS = MAX_ID + 1, 3, 2


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
def test_vectors_are_of_one_length_and_point_everywhere(vocab: int, size: int, width: int) -> None:
    tokens_T = random_tokens(vocab)
    vectors = token_vectors(tokens_T, vocab, size, width, seed=0)
    assert (vectors.vectors_VC.shape, vectors.to_width_DC.shape) == ((vocab, size), (width, size))
    torch.testing.assert_close(vectors.vectors_VC.norm(dim=1), torch.full((vocab,), size**0.5))
    frequency_V1 = torch.from_numpy(np.bincount(tokens_T, minlength=vocab) / len(tokens_T)).float()[:, None]
    variance_C = torch.linalg.eigvalsh((frequency_V1 * vectors.vectors_VC).T @ vectors.vectors_VC)
    assert variance_C.min() > 0.1
    assert variance_C.max() < 4
    after_V = torch.tensor(
        [len({first for first, second in pairwise(tokens_T.tolist()) if second == token}) for token in range(vocab)]
    )
    torch.testing.assert_close(vectors.bias_V, ((after_V + 0.5) / (after_V + 0.5).sum()).log())


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
    host = Host(VOCAB, HostRecipe(width, 2, 1, 8, 8), {layer: Memory(width, orders * HEADS * DIM) for layer in (0, 2)})
    initialise(host, torch.Generator().manual_seed(0))
    before_VD = host.embedding.weight.detach().clone()
    initialise_host(host, vectors, vectors)
    reached = min(width, HEADS * DIM)
    embedding_VD = host.embedding.weight.detach()
    expected_VD = EMBEDDING_SCALE * vectors.vectors_VC @ vectors.to_width_DC.T
    torch.testing.assert_close(embedding_VD[:, :reached], expected_VD[:, :reached])
    assert torch.equal(embedding_VD[:, reached:], before_VD[:, reached:])
    torch.testing.assert_close(host.bias.detach(), vectors.bias_V)
    for layer in (0, 2):
        for order in range(orders):
            looked_up_VM = torch.zeros(VOCAB, orders, HEADS * DIM)
            looked_up_VM[:, order] = vectors.vectors_VC
            value_VD = host.memories[str(layer)].value(looked_up_VM.flatten(1)).detach()
            torch.testing.assert_close(0.5 * value_VD, expected_VD / EMBEDDING_SCALE**2, rtol=1e-4, atol=1e-4)


def test_all_branches_of_a_memory_begin_about_half_open() -> None:
    vectors = token_vectors(random_tokens(VOCAB), VOCAB, HEADS * DIM, 8, seed=0)
    host = Host(
        VOCAB, HostRecipe(8, 2, 1, 8, 8, branches=3), {0: Memory(8, HEADS * DIM, MemoryRecipe(signed_sqrt=False), branches=3)}
    )
    initialise(host, torch.Generator().manual_seed(0))
    initialise_host(host, vectors, vectors)
    host(torch.arange(8)[None], {0: vectors.vectors_VC[None, :8]})
    gate_TG = host.gates[0][0]
    assert gate_TG.shape == (8, 3)
    assert ((gate_TG - 0.5).abs() < 0.1).all()
    assert gate_TG.std(dim=1).min() > 0  # each by keys of its own


def test_a_host_beside_rows_that_speak_for_themselves_begins_as_a_plain_one() -> None:
    pairs = token_vectors(random_tokens(VOCAB), VOCAB, HEADS * DIM, 8, seed=0)
    learnt = replace(pairs, vectors_VC=pairs.vectors_VC.flip(0), bias_V=pairs.bias_V.flip(0))  # type: ignore[union-attr]
    hosts = [Host(VOCAB, HostRecipe(8, 2, 1, 8, 8), None, mixture) for mixture in (Mixture(VOCAB, HEADS * DIM, 2, 8), None)]
    for host in hosts:
        initialise(host, torch.Generator().manual_seed(0))
        initialise_host(host, learnt, pairs)
    for (name, beside), (_, plain) in zip(hosts[0].host_parameters(), hosts[1].host_parameters(), strict=True):
        assert torch.equal(beside, plain), name
    assert hosts[0].mixture is not None
    assert torch.equal(hosts[0].mixture.vectors, learnt.vectors_VC)
    torch.testing.assert_close(hosts[0].mixture.bias, 0.75 * learnt.bias_V + 0.375 * pairs.bias_V)
