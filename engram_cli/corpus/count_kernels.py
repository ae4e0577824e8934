"""The compiled loops of the count-only model: one pass of a radix sort over grams, which grow by an older id with each pass, and the
search among what was sorted."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.compiled import compiled

_TOGETHER = 4096  # searches that take their steps side by side: a core's cache full


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


@compiled
def search(sorted_keys: npt.NDArray[np.uint64], key_P: npt.NDArray[np.uint64], nowhere: int) -> npt.NDArray[np.int64]:
    """The place of each key among the sorted ones, of which there is one at least, or `nowhere`.

    All searches of a block take their next step together: none waits for memory before the others have asked for theirs, which
    `np.searchsorted`, one search after another, does at nearly every step.
    """
    at_P = np.zeros(len(key_P), np.int64)
    for first in range(0, len(key_P), _TOGETHER):
        last, left = min(first + _TOGETHER, len(key_P)), len(sorted_keys)
        while left > 1:
            half = left >> 1
            for place in range(first, last):
                at_P[place] += half * (sorted_keys[at_P[place] + half] <= key_P[place])
            left -= half
        for place in range(first, last):
            if sorted_keys[at_P[place]] != key_P[place]:
                at_P[place] = nowhere
    return at_P
