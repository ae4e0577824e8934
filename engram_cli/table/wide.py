"""A row of E4M3 weighed as processors with wide registers do it best, which numba's own loops do not come to.

Of a byte without its sign, shifted to where a number of half precision has exponent and mantissa, the processor makes an f32 by
itself, subnormal ones too; it lacks a factor of 2^8. Sums stay in a register over the whole row: to add up its parts after each
block takes as long as the block. So a row is weighed twice as fast as by a loop over its numbers.
Written in the language that numba compiles to (LLVM), since in Python there is no word for a register.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engram_cli.table.row_types import BLOCK

SHORT = 2.0**8  # what the numbers of `row_weight` are to be multiplied by
_KINDS = (ir.IntType(8), ir.IntType(16), ir.HalfType(), ir.FloatType())
_BYTE, _HALF_BITS, _HALF, _FLOAT = (ir.VectorType(kind, BLOCK) for kind in _KINDS)
_INDEX, _WORD = ir.IntType(64), ir.IntType(BLOCK)
_UNSIGNED, _SATURATED, _NAN = 0x7F, 0x7E, 0x7F
_ANY_ORDER = ("reassoc", "contract")


@intrinsic  # type: ignore[untyped-decorator]
def row_weight(typing: Any, numbers_N: Any, scales_K: Any, multipliers: Any, block: Any, blocks: Any) -> Any:
    """(square, saturated, nan): the sum of squares of `blocks` blocks from `block` on, f32, and how many numbers are what.

    numbers_N, scales_K: u8, N = K * BLOCK; multipliers: f32 [256], of each scale, with SHORT in it. NaN counts as 480.
    """
    given = (numbers_N, scales_K, multipliers, types.uint64, types.uint64)
    return types.Tuple((types.float32, types.uint64, types.uint64))(*given), _build


def _build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    arrays = zip(signature.args[:3], arguments[:3], strict=True)
    numbers, scales, multipliers = (context.make_array(kind)(context, builder, value).data for kind, value in arrays)
    block, blocks = arguments[3:]
    total = cgutils.alloca_once_value(builder, ir.Constant(_FLOAT, [0.0] * BLOCK))
    counts = {code: cgutils.alloca_once_value(builder, ir.Constant(_INDEX, 0)) for code in (_SATURATED, _NAN)}
    with cgutils.for_range(builder, blocks, intp=_INDEX) as loop:
        at = builder.add(block, loop.index)
        place = builder.gep(numbers, [builder.mul(at, ir.Constant(_INDEX, BLOCK))])
        codes = builder.load(builder.bitcast(place, _BYTE.as_pointer()))
        codes.align = 1
        codes = builder.and_(codes, _all(_BYTE, _UNSIGNED))
        for code, count in counts.items():
            found = builder.ctpop(builder.bitcast(builder.icmp_unsigned("==", codes, _all(_BYTE, code)), _WORD))
            builder.store(builder.add(builder.load(count), builder.zext(found, _INDEX)), count)
        halves = builder.bitcast(builder.shl(builder.zext(codes, _HALF_BITS), _all(_HALF_BITS, 7)), _HALF)
        scale = builder.zext(builder.load(builder.gep(scales, [at])), _INDEX)
        values = builder.fmul(builder.fpext(halves, _FLOAT), _spread(builder, builder.load(builder.gep(multipliers, [scale]))))
        squares = builder.fmul(values, values, flags=_ANY_ORDER)
        builder.store(builder.fadd(builder.load(total), squares, flags=_ANY_ORDER), total)
    kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _FLOAT])
    add_up = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{BLOCK}f32")
    square = builder.call(add_up, [ir.Constant(ir.FloatType(), 0.0), builder.load(total)], fastmath=_ANY_ORDER)
    return context.make_tuple(builder, signature.return_type, [square, *map(builder.load, counts.values())])


def _all(kind: Any, value: int) -> Any:
    """A register with the same number in every place."""
    return ir.Constant(kind, [value] * BLOCK)


def _spread(builder: Any, value: Any) -> Any:
    """As `_all`, of a number that is not known before."""
    nothing, places = ir.Constant(_FLOAT, ir.Undefined), ir.VectorType(ir.IntType(32), BLOCK)
    first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(places, [0] * BLOCK))
