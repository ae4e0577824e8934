"""The compiled loop of the count-only model: one pass of a radix sort over grams, which grow by an older id with each pass."""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled


@compiled
def lengthen(ids_T: Any, position_T: Any, gram_T: Any, next_V: Any, longer_T: Any, key_T: Any, shift: Any) -> None:
    """Sort positions by the gram that is an older id longer: by that id, and of equal ones by the gram they had.

    ids_T: that id of each position; position_T: all positions, sorted by the gram they had; gram_T: the number of that, in the same
    order; next_V: zeros, one more than there are ids. Results: longer_T, the positions in the new order, and key_T, in that order
    id << shift | gram.
    """
    for position in range(len(ids_T)):
        next_V[ids_T[position] + 1] += 1
    for id in range(1, len(next_V)):
        next_V[id] += next_V[id - 1]
    for at in range(len(position_T)):
        id = ids_T[position_T[at]]
        to = next_V[id]
        next_V[id] += 1
        longer_T[to] = position_T[at]
        key_T[to] = np.uint64(id) << shift | np.uint64(gram_T[at])
