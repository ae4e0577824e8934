"""The count-only model: interpolated modified Kneser-Ney over a stream's tokens, the opponent a memory has to beat.

    p(w | h) = max(c(h w) - D(c), 0) / c(h) + gamma(h) * p(w | h')

with h' the context h without its oldest token, three discounts D per order, and continuation counts below the highest order
(Chen and Goodman 1998; what KenLM's `lmplz` estimates). The lowest order falls back on the uniform distribution.
Raw token ids are counted, not canonical ones: the model must predict raw tokens, as a host does. Contexts begin at a document's
first token; before it they hold a mark of their own.

Levels are chained: a gram is its oldest id with the place of all the rest among the grams one id shorter, so that grams of any
length fit 64 bits. What shares a context lies together, since that is the order of the shorter ones too. Everything is sorted arrays
and binary search: estimating costs a pass of a radix sort for each order, a query two searches.
Shapes: T positions, G distinct grams, C distinct contexts.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.artifact import Stream
from engram_cli.corpus.count_kernels import lengthen, search, tally
from engram_cli.errors import CorpusError

Keys = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PARTS = 2  # of a sort, each in a thread: more would take a tally of all ids more
_SHIFT = np.uint64(40)
REST = np.uint64((1 << 40) - 1)  # the bits of a key that are a place in the level below; above them is an id
_NOWHERE = int(REST)  # the place of what does not occur; no level has so many grams


@dataclass(frozen=True)
class Level:
    """One order: its grams with their counts, and for each context the total and the weight of the shorter one.

    gram_G: keys of grams (`keys`), sorted, with the predicted token of each, token_G u32; count_G, or continuation counts; discounts:
    D(0) to D(3 and more), f64 [4]; context_C: keys of contexts, sorted, of the lowest level 0; starts_C1: the first gram of each
    context, and one past the last; total_C; backoff_C = gamma * total; local_G, local_C: whether all occurrences of a gram, or of a
    context, are in one document, bool; None where documents were not told.
    """

    gram_G: Keys
    token_G: npt.NDArray[np.uint32]
    count_G: npt.NDArray[np.integer]
    discounts: Floats
    context_C: Keys
    starts_C1: Ids
    total_C: Floats
    backoff_C: Floats
    local_G: npt.NDArray[np.bool_] | None = None
    local_C: npt.NDArray[np.bool_] | None = None

    @classmethod
    def estimate(
        cls, gram_G: Keys, count_G: npt.NDArray[np.integer], spread: "_Spread | None", below: "Level | None"
    ) -> "Level":
        """below: the level whose grams are one id shorter; None: these are tokens alone."""
        discounts = _discounts(count_G)
        if below is None:
            token_G, context_G = ids_of(gram_G).astype(np.uint32), np.zeros(len(gram_G), np.uint64)
        else:
            rest_G = rest_of(gram_G)
            token_G = below.token_G[rest_G]
            context_G = keys(ids_of(gram_G), np.repeat(np.arange(len(below.context_C)), below.followed_C)[rest_G])
        first_C = np.flatnonzero(_differs(context_G))
        total_C = np.add.reduceat(count_G, first_C).astype(np.float64)
        backoff_C = np.add.reduceat(discounts[np.minimum(count_G, 3)], first_C)
        starts_C1 = np.append(first_C, len(gram_G))
        local = spread.local(first_C) if spread else (None, None)
        return cls(gram_G, token_G, count_G, discounts, context_G[first_C], starts_C1, total_C, backoff_C, *local)

    @property
    def followed_C(self) -> Ids:
        """By how many different tokens."""
        return np.diff(self.starts_C1)

    @property
    def discounted_G(self) -> Floats:
        """count - D(count)."""
        discounted_G: Floats = self.count_G - self.discounts[np.minimum(self.count_G, 3)]
        return discounted_G

    def apply(self, gram_T: Ids, context_T: Ids, lower_T: Floats) -> Floats:
        """p(w | h) of grams and contexts by place, given p(w | h'); a context never seen passes the lower order on."""
        discounted_T, total_T, backoff_T = (
            np.append(values, 0.0)[np.minimum(at_T, len(values))]
            for values, at_T in ((self.discounted_G, gram_T), (self.total_C, context_T), (self.backoff_C, context_T))
        )
        seen_T = total_T > 0
        total_T[~seen_T] = 1.0
        return np.where(seen_T, (discounted_T + backoff_T * lower_T) / total_T, lower_T)


@dataclass(frozen=True)
class _Spread:
    """The first and the last document that has a gram, by number, u32 [G]."""

    first_G: npt.NDArray[np.uint32]
    last_G: npt.NDArray[np.uint32]

    def local(self, first_C: Ids) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """local_G and local_C of a `Level`; first_C: the first gram of each context."""
        local_C = np.minimum.reduceat(self.first_G, first_C) == np.maximum.reduceat(self.last_G, first_C)
        return self.first_G == self.last_G, local_C


@dataclass(frozen=True)
class CountModel:
    """An estimated model. order: the longest gram, context and predicted token together; vocab: number of raw token ids."""

    order: int
    vocab: int
    levels: tuple[Level, ...]

    @property
    def parameters(self) -> int:
        """Stored numbers: one per gram, two per context."""
        return sum(len(level.gram_G) + 2 * len(level.context_C) for level in self.levels)

    def probability(self, stream: Stream) -> Floats:
        """p(token | the tokens before it in its document), f64 [T - 1], for every token of the stream but the first.

        A document's first token is predicted from the end of the document before it, as a host sees it.
        """
        probability_T = np.full(len(stream.tokens_T) - 1, 1.0 / self.vocab)
        gram_T = context_T = np.zeros(len(probability_T), np.int64)
        for number, ids_T in enumerate(_ids(stream, self.order, self.vocab)):
            level = self.levels[number]
            gram_T = find(level.gram_G, keys(ids_T, gram_T))
            if number:  # the lowest level has but the empty context
                context_T = find(level.context_C, keys(ids_T, context_T))
            probability_T = level.apply(gram_T, context_T, probability_T)
        return probability_T


def estimate(stream: Stream, vocab: int, order: int = 4) -> CountModel:
    """Estimate an interpolated modified Kneser-Ney model of `order` from a stream of raw token ids below `vocab`.

    Raises CorpusError where the stream has fewer than two tokens.
    """
    if len(stream.tokens_T) < 2:
        raise CorpusError(f"a count model needs at least 2 tokens, but the corpus has {len(stream.tokens_T)}; give it more text")
    return CountModel(order, vocab, estimate_levels(_ids(stream, order, vocab)))


def estimate_levels(ids: Iterable[npt.NDArray[np.uint32]], document_T: npt.NDArray[np.uint32] | None = None) -> tuple[Level, ...]:
    """The levels of a model, the lowest first, from all occurrences of its grams: the token predicted at each position, [T], then
    the id before it, and so on, one array for each level, dropped before the next is asked for. document_T: the number of the
    document of each position, ascending, where it is to be known what is local.

    Below the highest order it is counted in how many contexts, one token longer, a gram was seen.
    """
    grams, spreads, times_G = _count(ids, document_T)
    counts = [*(np.bincount(rest_of(gram_G)) for gram_G in grams[1:]), times_G]
    levels: list[Level] = []
    for gram_G, count_G, spread in zip(grams, counts, spreads, strict=True):
        levels.append(Level.estimate(gram_G, count_G, spread, levels[-1] if levels else None))
    return tuple(levels)


def _count(
    ids: Iterable[npt.NDArray[np.uint32]], document_T: npt.NDArray[np.uint32] | None
) -> tuple[list[Keys], list[_Spread | None], Ids]:
    """The distinct grams of each length, sorted, what documents have them, and how often each of the longest occurs."""
    grams: list[Keys] = []
    spreads: list[_Spread | None] = []
    position_T: npt.NDArray[np.integer] = np.zeros(0, np.int64)
    gram_T = position_T
    for ids_T in ids:
        if not grams:
            position_T = np.arange(len(ids_T), dtype=np.uint32 if len(ids_T) >> 32 == 0 else np.int64)
            gram_T = np.zeros_like(position_T)
        position_T, key_T = _lengthen(ids_T, position_T, gram_T)
        first_T = _differs(key_T)
        gram_T = np.cumsum(first_T, dtype=position_T.dtype)
        gram_T -= 1
        grams.append(key_T[first_T])
        spreads.append(None if document_T is None else _spread(document_T, position_T, first_T))
    return grams, spreads, np.bincount(gram_T)


def _spread(document_T: npt.NDArray[np.uint32], position_T: npt.NDArray[np.integer], first_T: npt.NDArray[np.bool_]) -> _Spread:
    """position_T: sorted by gram, each of which begins where first_T is true; within it they ascend, and so do documents."""
    last_T = np.append(first_T[1:], True)
    return _Spread(document_T[position_T[first_T]], document_T[position_T[last_T]])


def _lengthen(ids_T: npt.NDArray[np.uint32], position_T: npt.NDArray[Any], gram_T: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Keys]:
    """Positions sorted by the gram that is an older id longer, and the keys of those, given the positions sorted by the gram they had
    and the numbers of that. A pass of a radix sort, of which each part knows how many of an id come in the parts before it."""
    longer_T, key_T = np.empty_like(position_T), np.empty(len(ids_T), np.uint64)
    positions, grams = np.array_split(position_T, _PARTS), np.array_split(gram_T, _PARTS)
    with ThreadPoolExecutor(_PARTS) as pool:
        next_PV = np.zeros((_PARTS, int(ids_T.max()) + 1), np.int64)
        list(pool.map(tally, repeat(ids_T), positions, next_PV))
        next_PV = np.ascontiguousarray(next_PV.T.cumsum().reshape(-1, _PARTS).T) - next_PV
        list(pool.map(lengthen, repeat(ids_T), positions, grams, next_PV, repeat(longer_T), repeat(key_T), repeat(_SHIFT)))
    return longer_T, key_T


def _ids(stream: Stream, order: int, vocab: int) -> Iterator[npt.NDArray[np.uint32]]:
    """What `estimate_levels` wants of a stream: `vocab` marks what is before a document."""
    tokens_T = stream.tokens_T.astype(np.uint32)
    position_T = stream.position_T
    yield tokens_T[1:]
    for back in range(1, order):
        # The context of token i are tokens i-1, i-2, ..., none of them before the first token of the document of i-1.
        context_T = np.full(len(tokens_T) - 1, vocab, dtype=np.uint32)
        inside_T = position_T[:-1] >= back - 1
        inside_T[: back - 1] = False
        at_T = np.flatnonzero(inside_T)
        context_T[at_T] = tokens_T[at_T - (back - 1)]
        yield context_T


def keys(oldest: npt.NDArray[np.integer], rest: npt.NDArray[np.integer]) -> Keys:
    """Grams, or contexts, as a level has them: the oldest id, and the place of all the rest in the level below (of a single id, 0)."""
    key: Keys = oldest.astype(np.uint64) << _SHIFT | rest.astype(np.uint64)
    return key


def ids_of(key: Keys) -> Ids:
    """The oldest id of each."""
    return (key >> _SHIFT).astype(np.int64)


def rest_of(key: Keys) -> Ids:
    """The place of all the rest of each in the level below."""
    return (key & REST).astype(np.int64)


def find(sorted_keys: Keys, key: Keys) -> Ids:
    """The place of each key among the sorted ones; of a key that is not there, one past every place."""
    return search(sorted_keys, np.ascontiguousarray(key).ravel(), _NOWHERE).reshape(key.shape)


def _differs(sorted_keys: Keys) -> npt.NDArray[np.bool_]:
    """From the one before."""
    return np.append(True, sorted_keys[1:] != sorted_keys[:-1])


def _discounts(count_G: npt.NDArray[np.integer]) -> Floats:
    """D(0) = 0, D(1), D(2), D(3 and more) from the counts of counts (Chen and Goodman 1998, equation 26).

    Where too few grams have these counts to estimate from, KenLM's fallback of 0.5, 1, 1.5 is used.
    """
    once, twice, thrice, four = (int((count_G == n).sum()) for n in (1, 2, 3, 4))
    if not (once and twice and thrice and four):
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = once / (once + 2 * twice)
    estimated = np.array([0.0, 1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice])
    usable = (estimated[1:] > 0).all() and (estimated[1:] < np.array([1, 2, 3])).all()
    return estimated if usable else np.array([0.0, 0.5, 1.0, 1.5])
