"""The compiled loops of sampling: windows of some lengths are hashed, those with small hashes are tallied.

A hash is the exclusive or of a random code for each canonical id, rotated by its place. Its highest bits alone say whether it is small,
and follow from the upper halves of the codes by shifts: the hash of a window is that of two shorter ones, one behind the other.
So all windows are looked at in simple loops over blocks in the first-level cache, sixteen at once in wide registers; only the
few that may be small are hashed whole and touch the tally. Codes are random in all their bits, and so are hashes.

Shapes: B windows of a block, S slots of an open-addressed table, L lengths.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled as _compiled
from engram_cli.compiled import inlined as _inlined

BLOCK = 1 << 12
_LOOK = 64  # windows that are looked at together
_ODD = np.uint64(0x9E3779B97F4A7C15)
_1 = np.uint64(1)
_32 = np.uint64(32)
_63 = np.uint64(63)


@_compiled
def _look_up(ids: Any, uppers: Any, upper_B: Any) -> None:
    for i in range(len(upper_B)):
        upper_B[i] = uppers[ids[i]]


@_compiled
def _joined(earlier_B: Any, later_B: Any, length: Any, upper_B: Any) -> None:
    """Upper halves of the hashes of windows, each one that is given and another of `length` ids behind it."""
    for i in range(len(upper_B)):
        upper_B[i] = (earlier_B[i] << length) ^ later_B[i]


@_compiled
def _lowest(upper_B: Any) -> Any:
    lowest = upper_B[0]
    for i in range(len(upper_B)):
        lowest = min(lowest, upper_B[i])
    return lowest


@_compiled
def _whole_hash(ids: Any, codes: Any) -> Any:
    hashed = np.uint64(0)
    for i in range(len(ids)):
        hashed = ((hashed << _1) | (hashed >> _63)) ^ codes[ids[i]]
    return hashed


@_compiled
def _raw_hash(ids: Any) -> Any:
    hashed = np.uint64(len(ids))
    for i in range(len(ids)):
        hashed = (hashed ^ np.uint64(ids[i])) * _ODD
        hashed ^= hashed >> np.uint64(32)
    return hashed


@_compiled
def _slot(canonical: Any, raw: Any, table_S4: Any) -> Any:
    """Where a window is in a table, or belongs: a slot without counts is free."""
    last = len(table_S4) - 1
    slot = np.int64((canonical ^ raw) * _ODD >> np.uint64(40)) & last
    while table_S4[slot, 2] + table_S4[slot, 3] and (table_S4[slot, 0] != canonical or table_S4[slot, 1] != raw):
        slot = (slot + 1) & last
    return slot


@_compiled
def _thin(highest: Any, table_S4: Any) -> Any:
    """Keep the windows of a table whose canonical hash is at most `highest`; how many these are."""
    kept_S4 = np.empty_like(table_S4)  # what is not touched costs nothing
    kept = 0
    for slot in range(len(table_S4)):
        if table_S4[slot, 2] + table_S4[slot, 3] and table_S4[slot, 0] <= highest:
            kept_S4[kept] = table_S4[slot]
            kept += 1
    table_S4[:] = 0
    for at in range(kept):
        table_S4[_slot(kept_S4[at, 0], kept_S4[at, 1], table_S4)] = kept_S4[at]
    return kept


@_compiled
def _find(upper_B: Any, limit: Any, found_B: Any) -> Any:
    """Write to found_B which of the numbers are at most `limit`; returns how many."""
    found = 0
    for begin in range(0, len(upper_B), _LOOK):
        some_B = upper_B[begin : begin + _LOOK]
        if _lowest(some_B) <= limit:
            for i in range(len(some_B)):
                found_B[found] = begin + i
                found += some_B[i] <= limit
    return found


@_compiled
def _tally(
    ids: Any, codes: Any, starts: Any, first: Any, upper_B: Any, length: Any, part: Any, most: Any, highest: Any, used: Any,
    table_S4: Any, room: Any,
) -> None:  # fmt: skip
    """Tally those windows of a block whose hash is small, and that do not reach back over the start of a document.

    The window i ends with the id `first` + i. upper_B: upper half of its hash, but for the lowest length - 1 bits; room: for which
    they are, and their hashes. Whenever more than `most` windows are in the table, half of the hashes are given up.
    First all are hashed, then all are looked for: so the processor waits for several places of memory at a time.
    """
    found_B, canonical_B, raw_B = room
    unsure = np.uint64((1 << (length - 1)) - 1)
    found = _find(upper_B, max(highest[0] >> _32, unsure), found_B)
    for i in range(found):
        end = first + found_B[i] + 1
        if end >= length:
            canonical_B[i] = _whole_hash(ids[end - length : end], codes)
            raw_B[i] = _raw_hash(ids[end - length : end])
    segment = np.searchsorted(starts, first, "right")
    for i in range(found):
        canonical, raw, end = canonical_B[i], raw_B[i], first + found_B[i] + 1
        while segment < len(starts) and starts[segment] < end:
            segment += 1
        if canonical <= highest[0] and end - length >= (starts[segment - 1] if segment else 0):
            slot = _slot(canonical, raw, table_S4)
            if table_S4[slot, 2] + table_S4[slot, 3] == 0:
                table_S4[slot, 0], table_S4[slot, 1] = canonical, raw
                used[0] += 1
            table_S4[slot, 2 + part] += 1
            while used[0] > most:
                highest[0] >>= _1
                used[0] = _thin(highest[0], table_S4)


@_compiled
def sample(
    ids: Any, codes: Any, uppers: Any, starts: Any, context: Any, lengths: Any, part: Any, most: Any, highest_L: Any, used_L: Any,
    table_LS4: Any,
) -> None:  # fmt: skip
    """Tally the windows that end in a stretch of tokens.

    ids: raw ids; codes: random code of the canonical id of each, uint64; uppers: their upper halves, uint32; starts: where documents
    begin; the first `context` ids are only looked back at; lengths: 2, 3, ... and at last a power of 2 below 32; part: 0 where training
    tokens are counted, 1 where held-out ones are; most: windows in a table. Of each length: highest_L, the highest hash kept; used_L,
    windows in the table; table_LS4, their canonical and raw hashes, and their counts in either part.
    """
    orders, lead = len(lengths) - 1, lengths[len(lengths) - 1]
    upper_LB = np.zeros((orders + 1, lead + BLOCK), np.uint32)  # of windows of 1, 2, 3, ... ids
    doubled_LB = np.zeros((6, lead + BLOCK), np.uint32)  # of windows of 1, 2, 4, ... ids
    room = np.empty(BLOCK + 1, np.int64), np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    for first in range(context, len(ids), BLOCK):
        size, known = min(BLOCK, len(ids) - first), min(lead, first)
        single_B = upper_LB[0]
        _look_up(ids[first - known : first + size], uppers, single_B[lead - known : lead + size])
        for at in range(orders):
            longer_B = upper_LB[at + 1]
            _joined(upper_LB[at, :-1], single_B[1:], 1, longer_B[1:])
            table = highest_L[at : at + 1], used_L[at : at + 1], table_LS4[at]
            _tally(ids, codes, starts, first, longer_B[lead : lead + size], lengths[at], part, most, *table, room)
        doubled_LB[0] = single_B
        at, length = 0, 1
        while length < lead:
            _joined(doubled_LB[at, :-length], doubled_LB[at, length:], length, doubled_LB[at + 1, length:])
            at, length = at + 1, 2 * length
        table = highest_L[orders:], used_L[orders:], table_LS4[orders]
        _tally(ids, codes, starts, first, doubled_LB[at, lead : lead + size], lead, part, most, *table, room)
