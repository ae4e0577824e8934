"""The compiled loops of merging: sorted runs -> one, in memory and as blocks of bytes on disk.

Runs are merged two by two, a few thousand rows of each at a time, so that all rounds but the first read the second-level cache. On
disk a run is a sequence of blocks, each row the distance to the gram before it and its count, both as varints: about 2.5 bytes a
row where the counts of a large corpus take 12. Grams are `key` and `top` as in kernels.py.
"""

from typing import Any

import numpy as np

from engram_cli.corpus.kernels import _compiled, _inlined

_SEVEN = np.uint64(7)
_LOW7 = np.uint64(127)
_MORE = np.uint64(128)


@_inlined
def _less(key: Any, top: Any, at: Any, other_key: Any, other_top: Any) -> Any:
    """Whether the gram at `at` comes before the other."""
    if top is None:
        return key[at] < other_key
    return (top[at] < other_top) | ((top[at] == other_top) & (key[at] < other_key))


@_compiled
def lower_bound(key: Any, top: Any, begin: Any, end: Any, split_key: Any, split_top: Any) -> Any:
    """The first of the sorted grams begin..end that does not come before the split."""
    while begin < end:
        middle = (begin + end) // 2
        if _less(key, top, middle, split_key, split_top):
            begin = middle + 1
        else:
            end = middle
    return begin


@_compiled
def _merge_two(
    key: Any, top: Any, counts: Any, i: Any, i_end: Any, j: Any, j_end: Any, to_key: Any, to_top: Any, to_counts: Any, row: Any
) -> Any:
    """Merge rows i..i_end and j..j_end into `to`, from `row` on; returns where they end. Equal grams are added."""
    none = np.uint64(0)
    while i < i_end and j < j_end:
        if top is None:
            first = key[i] <= key[j]
            second = key[j] <= key[i]
            to_key[row] = key[i] if first else key[j]
        else:
            first = (top[i] < top[j]) | ((top[i] == top[j]) & (key[i] <= key[j]))
            second = (top[j] < top[i]) | ((top[j] == top[i]) & (key[j] <= key[i]))
            to_key[row] = key[i] if first else key[j]
            to_top[row] = top[i] if first else top[j]
        to_counts[row] = (counts[i] if first else none) + (counts[j] if second else none)
        i += np.int64(first)
        j += np.int64(second)
        row += 1
    if i < i_end:
        return _copy(key, top, counts, i, i_end, to_key, to_top, to_counts, row)
    return _copy(key, top, counts, j, j_end, to_key, to_top, to_counts, row)


@_compiled
def _copy(key: Any, top: Any, counts: Any, begin: Any, end: Any, to_key: Any, to_top: Any, to_counts: Any, row: Any) -> Any:
    for at in range(begin, end):
        to_key[row] = key[at]
        to_counts[row] = counts[at]
        if top is not None:
            to_top[row] = top[at]
        row += 1
    return row


@_compiled
def _step_end(key: Any, top: Any, at_K: Any, end_K: Any, step: Any, upto_K: Any) -> Any:
    """Set upto_K so that no run gives more than `step` rows and none of them comes after a row that is left; whether rows are
    left."""
    found = -1
    for run in range(len(at_K)):
        place = at_K[run] + step
        if place < end_K[run] and (found < 0 or _less(key, top, place, key[found], np.uint64(0) if top is None else top[found])):
            found = place
    for run in range(len(at_K)):
        if found < 0:
            upto_K[run] = end_K[run]
        else:
            last = min(end_K[run], at_K[run] + step)
            split = np.uint64(0) if top is None else top[found]
            upto_K[run] = lower_bound(key, top, at_K[run], last, key[found], split)
    return found >= 0


@_compiled
def merge(key: Any, top: Any, counts: Any, begin_K: Any, end_K: Any, step: Any, to_key: Any, to_top: Any, to_counts: Any) -> Any:
    """Merge K runs, the rows begin_K..end_K of one array, into `to`; `step`: rows of a run in one round. Returns the rows
    written."""
    runs = len(begin_K)
    a, a_counts = np.empty(runs * step, np.uint64), np.empty(runs * step, np.uint64)
    b, b_counts = np.empty(runs * step, np.uint64), np.empty(runs * step, np.uint64)
    if top is None:
        a_top = None
        b_top = None
    else:
        a_top = np.empty(runs * step, np.uint64)
        b_top = np.empty(runs * step, np.uint64)
    at_K, upto_K, bounds = begin_K.copy(), begin_K.copy(), np.empty(runs + 1, np.int64)
    rows = 0
    more = True
    while more:
        more = _step_end(key, top, at_K, end_K, step, upto_K)
        parts = 0
        bounds[0] = 0
        for run in range(runs):
            if at_K[run] < upto_K[run]:
                bounds[parts + 1] = _copy(key, top, counts, at_K[run], upto_K[run], a, a_top, a_counts, bounds[parts])
                parts += 1
            at_K[run] = upto_K[run]
        in_a = True
        while parts > 1:
            if in_a:
                parts = _round(a, a_top, a_counts, bounds, parts, b, b_top, b_counts)
            else:
                parts = _round(b, b_top, b_counts, bounds, parts, a, a_top, a_counts)
            in_a = not in_a
        if parts and in_a:
            rows = _copy(a, a_top, a_counts, 0, bounds[1], to_key, to_top, to_counts, rows)
        elif parts:
            rows = _copy(b, b_top, b_counts, 0, bounds[1], to_key, to_top, to_counts, rows)
    return rows


@_compiled
def _round(key: Any, top: Any, counts: Any, bounds: Any, parts: Any, to_key: Any, to_top: Any, to_counts: Any) -> Any:
    """Merge neighbouring parts two by two, and put down their bounds; returns how many parts are left."""
    row = 0
    begin = 0
    for pair in range((parts + 1) // 2):
        middle = bounds[2 * pair + 1]
        end = bounds[min(2 * pair + 2, parts)]
        row = _merge_two(key, top, counts, begin, middle, middle, end, to_key, to_top, to_counts, row)
        begin = end
        bounds[pair + 1] = row
    return (parts + 1) // 2


@_compiled
def shorten(key: Any, top: Any, counts: Any, bits: Any, to_key: Any, to_top: Any, to_counts: Any) -> Any:
    """Fold sorted grams into the grams without their newest id; returns how many there are. `to` holds as many rows as are
    given."""
    row: Any = -1
    low = np.uint64(0)
    high = np.uint64(0)
    total = np.uint64(0)
    for at in range(len(key)):
        if top is None:
            gram = key[at] >> bits
            row += np.int64((gram != low) | (at == 0))
        else:
            gram = (key[at] >> bits) | (top[at] << (np.uint64(64) - bits))
            above = top[at] >> bits
            row += np.int64((gram != low) | (above != high) | (at == 0))
            high = above
            if to_top is not None:
                to_top[row] = above
        low = gram
        to_key[row] = gram
        total += counts[at]
        to_counts[row] = total
    for at in range(row, 0, -1):
        to_counts[at] -= to_counts[at - 1]
    return row + 1


@_inlined
def _put(data: Any, at: Any, value: Any) -> Any:
    while value >= _MORE:
        data[at] = np.uint8((value & _LOW7) | _MORE)
        at += 1
        value >>= _SEVEN
    data[at] = np.uint8(value)
    return at + 1


@_inlined
def _get(data: Any, at: Any) -> Any:
    byte = np.uint64(data[at])
    at += 1
    value = byte & _LOW7
    shift = _SEVEN
    while byte >= _MORE:
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & _LOW7) << shift
        shift += _SEVEN
    return value, at


@_compiled
def write_blocks(key: Any, top: Any, counts: Any, block: Any, data: Any, ends: Any) -> Any:
    """Rows as blocks of `block` rows in `data`; ends: where each block ends. The first gram of a block is not written."""
    at = 0
    for number in range(len(ends)):
        begin = number * block
        for row in range(begin, min(begin + block, len(key))):
            if row > begin:
                if top is None:
                    at = _put(data, at, key[row] - key[row - 1])
                else:
                    at = _put(data, at, top[row] - top[row - 1])
                    at = _put(data, at, key[row] - key[row - 1] if top[row] == top[row - 1] else key[row])
            at = _put(data, at, np.uint64(counts[row]))
        ends[number] = at
    return at


@_compiled
def read_blocks(data: Any, rows: Any, first_key: Any, first_top: Any, key: Any, top: Any, counts: Any, to: Any) -> Any:
    """The rows of successive blocks, from row `to` of key, top and counts on; rows, first_*: of each block. Returns where they
    end."""
    at = 0
    for block in range(len(rows)):
        low = first_key[block]
        high = np.uint64(0)
        if top is not None:
            high = first_top[block]
        for row in range(rows[block]):
            if row:
                distance, at = _get(data, at)
                if top is None:
                    low += distance
                else:
                    rest, at = _get(data, at)
                    low = rest if distance else low + rest
                    high += distance
            key[to] = low
            if top is not None:
                top[to] = high
            counts[to], at = _get(data, at)
            to += 1
    return to
