"""The compiled loops of counting: token ids -> sorted distinct grams with their counts, without a copy that is not needed.

A stretch of tokens is scattered, gram by gram and in order of the leading bits, into buckets that fit the second-level cache; each
bucket is radix-sorted there and run-lengthened, so that the buckets laid end to end are a sorted run. Buckets that one frequent
token makes too large are split by their next bits. Measured on one core at about twice numpy's fastest sort of the same keys, which
many processors do not get (docs/benchmarks).

A gram is `key`, u64; where it is wider than 64 bits, `key` holds its low 64 bits and `top` those above, else `top` is None and
numba drops the branches that speak of it. Everything is u64 or int64, never both in one expression: numba would make that a float.
Buffers come from the caller, who keeps them: the first touch of fresh memory costs more than the counting.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numba import njit

_F = TypeVar("_F")
DIGIT = 11  # bits that a bucket is split by at most
SORTED = 11  # bits that one pass of a sort looks at, at most
FIRST = 16  # leading bits that decide the first bucket
_ONE = np.uint64(1)
_64 = np.uint64(64)

if TYPE_CHECKING:

    def _compiled(function: _F) -> _F: ...
    def _inlined(function: _F) -> _F: ...
else:
    _compiled = njit(cache=True, nogil=True)
    _inlined = njit(inline="always")


@_inlined
def _digit(top: Any, key: Any, shift: Any) -> Any:
    """The low 64 bits of (top, key) >> shift, for a `shift` below 128."""
    if shift == 0:
        return key
    if shift < _64:
        return (key >> shift) | (top << (_64 - shift))
    return top >> (shift - _64)


@_inlined
def _width(value: Any) -> Any:
    """Bits of a u64: 0 for 0."""
    width = 0
    while value:
        value >>= _ONE
        width += 1
    return width


@_compiled
def tally(
    ids: Any, canonical: Any, starts: Any, context: Any, blank: Any, mask: Any, bits: Any, shift: Any, top: Any, counts_P: Any
) -> None:
    """Add to counts_P how many grams have each prefix, that is, each value of their bits from `shift` up.

    ids: raw ids of a stretch; canonical: id of each; starts: where documents begin in it; the first `context` ids are only looked
    back at; blank, mask: (top, key) of the window before a document and of all bits that are used.
    """
    at = 0
    for segment in range(len(starts) + 1):
        end = starts[segment] if segment < len(starts) else len(ids)
        high, low = blank[0], blank[1]
        while at < end:
            high = ((high << bits) | (low >> (_64 - bits))) & mask[0]
            low = ((low << bits) | np.uint64(canonical[ids[at]])) & mask[1]
            if at >= context:
                if top is None:
                    counts_P[low >> shift] += 1
                else:
                    counts_P[_digit(high, low, shift)] += 1
            at += 1


@_compiled
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
        end = starts[segment] if segment < len(starts) else len(ids)
        high, low = blank[0], blank[1]
        while at < end:
            high = ((high << bits) | (low >> (_64 - bits))) & mask[0]
            low = ((low << bits) | np.uint64(canonical[ids[at]])) & mask[1]
            if at >= context:
                if top is None:
                    bucket = bucket_P[low >> shift]
                    place = next_B[bucket]
                else:
                    bucket = bucket_P[_digit(high, low, shift)]
                    place = next_B[bucket]
                    top[place] = high
                key[place] = low
                next_B[bucket] = place + 1
            at += 1


@_compiled
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


@_compiled
def _differing(key: Any, top: Any, begin: Any, end: Any) -> Any:
    """(top, key) of the bits in which grams of begin..end differ."""
    low = np.uint64(0)
    high = np.uint64(0)
    for at in range(begin, end):
        low |= key[at] ^ key[begin]
    if top is not None:
        for at in range(begin, end):
            high |= top[at] ^ top[begin]
    return high, low


@_compiled
def _split(key: Any, top: Any, begin: Any, end: Any, to_key: Any, to_top: Any, to: Any, width: Any, next_P: Any) -> Any:
    """Scatter grams that differ in their low `width` bits by the highest of those; next_P then holds where each part ends."""
    digits = min(width, DIGIT)
    shift = np.uint64(width - digits)
    mask = np.uint64((1 << digits) - 1)
    next_P[: 1 << digits] = 0
    for at in range(begin, end):
        digit = key[at] >> shift if top is None else _digit(top[at], key[at], shift)
        next_P[digit & mask] += 1
    place = to
    for part in range(1 << digits):
        size = next_P[part]
        next_P[part] = place
        place += size
    for at in range(begin, end):
        digit = (key[at] >> shift if top is None else _digit(top[at], key[at], shift)) & mask
        place = next_P[digit]
        to_key[place] = key[at]
        if top is not None:
            to_top[place] = top[at]
        next_P[digit] = place + 1
    return 1 << digits


@_compiled
def _pass(key: Any, top: Any, begin: Any, size: Any, to_key: Any, to_top: Any, shift: Any, mask: Any, next_P: Any) -> None:
    """One pass of a radix sort, by the bits `mask` from `shift` up; the places in next_P are counted already."""
    for at in range(begin, begin + size):
        digit = (key[at] >> shift if top is None else _digit(top[at], key[at], shift)) & mask
        place = next_P[digit]
        next_P[digit] = place + 1
        to_key[place] = key[at]
        if top is not None:
            to_top[place] = top[at]


@_compiled
def _sort(key: Any, top: Any, begin: Any, size: Any, width: Any, a: Any, a_top: Any, b: Any, b_top: Any, next_SP: Any) -> Any:
    """Sort grams that differ in their low `width` bits; returns the number of passes: an odd one leaves them in `a`, else in
    `b`."""
    passes = (width + SORTED - 1) // SORTED
    digits = (width + passes - 1) // passes
    mask = np.uint64((1 << digits) - 1)
    next_SP[:passes, : 1 << digits] = 0
    for at in range(begin, begin + size):
        for number in range(passes):
            shift = np.uint64(number * digits)
            digit = key[at] >> shift if top is None else _digit(top[at], key[at], shift)
            next_SP[number, digit & mask] += 1
    for number in range(passes):
        place = 0
        for part in range(1 << digits):
            count = next_SP[number, part]
            next_SP[number, part] = place
            place += count
    _pass(key, top, begin, size, a, a_top, np.uint64(0), mask, next_SP[0])
    for number in range(1, passes):
        shift = np.uint64(number * digits)
        if number % 2:
            _pass(a, a_top, 0, size, b, b_top, shift, mask, next_SP[number])
        else:
            _pass(b, b_top, 0, size, a, a_top, shift, mask, next_SP[number])
    return passes


@_compiled
def _fold(key: Any, top: Any, begin: Any, size: Any, to_key: Any, to_top: Any, counts: Any, rows: Any) -> Any:
    """Append sorted grams, equal ones folded; returns the rows there are then. No branch: repetition cannot be predicted."""
    row = rows - 1
    low = ~key[begin]
    high = np.uint64(0)
    for at in range(size):
        if top is None:
            row += np.int64(key[begin + at] != low)
        else:
            row += np.int64((key[begin + at] != low) | (top[begin + at] != high))
            high = top[begin + at]
            to_top[row] = high
        low = key[begin + at]
        to_key[row] = low
        counts[row] = at + 1
    for at in range(row, rows, -1):
        counts[at] -= counts[at - 1]
    return row + 1


@_compiled
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
    next_SP = np.empty((12, 1 << SORTED), np.int32)
    next_P = np.empty(1 << DIGIT, np.int64)
    stack = np.empty((16 << DIGIT, 3), np.int64)
    rows = 0
    for bucket in range(len(bounds_B) - 1):
        base = bounds_B[bucket]
        stack[0, 0], stack[0, 1], stack[0, 2] = base, bounds_B[bucket + 1], 0
        depth = 1 if bounds_B[bucket + 1] > base else 0
        while depth:
            depth -= 1
            begin, end, spared = stack[depth, 0], stack[depth, 1], stack[depth, 2]
            if spared:
                high, low = _differing(spare, spare_top, begin - base, end - base)
            else:
                high, low = _differing(key, top, begin, end)
            width = 64 + _width(high) if high else _width(low)
            if width and end - begin > small:
                if spared:
                    parts = _split(spare, spare_top, begin - base, end - base, key, top, begin, width, next_P)
                else:
                    parts = _split(key, top, begin, end, spare, spare_top, begin - base, width, next_P)
                depth = _push(stack, depth, next_P, parts, begin, 0 if spared else base, end, 1 - spared, small)
                continue
            size = end - begin
            if spared:
                rows = _sort_one(spare, spare_top, begin - base, size, width, a, a_top, b, b_top, next_SP, key, top, counts, rows)
            else:
                rows = _sort_one(key, top, begin, size, width, a, a_top, b, b_top, next_SP, key, top, counts, rows)
    return rows


@_compiled
def _push(stack: Any, depth: Any, next_P: Any, parts: Any, begin: Any, base: Any, end: Any, spared: Any, small: Any) -> Any:
    """Put the parts of a split on the stack, the last first, neighbours together while they are small."""
    until = end
    for part in range(parts - 1, -1, -1):
        since = begin if part == 0 else next_P[part - 1] + base
        before = begin if part < 2 else next_P[part - 2] + base
        if since < until and (part == 0 or until - before > small):
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = since, until, spared
            depth += 1
            until = since
    return depth


@_compiled
def _sort_one(
    key: Any,
    top: Any,
    begin: Any,
    size: Any,
    width: Any,
    a: Any,
    a_top: Any,
    b: Any,
    b_top: Any,
    next_SP: Any,
    to_key: Any,
    to_top: Any,
    counts: Any,
    rows: Any,
) -> Any:
    if width == 0:
        return _fold(key, top, begin, size, to_key, to_top, counts, rows)
    passes = _sort(key, top, begin, size, width, a, a_top, b, b_top, next_SP)
    if passes % 2:
        return _fold(a, a_top, 0, size, to_key, to_top, counts, rows)
    return _fold(b, b_top, 0, size, to_key, to_top, counts, rows)
