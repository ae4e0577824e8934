"""How the numbers of a row are stored, and what they mean as f32.

    row_type = ROW_TYPES["fp8-block"]
    numbers_RE, scales = row_type.encode(values_RE)       as they lie on disk
    values_RE = row_type.decode(numbers_RE, scales)       f32

| name         | numbers              | scales                           | value            |
|--------------|----------------------|----------------------------------|------------------|
| `f32`        | F32                  |                                  | the number       |
| `f16`        | F16                  |                                  | the number       |
| `bf16`       | BF16                 |                                  | the number       |
| `fp8-block`  | F8_E4M3 (no infinity)| F8_E8M0, one for every 32 of a row | number * 2^(byte - 127) |
| `fp8-scalar` | F8_E4M3              | F32, one for the whole matrix    | number * scale   |
| `int8-row`   | I8                   | F32, one for each row            | number * scale   |

All round to the nearest, ties to even. What is too large: f16 and bf16 become infinite, as IEEE 754 has it; fp8 has no infinity and
takes its largest number, which with block scales happens to infinities only. NaN stays NaN; int8 has neither, so a row with NaN or
infinity in it gets the scale NaN and is NaN as a whole: seen, and not hidden. E8M0 has no zero: a block of zeros has scale 1.
Pure numpy: eight-bit numbers and scales are decoded by tables of 256, E4M3 is encoded by one of the 65,536 upper halves of f32.
Shapes: R rows, E numbers per row, B = E / 32 blocks.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.store.tensors import STORAGE, TensorSpec

Floats = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
BLOCK = 32  # numbers that share a scale in fp8-block
_E4M3_MAX, _INT8_MAX = 448.0, 127.0
_E4M3_NAN = 0x7F
_ANY_NUMBER = np.errstate(over="ignore", invalid="ignore")  # 448 * 2^127 is infinite in f32; NaN comes in more kinds than one


@dataclass(frozen=True)
class RowType:
    """numbers, scales: safetensors types ("" where there are no scales); share: what has one scale: "block", "row" or "matrix"."""

    name: str
    numbers: str
    scales: str = ""
    share: str = ""

    def tensors(self, rows: int, dim: int) -> dict[str, TensorSpec]:
        """What a matrix of `rows` x `dim` takes on disk: "rows", and "scales" where the type has them."""
        shapes = {"block": (rows, dim // BLOCK), "row": (rows,), "matrix": (1,)}
        found = {"rows": TensorSpec(self.numbers, (rows, dim))}
        return found | ({"scales": TensorSpec(self.scales, shapes[self.share])} if self.scales else {})

    def row_bytes(self, dim: int) -> int:
        """Bytes of one row with the scales that are its own."""
        own = {"block": dim // BLOCK, "row": 4}
        return dim * np.dtype(STORAGE[self.numbers]).itemsize + own.get(self.share, 0)

    @_ANY_NUMBER
    def decode(self, numbers_RE: Stored, scales: Stored | None = None) -> Floats:
        """f32 [..., E] of stored numbers [..., E] and their scales: [..., B], [...] or [1], as `share` says."""
        values_RE = _to_floats(numbers_RE, self.numbers)
        if scales is None:
            return values_RE
        if self.share == "block":
            blocks = values_RE.reshape(*values_RE.shape[:-1], -1, BLOCK)  # a view
            blocks *= _E8M0[scales][..., None]
        else:
            values_RE *= scales[..., None] if self.share == "row" else scales
        return values_RE

    @_ANY_NUMBER
    def encode(self, values_RE: Floats, scale: Stored | None = None) -> tuple[Stored, Stored | None]:
        """Stored numbers and scales of f32 [R, E]. `scale`: f32 [1] where the whole matrix has one: some rows do not tell it."""
        if self.share == "block":
            scales = _block_scales(values_RE)
            blocks: Floats = values_RE.reshape(*values_RE.shape[:-1], -1, BLOCK) * _E8M0[254 - scales][..., None]
            return _to_e4m3(blocks.reshape(values_RE.shape)), scales
        if self.share == "row":
            return _to_int8(values_RE)
        if self.share == "matrix":
            assert scale is not None, "the scale of the whole matrix"
            return _to_e4m3(np.divide(values_RE, scale, dtype=np.float32)), scale
        return _from_floats(values_RE, self.numbers), None


ROW_TYPES = {
    row_type.name: row_type
    for row_type in (
        RowType("f32", "F32"),
        RowType("f16", "F16"),
        RowType("bf16", "BF16"),
        RowType("fp8-block", "F8_E4M3", "F8_E8M0", "block"),
        RowType("fp8-scalar", "F8_E4M3", "F32", "matrix"),
        RowType("int8-row", "I8", "F32", "row"),
    )
}


def matrix_scale(largest: float) -> Floats:
    """The scale, f32 [1], that takes a matrix whose largest finite magnitude is `largest` to the ends of E4M3."""
    return np.array([largest / _E4M3_MAX if largest else 1.0], np.float32)


# numbers without scales ------------------------------------------------------------------------------------------------------
def _to_floats(numbers: Stored, dtype: str) -> Floats:
    if dtype == "BF16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return _E4M3[numbers] if dtype == "F8_E4M3" else numbers.astype(np.float32, copy=False)


def _from_floats(values: Floats, dtype: str) -> Stored:
    if dtype == "BF16":
        return _to_bf16(values)
    return values.astype(STORAGE[dtype], copy=False)


def _to_bf16(values: Floats) -> Stored:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), (bits >> 16 | 0x40).astype(np.uint16), rounded)  # a carry would make NaN a number


# E4M3 without infinity (Micikevicius et al. 2022): sign, 4 bits of exponent with bias 7, 3 bits of mantissa ---------------------
def _e4m3_values() -> Floats:
    """What each of the 256 bytes means."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    size[byte & 127 == _E4M3_NAN] = np.nan
    return np.where(byte < 128, size, -size).astype(np.float32)


@cache
def _e4m3_nearest() -> Stored:
    """The nearest byte for each upper half of an f32, ties to even, too large to 448, NaN to NaN: u8 [65536]."""
    values = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    numbers = _E4M3[:_E4M3_NAN]  # 0 to 448
    halfway, size = (numbers[1:] + numbers[:-1]) / 2, np.abs(values)
    byte = np.searchsorted(halfway, size)
    tie = size == halfway[np.minimum(byte, len(halfway) - 1)]
    byte = np.where(np.isnan(values), _E4M3_NAN, byte + (tie & (byte % 2 == 1)))
    nearest: Stored = (byte | np.where(np.signbit(values), 128, 0)).astype(np.uint8)
    return nearest


def _to_e4m3(values: Floats) -> Stored:
    """Nearest bytes: u8. Of the lower half of an f32 it matters only whether it is zero: what rounds is above it."""
    bits = values.view(np.uint32)
    nearest: Stored = _e4m3_nearest()[(bits | (bits & 0xFFFF) + 0xFFFF) >> 16]
    return nearest


# scales ----------------------------------------------------------------------------------------------------------------------
def _e8m0_values() -> Floats:
    """2^(byte - 127), byte 255 is NaN (OCP Microscaling 1.0)."""
    with np.errstate(over="ignore"):
        values = (2.0 ** (np.arange(256) - 127)).astype(np.float32)
    values[255] = np.nan
    return values


def _block_scales(values_RE: Floats) -> Stored:
    """The smallest power of two for each block with which none of its finite numbers is beyond 448: u8 [..., B]."""
    blocks = np.abs(values_RE.reshape(*values_RE.shape[:-1], -1, BLOCK))
    largest = np.max(blocks, axis=-1)
    if not np.isfinite(largest).all():
        largest = np.max(blocks, axis=-1, where=np.isfinite(blocks), initial=0)
    mantissa, exponent = np.frexp(largest)  # largest = mantissa * 2^exponent, 448 = 0.875 * 2^9
    power = np.where(largest > 0, exponent - 9 + (mantissa > _E4M3_MAX / 512), 0)
    return (np.clip(power, -127, 127) + 127).astype(np.uint8)


def _to_int8(values_RE: Floats) -> tuple[Stored, Stored]:
    """int8 [R, E] and f32 [R]: the largest magnitude of a row becomes 127."""
    largest = np.max(np.abs(values_RE), axis=-1)
    scales = np.where(np.isfinite(largest), largest / np.float32(_INT8_MAX), np.float32(np.nan))
    steps = np.where(scales > 0, scales, 1)[..., None]
    numbers = np.rint(np.where(np.isfinite(scales)[..., None], values_RE, 0) / steps)
    return np.clip(numbers, -_INT8_MAX, _INT8_MAX).astype(np.int8), scales


_E4M3, _E8M0 = _e4m3_values(), _e8m0_values()
