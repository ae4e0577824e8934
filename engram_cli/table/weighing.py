"""What rows weigh, compiled: norms, zeros, NaN, infinities and saturated numbers of rows as they are stored.

E4M3 is weighed as it lies, no row of it is decoded.
Three passes over a few hundred rows, which stay in the cache of a core, are faster than one, for each is a loop that wide registers
can do: squares block by block; codes counted; scales and rows.
Shapes: R rows, E numbers per row, B blocks of a row that have a scale each, K = R * B blocks.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import inlined, summing
from engram_cli.table.codes import e4m3_size
from engram_cli.table.row_types import BLOCK

ZERO, NAN, INFINITE, SATURATED, KINDS = 0, 1, 2, 3, 4  # places in `counts`
SUM, LARGEST, SMALLEST = 0, 1, 2  # places in `norms`
_SQUARE = 15  # a place in the norms of a call, which fill two lines of a cache
EXPONENTS = 2048  # of f64: places in `squares`, which counts rows by the exponent of their squared norm
_BLOCK = np.uint64(BLOCK)
_TILE = np.uint64(4096)  # blocks of a pass: 128 KiB
_ONE = np.uint64(1)
_MAGNITUDE, _MOST, _NAN = np.uint8(0x7F), np.uint8(0x7E), np.uint8(0x7F)  # E4M3 has one NaN, above 448


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
def _square_blocks(numbers_KE: Any, first: Any, stop: Any, parts: Any) -> None:
    """Sums of squares of the blocks from `first` to `stop`, into `parts`. NaN counts as 480."""
    for block in range(first, stop):
        part = np.float32(0)
        for at in range(_BLOCK):
            size = e4m3_size(np.uint32(numbers_KE[block, at] & _MAGNITUDE))
            part += size * size
        parts[block - first] = part


@summing
def _count_codes(numbers_N: Any, first: Any, stop: Any) -> Any:
    """(saturated numbers, NaN) among those from `first` to `stop`."""
    saturated = nan = np.uint32(0)  # narrow counters: more of them in a register
    for at in range(first, stop):
        code = numbers_N[at] & _MAGNITUDE
        saturated = np.uint32(saturated + np.uint32(code == _MOST))
        nan = np.uint32(nan + np.uint32(code == _NAN))
    return saturated, nan


@summing
def weigh_e4m3(
    numbers_N: Any, scales_K: Any, blocks: int, factors: Any, counts: Any, norms: Any, squares: Any, scale_counts: Any
) -> None:
    """Add rows of E4M3 up in `counts`, int64 [KINDS], `norms`, f64 [3], `squares`, int64 [EXPONENTS], `scale_counts`, int64 [256].

    numbers_N: u8, N = K * BLOCK; scales_K: u8; blocks: B, of a row; factors: f64 [256], the square of what each scale multiplies
    by, or NaN.
    """
    parts = np.empty(_TILE, np.float32)
    own = _own_norms()
    places = own.view(np.uint64)
    width, all_blocks = np.uint64(blocks), np.uint64(len(scales_K))
    numbers_KE = numbers_N.reshape(-1, BLOCK)
    step = max(_ONE, _TILE // width) * width
    for first in range(np.uint64(0), all_blocks, step):
        stop = min(all_blocks, first + step)
        _square_blocks(numbers_KE, first, stop, parts)
        saturated, nan = _count_codes(numbers_N, first * _BLOCK, stop * _BLOCK)
        counts[SATURATED] += saturated
        counts[NAN] += nan
        for row in range(first, stop, width):
            square, largest = np.float64(0), np.float32(0)
            for block in range(row, row + width):
                scale = np.uint64(scales_K[block])
                scale_counts[scale] += 1
                part = parts[block - first]
                largest = max(largest, part)
                square += np.float64(part) * factors[scale]
            if largest == 0:
                counts[ZERO] += 1
            if square != square or (nan and _count_codes(numbers_N, row * _BLOCK, (row + width) * _BLOCK)[1]):
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
