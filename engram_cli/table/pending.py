"""Rows that were changed in memory and not yet on disk, by id: what lets a table larger than memory be trained through a map that
is only read.

Writing through the map instead would dirty a page of 4096 bytes for each row of a few hundred, leave the file in a state that no
checkpoint describes, and end in SIGBUS where the disk is full; a private map would keep those pages in memory. Here a changed row
takes its own bytes and 24 to 40 more. Ids are found by open addressing in a compiled loop, about 50 ns each.
Shapes: U ids of one call, P rows that are kept, C places of the hash table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.compiled import compiled

Ids = npt.NDArray[np.int64]
_SMALLEST = 1 << 12
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, volume 3, 6.4)


class Pending:
    """Arrays side by side, a record of each for every id: `put` keeps records, `find` says where they are.

    kinds: dtype and shape of a record in each array, as [("f4", (48,)), ("f4", (1,))].
    """

    def __init__(self, kinds: Sequence[tuple[Any, tuple[int, ...]]]) -> None:
        self._kinds = tuple(kinds)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.count = 0
        self._ids_P = np.empty(_SMALLEST, np.int64)
        self._slots_C = np.zeros(2 * _SMALLEST, np.int64)
        self._kept = [np.empty((_SMALLEST, *shape), kind) for kind, shape in self._kinds]

    @property
    def bytes(self) -> int:
        """Memory in use."""
        return sum(array.nbytes for array in (self._ids_P, self._slots_C, *self._kept))

    @property
    def ids(self) -> Ids:
        """Ids that are kept, int64 [P], in the order in which they came."""
        return self._ids_P[: self.count]

    @property
    def records(self) -> list[npt.NDArray[Any]]:
        """What is kept of them: [P, ...] each, in the order of `ids`."""
        return [array[: self.count] for array in self._kept]

    def find(self, ids_U: Ids) -> Ids:
        """Places in `ids` and `records`, -1 for ids of which nothing is kept: int64 [U]."""
        places_U = np.empty(len(ids_U), np.int64)
        find_ids(self._slots_C, self._ids_P, ids_U, places_U)
        return places_U

    def put(self, ids_U: Ids, *records: npt.NDArray[Any]) -> None:
        """Keep one record [U, ...] for each array of distinct ids, in place of what was kept."""
        while self.count + len(ids_U) > len(self._ids_P):
            self._grow()
        places_U = np.empty(len(ids_U), np.int64)
        self.count = place_ids(self._slots_C, self._ids_P, self.count, ids_U, places_U)
        for array, record in zip(self._kept, records, strict=True):
            array[places_U] = record

    def _grow(self) -> None:
        room = 2 * len(self._ids_P)
        ids_P, kept = self.ids, self.records
        self._ids_P, self._slots_C = np.empty(room, np.int64), np.zeros(2 * room, np.int64)
        place_ids(self._slots_C, self._ids_P, 0, ids_P, np.empty(len(ids_P), np.int64))
        for number, (kind, shape) in enumerate(self._kinds):
            grown = np.empty((room, *shape), kind)
            grown[: self.count] = kept[number]
            self._kept[number] = grown


@compiled
def find_ids(slots_C: Ids, ids_P: Ids, ids_U: Ids, places_U: Ids) -> None:
    """The place of each id in ids_P, -1 where it has none. slots_C: 0, or a place plus one; C is a power of two."""
    mask = np.uint64(len(slots_C) - 1)
    for at in range(len(ids_U)):
        slot = (np.uint64(ids_U[at]) * _GOLDEN >> np.uint64(20)) & mask
        while slots_C[slot] != 0 and ids_P[slots_C[slot] - 1] != ids_U[at]:
            slot = (slot + np.uint64(1)) & mask
        places_U[at] = slots_C[slot] - 1


@compiled
def place_ids(slots_C: Ids, ids_P: Ids, count: int, ids_U: Ids, places_U: Ids) -> int:
    """As `find_ids`, with new ids put behind the first `count` of ids_P; returns how many there are now."""
    mask = np.uint64(len(slots_C) - 1)
    for at in range(len(ids_U)):
        slot = (np.uint64(ids_U[at]) * _GOLDEN >> np.uint64(20)) & mask
        while slots_C[slot] != 0 and ids_P[slots_C[slot] - 1] != ids_U[at]:
            slot = (slot + np.uint64(1)) & mask
        if slots_C[slot] == 0:
            ids_P[count] = ids_U[at]
            count += 1
            slots_C[slot] = count
        places_U[at] = slots_C[slot] - 1
    return count
