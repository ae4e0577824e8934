"""The compiled loops of the count-only model: one pass of a radix sort over grams, which grow by an older id with each pass."""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled


@compiled
def tally(ids_T: Any, position_P: Any, count_V: Any) -> None:
    """Add to count_V how often each id stands at these positions."""
    for at in range(len(position_P)):
        count_V[ids_T[position_P[at]]] += 1


@compiled
def lengthen(ids_T: Any, position_P: Any, gram_P: Any, next_V: Any, longer_T: Any, key_T: Any, shift: Any) -> None:
    """Put some of the positions, sorted by the gram they had, where they come when sorted by the gram that is an older id longer: by
    that id, and of equal ones by the gram they had.

    ids_T: that id of each position; gram_P: the number of the gram that each of position_P had; next_V: where the next of each id
    comes, moved on. Results: longer_T, the positions in the new order, and key_T, in that order id << shift | gram.
    """
    for at in range(len(position_P)):
        id = ids_T[position_P[at]]
        to = next_V[id]
        next_V[id] += 1
        longer_T[to] = position_P[at]
        key_T[to] = np.uint64(id) << shift | np.uint64(gram_P[at])
