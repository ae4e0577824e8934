"""The compiled loops of merging: sorted runs -> one, in memory and as blocks of bytes on disk.

Runs are merged two by two, a few thousand rows of each at a time, so that all rounds but the first read the second-level cache. On
disk a run is a sequence of blocks, each row the distance to the gram before it and its count: three bytes a
row of order 3 and five of order 5 where arrays take 12 and 20. Grams are `key` and `top` as in kernels.py.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled, inlined

_ONE = np.uint64(1)
_THREE, _FOUR, _SEVEN, _EIGHT, _NINE, _64 = (np.uint64(number) for number in (3, 4, 7, 8, 9, 64))
_ALL = ~np.uint64(0)
_1ST, _2ND, _3RD, _4TH, _5TH, _6TH, _7TH = (np.uint64((1 << 8 * size) - 1) for size in range(1, 8))
_TOPS = _EIGHT  # of the byte before a row: the distance is one of tops
_MANY = np.uint64(15)  # counts above do not fit that byte


@inlined
def _less(key: Any, top: Any, at: Any, other_key: Any, other_top: Any) -> Any:
    """Whether the gram at `at` comes before the other."""
    if top is None:
        return key[at] < other_key
    return (top[at] < other_top) | ((top[at] == other_top) & (key[at] < other_key))


@compiled
def lower_bound(key: Any, top: Any, begin: Any, end: Any, split_key: Any, split_top: Any) -> Any:
    """The first of the sorted grams begin..end that does not come before the split."""
    while begin < end:
        middle = (begin + end) // 2
        if _less(key, top, middle, split_key, split_top):
            begin = middle + 1
        else:
            end = middle
    return begin


@inlined
def _order(key: Any, top: Any, i: Any, j: Any) -> Any:
    """(whether the gram at i comes before the one at j or is equal, whether the one at j does before the one at i)."""
    if top is None:
        return key[i] <= key[j], key[j] <= key[i]
    before, equal = top[i] < top[j], top[i] == top[j]
    return before | (equal & (key[i] <= key[j])), (not (before | equal)) | (equal & (key[j] <= key[i]))


@compiled
def distinct(key: Any, top: Any, i: Any, i_end: Any, j: Any, j_end: Any) -> Any:
    """How many different grams rows i..i_end and j..j_end have, each sorted.

    Counted from both ends at once: a step waits for the one before it, and so there are two that do not wait for each other.
    """
    i_last, j_last, grams = i_end - 1, j_end - 1, 0
    while i < i_last and j < j_last:
        first, second = _order(key, top, i, j)
        i += np.int64(first)
        j += np.int64(second)
        first, second = _order(key, top, i_last, j_last)
        i_last -= np.int64(second)
        j_last -= np.int64(first)
        grams += 2
    while i <= i_last and j <= j_last:
        first, second = _order(key, top, i, j)
        i += np.int64(first)
        j += np.int64(second)
        grams += 1
    return grams + (i_last + 1 - i) + (j_last + 1 - j)


@compiled
def merge_two(
    key: Any, top: Any, counts: Any, i: Any, i_end: Any, j: Any, j_end: Any, to_key: Any, to_top: Any, to_counts: Any, row: Any
) -> Any:
    """Merge rows i..i_end and j..j_end into `to`, from `row` on; returns where they end. Equal grams are added.

    Places are unsigned: numba need not ask whether they count from the end.
    """
    i, i_end, j, j_end, row = np.uint64(i), np.uint64(i_end), np.uint64(j), np.uint64(j_end), np.uint64(row)
    while i < i_end and j < j_end:
        low, other = key[i], key[j]
        if top is None:
            first = low <= other
            second = other <= low
        else:
            first = (top[i] < top[j]) | ((top[i] == top[j]) & (low <= other))
            second = (top[j] < top[i]) | ((top[j] == top[i]) & (other <= low))
            to_top[row] = top[i] if first else top[j]
        to_key[row] = low if first else other
        to_counts[row] = counts[i] * np.uint64(first) + counts[j] * np.uint64(second)
        i += np.uint64(first)
        j += np.uint64(second)
        row += _ONE
    if i < i_end:
        return _copy(key, top, counts, i, i_end, to_key, to_top, to_counts, row)
    return _copy(key, top, counts, j, j_end, to_key, to_top, to_counts, row)


@compiled
def _copy(key: Any, top: Any, counts: Any, begin: Any, end: Any, to_key: Any, to_top: Any, to_counts: Any, row: Any) -> Any:
    until = row + (end - begin)
    to_key[row:until] = key[begin:end]
    to_counts[row:until] = counts[begin:end]
    if top is not None:
        to_top[row:until] = top[begin:end]
    return np.int64(until)


@compiled
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


@compiled
def merge(key: Any, top: Any, counts: Any, begin_K: Any, end_K: Any, step: Any, to_key: Any, to_top: Any, to_counts: Any) -> Any:
    """Merge K runs, the rows begin_K..end_K of one array, into `to`; `step`: rows of a run in one round. Returns the rows
    written. counts, to_counts: uint64."""
    runs = len(begin_K)
    size = runs * step if runs > 2 else 0
    a, a_counts = np.empty(size, np.uint64), np.empty(size, np.uint64)
    b, b_counts = np.empty(size, np.uint64), np.empty(size, np.uint64)
    if top is None:
        a_top = None
        b_top = None
    else:
        a_top = np.empty(size, np.uint64)
        b_top = np.empty(size, np.uint64)
    at_K, upto_K, from_P, until_P = begin_K.copy(), begin_K.copy(), begin_K.copy(), begin_K.copy()
    rows = 0
    more = True
    while more:
        more = _step_end(key, top, at_K, end_K, step, upto_K)
        parts = 0
        for run in range(runs):
            if at_K[run] < upto_K[run]:
                from_P[parts], until_P[parts] = at_K[run], upto_K[run]
                parts += 1
            at_K[run] = upto_K[run]
        if parts <= 2:
            rows = _round(key, top, counts, from_P, until_P, parts, to_key, to_top, to_counts, rows)
            continue
        _round(key, top, counts, from_P, until_P, parts, a, a_top, a_counts, 0)
        parts = (parts + 1) // 2
        in_a = True
        while parts > 2:
            if in_a:
                _round(a, a_top, a_counts, from_P, until_P, parts, b, b_top, b_counts, 0)
            else:
                _round(b, b_top, b_counts, from_P, until_P, parts, a, a_top, a_counts, 0)
            parts = (parts + 1) // 2
            in_a = not in_a
        if in_a:
            rows = _round(a, a_top, a_counts, from_P, until_P, parts, to_key, to_top, to_counts, rows)
        else:
            rows = _round(b, b_top, b_counts, from_P, until_P, parts, to_key, to_top, to_counts, rows)
    return rows


@compiled
def _round(
    key: Any, top: Any, counts: Any, from_P: Any, until_P: Any, parts: Any, to_key: Any, to_top: Any, to_counts: Any, row: Any
) -> Any:
    """Merge neighbouring parts two by two into `to`, from `row` on, and put down where they lie then; returns where they end."""
    for pair in range((parts + 1) // 2):
        one, other = 2 * pair, 2 * pair + 1
        begin = row
        if other < parts:
            bounds = from_P[one], until_P[one], from_P[other], until_P[other]
            row = merge_two(key, top, counts, *bounds, to_key, to_top, to_counts, row)
        else:
            row = _copy(key, top, counts, from_P[one], until_P[one], to_key, to_top, to_counts, row)
        from_P[pair], until_P[pair] = begin, row
    return row


@compiled
def tally_counts(counts: Any, dense_LC: Any) -> Any:
    """Add to dense_LC how many counts have each value below C; returns how many are not below.

    Most counts are small and equal. So L lanes, 4 of them, are counted apart: no addition waits for the one before.
    """
    beyond = 0
    limit = np.uint64(dense_LC.shape[1])
    for at in range(len(counts)):
        count = counts[at]
        if count < limit:
            dense_LC[at & 3, count] += 1
        else:
            beyond += 1
    return beyond


@compiled
def shorten(key: Any, top: Any, counts: Any, bits: Any, to_key: Any, to_top: Any, to_counts: Any) -> Any:
    """Fold sorted grams into the grams without their newest id; returns how many there are. `to` holds as many rows as are
    given."""
    row = ~np.uint64(0)
    low = np.uint64(0)
    high = np.uint64(0)
    total = np.uint64(0)
    for at in range(len(key)):
        if top is None:
            gram = key[at] >> bits
            row += np.uint64((gram != low) | (at == 0))
        else:
            gram = (key[at] >> bits) | (top[at] << (np.uint64(64) - bits))
            above = top[at] >> bits
            row += np.uint64((gram != low) | (above != high) | (at == 0))
            high = above
            if to_top is not None:
                to_top[row] = above
        low = gram
        to_key[row] = gram
        total += counts[at]
        to_counts[row] = total
    for at in range(np.int64(row), 0, -1):
        to_counts[at] -= to_counts[at - 1]
    return np.int64(row) + 1


@inlined
def _size(value: Any) -> Any:
    """Bytes of a number, 1 to 8."""
    size = _ONE
    for limit in (_1ST, _2ND, _3RD, _4TH, _5TH, _6TH, _7TH):
        size += np.uint64(value > limit)
    return size


@inlined
def _low_bytes(value: Any, size: Any) -> Any:
    return value & (_ALL >> (_64 - (size << _THREE)))


@compiled
def write_blocks(key: Any, top: Any, counts: Any, block: Any, data: Any, words: Any, ends: Any) -> Any:
    """Rows as blocks of `block` rows in `data`; words: the eight bytes from each of its bytes on, as a number; ends: where each block ends.

    A row is a byte and the distance to the gram before it, in as few bytes as it needs: how many less one are in the byte's low bits,
    with 8 for a distance of tops, after which `key` comes whole; the count less one is in its high bits, or 15, and then the
    count comes last. The first gram of a block is not written: its distance is 0.
    """
    at = np.uint64(0)
    for number in range(len(ends)):
        begin = number * block
        low = key[begin]
        high = np.uint64(0) if top is None else top[begin]
        for row in range(begin, min(begin + block, len(key))):
            count = min(np.uint64(counts[row]) - _ONE, _MANY)
            if top is not None and top[row] != high:
                size = _size(top[row] - high)
                data[at] = np.uint8((count << _FOUR) | _TOPS | (size - _ONE))
                words[at + _ONE] = top[row] - high
                words[at + _ONE + size] = key[row]
                at += _NINE + size
                high = top[row]
            else:
                size = _size(key[row] - low)
                data[at] = np.uint8((count << _FOUR) | (size - _ONE))
                words[at + _ONE] = key[row] - low
                at += _ONE + size
            low = key[row]
            if count == _MANY:
                words[at] = np.uint64(counts[row])
                at += _EIGHT
        ends[number] = np.int64(at)
    return np.int64(at)


@compiled
def read_blocks(
    data: Any, words: Any, rows: Any, first_key: Any, first_top: Any, key: Any, top: Any, counts: Any, to: Any
) -> Any:
    """The rows of successive blocks, from row `to` of key, top and counts on; rows, first_*: of each block. Returns where they
    end."""
    at = np.uint64(0)
    for block in range(len(rows)):
        low = first_key[block]
        high = np.uint64(0) if top is None else first_top[block]
        end = to + rows[block]
        for row in range(to, end):
            head = np.uint64(data[at])
            size = (head & _SEVEN) + _ONE
            distance = _low_bytes(words[at + _ONE], size)
            at += _ONE + size
            if top is not None and head & _TOPS:
                high += distance
                low = words[at]
                at += _EIGHT
            else:
                low += distance
            key[row] = low
            if top is not None:
                top[row] = high
            count = (head >> _FOUR) + _ONE
            if count > _MANY:
                count = words[at]
                at += _EIGHT
            counts[row] = count
        to = end
    return to
