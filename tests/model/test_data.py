"""Batches: always the same when asked again, each stretch once an epoch, and windows as the hash sees them in the whole stream."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import RecipeError, TrainingError
from engram_cli.model.data import Batches, HeldOut, Windowed, cut, layout_for
from engram_cli.recipe import FAMILIES, HashRecipe
from engram_cli.table.hashing import windows
from tests.strategies import MAX_ID, documents
from tests.training import PAD, stream_of, windowed, windows_of

DOCUMENTS = documents(min_documents=2)
COUNTING = windowed([range(500), range(500, 1000)], 1000, 0)  # token i is i


@given(documents=DOCUMENTS, order=st.integers(1, 4), data=st.data())
def test_windows_of_a_stretch_are_those_of_the_whole(documents: list[list[int]], order: int, data: st.DataObject) -> None:
    source = windowed(documents, MAX_ID + 1, order)
    stream = source.stream
    whole_TN = windows(source.canonical_V[stream.tokens_T], stream.position_T, order, PAD)
    first = data.draw(st.integers(0, len(stream.tokens_T) - 1))
    last = data.draw(st.integers(first + 1, len(stream.tokens_T)))
    assert np.array_equal(source.windows(first, last), whole_TN[first:last])


@given(documents=DOCUMENTS, order=st.integers(1, 4), context=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_batch_holds_tokens_targets_and_windows(documents: list[list[int]], order: int, context: int, seed: int) -> None:
    source = windowed(documents, MAX_ID + 1, order)
    tokens_T = source.stream.tokens_T
    whole_TN = source.windows(0, len(tokens_T))
    stretches = (len(tokens_T) - 1) // context
    if not stretches:
        return
    stretches_B = np.random.default_rng(seed).integers(0, stretches, size=3)
    batch = cut(source, stretches_B, context)
    at_BT = stretches_B[:, None] * context + np.arange(context)
    assert np.array_equal(batch.tokens_BT, tokens_T[at_BT])
    assert np.array_equal(batch.targets_BT, tokens_T[at_BT + 1])
    assert np.array_equal(batch.windows_BTN, whole_TN[at_BT])
    assert {batch.tokens_BT.dtype, batch.targets_BT.dtype, batch.windows_BTN.dtype} == {np.dtype(np.int64)}


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    batches, again = (Batches(COUNTING, 4, 10, seed=7) for _ in range(2))
    assert batches.per_epoch == 24
    forward = [batches[step].tokens_BT for step in range(60)]
    for step in reversed(range(60)):
        assert np.array_equal(again[step].tokens_BT, forward[step])


def test_an_epoch_sees_each_stretch_at_most_once_and_the_next_in_another_order() -> None:
    batches = Batches(COUNTING, 4, 10, seed=0)
    epochs = [[int(first) for step in range(24) for first in batches[epoch * 24 + step].tokens_BT[:, 0]] for epoch in range(3)]
    for firsts in epochs:
        assert len(set(firsts)) == 96
        assert {first % 10 for first in firsts} == {0}
    assert epochs[0] != epochs[1] != epochs[2]


def test_only_the_seed_decides_the_order_not_the_windows() -> None:
    with_windows = Batches(Windowed(COUNTING.stream, COUNTING.canonical_V, windows_of(3)), 4, 10, seed=1)
    plain, other = Batches(COUNTING, 4, 10, seed=1), Batches(COUNTING, 4, 10, seed=2)
    assert all(np.array_equal(with_windows[step].tokens_BT, plain[step].tokens_BT) for step in range(30))
    assert not np.array_equal(other[0].tokens_BT, plain[0].tokens_BT)
    assert with_windows[0].windows_BTN.shape == (4, 10, 3)
    assert plain[0].windows_BTN.shape == (4, 10, 0)
    assert plain.tokens == 40


def test_the_families_windows_of_a_stream_are_those_of_its_documents(raw_ngrams: NGrams) -> None:
    for family, first in FAMILIES.items():
        recipe = HashRecipe(orders=(2, 3), layers=(first,), family=family)
        layout = layout_for(recipe, raw_ngrams)
        stream = raw_ngrams.stream(held_out=False)
        windows_TN = Windowed(stream, raw_ngrams.canonical_V, layout).windows(0, len(stream.tokens_T))
        bounds = [*stream.starts_D.tolist(), len(stream.tokens_T)]
        parts = [stream.tokens_T[begin:end].astype(np.int64) for begin, end in itertools.pairwise(bounds)]
        assert np.array_equal(windows_TN, np.concatenate([layout.windows(part, np.arange(len(part))) for part in parts]))


def test_a_family_of_raw_ids_needs_raw_counts_and_the_end_for_its_pad(ngrams: NGrams, raw_ngrams: NGrams) -> None:
    recipe = HashRecipe(family="qwen-ple")
    with pytest.raises(RecipeError, match=r"^qwen-ple hashes raw ids, but .* folded \d+ of them into \d+; .* --no-canonical"):
        layout_for(recipe, ngrams)
    other = NGrams(raw_ngrams.artifact)
    other.pad = 5
    with pytest.raises(RecipeError, match=r"the end token '<.endoftext.>' and the pad '.*'; run engram extract with --pad-token"):
        layout_for(recipe, other)
    other.end = None
    with pytest.raises(RecipeError, match=r"has no end token and the pad"):
        layout_for(recipe, other)
    assert layout_for(recipe, raw_ngrams).pad == raw_ngrams.end


def test_too_little_text_for_a_batch_is_refused() -> None:
    source = windowed([range(41)], 50, 0)
    assert Batches(source, 4, 10, 0).per_epoch == 1
    with pytest.raises(TrainingError, match=r"a batch is 4 x 10 \+ 1 tokens, but there are 40 to train on; give more text"):
        Batches(windowed([range(40)], 50, 0), 4, 10, 0)


@given(tokens=st.integers(11, 400), context=st.integers(1, 10), limit=st.integers(1, 500), batch=st.integers(1, 50))
def test_held_out_stretches_are_spread_evenly(tokens: int, context: int, limit: int, batch: int) -> None:
    held_out = HeldOut(windowed([range(tokens)], tokens, 0), context, limit)
    stretches = (tokens - 1) // context
    measured = held_out.stretches_S
    assert len(measured) == max(1, min(stretches, limit // context))
    assert measured[0] == 0
    assert measured[-1] < stretches
    gaps = np.diff(measured, append=stretches)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    batches = list(held_out.batches(batch))
    assert max(len(batch.tokens_BT) for batch in batches) <= batch
    targets = np.concatenate([batch.targets_BT.reshape(-1) for batch in batches])
    assert np.array_equal(held_out.source.stream.tokens_T[held_out.targets], targets)


def test_too_little_text_to_measure_on_is_refused() -> None:
    assert len(HeldOut(windowed([range(11)], 50, 0), 10, 100).stretches_S) == 1
    for tokens in (10, 0):
        with pytest.raises(TrainingError, match=rf"10 \+ 1 tokens, but only {tokens} tokens were held out; .*--held-out"):
            HeldOut(windowed([range(tokens)], 50, 0), 10, 100)


def test_tokens_per_byte_is_of_the_whole_stream() -> None:
    stream = stream_of([range(12), range(8)])
    longer = type(stream)(stream.tokens_T, stream.starts_D, np.array([30, 50], dtype=np.uint64), stream.digests_D)
    assert HeldOut(Windowed(longer, COUNTING.canonical_V, None), 4, 8).tokens_per_byte == 0.25
