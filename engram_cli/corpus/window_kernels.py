"""The compiled loops of sampling: all windows of some lengths are hashed, those with small hashes are tallied.

A hash is the exclusive or of a random code for each canonical id, rotated by its place: that of a window follows from that of a
shorter one, and that of a long one from its predecessor's, in simple loops over blocks that stay in the first-level cache: a
nanosecond a token for each length, where the tally is only touched for the few that are sampled. Codes are random in all their bits,
and so are hashes.

Shapes: B windows of a block, S slots of an open-addressed table, L lengths.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled as _compiled
from engram_cli.compiled import inlined as _inlined

BLOCK = 1 << 11
_ODD = np.uint64(0x9E3779B97F4A7C15)
_64 = np.uint64(64)


@_inlined
def _rotated(value: Any, places: Any) -> Any:
    """`value` turned left by 1 to 63 bits."""
    return (value << places) | (value >> (_64 - places))


@_compiled
def _look_up(ids: Any, codes: Any, codes_B: Any) -> None:
    for i in range(len(codes_B)):
        codes_B[i] = codes[ids[i]]


@_compiled
def _lengthen(shorter_B: Any, codes_B: Any, longer_B: Any) -> None:
    """Hashes of windows that are longer by one from those that end one id before."""
    for i in range(len(longer_B)):
        longer_B[i] = _rotated(shorter_B[i], np.uint64(1)) ^ codes_B[i]


@_compiled
def _roll(codes: Any, length: Any, hashed_B: Any) -> None:
    """Hashes of windows of `length` below 64; the first one ends at codes[length]."""
    entering, leaving = codes[length:], codes
    rolling = np.uint64(0)
    for i in range(length):
        rolling = _rotated(rolling, np.uint64(1)) ^ codes[i]
    for i in range(len(hashed_B)):
        rolling = _rotated(rolling, np.uint64(1)) ^ entering[i] ^ _rotated(leaving[i], np.uint64(length))
        hashed_B[i] = rolling


@_compiled
def _raw_hash(ids: Any) -> Any:
    hashed = np.uint64(len(ids))
    for i in range(len(ids)):
        hashed = (hashed ^ np.uint64(ids[i])) * _ODD
        hashed ^= hashed >> np.uint64(32)
    return hashed


@_compiled
def _slot(canonical: Any, raw: Any, keys_S2: Any, counts_S2: Any) -> Any:
    """Where a window is in a table, or belongs: a slot without counts is free."""
    last = len(keys_S2) - 1
    slot = np.int64((canonical ^ raw) * _ODD >> np.uint64(40)) & last
    while counts_S2[slot, 0] + counts_S2[slot, 1] and (keys_S2[slot, 0] != canonical or keys_S2[slot, 1] != raw):
        slot = (slot + 1) & last
    return slot


@_compiled
def _thin(highest: Any, keys_S2: Any, counts_S2: Any) -> Any:
    """Keep the windows of a table whose canonical hash is at most `highest`; how many these are."""
    keys, counts = keys_S2.copy(), counts_S2.copy()
    counts_S2[:] = 0
    kept = 0
    for old in range(len(keys)):
        if counts[old, 0] + counts[old, 1] and keys[old, 0] <= highest:
            slot = _slot(keys[old, 0], keys[old, 1], keys_S2, counts_S2)
            keys_S2[slot], counts_S2[slot] = keys[old], counts[old]
            kept += 1
    return kept


@_compiled
def _tally(
    ids: Any, starts: Any, first: Any, hashed_B: Any, length: Any, part: Any, most: Any, highest: Any, used: Any, keys_S2: Any,
    counts_S2: Any,
) -> None:  # fmt: skip
    """Tally those windows of a block whose hash is small, and that do not reach back over the start of a document.

    The window i ends with the id `first` + i. Whenever more than `most` windows are in the table, half of the hashes are given up.
    """
    segment = np.searchsorted(starts, first, "right")
    for i in range(len(hashed_B)):
        if hashed_B[i] <= highest[0]:
            end = first + i + 1
            while segment < len(starts) and starts[segment] < end:
                segment += 1
            if end - length < (starts[segment - 1] if segment else 0):
                continue
            raw = _raw_hash(ids[end - length : end])
            slot = _slot(hashed_B[i], raw, keys_S2, counts_S2)
            if counts_S2[slot, 0] + counts_S2[slot, 1] == 0:
                keys_S2[slot, 0], keys_S2[slot, 1] = hashed_B[i], raw
                used[0] += 1
            counts_S2[slot, part] += 1
            while used[0] > most:
                highest[0] >>= np.uint64(1)
                used[0] = _thin(highest[0], keys_S2, counts_S2)


@_compiled
def sample(
    ids: Any, codes: Any, starts: Any, context: Any, lengths: Any, part: Any, most: Any, highest_L: Any, used_L: Any, keys_LS2: Any,
    counts_LS2: Any,
) -> None:  # fmt: skip
    """Tally the windows that end in a stretch of tokens.

    ids: raw ids; codes: random code of the canonical id of each; starts: where documents begin; the first `context` ids are only
    looked back at; lengths: 2, 3, ... and at last a longer one, below 64; part: 0 where training tokens are counted, 1 where held-out
    ones are; most: windows in a table. Of each length: highest_L, the highest hash kept; used_L, windows in the table; keys_LS2, their
    canonical and raw hashes; counts_LS2.
    """
    orders, lead = len(lengths) - 1, lengths[len(lengths) - 1]
    codes_B = np.zeros(lead + BLOCK, np.uint64)
    shorter_B, longer_B = codes_B.copy(), codes_B.copy()
    for first in range(context, len(ids), BLOCK):
        size, known = min(BLOCK, len(ids) - first), min(lead, first)
        _look_up(ids[first - known : first + size], codes, codes_B[lead - known : lead + size])
        shorter_B[:] = codes_B
        for at in range(orders):
            _lengthen(shorter_B[:-1], codes_B[1:], longer_B[1:])
            _tally(
                ids, starts, first, longer_B[lead : lead + size], lengths[at], part, most, highest_L[at : at + 1],
                used_L[at : at + 1], keys_LS2[at], counts_LS2[at],
            )  # fmt: skip
            shorter_B, longer_B = longer_B, shorter_B
        _roll(codes_B, lead, longer_B[:size])
        _tally(
            ids, starts, first, longer_B[:size], lead, part, most, highest_L[orders:], used_L[orders:], keys_LS2[orders],
            counts_LS2[orders],
        )  # fmt: skip
