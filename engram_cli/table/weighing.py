"""What rows weigh, compiled: norms, zeros, NaN, infinities and saturated numbers of rows as they are stored.

E4M3 is weighed as it lies, no row of it is decoded (table/wide.py).
Shapes: R rows, E numbers per row, B blocks of a row that have a scale each, K = R * B blocks.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import inlined, summing
from engram_cli.table.codes import e4m3_size
from engram_cli.table.row_types import BLOCK
from engram_cli.table.wide import row_weight

ZERO, NAN, INFINITE, SATURATED, KINDS = 0, 1, 2, 3, 4  # places in `counts`
SUM, LARGEST, SMALLEST = 0, 1, 2  # places in `norms`
_SQUARE = 15  # a place in the norms of a call, which fill two lines of a cache
EXPONENTS = 2048  # of f64: places in `squares`, which counts rows by the exponent of their squared norm
_BLOCK = np.uint64(BLOCK)
_ONE = np.uint64(1)
_MAGNITUDE = np.uint8(0x7F)


@inlined
def _enter(square: Any, norms: Any, places: Any, squares: Any) -> None:
    """Count one row without NaN or infinity in it by its squared norm; places is norms, seen as u64."""
    norm = np.sqrt(square)
    norms[SUM] += norm
    norms[LARGEST] = max(norms[LARGEST], norm)
    norms[SMALLEST] = min(norms[SMALLEST], norm)
    norms[_SQUARE] = square
    squares[places[_SQUARE] >> np.uint64(52)] += 1


@inlined
def _own_norms() -> Any:
    """Norms of this call alone: what threads add to row by row must not lie in one line of a cache."""
    norms = np.zeros(_SQUARE + 1)
    norms[SMALLEST] = np.inf
    return norms


@inlined
def _give(own: Any, norms: Any) -> None:
    """Add the norms of a call to those of all."""
    norms[SUM] += own[SUM]
    norms[LARGEST] = max(norms[LARGEST], own[LARGEST])
    norms[SMALLEST] = min(norms[SMALLEST], own[SMALLEST])


@summing
def _square_exactly(numbers_N: Any, scales_K: Any, factors: Any, first: Any, stop: Any) -> Any:
    """The sum of squares of the blocks from `first` to `stop` where f32 is too short for it: f64."""
    square = np.float64(0)
    for block in range(first, stop):
        part = np.float64(0)
        for at in range(block * _BLOCK, (block + _ONE) * _BLOCK):
            size = np.float64(e4m3_size(np.uint32(numbers_N[at] & _MAGNITUDE)))
            part += size * size
        square += part * factors[scales_K[block]]
    return square


@summing
def _all_zero(numbers_N: Any, first: Any, stop: Any) -> Any:
    """Whether those numbers are all zero."""
    largest = np.uint8(0)
    for at in range(first, stop):
        largest = max(largest, np.uint8(numbers_N[at] & _MAGNITUDE))
    return largest == 0


@summing
def weigh_e4m3(
    numbers_N: Any,
    scales_K: Any,
    blocks: int,
    factors: Any,
    multipliers: Any,
    counts: Any,
    norms: Any,
    squares: Any,
    scale_counts: Any,
) -> None:
    """Add rows of E4M3 up in `counts`, int64 [KINDS], `norms`, f64 [3], `squares`, int64 [EXPONENTS], `scale_counts`, int64 [256].

    numbers_N: u8, N = K * BLOCK; scales_K: u8; blocks: B, of a row; multipliers: f32 [256], what each scale multiplies by, or NaN,
    times SHORT; factors: f64 [256], the square of it without SHORT.
    """
    own = _own_norms()
    places = own.view(np.uint64)
    width = np.uint64(blocks)
    for first in range(np.uint64(0), np.uint64(len(scales_K)), width):
        stop = first + width
        for block in range(first, stop):
            scale_counts[scales_K[block]] += 1
        part, saturated, nan = row_weight(numbers_N, scales_K, multipliers, first, width)
        counts[SATURATED] += saturated
        counts[NAN] += nan
        square = np.float64(part)
        if not 1e-30 < square < 1e30:
            zero = _all_zero(numbers_N, first * _BLOCK, stop * _BLOCK)
            counts[ZERO] += zero
            if part != 0 or not zero:
                square = _square_exactly(numbers_N, scales_K, factors, first, stop)
        if nan or square != square:
            continue
        _enter(square, own, places, squares)
    _give(own, norms)


@summing
def weigh_floats(values_RE: Any, counts: Any, norms: Any, squares: Any) -> None:
    """As `weigh_e4m3` for f32 [R, E], which has nothing saturated and no scales."""
    own = _own_norms()
    places = own.view(np.uint64)
    for row in range(len(values_RE)):
        values_E = values_RE[row]
        part = np.float32(0)
        for at in range(len(values_E)):
            part += values_E[at] * values_E[at]
        square = np.float64(part)
        if not 1e-30 < square < 1e30:  # what f32 cannot add up, zeros, and what is no number
            square, nan, infinite = np.float64(0), 0, 0
            for at in range(len(values_E)):
                value = np.float64(values_E[at])
                nan += value != value
                infinite += abs(value) == np.inf
                square += value * value
            counts[NAN] += nan
            counts[INFINITE] += infinite
            counts[ZERO] += square == 0
            if nan + infinite:
                continue
        _enter(square, own, places, squares)
    _give(own, norms)
