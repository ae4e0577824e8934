"""The compiled loops of counting: token ids -> sorted distinct grams with their counts, without a copy that is not needed.

A stretch of tokens is scattered, gram by gram and in order of the leading bits, into buckets that fit the second-level cache; each
bucket is radix-sorted there and run-lengthened, so that the buckets laid end to end are a sorted run. Buckets that one frequent
token makes too large are split by their next bits. Measured on one core at about twice numpy's fastest sort of the same keys, which
many processors do not get (docs/benchmarks).

A gram is `key`, u64; where it is wider than 64 bits, `key` holds its low 64 bits and `top` those above, else `top` is None and
numba drops the branches that speak of it. Everything is u64 or int64, never both in one expression: numba would make that a float.
Loops go over slices and by unsigned places: of an index that may be negative numba asks each time whether it is, which took a third
of the sort's time. Buffers come from the caller, who keeps them: the first touch of fresh memory costs more than the counting.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled, inlined

DIGIT = 11  # bits that a bucket is split by at most
SORTED = 12  # bits that one pass of a sort looks at, at most
FIRST = 16  # leading bits that decide the first bucket
_ONE = np.uint64(1)
_64 = np.uint64(64)


@inlined
def _digit(top: Any, key: Any, shift: Any) -> Any:
    """The low 64 bits of (top, key) >> shift, for a `shift` below 128."""
    if shift == 0:
        return key
    if shift < _64:
        return (key >> shift) | (top << (_64 - shift))
    return top >> (shift - _64)


@inlined
def _width(value: Any) -> Any:
    """Bits of a u64: 0 for 0."""
    width = 0
    while value:
        value >>= _ONE
        width += 1
    return width


@compiled
def tally(
    ids: Any, canonical: Any, starts: Any, context: Any, blank: Any, mask: Any, bits: Any, shift: Any, top: Any, counts_P: Any
) -> None:
    """Add to counts_P how many grams have each prefix, that is, each value of their bits from `shift` up.

    ids: raw ids of a stretch; canonical: id of each; starts: where documents begin in it; the first `context` ids are only looked
    back at; blank, mask: (top, key) of the window before a document and of all bits that are used.
    """
    at = 0
    for segment in range(len(starts) + 1):
        part = ids[at : starts[segment] if segment < len(starts) else len(ids)]
        high, low = blank[0], blank[1]
        for index in range(len(part)):
            high = ((high << bits) | (low >> (_64 - bits))) & mask[0]
            low = ((low << bits) | np.uint64(canonical[part[index]])) & mask[1]
            if at + index >= context:
                if top is None:
                    counts_P[low >> shift] += 1
                else:
                    counts_P[_digit(high, low, shift)] += 1
        at += len(part)


@compiled
def scatter(
    ids: Any,
    canonical: Any,
    starts: Any,
    context: Any,
    blank: Any,
    mask: Any,
    bits: Any,
    shift: Any,
    bucket_P: Any,
    next_B: Any,
    key: Any,
    top: Any,
) -> None:
    """Write each gram to the place that next_B has for the bucket of its prefix. Arguments as for `tally`."""
    at = 0
    for segment in range(len(starts) + 1):
        part = ids[at : starts[segment] if segment < len(starts) else len(ids)]
        high, low = blank[0], blank[1]
        for index in range(len(part)):
            high = ((high << bits) | (low >> (_64 - bits))) & mask[0]
            low = ((low << bits) | np.uint64(canonical[part[index]])) & mask[1]
            if at + index >= context:
                if top is None:
                    bucket = bucket_P[low >> shift]
                    place = next_B[bucket]
                else:
                    bucket = bucket_P[_digit(high, low, shift)]
                    place = next_B[bucket]
                    top[place] = high
                key[place] = low
                next_B[bucket] = place + _ONE
        at += len(part)


@compiled
def last_windows(
    ids: Any, canonical: Any, first: Any, last: Any, order: Any, blank: Any, mask: Any, bits: Any, key: Any, top: Any
) -> None:
    """The gram that ends each document; first, last: of its first id (may be before the stretch: negative) and of its last."""
    for document in range(len(first)):
        high, low = blank[0], blank[1]
        for at in range(max(first[document], last[document] - order + 1), last[document] + 1):
            high = ((high << bits) | (low >> (_64 - bits))) & mask[0]
            low = ((low << bits) | np.uint64(canonical[ids[at]])) & mask[1]
        key[document] = low
        if top is not None:
            top[document] = high


@compiled
def _part(column: Any, begin: Any, end: Any) -> Any:
    """Rows begin..end of a column that may be None."""
    if column is None:
        return None
    return column[begin:end]


@compiled
def _differing(key: Any, top: Any) -> Any:
    """(top, key) of the bits in which grams differ."""
    low = np.uint64(0)
    high = np.uint64(0)
    first = key[0]
    for at in range(len(key)):
        low |= key[at] ^ first
    if top is not None:
        first = top[0]
        for at in range(len(top)):
            high |= top[at] ^ first
    return high, low


@compiled
def _pass(key: Any, top: Any, to_key: Any, to_top: Any, shift: Any, digits: Any, next_P: Any) -> None:
    """One pass of a radix sort, by the `digits` bits from `shift` up; next_P then holds where each part ends."""
    mask = np.uint64((1 << digits) - 1)
    next_P[: 1 << digits] = 0
    for at in range(len(key)):
        digit = (key[at] >> shift if top is None else _digit(top[at], key[at], shift)) & mask
        next_P[digit] += np.uint32(1)
    place = np.uint32(0)
    for part in range(1 << digits):
        size = next_P[part]
        next_P[part] = place
        place += size
    for at in range(len(key)):
        digit = (key[at] >> shift if top is None else _digit(top[at], key[at], shift)) & mask
        place = next_P[digit]
        next_P[digit] = place + np.uint32(1)
        to_key[place] = key[at]
        if top is not None:
            to_top[place] = top[at]


@compiled
def _sort(key: Any, top: Any, width: Any, a: Any, a_top: Any, b: Any, b_top: Any, next_P: Any) -> Any:
    """Sort grams that differ in their low `width` bits; returns the number of passes: an odd one leaves them in `a`, else in
    `b`."""
    passes = (width + SORTED - 1) // SORTED
    digits = (width + passes - 1) // passes
    _pass(key, top, a, a_top, np.uint64(0), digits, next_P)
    for number in range(1, passes):
        shift = np.uint64(number * digits)
        if number % 2:
            _pass(a, a_top, b, b_top, shift, digits, next_P)
        else:
            _pass(b, b_top, a, a_top, shift, digits, next_P)
    return passes


@compiled
def _fold(key: Any, top: Any, high: Any, to_key: Any, to_top: Any, counts: Any) -> Any:
    """Fold sorted grams into `to`; returns how many are left. top: of each gram, or None where all have `high`.

    No branch: repetition cannot be predicted.
    """
    row = ~np.uint64(0)
    low = ~key[0]
    for at in range(len(key)):
        if top is None:
            row += np.uint64(key[at] != low)
        else:
            row += np.uint64((key[at] != low) | (top[at] != high))
            high = top[at]
        if to_top is not None:
            to_top[row] = high
        low = key[at]
        to_key[row] = low
        counts[row] = at + 1
    for at in range(np.int64(row), 0, -1):
        counts[at] -= counts[at - 1]
    return np.int64(row) + 1


@compiled
def sort_and_fold(key: Any, top: Any, bounds_B: Any, spare: Any, spare_top: Any, counts: Any, small: Any) -> Any:
    """Sort the buckets that bounds_B delimits, fold equal grams, and leave them at the front of key (and top) with their counts.

    spare: as large as the largest bucket, or empty where none is above `small` grams. Returns the number of distinct grams.
    """
    a = np.empty(small, np.uint64)
    b = np.empty(small, np.uint64)
    if top is None:
        a_top = None
        b_top = None
    else:
        a_top = np.empty(small, np.uint64)
        b_top = np.empty(small, np.uint64)
    next_P = np.empty(1 << max(DIGIT, SORTED), np.uint32)
    stack = np.empty((16 << DIGIT, 3), np.int64)
    rows = 0
    for bucket in range(len(bounds_B) - 1):
        base = bounds_B[bucket]
        stack[0, 0], stack[0, 1], stack[0, 2] = base, bounds_B[bucket + 1], 0
        depth = 1 if bounds_B[bucket + 1] > base else 0
        while depth:
            depth -= 1
            begin, end, spared = stack[depth, 0], stack[depth, 1], stack[depth, 2]
            here, here_top = key[begin:end], _part(top, begin, end)
            there, there_top = spare[begin - base : end - base], _part(spare_top, begin - base, end - base)
            if spared:
                here, there = there, here
                here_top, there_top = there_top, here_top
            high, low = _differing(here, here_top)
            width = 64 + _width(high) if high else _width(low)
            if width and end - begin > small:
                digits = min(width, DIGIT)
                _pass(here, here_top, there, there_top, np.uint64(width - digits), digits, next_P)
                depth = _push(stack, depth, next_P, 1 << digits, begin, end, 1 - spared, small)
                continue
            to = key[rows:end], _part(top, rows, end), counts[rows:end]
            rows += _sort_and_fold(here, here_top, width, a, a_top, b, b_top, next_P, *to)
    return rows


@compiled
def _push(stack: Any, depth: Any, next_P: Any, parts: Any, begin: Any, end: Any, spared: Any, small: Any) -> Any:
    """Put the parts of a split on the stack, the last first, neighbours together while they are small."""
    until = end
    for part in range(parts - 1, -1, -1):
        since = begin + (np.int64(next_P[part - 1]) if part > 0 else 0)
        before = begin + (np.int64(next_P[part - 2]) if part > 1 else 0)
        if since < until and (part == 0 or until - before > small):
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = since, until, spared
            depth += 1
            until = since
    return depth


@compiled
def _sort_and_fold(
    key: Any, top: Any, width: Any, a: Any, a_top: Any, b: Any, b_top: Any, next_P: Any, to_key: Any, to_top: Any, counts: Any
) -> Any:
    """Sort few grams that differ in their low `width` bits and fold them into `to`; returns how many are left."""
    size = len(key)
    a, b = a[:size], b[:size]
    if top is None:
        high = np.uint64(0)
    else:
        high = top[0]
    if width == 0:
        return _fold(key, None, high, to_key, to_top, counts)
    if width <= 64:  # what is above is shared
        odd = _sort(key, None, width, a, None, b, None, next_P) % 2
        return _fold(a if odd else b, None, high, to_key, to_top, counts)
    a_top, b_top = _part(a_top, 0, size), _part(b_top, 0, size)
    if _sort(key, top, width, a, a_top, b, b_top, next_P) % 2:
        return _fold(a, a_top, ~high, to_key, to_top, counts)
    return _fold(b, b_top, ~high, to_key, to_top, counts)
