"""Order 1 learnt in few numbers, against the counts it is learnt from."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from engram_cli.corpus.artifact import NGrams
from engram_cli.model import order_one, start
from engram_cli.model.data import layout_for
from engram_cli.model.logit_fit import fit_logits
from engram_cli.model.order_one import OrderOne
from engram_cli.model.rows_from_counts import Counted
from engram_cli.model.statistics import token_vectors
from tests.model.test_statistics import random_tokens
from tests.training import SPEAKING, Told, windowed

VOCAB, NUMBERS = 60, 6


@pytest.fixture
def counted() -> Counted:
    return Counted(windowed([random_tokens(VOCAB).tolist()], VOCAB, 2), 2, VOCAB)


def first_vectors() -> torch.Tensor:
    return token_vectors(random_tokens(VOCAB), VOCAB, NUMBERS, NUMBERS, seed=0).vectors_VC


def order_one_of(counted: Counted) -> tuple[np.ndarray, np.ndarray]:
    """(what counts say follows each single id, [C, V]; how often each is a context, [C])."""
    level = counted.levels[1]
    contexts = np.arange(len(level.context_C))
    return counted.distributions([np.zeros_like(contexts), contexts]), level.total_C / level.total_C.sum()


def test_it_is_closer_to_the_counts_than_rows_fitted_to_the_vectors_it_began_with(counted: Counted) -> None:
    p_CV, share_C = (torch.from_numpy(values).float() for values in order_one_of(counted))
    begin_V = torch.from_numpy(counted.frequency_V).float().log()
    rows_CM = fit_logits(begin_V.repeat(len(p_CV), 1), p_CV, first_vectors())
    fitted = torch.log_softmax(begin_V + rows_CM @ first_vectors().T, 1)
    learnt = torch.from_numpy(counted.learn(first_vectors(), seed=0).distributions(np.arange(len(p_CV)))).log()
    apart, closer = (float(share_C @ (p_CV * (p_CV.log() - said)).sum(1)) for said in (fitted, learnt))
    assert closer < 0.7 * apart


def test_token_vectors_stay_about_as_long_as_they_were(counted: Counted) -> None:
    first = NUMBERS**0.5
    length_V = counted.learn(first_vectors(), seed=0).vectors_VM.norm(dim=1)
    assert (length_V > 0.849 * first).all()
    assert (length_V < 1.101 * first).all()
    assert length_V.std() > 0.01 * first


def test_what_is_learnt_takes_the_place_of_order_one_below_all_longer_grams(counted: Counted) -> None:
    learnt = counted.learn(first_vectors(), seed=0)
    level = counted.levels[2]
    contexts = counted.shortened(np.arange(len(level.context_C)), 2)
    lower_CV = learnt.distributions(contexts[1])
    expected_CV = lower_CV * (level.backoff_C / level.total_C)[:, None]
    at_G = np.repeat(np.arange(len(level.context_C)), level.followed_C)
    expected_CV[at_G, level.token_G] += level.discounted_G / level.total_C[at_G]
    np.testing.assert_allclose(counted.distributions(contexts), expected_CV, rtol=1e-4)
    np.testing.assert_allclose(counted.distributions(contexts[:2]), lower_CV, rtol=1e-4)
    np.testing.assert_allclose(counted.distributions(contexts[:1])[0], torch.softmax(learnt.bias_V, 0), rtol=1e-4)
    with ThreadPoolExecutor(1) as pool:
        lower_G = counted.frequency_V[counted.levels[0].token_G]
        first = counted.order(1, lower_G, lower_G, pool)
        second = counted.order(2, first.probability_G, first.probability_G, pool)
    np.testing.assert_allclose(first.probability_G, all_grams(counted, 1, learnt), rtol=1e-4)
    np.testing.assert_allclose(second.probability_G, expected_CV[at_G, level.token_G], rtol=1e-4)


def all_grams(counted: Counted, order: int, learnt: OrderOne) -> np.ndarray:
    level = counted.levels[order]
    at_G = np.repeat(np.arange(len(level.context_C)), level.followed_C)
    return learnt.distributions(np.arange(len(level.context_C)))[at_G, level.token_G]


def test_it_follows_the_seed_and_not_the_number_of_threads(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_one, "_LOGITS", 40 * VOCAB)  # not all contexts at each step
    monkeypatch.setattr(order_one, "_PART", 7 * VOCAB)

    def learn(seed: int, threads: int) -> OrderOne:
        with ThreadPoolExecutor(threads) as pool:
            level, frequency_V = counted.levels[1], counted.frequency_V
            return order_one.learn_order_one(level, frequency_V, first_vectors(), seed, pool)

    one, three, other = learn(1, 1), learn(1, 3), learn(2, 1)
    for name in ("vectors_VM", "bias_V", "rows_CM"):
        assert torch.equal(getattr(one, name), getattr(three, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("more", [0, 1])
def test_a_vocabulary_too_large_for_it_is_told_and_keeps_vectors_from_pairs(
    ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(start, "LARGEST_VOCAB", ngrams.vocab - more)
    layout, told = layout_for(SPEAKING.hash, ngrams), Told()
    training, _ = start.streams(ngrams, layout)
    made = start.Start.make(training, ngrams.vocab, SPEAKING, layout, tmp_path, progress=told)
    assert made.vectors is not None
    assert made.pairs is not None
    assert torch.equal(made.vectors.vectors_VC, made.pairs.vectors_VC) == bool(more)
    assert [f"up to {ngrams.vocab - more:,} ids" in warning for warning in told.warnings] == [True] * more
