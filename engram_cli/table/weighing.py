"""What rows weigh, compiled: norms, zeros, NaN, infinities and saturated numbers of rows as they are stored.

A byte of E4M3 without its sign, shifted to where an f32 has exponent and mantissa, is its magnitude times 2^-120, subnormal ones
too: so wide registers decode it, three times as fast as a table of 256.
Shapes: R rows, E numbers per row, B blocks of a row that have a scale each.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import inlined, summing

ZERO, NAN, INFINITE, SATURATED, KINDS = 0, 1, 2, 3, 4  # places in `counts`
SUM, LARGEST, SMALLEST = 0, 1, 2  # places in `norms`
EXPONENTS = 2048  # of f64: places in `squares`, which counts rows by the exponent of their squared norm
_SHIFT = np.uint32(20)
_NAN, _MOST, _MAGNITUDE = np.uint32(0x7F << 20), np.uint32(0x7E << 20), np.uint8(0x7F)  # E4M3 has one NaN, above 448
_UNSHIFT = np.float32(2.0**120)


@inlined
def _enter(square: Any, square_1: Any, bits_1: Any, norms: Any, squares: Any) -> None:
    """Count one row without NaN or infinity in it by its squared norm; bits_1 is square_1, seen as u64."""
    norm = np.sqrt(square)
    norms[SUM] += norm
    norms[LARGEST] = max(norms[LARGEST], norm)
    norms[SMALLEST] = min(norms[SMALLEST], norm)
    square_1[0] = square
    squares[bits_1[0] >> np.uint64(52)] += 1


@summing
def weigh_e4m3(
    numbers_RE: Any, scales_RB: Any, factors: Any, counts: Any, norms: Any, squares: Any, scale_counts: Any, shifted_E: Any
) -> None:
    """Add rows of E4M3 up in `counts`, int64 [KINDS], `norms`, f64 [3], `squares`, int64 [EXPONENTS], `scale_counts`, int64 [256].

    numbers_RE: u8; scales_RB: u8, B divides E; factors: f64 [256], the square of what each scale multiplies by, or NaN; shifted_E:
    u32, to work in.
    """
    magnitude_E = shifted_E.view(np.float32)
    square_1 = np.empty(1, np.float64)
    bits_1 = square_1.view(np.uint64)
    blocks = scales_RB.shape[1]
    size = numbers_RE.shape[1] // blocks
    for row in range(len(numbers_RE)):
        numbers_E = numbers_RE[row]
        for at in range(len(numbers_E)):
            shifted_E[at] = np.uint32(numbers_E[at] & _MAGNITUDE) << _SHIFT
        largest = np.uint32(0)
        for at in range(len(shifted_E)):
            largest = max(largest, shifted_E[at])
        square = np.float64(0)
        for block in range(blocks):
            scale = scales_RB[row, block]
            scale_counts[scale] += 1
            part = np.float32(0)
            block_E = magnitude_E[block * size : block * size + size]
            for at in range(len(block_E)):
                value = block_E[at] * _UNSHIFT
                part += value * value
            square += np.float64(part) * factors[scale]
        if largest >= _MOST:
            saturated, nan = 0, 0
            for at in range(len(numbers_E)):
                saturated += shifted_E[at] == _MOST
                nan += shifted_E[at] == _NAN
            counts[SATURATED] += saturated
            counts[NAN] += nan
        if largest == 0:
            counts[ZERO] += 1
        if largest == _NAN or square != square:
            continue
        _enter(square, square_1, bits_1, norms, squares)


@summing
def weigh_floats(values_RE: Any, counts: Any, norms: Any, squares: Any) -> None:
    """As `weigh_e4m3` for f32 [R, E], which has nothing saturated and no scales."""
    square_1 = np.empty(1, np.float64)
    bits_1 = square_1.view(np.uint64)
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
        _enter(square, square_1, bits_1, norms, squares)
