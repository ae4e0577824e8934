"""Stored numbers to f32 and back, compiled: what `row_types` defines, one pass over memory for each.

No kernel divides, branches or looks anything up within its inner loop, so that wide registers do it.
E4M3 to f32: a byte without its sign, shifted to where an f32 has exponent and mantissa, lacks 120 in the exponent; the eight
subnormal ones get one more and have it taken away as a number (a product by 2^120 is right for all, but processors are slow with
subnormal f32). f32 to E4M3: adding half of the last place, or a little less, rounds to the nearest, ties to even; below 2^-6, where
places are equally wide, adding 2^14 does, for an f32 of that size ends at 2^-9.
Shapes: R rows, E numbers per row, N numbers, K blocks of E that share a scale.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled, inlined, summing

_SIGN, _MAGNITUDE, _NAN, _MOST, _SUBNORMAL = np.uint8(0x80), np.uint8(0x7F), np.uint32(0x7F), np.uint32(0x7E), np.uint32(8)
_SHIFT, _EXPONENT, _FURTHER = np.uint32(20), np.uint32(120 << 23), np.uint32(121 << 23)
_LEAST, _PLACES, _PLACES_BITS = np.float32(2.0**-6), np.float32(2.0**14), np.uint32(141 << 23)
_HALF_PLACE, _LAST = np.uint32((1 << 19) - 1), np.uint32(1)
_UNSIGNED, _INFINITE, _TOO_LARGE = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(0x43E80000)  # 464, halfway to 480
_HALF_16, _QUIET, _SHIFT_16 = np.uint32(0x7FFF), np.uint32(0x40), np.uint32(16)
_NO_NUMBER = np.float32(np.nan)
_SHIFT_F16, _SIGN_F16, _SUBNORMAL_F16, _INFINITE_F16 = np.uint32(13), np.uint32(0x8000), np.uint32(0x400), np.uint32(0x7C00)
_EXPONENT_F16, _FURTHER_F16, _LEAST_F16 = np.uint32(112 << 23), np.uint32(113 << 23), np.float32(2.0**-14)
_HALF_F16, _TOO_LARGE_F16, _QUIET_F16 = np.uint32(0xFFF), np.uint32(0x477FF000), np.uint32(0x7E00)  # 65,520, halfway to 2^16
_PLACES_F16, _PLACES_F16_BITS = np.float32(0.5), np.uint32(126 << 23)


@inlined
def e4m3_size(code: Any) -> Any:
    """The f32 that a byte without its sign, as u32, stands for; 480 for NaN."""
    bits = np.uint32(code << _SHIFT) + (_FURTHER if code < _SUBNORMAL else _EXPONENT)
    return np.uint32(bits).view(np.float32) - (_LEAST if code < _SUBNORMAL else np.float32(0))


@compiled
def from_e4m3(numbers_KE: Any, scales_K: Any, values_KE: Any) -> None:
    """values_KE: f32, numbers of u8 times their block's scale, f32."""
    for block in range(np.uint64(len(numbers_KE))):
        scale = scales_K[block]
        for at in range(np.uint64(numbers_KE.shape[1])):
            code = np.uint32(numbers_KE[block, at] & _MAGNITUDE)
            size = _NO_NUMBER if code == _NAN else e4m3_size(code)
            values_KE[block, at] = (-size if numbers_KE[block, at] & _SIGN else size) * scale


@inlined
def _nearest_e4m3(value: Any) -> Any:
    """The byte nearest to an f32; 448 for what is larger, NaN for NaN."""
    bits = np.float32(value).view(np.uint32)
    size = bits & _UNSIGNED
    small = np.float32(np.uint32(size).view(np.float32) + _PLACES).view(np.uint32) - _PLACES_BITS
    usual = np.uint32(((size + _HALF_PLACE + ((size >> _SHIFT) & _LAST)) >> _SHIFT) - (_EXPONENT >> _SHIFT))
    code = small if size < _FURTHER else usual  # 2^-6
    code = _MOST if size >= _TOO_LARGE else code
    code = _NAN if size > _INFINITE else code
    return np.uint8(code | (bits >> np.uint32(24) & np.uint32(0x80)))


@compiled
def to_e4m3(values_KE: Any, factors_K: Any, numbers_KE: Any) -> None:
    """numbers_KE: u8, the nearest to values times their block's factor, both f32."""
    for block in range(np.uint64(len(values_KE))):
        factor = factors_K[block]
        for at in range(np.uint64(values_KE.shape[1])):
            numbers_KE[block, at] = _nearest_e4m3(values_KE[block, at] * factor)


@compiled
def divided_to_e4m3(values_N: Any, divisor: Any, numbers_N: Any) -> None:
    """numbers_N: u8, the nearest to values by one divisor, both f32."""
    for at in range(np.uint64(len(values_N))):
        numbers_N[at] = _nearest_e4m3(np.divide(values_N[at], divisor))


@compiled
def block_scales(bits_KE: Any, scales_K: Any) -> None:
    """scales_K: u8, the smallest power of two, plus 127, with which no finite number of a block is beyond 448; 127 for zeros.

    bits_KE: f32, seen as u32.
    """
    for block in range(np.uint64(len(bits_KE))):
        largest = np.uint32(0)
        for at in range(np.uint64(bits_KE.shape[1])):
            size = np.uint32(bits_KE[block, at] & _UNSIGNED)
            largest = max(largest, size if size < _INFINITE else np.uint32(0))
        power = np.int64(largest >> np.uint32(23)) - 8 + (largest & np.uint32(0x7FFFFF) > np.uint32(0x600000))  # 448 = 1.75 * 2^8
        scales_K[block] = min(max(power, 0), 254) if largest else 127


@compiled
def from_bf16(numbers_N: Any, bits_N: Any) -> None:
    """bits_N: u32, f32 of the same upper half."""
    for at in range(np.uint64(len(numbers_N))):
        bits_N[at] = np.uint32(numbers_N[at]) << _SHIFT_16


@compiled
def to_bf16(bits_N: Any, numbers_N: Any) -> None:
    """numbers_N: u16, the nearest to f32, seen as u32, ties to even; a carry does not make a number of NaN."""
    for at in range(np.uint64(len(bits_N))):
        bits = bits_N[at]
        rounded = np.uint32(bits + _HALF_16 + ((bits >> _SHIFT_16) & _LAST)) >> _SHIFT_16
        numbers_N[at] = np.uint16((bits >> _SHIFT_16) | _QUIET if bits & _UNSIGNED > _INFINITE else rounded)


@compiled
def from_f16(numbers_N: Any, bits_N: Any) -> None:
    """bits_N: u32, f32 of the same value; numbers_N: f16, seen as u16."""
    for at in range(np.uint64(len(numbers_N))):
        code = np.uint32(numbers_N[at])
        size = code & np.uint32(0x7FFF)
        bits = np.uint32(size << _SHIFT_F16) + (_EXPONENT_F16 if size < _INFINITE_F16 else _EXPONENT_F16 + _EXPONENT_F16)
        small = np.float32(np.uint32((size << _SHIFT_F16) + _FURTHER_F16).view(np.float32) - _LEAST_F16).view(np.uint32)
        bits_N[at] = (small if size < _SUBNORMAL_F16 else bits) | np.uint32((code & _SIGN_F16) << _SHIFT_16)


@compiled
def to_f16(bits_N: Any, numbers_N: Any) -> None:
    """numbers_N: u16, the f16 nearest to f32, seen as u32, ties to even; infinite for what is too large."""
    for at in range(np.uint64(len(bits_N))):
        bits = bits_N[at]
        size = bits & _UNSIGNED
        small = np.float32(np.uint32(size).view(np.float32) + _PLACES_F16).view(np.uint32) - _PLACES_F16_BITS
        usual = np.uint32(((size + _HALF_F16 + ((size >> _SHIFT_F16) & _LAST)) >> _SHIFT_F16) - (_EXPONENT_F16 >> _SHIFT_F16))
        code = small if size < _FURTHER_F16 else usual
        code = _INFINITE_F16 if size >= _TOO_LARGE_F16 else code
        code = _QUIET_F16 if size > _INFINITE else code
        numbers_N[at] = np.uint16(code | (bits >> _SHIFT_16 & _SIGN_F16))


@compiled
def from_int8(numbers_RE: Any, scales_R: Any, values_RE: Any) -> None:
    """values_RE: f32, numbers of int8 times their row's scale, f32."""
    for row in range(np.uint64(len(numbers_RE))):
        scale = scales_R[row]
        for at in range(np.uint64(numbers_RE.shape[1])):
            values_RE[row, at] = np.float32(numbers_RE[row, at]) * scale


@compiled
def to_int8(values_RE: Any, bits_RE: Any, numbers_RE: Any, scales_R: Any) -> None:
    """numbers_RE: int8, scales_R: f32: the largest magnitude of a row becomes 127. With NaN or infinity in it: zeros, scale NaN.

    bits_RE: the values, f32, seen as u32.
    """
    for row in range(np.uint64(len(values_RE))):
        largest = np.uint32(0)
        for at in range(np.uint64(bits_RE.shape[1])):
            largest = max(largest, np.uint32(bits_RE[row, at] & _UNSIGNED))
        finite = largest < _INFINITE
        scale = np.divide(np.uint32(largest).view(np.float32), np.float32(127)) if finite else _NO_NUMBER
        scales_R[row] = scale
        step = scale if scale > 0 else np.float32(1)
        for at in range(np.uint64(values_RE.shape[1])):
            number = np.rint(np.divide(values_RE[row, at] if finite else np.float32(0), step))
            numbers_RE[row, at] = np.int8(min(max(number, np.float32(-127)), np.float32(127)))


@compiled
def largest_size(bits_N: Any) -> Any:
    """The largest magnitude that is finite, of f32, seen as u32: u32 too."""
    largest = np.uint32(0)
    for at in range(np.uint64(len(bits_N))):
        size = np.uint32(bits_N[at] & _UNSIGNED)
        largest = max(largest, size if size < _INFINITE else np.uint32(0))
    return largest


@summing
def sum_squares(before_RE: Any, after_RE: Any, squared_R: Any, power_R: Any) -> None:
    """Sums over rows, f64 [R], of the squares of what changed, and of the numbers before; both f32."""
    for row in range(np.uint64(len(before_RE))):
        squared = power = np.float32(0)
        for at in range(np.uint64(before_RE.shape[1])):
            change = after_RE[row, at] - before_RE[row, at]
            squared += change * change
            power += before_RE[row, at] * before_RE[row, at]
        squared_R[row], power_R[row] = squared, power
