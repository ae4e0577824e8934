"""Kneser-Ney as its formula reads, with dictionaries: slow, and what the count-only model must equal."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction

Context = tuple[object, ...]
Probability = Callable[[Context, int], float]


def discounts(counts: Sequence[int]) -> list[float]:
    """Chen and Goodman's D1, D2, D3+ as they print them, or 0.5, 1, 1.5 where they cannot be estimated."""
    of = Counter(counts)
    if all(of[n] for n in (1, 2, 3, 4)):
        y = Fraction(of[1], of[1] + 2 * of[2])
        estimated = [n - (n + 1) * y * Fraction(of[n + 1], of[n]) for n in (1, 2, 3)]
        if all(0 < discount < n for n, discount in enumerate(estimated, start=1)):
            return [0.0, *map(float, estimated)]
    return [0.0, 0.5, 1.0, 1.5]


def by_dictionary(followed: Sequence[tuple[Context, int]], vocab: int) -> Probability:
    """Interpolated modified Kneser-Ney as the paper has it, from all contexts, oldest id first and of equal length, with what
    followed them."""
    counts: Counter[Context] = Counter((*context, token) for context, token in followed)
    tables = {}
    for length in range(len(followed[0][0]) + 1, 0, -1):
        tables[length] = counts
        counts = Counter(gram[1:] for gram in counts)  # in how many longer contexts
    removed = {length: discounts(list(table.values())) for length, table in tables.items()}
    children: dict[Context, list[int]] = defaultdict(list)
    for table in tables.values():
        for gram, count in table.items():
            children[gram[:-1]].append(count)

    def probability(context: Context, token: int) -> float:
        length = len(context) + 1
        lower = probability(context[1:], token) if context else 1 / vocab
        if context not in children:
            return lower
        seen, taken = children[context], removed[length]
        count = tables[length][(*context, token)]
        gamma = sum(taken[min(c, 3)] for c in seen) / sum(seen)
        return (count - taken[min(count, 3)]) / sum(seen) + gamma * lower

    return probability
