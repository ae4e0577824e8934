"""Rows from counts, against dense algebra; and what is left of a position's own document, against filling without it."""

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engram_cli.corpus import count_model
from engram_cli.corpus.count_model import Level
from engram_cli.errors import ResourceError
from engram_cli.model import logit_fit, rows_from_counts
from engram_cli.model.data import Windowed
from engram_cli.model.left_out import LeftOut, own_tensors
from engram_cli.model.logit_fit import fit_logits
from engram_cli.model.rows_from_counts import Counted, fill_rows
from engram_cli.recipe import HashRecipe
from engram_cli.table.layout import LayerLayout, plan_layout
from engram_cli.table.rows import Rows
from tests.kneser_ney import by_dictionary
from tests.strategies import MAX_ID, documents
from tests.training import PAD, windowed

VOCAB, HEADS = MAX_ID + 1, 2
DIM = -(-VOCAB // HEADS)
DOCUMENTS = documents(min_documents=2)
Tensors = dict[str, npt.NDArray[Any]]


def layer_of(*orders: int, size: int = 100_003, heads: int = HEADS) -> LayerLayout:
    """So many rows that grams hardly collide."""
    return plan_layout(HashRecipe(orders=orders, heads=heads, size=(size,)), VOCAB, PAD).layers[0]


def unlike_vectors() -> torch.Tensor:
    """A vector for each token, orthogonal to all others, of length sqrt(M)."""
    numbers = HEADS * DIM
    random = torch.randn(numbers, numbers, generator=torch.Generator().manual_seed(0))
    return (torch.linalg.qr(random)[0][:VOCAB] * numbers**0.5).contiguous()


def filled(
    layer: LayerLayout, source: Windowed, vectors_VM: torch.Tensor, counted: Counted | None = None
) -> tuple[npt.NDArray[np.float32], Tensors]:
    """(what position 0, 1, ... looks up, [T, H, E]; what `LeftOut` needs)."""
    counted = counted or Counted(source, layer.max_order, len(vectors_VM))
    with tempfile.TemporaryDirectory() as folder:
        dim = vectors_VM.shape[1] // (layer.heads // len(layer.orders))
        rows = Rows.create(Path(folder) / "rows.safetensors", layer.rows, dim, "f32")
        tensors = fill_rows(layer, rows, counted, vectors_VM)
        return np.array(rows.take(layer.row_ids(source.windows(0, len(source.stream.tokens_T) - 1)))), tensors


def apart(layer: LayerLayout, source: Windowed) -> None:
    """Give up an example in which different grams share a row."""
    windows_TN = source.windows(0, len(source.stream.tokens_T) - 1)
    ids_TH = layer.row_ids(windows_TN)
    for head, order in enumerate(layer.orders_H):
        assume(len(np.unique(ids_TH[:, head])) == len(np.unique(windows_TN[:, :order], axis=0)))


def said(values_THE: npt.NDArray[np.float32], vectors_VM: torch.Tensor, orders: int) -> npt.NDArray[np.float32]:
    """What rows add to the logits, by order: [T, orders, V]."""
    said_TOV: npt.NDArray[np.float32] = values_THE.reshape(len(values_THE), orders, -1) @ vectors_VM.numpy().T
    return said_TOV


def contexts_of(counted: Counted, source: Windowed) -> list[npt.NDArray[np.int64]]:
    """The places of the context of every position at each level, [T] each."""
    windows_TN = source.windows(0, len(source.stream.tokens_T) - 1)
    contexts = [np.zeros(len(windows_TN), np.int64)]
    for level, ids_T in zip(counted.levels[1:], windows_TN.T, strict=True):
        contexts.append(count_model.find(level.context_C, count_model.keys(ids_T, contexts[-1])))
    return contexts


# the count-only model of windows -----------------------------------------------------------------------------------------
@given(documents=DOCUMENTS, order=st.integers(1, 4))
@settings(max_examples=30)
def test_the_model_is_the_count_only_model_where_no_ids_are_folded(documents: list[list[int]], order: int) -> None:
    folded = windowed(documents, VOCAB, order)
    source = Windowed(folded.stream, np.arange(VOCAB, dtype=np.uint32), folded.layout)
    if any(PAD in document for document in documents):  # which the other model knows from the time before a document
        return
    counted = Counted(source, order, VOCAB)
    expected_T = count_model.estimate(source.stream, VOCAB, order + 1).probability(source.stream)
    tokens_T = source.stream.tokens_T
    p_TV = counted.distributions(contexts_of(counted, source))
    np.testing.assert_allclose(p_TV.sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(p_TV[np.arange(len(p_TV)), tokens_T[1:]], expected_T, rtol=1e-4)


@given(documents=DOCUMENTS, orders=st.sampled_from([(1,), (2,), (1, 2, 3), (2, 4)]))
@settings(max_examples=30)
def test_rows_of_all_orders_add_up_to_the_log_probabilities_of_what_followed(
    documents: list[list[int]], orders: tuple[int, ...]
) -> None:
    """Between tokens that followed the longest gram; vectors are orthogonal and nothing is charged for length."""
    source, vectors_VM = windowed(documents, VOCAB, max(orders)), unlike_vectors()
    layer = layer_of(*range(1, max(orders) + 1))
    apart(layer, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_from_counts, "_PENALTY", 1e-6)
        values_THE, _ = filled(layer, source, vectors_VM)
    counted = Counted(source, max(orders), VOCAB)
    said_TV = said(values_THE, vectors_VM, max(orders)).sum(1) + np.log(counted.frequency_V)
    expected_TV = np.log(counted.distributions(contexts_of(counted, source)))
    np.testing.assert_allclose(said_TV - said_TV.max(1, keepdims=True), expected_TV - expected_TV.max(1, keepdims=True), atol=2e-3)


@given(documents=DOCUMENTS, order=st.integers(1, 6), vocab=st.sampled_from([VOCAB, 1 << 21]))
@settings(max_examples=30)
def test_probabilities_are_those_of_the_formula(documents: list[list[int]], order: int, vocab: int) -> None:
    """For every gram and what followed it, with ids that fold and ids of up to 21 bits."""
    source = windowed([[vocab - 1 - token for token in document] for document in documents], vocab, order)
    counted = Counted(source, order, vocab)
    windows_TN, tokens = source.windows(0, len(source.stream.tokens_T) - 1), source.stream.tokens_T[1:].tolist()
    slow = by_dictionary([(tuple(ids), token) for ids, token in zip(windows_TN[:, ::-1].tolist(), tokens, strict=True)], vocab)
    with ThreadPoolExecutor(1) as pool:
        lower_G = counted.frequency_V[counted.levels[0].token_G]
        for number in range(1, order + 1):
            made = counted.order(number, lower_G, lower_G, pool)
            lower_G = made.probability_G
            windows_CN = counted.windows(np.arange(len(made.level.context_C)), number)
            contexts = [tuple(ids) for ids in np.repeat(windows_CN[:, ::-1], made.level.followed_C, axis=0).tolist()]
            assert set(contexts) == {tuple(ids) for ids in windows_TN[:, number - 1 :: -1].tolist()}
            expected = [slow(*gram) for gram in zip(contexts, made.level.token_G.tolist(), strict=True)]
            np.testing.assert_allclose(made.probability_G, expected, rtol=1e-9)


# rows --------------------------------------------------------------------------------------------------------------------
@given(documents=DOCUMENTS, most=st.integers(1, 5), numbers=st.sampled_from([4, 10]), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_a_row_is_the_least_squares_fit_to_what_is_worth_most(
    documents: list[list[int]], most: int, numbers: int, seed: int
) -> None:
    source = windowed(documents, VOCAB, 1)
    vectors_VM = torch.randn(VOCAB, numbers, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_from_counts, "_MOST", most)
        values_THE, _ = filled(layer_of(1), source, vectors_VM)
    counted = Counted(source, 1, VOCAB)
    level = counted.levels[1]
    vectors = vectors_VM.numpy().astype(np.float64)
    for at in range(len(values_THE)):
        context = int(contexts_of(counted, source)[1][at])
        grams = slice(level.starts_C1[context], level.starts_C1[context + 1])
        tokens = level.token_G[grams]
        discounted = level.discounted_G[grams]
        ratio = np.log1p(discounted / (level.backoff_C[context] * counted.frequency_V[tokens]))
        worth = discounted * ratio
        best = np.argsort(-worth)[:most]
        if len(worth) > most and np.isclose(*np.sort(worth)[-most - 1 : len(worth) - most + 1], rtol=1e-4):
            continue  # either may be chosen
        share = discounted[best] / level.total_C[context]
        u = vectors[tokens[best]]
        system = u.T @ (share[:, None] * u) + rows_from_counts._PENALTY * np.eye(numbers)
        expected = np.linalg.solve(system, u.T @ (share * ratio[best]))
        np.testing.assert_allclose(values_THE[at].reshape(-1), expected, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_many_tokens_follow_is_fitted_to_the_whole_distribution(bfloat16: bool) -> None:
    random = np.random.default_rng(0)
    text = random.integers(0, VOCAB, 400) ** 2 // VOCAB
    source, vectors_VM = windowed([text.tolist()], VOCAB, 1), unlike_vectors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_from_counts, "computes_bfloat16", lambda device: bfloat16)
        patch.setattr(rows_from_counts, "_MANY", 0)
        patch.setattr(logit_fit, "_STEPS", 60)
        values_THE, _ = filled(layer_of(1), source, vectors_VM)
    counted = Counted(source, 1, VOCAB)
    p_TV = counted.distributions(contexts_of(counted, source))
    logits_TV = torch.from_numpy(said(values_THE, vectors_VM, 1)[:, 0] + np.log(counted.frequency_V))
    np.testing.assert_allclose(torch.softmax(logits_TV, 1), p_TV, atol=2e-3)


def test_what_few_tokens_follow_often_is_fitted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what they follow less often than one token in so many: there what rows say stays that of least squares."""
    text = [1, 2] * 60 + [3, 4] * 20 + np.random.default_rng(0).integers(5, VOCAB, 100).tolist()
    folded, layer = windowed([text], VOCAB, 1), layer_of(1)
    source = Windowed(folded.stream, np.arange(VOCAB, dtype=np.uint32), folded.layout)
    vectors_VM = torch.randn(VOCAB, HEADS * DIM, generator=torch.Generator().manual_seed(0))
    rows = {}
    for seldom in (200_000, 7, 1):  # at least 32 times; one token in 7, about 40 times; never
        monkeypatch.setattr(rows_from_counts, "_SELDOM", seldom)
        rows[seldom] = filled(layer, source, vectors_VM)[0]
    at = [text.index(token) for token in (1, 2, 3, 4)]
    assert (np.abs(rows[200_000] - rows[1])[at[:2]].max(axis=(1, 2)) > 1e-3).all()
    np.testing.assert_array_equal(rows[200_000][at[2:]], rows[1][at[2:]])
    np.testing.assert_array_equal(rows[200_000][at[:2]], rows[7][at[:2]])


def test_fitting_lowers_the_loss_even_where_nothing_fits() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors_VM = torch.randn(50, 3, generator=generator)
    p_PV = torch.softmax(4 * torch.randn(7, 50, generator=generator), 1)
    start_PV = torch.zeros(7, 50)
    after = start_PV + fit_logits(start_PV, p_PV, vectors_VM) @ vectors_VM.T
    loss_P, before_P = (-(p_PV * torch.log_softmax(logits, 1)).sum(1) for logits in (after, start_PV))
    assert (loss_P < before_P).all()
    assert fit_logits(start_PV, torch.softmax(start_PV, 1), vectors_VM).abs().max() < 1e-3


def test_longer_grams_make_up_for_what_the_rows_of_shorter_ones_fall_short_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer numbers than tokens no row says what it should; the last order still comes closer to it."""
    vocab, numbers, random = 150, 48, np.random.default_rng(0)
    likely, text = random.integers(0, vocab, size=(vocab, 3)), [3]
    for _ in range(3000):
        text.append(int(random.choice(likely[text[-1]])) if random.random() < 0.8 else int(random.integers(vocab)))
    source, layer = windowed([text], vocab, 3), layer_of(1, 2, 3)
    vectors_VM = torch.randn(vocab, numbers, generator=torch.Generator().manual_seed(0))
    counted = Counted(source, 3, vocab)
    p_TV = counted.distributions(contexts_of(counted, source))

    def apart_from_counts() -> float:
        """Kullback-Leibler divergence of what rows say, nats a position."""
        values_THE, _ = filled(layer, source, vectors_VM)
        logits_TV = torch.from_numpy(said(values_THE, vectors_VM, 3).sum(1) + np.log(counted.frequency_V))
        return float((p_TV * (np.log(p_TV) - torch.log_softmax(logits_TV, 1).numpy())).sum(1).mean())

    made_up = apart_from_counts()
    monkeypatch.setattr(rows_from_counts._Filling, "said", lambda filling, _: filling.order.probability_G)
    assert made_up < 0.9 * apart_from_counts()


@given(documents=DOCUMENTS, order=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_ratios_are_to_what_shorter_rows_say(documents: list[list[int]], order: int, seed: int) -> None:
    counted = Counted(windowed(documents, VOCAB, order), order, VOCAB)
    lower_G = counted.frequency_V[counted.levels[0].token_G]
    with ThreadPoolExecutor(1) as pool:
        for number in range(1, order + 1):
            said_G = lower_G * np.exp(np.random.default_rng(seed).normal(size=len(lower_G)))
            made = counted.order(number, lower_G, said_G, pool)
            level, lower_G = made.level, made.probability_G
            gamma_G = np.repeat(level.backoff_C / level.total_C, level.followed_C)
            expected_G = np.log(lower_G / (gamma_G * said_G[count_model.rest_of(level.gram_G)]))
            np.testing.assert_allclose(made.ratio_G, expected_G, rtol=1e-4, atol=1e-5)
            assert ((made.kept_G >= 0) & (made.kept_G <= 1)).all()
            assert not made.kept_G[level.count_G == 1].any()


def test_a_row_belongs_to_its_most_frequent_gram() -> None:
    documents = [[5, 6]] * 9 + [[7, 8], [9, 10], [11, 4]]
    source, vectors_VM = windowed(documents, VOCAB, 1), unlike_vectors()
    values_THE, tensors = filled(layer_of(1, size=2, heads=2), source, vectors_VM)
    alone_THE, _ = filled(layer_of(1), source, vectors_VM)
    np.testing.assert_allclose(values_THE[0], alone_THE[0], rtol=1e-5)
    assert not (np.abs(tensors["own-1"]) > 0).all()  # the others own no row, so nothing of theirs is taken out


def test_rows_are_the_same_however_many_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With grams that many tokens followed and grams that few did, in rows that only some grams own."""
    text = np.random.default_rng(0).integers(0, VOCAB, 300) ** 2 // VOCAB
    layer, source = layer_of(1, 2, size=50), windowed([text.tolist()], VOCAB, 2)
    monkeypatch.setattr(rows_from_counts, "_MANY", 3)
    whole_THE, _ = filled(layer, source, unlike_vectors())
    monkeypatch.setattr(rows_from_counts, "_BLOCK_BYTES", 4 * DIM * 3)
    parts_THE, _ = filled(layer, source, unlike_vectors())
    assert np.array_equal(whole_THE, parts_THE)
    assert (np.abs(whole_THE).max(axis=(0, 2)) > 0).all()


def test_memory_that_the_text_needs_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    source, free = windowed([list(range(VOCAB))] * 5, VOCAB, 1), 48 * (5 * VOCAB - 1)
    monkeypatch.setattr("engram_cli.store.resources.free_memory", lambda: free - 1)
    with pytest.raises(ResourceError, match=r"sorting the grams of 59 tokens takes .*; give less text, lower the highest"):
        filled(layer_of(1), source, unlike_vectors())
    source = windowed([list(range(VOCAB))], VOCAB, 1)
    monkeypatch.setattr("engram_cli.store.resources.free_memory", lambda: 100 * (VOCAB - 1) - 1)
    with pytest.raises(ResourceError, match=r"filling rows from 11 grams takes 1\.1 KiB of memory, but 1\.1 KiB are free"):
        filled(layer_of(1), source, unlike_vectors())


# leave a document out -----------------------------------------------------------------------------------------------------------
def left_out(
    layer: LayerLayout, source: Windowed, vectors_VM: torch.Tensor, counted: Counted | None = None
) -> tuple[npt.NDArray[np.float32], ...]:
    """(what every position looks up, the same without its own document), [T, H, E]."""
    values_THE, tensors = filled(layer, source, vectors_VM, counted)
    targets_BT = source.stream.tokens_T[None, 1:].astype(np.int64)
    left = LeftOut(layer, vectors_VM, tensors)
    own_BTH = torch.from_numpy(left.own(source.windows(0, targets_BT.shape[1])[None], targets_BT))
    return values_THE, left.without(torch.from_numpy(values_THE)[None], own_BTH, torch.from_numpy(targets_BT))[0].numpy()


def of_one_document(windows_TN: npt.NDArray[np.int64], document_T: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether no position of another document has the same window, [T]."""
    documents_of: dict[tuple[int, ...], set[int]] = {}
    for window, document in zip(map(tuple, windows_TN.tolist()), document_T.tolist(), strict=True):
        documents_of.setdefault(window, set()).add(document)
    return np.array([len(documents_of[tuple(window)]) == 1 for window in windows_TN.tolist()])


def documents_at(source: Windowed, share: int) -> npt.NDArray[np.int64]:
    """The number of every position's document, or of its part of one that is more than a token of `share`, [T]."""
    tokens = len(source.stream.tokens_T)
    longest, lengths = max(1, tokens // share), np.diff(source.stream.starts_D, append=tokens)
    parts = [(number, at // longest) for number, length in enumerate(lengths) for at in range(length)]
    return np.unique(parts[:-1], axis=0, return_inverse=True)[1].reshape(-1)


@given(texts=DOCUMENTS, orders=st.sampled_from([(2,), (1, 2), (2, 3), (1, 2, 3), (2, 4)]), share=st.sampled_from([1, 3, 16]))
@settings(max_examples=40)
def test_a_gram_of_one_document_holds_nothing_when_that_is_left_out(
    texts: list[list[int]], orders: tuple[int, ...], share: int
) -> None:
    source = windowed(texts, VOCAB, max(orders))
    apart(layer_of(*orders), source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_from_counts, "_SHARE", share)
        _, left_THE = left_out(layer_of(*orders), source, unlike_vectors())
    windows_TN, document_T = source.windows(0, len(left_THE)), documents_at(source, share)
    for place, order in enumerate(orders):
        local_T = of_one_document(windows_TN[:, :order], document_T)
        assert not left_THE[local_T, place * HEADS : (place + 1) * HEADS].any()


def test_no_gradient_reaches_a_row_that_is_left_out() -> None:
    """Else a row that a position does not see would be changed by it for ever."""
    source = windowed([[5, 6, 7], [5, 6, 8], [9, 10]], VOCAB, 1)
    layer, vectors_VM = layer_of(1), unlike_vectors()
    values_THE, tensors = filled(layer, source, vectors_VM)
    left, targets_BT = LeftOut(layer, vectors_VM, tensors), source.stream.tokens_T[None, 1:].astype(np.int64)
    leaf_BTHE = torch.from_numpy(values_THE)[None].requires_grad_()
    own_BTH = torch.from_numpy(left.own(source.windows(0, targets_BT.shape[1])[None], targets_BT))
    left.without(leaf_BTHE, own_BTH, torch.from_numpy(targets_BT)).sum().backward()
    assert leaf_BTHE.grad is not None
    local_T = of_one_document(source.windows(0, len(values_THE)), np.arange(len(values_THE)))
    assert local_T.any()
    assert not local_T.all()
    assert ((leaf_BTHE.grad[0].abs().sum((1, 2)) > 0).numpy() == ~local_T).all()


def test_what_is_left_out_takes_levels_that_know_documents() -> None:
    (level,) = count_model.estimate_levels([np.array([1, 2, 1], np.uint32)])
    with pytest.raises(ValueError, match="estimate the levels with document_T"):
        own_tensors(0, level, np.zeros(2), np.ones((1, 1), bool), np.zeros(2, np.float32))


def test_single_ids_get_the_rows_that_were_learnt_without_a_token_that_followed_once() -> None:
    random = np.random.default_rng(0)
    source = windowed([random.integers(0, VOCAB, 9).tolist() for _ in range(4)], VOCAB, 2)
    counted = Counted(source, 2, VOCAB)
    learnt = counted.learn(unlike_vectors(), seed=0)
    values_THE, left_THE = left_out(layer_of(1, 2), source, learnt.vectors_VM, counted)
    rows_TM = torch.from_numpy(values_THE[:, :HEADS]).flatten(1)
    assert torch.equal(rows_TM, learnt.rows_CM[torch.from_numpy(contexts_of(counted, source)[1])])
    tokens_T = source.stream.tokens_T.astype(np.int64)
    pairs_T2 = np.stack([source.windows(0, len(rows_TM))[:, 0], tokens_T[1:]], axis=1)
    once_T = of_one_document(pairs_T2, np.arange(len(pairs_T2)))
    vectors_TM = learnt.vectors_VM[torch.from_numpy(tokens_T[1:])]
    says_T, left_T = ((torch.from_numpy(rows)[:, :HEADS].flatten(1) * vectors_TM).sum(1)[once_T] for rows in (values_THE, left_THE))
    assert says_T.mean() > 0.3
    assert left_T.abs().max() < 1e-3


def test_rows_and_what_is_left_out_of_them_for_21_bits_and_six_orders() -> None:
    vocab, layer = 1 << 21, layer_of(*range(1, 7), heads=1)
    random = np.random.default_rng(0)
    source = windowed([(vocab - random.zipf(1.5, 60).clip(max=vocab)).tolist()], vocab, 6)
    vectors_VM = torch.randn(vocab, 3, generator=torch.Generator().manual_seed(0))
    values_THE, left_THE = left_out(layer, source, vectors_VM)
    windows_TN = source.windows(0, len(left_THE))
    for order in range(1, 7):
        once_T = of_one_document(windows_TN[:, :order], np.arange(len(windows_TN)))
        assert np.abs(values_THE[once_T, order - 1]).max() > 0.01
        assert np.abs(left_THE[once_T, order - 1]).max() < 1e-5


@pytest.mark.parametrize("orders", [(1,), (2,), (1, 2), (1, 2, 3)])
def test_left_out_is_close_to_filling_without_the_document(orders: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force: what the rows say of the next token, for every position of a text, each filled anew without its document."""
    monkeypatch.setattr(rows_from_counts, "_PENALTY", 1e-3)  # with so few numbers in a row it would outweigh the counts
    monkeypatch.setattr(rows_from_counts, "_SHARE", 1)
    random = np.random.default_rng(0)
    likely = random.integers(0, VOCAB, size=(VOCAB, 2))
    text = [3]
    for _ in range(120):
        text.append(int(random.choice(likely[text[-1]])) if random.random() < 0.8 else int(random.integers(VOCAB)))
    texts = [text[first : first + 6] for first in range(0, len(text), 6)]
    layer, source, vectors_VM = layer_of(*orders), windowed(texts, VOCAB, max(orders)), unlike_vectors()
    values_THE, left_THE = left_out(layer, source, vectors_VM)
    estimate, document_T = count_model.estimate_levels, documents_at(source, 1)

    def without(document: int, ids: Iterable[Any], document_T: Any) -> tuple[Level, ...]:
        kept_T = document_T != document
        return estimate((ids_T[kept_T] for ids_T in ids), document_T[kept_T])

    anew_THE = np.empty_like(values_THE)
    for document in range(len(texts)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows_from_counts, "estimate_levels", partial(without, document + 1))
            at_T = np.flatnonzero(document_T == document)
            anew_THE[at_T] = filled(layer, source, vectors_VM)[0][at_T]
    position_T, target_T = np.arange(len(text) - 1), np.array(text[1:])
    all_rows = (values_THE, left_THE, anew_THE)
    counted, left, anew = (said(rows_THE, vectors_VM, len(orders)).sum(1)[position_T, target_T] for rows_THE in all_rows)
    before, after = np.subtract(counted, anew), np.subtract(left, anew)
    assert np.abs(after).mean() < 0.5 * np.abs(before).mean()
    assert np.abs(after.mean()) < 0.3 * before.mean(), f"{after.mean():.3f} of {before.mean():.3f} nats left"
