"""The count-only model, against its formula written with dictionaries, and against numbers worked out by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engram_cli.corpus.artifact import Stream
from engram_cli.corpus.count_model import REST, CountModel, estimate, estimate_levels, find
from engram_cli.errors import CorpusError
from tests.kneser_ney import Context, by_dictionary, discounts
from tests.strategies import documents
from tests.training import stream_of

VOCAB = 4
DOCUMENTS = documents(VOCAB - 1, min_documents=2)
SPREAD = {VOCAB: range(VOCAB), 1 << 21: (0, 1, (1 << 21) - 2, (1 << 21) - 1)}  # ids of a small and of a large vocabulary


def contexts(stream: Stream, length: int) -> list[Context]:
    """Before each token but the first: `length` tokens, oldest first, "before" where the document of the newest has none."""
    tokens, positions = stream.tokens_T.tolist(), stream.position_T.tolist()
    return [
        tuple(tokens[at - back] if back <= positions[at] else "before" for back in reversed(range(length)))
        for at in range(len(tokens) - 1)
    ]


def followed(stream: Stream, order: int) -> list[tuple[Context, int]]:
    """Each token but the first, after its context."""
    return list(zip(contexts(stream, order - 1), stream.tokens_T.tolist()[1:], strict=True))


def given_context(model: CountModel, context: list[int]) -> list[float]:
    """p(token | a document's first tokens) for every token of the vocabulary."""
    stream = stream_of([[*context, token] for token in range(VOCAB)])
    return model.probability(stream)[len(context) - 1 :: len(context) + 1].tolist()


@given(training=DOCUMENTS, held_out=DOCUMENTS, order=st.integers(1, 7), vocab=st.sampled_from(list(SPREAD)))
def test_it_is_the_formula(training: list[list[int]], held_out: list[list[int]], order: int, vocab: int) -> None:
    counted, other = (stream_of([[SPREAD[vocab][token] for token in text] for text in texts]) for texts in (training, held_out))
    model, slow = estimate(counted, vocab, order), by_dictionary(followed(counted, order), vocab)
    for stream in (counted, other):
        expected = [slow(*gram) for gram in followed(stream, order)]
        np.testing.assert_allclose(model.probability(stream), expected, rtol=1e-9)


def test_estimated_discounts_are_the_formula_too() -> None:
    """Enough text that every order estimates its own."""
    random = np.random.default_rng(0)
    training = stream_of([[int(token) for token in random.geometric(0.45, 9).clip(1, 4) - 1] for _ in range(60)])
    for order in (3, 4):
        grams = followed(training, order)
        assert discounts(list(Counter(grams).values()))[1] != 0.5
        model, slow = estimate(training, VOCAB, order), by_dictionary(grams, VOCAB)
        np.testing.assert_allclose(model.probability(training), [slow(*gram) for gram in grams], rtol=1e-9)


@given(training=DOCUMENTS, context=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6), order=st.integers(1, 4))
def test_probabilities_sum_to_one_after_any_context(training: list[list[int]], context: list[int], order: int) -> None:
    share = given_context(estimate(stream_of(training), VOCAB, order), context)
    assert sum(share) == pytest.approx(1, rel=1e-9)
    assert min(share) > 0


def test_a_bigram_model_by_hand() -> None:
    """Tokens a b a b a c in one document, V = 4; no count of counts reaches 4, so D = 0.5, 1, 1.5.

    Pairs: ab 2, ba 2, ac 1. Continuation counts: b after {a}: 1, a after {b}: 1, c after {a}: 1; 3 in all, each discounted by 0.5:
    p(x) = 0.5/3 + (1.5/3)/4 = 7/24 for a, b, c and 3/24 for d.
    After a (b 2, c 1): p(b|a) = (2-1)/3 + (1 + 0.5)/3 * 7/24 = 23/48; p(c|a) = (1-0.5)/3 + 0.5 * 7/24 = 15/48.
    After b (a 2): p(a|b) = (2-1)/2 + (1/2) * 7/24 = 31/48. After c, which nothing follows: p itself.
    """
    a, b, c, d = range(4)
    model = estimate(stream_of([[a, b, a, b, a, c]]), VOCAB, 2)
    assert given_context(model, [a]) == pytest.approx([7 / 48, 23 / 48, 15 / 48, 3 / 48])
    assert given_context(model, [b]) == pytest.approx([31 / 48, 7 / 48, 7 / 48, 3 / 48])
    assert given_context(model, [c]) == pytest.approx([7 / 24, 7 / 24, 7 / 24, 3 / 24])
    assert given_context(model, [d]) == given_context(model, [c])
    assert model.parameters == 3 + 2 * 2 + 3 + 2 * 1  # grams and contexts of both orders


def test_a_context_never_seen_falls_through_to_the_shorter_one() -> None:
    model = estimate(stream_of([[0, 1, 2, 3, 1, 0, 2, 2]]), VOCAB, 3)
    seen, never = given_context(model, [0, 1]), given_context(model, [2, 1])
    assert seen[2] > never[2]
    assert never == given_context(model, [1, 1]) == given_context(model, [1])  # at a document's start, too, it was never seen
    alone = given_context(estimate(stream_of([[3, 3, 3]]), VOCAB, 3), [0, 1])
    assert alone == pytest.approx([0.5 / 4] * 3 + [0.5 + 0.5 / 4])  # one kind of pair, discounted by 0.5, and the uniform rest


def test_contexts_stop_at_the_start_of_a_document() -> None:
    """What came before a document does not change what is expected after its first token."""
    model = estimate(stream_of([[0, 1, 2], [3, 1, 0], [1, 3], [2, 1, 2, 1, 3, 0]]), VOCAB, 4)
    after = {before: model.probability(stream_of([[before, before], [1, 3, 0]]))[2:].tolist() for before in range(VOCAB)}
    assert len(set(map(tuple, after.values()))) == 1
    inside = model.probability(stream_of([[0, 0, 1, 3, 0]]))[2:].tolist()
    assert inside != after[0]


def test_a_document_start_is_expected_after_the_end_of_the_one_before() -> None:
    model = estimate(stream_of([[0, 3], [1, 3], [1, 2, 3], [1, 0]]), VOCAB, 2)
    assert given_context(model, [3])[1] > 0.5
    assert model.probability(stream_of([[0, 3], [1]]))[1] == pytest.approx(given_context(model, [3])[1])


def test_more_context_predicts_a_text_with_memory_better() -> None:
    random = np.random.default_rng(0)
    texts = [[0, 1, 2, 3, 0, 2, 1, 3, 1, 1, 2, 0][int(start) :] for start in random.integers(0, 6, 40)]
    training, held_out = stream_of(texts[:30]), stream_of(texts[30:])
    losses = [-np.log(estimate(training, VOCAB, order).probability(held_out)).mean() for order in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[0] < math.log(VOCAB)


@given(texts=DOCUMENTS, order=st.integers(1, 4))
def test_what_is_local_occurs_in_one_document(texts: list[list[int]], order: int) -> None:
    stream = stream_of(texts)
    document_T = np.repeat(np.arange(len(texts), dtype=np.uint32), [len(text) for text in texts])[:-1]
    ids = [np.array(ids_T, np.uint32) for ids_T in zip(*_newest_first(stream, order), strict=True)]
    *_, level = estimate_levels(iter(ids), document_T)
    documents_of: dict[Context, set[int]] = {}
    for (context, token), document in zip(followed(stream, order), document_T.tolist(), strict=True):
        documents_of.setdefault((*context, token), set()).add(document)
        documents_of.setdefault(context, set()).add(document)
    for local, length in ((level.local_G, order), (level.local_C, order - 1)):
        spread = [len(documents) for gram, documents in documents_of.items() if len(gram) == length]
        assert local is not None
        assert (len(local), local.sum()) == (len(spread), spread.count(1))


def _newest_first(stream: Stream, order: int) -> list[tuple[int, ...]]:
    """Each token but the first and what is before it, as `estimate_levels` wants them; VOCAB where the document has nothing."""
    return [(token, *(VOCAB if id == "before" else int(id) for id in reversed(context))) for context, token in followed(stream, order)]


@given(there=st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=40), asked=st.lists(st.integers(0, 2**64 - 1), max_size=40))
@example(there={5}, asked=[4, 5, 6])
@example(there=set(range(1, 10_000)), asked=list(range(10_001)))  # more than are looked for side by side
def test_a_key_is_found_where_it_lies(there: set[int], asked: list[int]) -> None:
    sorted_keys, asked = np.array(sorted(there), np.uint64), [*asked, *there]
    places = {key: place for place, key in enumerate(sorted(there))}
    found = find(sorted_keys, np.array([asked, asked], np.uint64))
    assert found.tolist() == [[places.get(key, int(REST)) for key in asked]] * 2


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"needs at least 2 tokens, but the corpus has 1"):
        estimate(stream_of([[1]]), VOCAB)
