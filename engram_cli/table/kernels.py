"""The hash, compiled: what `hashing.row_ids` defines, for windows in memory, at a fraction of the time of numpy's `%`.

A remainder is a product by the prime's reciprocal, computed once. With m = floor(2^64 / p) and x below 2^63, x * m / 2^64 falls
short of x / p by less than 1/2; of its four products of 32-bit halves the lowest is left out and two are rounded down, which costs
less than 3 more. So the quotient is at most 3 too small, and two corrections, by 2p and by p, are exact. Processors multiply halves
for several heads at once; the upper half of a whole product they do not (18 ns a token for 16 heads, against 11).
Shapes: T positions, N slots of a window, H heads.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled, inlined

_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


@inlined
def remainder(mix: Any, prime: Any, reciprocal: Any) -> Any:
    """mix modulo a prime, from its reciprocal, 2^64 // prime; u64 all, the mix below 2^63 and the prime below 2^61."""
    high, low = mix >> _HALF, mix & _LOW
    high_m, low_m = reciprocal >> _HALF, reciprocal & _LOW
    rest = mix - (high * high_m + ((high * low_m) >> _HALF) + ((low * high_m) >> _HALF)) * prime
    rest = min(rest, rest - (prime + prime))  # a difference below 0 wraps around and is the larger
    return min(rest, rest - prime)


@compiled
def hash_windows(
    windows_TN: Any, multipliers_N: Any, ends_N: Any, primes_H: Any, reciprocals_H: Any, offsets_H: Any, rows_TH: Any
) -> None:
    """Fill rows_TH, int64: the rows that windows name.

    windows_TN: int64, products with multipliers below 2^63; ends_N: how many heads have an order of at most back + 1, so that the
    mix after `back` serves the heads from ends_N[back - 1] to ends_N[back]. All but windows and rows are u64: with a signed index
    numba looks for negative ones. Primes are below 2^61.
    """
    for at in range(np.uint64(len(windows_TN))):
        mix = first = np.uint64(0)
        for back in range(np.uint64(len(ends_N))):
            mix ^= np.uint64(windows_TN[at, back]) * multipliers_N[back]
            for head in range(first, ends_N[back]):
                rows_TH[at, head] = np.int64(remainder(mix, primes_H[head], reciprocals_H[head]) + offsets_H[head])
            first = ends_N[back]
