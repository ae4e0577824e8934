"""Token vectors of a foreign host: white over the corpus, and the way back to its own output embedding."""

import numpy as np
import pytest
import torch

from engram_cli.model.output_vectors import output_vectors

VOCAB, WIDTH = 50, 8


@pytest.fixture(scope="module")
def tokens_T() -> np.ndarray:
    return np.random.default_rng(0).zipf(1.5, 4000) % VOCAB


@pytest.mark.parametrize("size", [4, 8, 12])
def test_vectors_are_white_over_the_corpus(tokens_T: np.ndarray, size: int) -> None:
    output_VD = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(0)) * torch.arange(1, WIDTH + 1) + 3
    vectors_TC = output_vectors(output_VD, tokens_T, size, seed=0).vectors_VC[torch.from_numpy(tokens_T)]
    assert vectors_TC.shape == (len(tokens_T), size)
    torch.testing.assert_close(vectors_TC.mean(0), torch.zeros(size), atol=1e-4, rtol=0)
    held = torch.linalg.eigvalsh(vectors_TC.T @ vectors_TC / len(tokens_T))
    expected = torch.cat([torch.zeros(max(0, size - WIDTH)), torch.ones(min(size, WIDTH))])
    torch.testing.assert_close(held, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [4, 8, 12])
def test_the_output_embedding_says_what_is_said_in_them(tokens_T: np.ndarray, size: int) -> None:
    """But for what it adds to all tokens, which a softmax does not see."""
    output_VD = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(0))
    found = output_vectors(output_VD, tokens_T, size, seed=0)
    centred_VD = output_VD - output_VD[torch.from_numpy(tokens_T)].mean(0)
    torch.testing.assert_close(centred_VD @ found.to_width_DC, found.vectors_VC, atol=1e-4, rtol=1e-4)


def test_directions_without_variance_are_left_out(tokens_T: np.ndarray) -> None:
    output_VD = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(0))
    output_VD[:, 0] = 5
    found = output_vectors(output_VD, tokens_T, WIDTH, seed=0)
    assert found.vectors_VC.isfinite().all()
    assert found.to_width_DC[0].abs().max() < 1e-4
