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
Compiled (table/codes.py).
Shapes: R rows, E numbers per row, B = E / 32 blocks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.store.tensors import STORAGE, TensorSpec

Floats = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
Encoded = tuple[Stored, Stored | None]  # numbers, and scales where there are some
BLOCK = 32  # numbers that share a scale in fp8-block
_E4M3_MAX = 448.0


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

    def room(self, shape: tuple[int, ...]) -> Encoded:
        """Memory for rows [..., E] as they are stored: numbers, and the scales that are their own, None where they have none."""
        own = {"block": (*shape[:-1], shape[-1] // BLOCK), "row": shape[:-1]}
        scales = np.empty(own[self.share], STORAGE[self.scales]) if self.share in own else None
        return np.empty(shape, STORAGE[self.numbers]), scales

    def decode(self, numbers_RE: Stored, scales: Stored | None = None, room: Floats | None = None) -> Floats:
        """f32 [..., E] of stored numbers [..., E] and their scales: [..., B], [...] or [1], as `share` says. `room`: where to."""
        if self.name == "f32":
            return numbers_RE
        from engram_cli.table import codes  # numba takes a quarter of a second to import

        numbers_RE = np.ascontiguousarray(numbers_RE)
        values_RE = np.empty(numbers_RE.shape, np.float32) if room is None else room
        dim = numbers_RE.shape[-1]
        if not self.scales:
            widen = codes.from_bf16 if self.name == "bf16" else codes.from_f16
            widen(numbers_RE.reshape(-1).view(np.uint16), values_RE.reshape(-1).view(np.uint32))
            return values_RE
        assert scales is not None, "numbers without their scales"
        if self.share == "block":
            codes.from_e4m3(numbers_RE.reshape(-1, BLOCK), _E8M0.take(scales).reshape(-1), values_RE.reshape(-1, BLOCK))
        elif self.share == "row":
            codes.from_int8(numbers_RE.reshape(-1, dim), np.ascontiguousarray(scales).reshape(-1), values_RE.reshape(-1, dim))
        else:
            codes.from_e4m3(numbers_RE.reshape(1, -1), scales, values_RE.reshape(1, -1))
        return values_RE

    def encode(self, values_RE: Floats, scale: Stored | None = None, room: Encoded | None = None) -> Encoded:
        """Stored numbers and scales of f32 [..., E]. `scale`: f32 [1] where the whole matrix has one: some rows do not tell it;
        `room`: where to."""
        if self.name == "f32":
            return values_RE.astype(np.float32, copy=False), None
        from engram_cli.table import codes

        values_RE = np.ascontiguousarray(values_RE, np.float32)
        numbers_RE, scales = room or self.room(values_RE.shape)
        if not self.scales:
            narrow = codes.to_bf16 if self.name == "bf16" else codes.to_f16
            narrow(values_RE.reshape(-1).view(np.uint32), numbers_RE.reshape(-1).view(np.uint16))
            return numbers_RE, None
        if self.share == "matrix":
            assert scale is not None, "the scale of the whole matrix"
            codes.divided_to_e4m3(values_RE.reshape(-1), scale[0], numbers_RE.reshape(-1))
            return numbers_RE, scale
        assert scales is not None
        if self.share == "row":
            codes.to_int8(values_RE, values_RE.view(np.uint32), numbers_RE, scales)
            return numbers_RE, scales
        values_KE = values_RE.reshape(-1, BLOCK)
        codes.block_scales(values_KE.view(np.uint32), scales.reshape(-1))
        codes.to_e4m3(values_KE, _E8M0.take(254 - scales).reshape(-1), numbers_RE.reshape(-1, BLOCK))
        return numbers_RE, scales


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


def _e8m0_values() -> Floats:
    """2^(byte - 127), byte 255 is NaN (OCP Microscaling 1.0)."""
    with np.errstate(over="ignore"):
        values = (2.0 ** (np.arange(256) - 127)).astype(np.float32)
    values[255] = np.nan
    return values


_E8M0, _ONE = _e8m0_values(), np.ones(1, np.float32)
