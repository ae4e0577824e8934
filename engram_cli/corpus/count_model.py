"""The count-only model: interpolated modified Kneser-Ney over a stream's tokens, the opponent a memory has to beat.

    p(w | h) = max(c(h w) - D(c), 0) / c(h) + gamma(h) * p(w | h')

with h' the context h without its oldest token, three discounts D per order, and continuation counts below the highest order
(Chen and Goodman 1998; what KenLM's `lmplz` estimates). The lowest order falls back on the uniform distribution.
Raw token ids are counted, not canonical ones: the model must predict raw tokens, as a host does. Contexts begin at a document's
first token; before it they hold a mark of their own.

Everything is sorted arrays and binary search: estimating costs one sort per order, a query one search per order.
Shapes: T positions, G distinct grams, C distinct contexts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.artifact import Stream
from engram_cli.errors import CorpusError

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """One order: its grams with their counts, and for each context the total and the weight of the shorter one.

    gram_G sorted, the predicted token in the low bits; count_G u64, or continuation counts; discounts: D(0) to D(3 and more), f64
    [4]; context_C sorted; starts_C1: the first gram of each context, and one past the last; total_C; backoff_C = gamma * total.
    """

    gram_G: Keys
    count_G: npt.NDArray[np.integer]
    discounts: Floats
    context_C: Keys
    starts_C1: npt.NDArray[np.int64]
    total_C: Floats
    backoff_C: Floats

    @classmethod
    def estimate(cls, gram_G: Keys, count_G: npt.NDArray[np.integer], bits: int) -> "Level":
        discounts = _discounts(count_G)
        context_G = gram_G >> np.uint64(bits)
        first_C = np.flatnonzero(np.r_[True, context_G[1:] != context_G[:-1]])
        total_C = np.add.reduceat(count_G, first_C).astype(np.float64)
        backoff_C = np.add.reduceat(discounts[np.minimum(count_G, 3)], first_C)
        return cls(gram_G, count_G, discounts, context_G[first_C], np.append(first_C, len(gram_G)), total_C, backoff_C)

    @property
    def discounted_G(self) -> Floats:
        """count - D(count)."""
        discounted_G: Floats = self.count_G - self.discounts[np.minimum(self.count_G, 3)]
        return discounted_G

    def apply(self, gram_T: Keys, bits: int, lower_T: Floats) -> Floats:
        """p(w | h) at each position, given p(w | h') there; a context never seen passes the lower order on."""
        discounted_T = _find(self.gram_G, gram_T, self.discounted_G)
        context_T = gram_T >> np.uint64(bits)
        total_T = _find(self.context_C, context_T, self.total_C)
        backoff_T = _find(self.context_C, context_T, self.backoff_C)
        seen_T = total_T > 0
        total_T[~seen_T] = 1.0
        return np.where(seen_T, (discounted_T + backoff_T * lower_T) / total_T, lower_T)


@dataclass(frozen=True)
class CountModel:
    """An estimated model. order: the longest gram, context and predicted token together; vocab: number of raw token ids."""

    order: int
    vocab: int
    levels: tuple[Level, ...]

    @property
    def bits(self) -> int:
        """Bits per id; the value `vocab` marks the slots before a document."""
        return self.vocab.bit_length()

    @property
    def parameters(self) -> int:
        """Stored numbers: one per gram, two per context."""
        return sum(len(level.gram_G) + 2 * len(level.context_C) for level in self.levels)

    def probability(self, stream: Stream) -> Floats:
        """p(token | the tokens before it in its document), f64 [T - 1], for every token of the stream but the first.

        A document's first token is predicted from the end of the document before it, as a host sees it.
        """
        grams = list(_grams(stream, self.order, self.bits, self.vocab))
        probability_T = np.full(len(stream.tokens_T) - 1, 1.0 / self.vocab)
        for level, gram_T in zip(self.levels, grams, strict=True):
            probability_T = level.apply(gram_T, self.bits, probability_T)
        return probability_T


def estimate(stream: Stream, vocab: int, order: int = 4) -> CountModel:
    """Estimate an interpolated modified Kneser-Ney model of `order` from a stream of raw token ids below `vocab`.

    Raises CorpusError where `order` ids of the vocabulary do not fit 64 bits, or the stream has fewer than two tokens.
    """
    bits = vocab.bit_length()
    if order * bits > 64:
        raise CorpusError(f"a gram of the count model must fit 64 bits, but {order} ids x {bits} bits do not; use a lower order")
    if len(stream.tokens_T) < 2:
        raise CorpusError(f"a count model needs at least 2 tokens, but the corpus has {len(stream.tokens_T)}; give it more text")
    return CountModel(order, vocab, estimate_levels(_grams(stream, order, bits, vocab)[-1], order, bits))


def estimate_levels(gram_T: Keys, order: int, bits: int) -> tuple[Level, ...]:
    """The levels of a model of `order`, the lowest first, from all its occurrences of grams of that length: `bits` an id, the
    predicted one in the low bits, the oldest in the high ones. Below the highest order it is counted in how many contexts, one
    token longer, a gram was seen."""
    gram_G, count_G = np.unique(gram_T, return_counts=True)
    levels = [Level.estimate(gram_G, count_G, bits)]
    for length in range(order - 1, 0, -1):
        gram_G, count_G = np.unique(gram_G & np.uint64((1 << (bits * length)) - 1), return_counts=True)
        levels.append(Level.estimate(gram_G, count_G, bits))
    return tuple(reversed(levels))


def _grams(stream: Stream, order: int, bits: int, vocab: int) -> list[Keys]:
    """For each length 1..order the packed gram that ends with each predicted token: uint64 [T - 1] each."""
    tokens_T = stream.tokens_T.astype(np.uint64)
    position_T = stream.position_T
    grams = [tokens_T[1:]]
    for back in range(1, order):
        # The context of token i are tokens i-1, i-2, ..., none of them before the first token of the document of i-1.
        context_T = np.full(len(tokens_T) - 1, vocab, dtype=np.uint64)
        inside_T = position_T[:-1] >= back - 1
        inside_T[: back - 1] = False
        at_T = np.flatnonzero(inside_T)
        context_T[at_T] = tokens_T[at_T - (back - 1)]
        grams.append(grams[-1] | context_T << np.uint64(bits * back))
    return grams


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


def _find(sorted_keys: Keys, query_T: Keys, values: Floats) -> Floats:
    """The value of each query's key, 0 where it is not among the sorted keys."""
    at_T = np.minimum(np.searchsorted(sorted_keys, query_T), len(sorted_keys) - 1)
    return np.where(sorted_keys[at_T] == query_T, values[at_T], 0.0)
