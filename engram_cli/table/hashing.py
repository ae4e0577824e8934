"""The hash of the Engram demo: n-gram -> one mix per order -> one bucket per head.

    mix_n  = (x_t * m_0) xor (x_{t-1} * m_1) xor ... over n canonical ids
    bucket = mix_n mod prime,   row = offset of the head + bucket

(arXiv 2601.07372 and `engram_demo_v1.py`.) Multipliers are bounded so that no product reaches 2^63; plain int64 arithmetic is
exact, and since numpy and torch agree on it, the functions below work on arrays of either.
Shapes: T positions (any leading shape), N highest order, H heads over all orders.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engram_cli.errors import RecipeError

Array = TypeVar("Array", bound=Any)  # numpy.ndarray or torch.Tensor, int64
_PRIME_STEP = 10007
_INT64_MAX = 2**63 - 1


def multipliers(seed: int, layer: int, max_order: int, vocab: int) -> npt.NDArray[np.int64]:
    """The odd multipliers m_0 .. m_{N-1} of a layer, int64 [N]; `vocab` is the number of canonical ids.

    `default_rng(seed + 10007 * layer)` draws r in [0, half), half = max(1, ((2^63 - 1) // vocab) // 2), and m = 2r + 1, so that
    (vocab - 1) * m < 2^63.
    """
    half = max(1, (_INT64_MAX // vocab) // 2)
    draws = np.random.default_rng(seed + _PRIME_STEP * layer).integers(0, half, size=max_order, dtype=np.int64)
    return draws * 2 + 1


def primes_above(start: int) -> Iterator[int]:
    """Primes greater than `start`, ascending."""
    candidate = start + 1
    while True:
        if _is_prime(candidate):
            yield candidate
        candidate += 1


def _is_prime(number: int) -> bool:
    """Miller-Rabin with the bases that make it exact below 3.3e24 (Sorenson and Webster 2015)."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if number < 2:
        return False
    for base in bases:
        if number % base == 0:
            return number == base
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return not any(_witness(base, number, odd, twos) for base in bases)


def _witness(base: int, number: int, odd: int, twos: int) -> bool:
    power = pow(base, odd, number)
    if power in (1, number - 1):
        return False
    for _ in range(twos - 1):
        power = power * power % number
        if power == number - 1:
            return False
    return True


def head_primes(layers: Sequence[int], sizes: Sequence[int], heads: int) -> list[list[list[int]]]:
    """Primes by [layer][order][head]: for each layer and order, `heads` times the next prime above size - 1 not used before.

    "Used" is over all layers and orders, as in the demo, so the order of `layers` matters.
    Raises RecipeError where a size is below 2.
    """
    if min(sizes) < 2:
        raise RecipeError(f"a head has at least 2 rows, but the recipe asks for {min(sizes)}; raise `size`")
    used: set[int] = set()

    def take(size: int) -> list[int]:
        chosen: list[int] = []
        for prime in primes_above(size - 1):
            if prime not in used:
                used.add(prime)
                chosen.append(prime)
                if len(chosen) == heads:
                    return chosen
        raise AssertionError("primes are infinite")

    return [[take(size) for size in sizes] for _ in layers]


def windows(ids_T: npt.NDArray[Any], position_T: npt.NDArray[Any], max_order: int, pad: int) -> npt.NDArray[np.int64]:
    """The window of canonical ids at each position, newest first: int64 [T, N].

    `ids_T`: canonical ids of a stretch of tokens; `position_T`: how many tokens precede each within its document, counting only
    tokens the window may see. Slots before a document's first token hold `pad`. To continue a stretch, put the last N-1 ids of
    the one before in front and drop their windows: what comes out equals the windows of the whole.
    """
    windows_TN = np.full((len(ids_T), max_order), pad, dtype=np.int64)
    windows_TN[:, 0] = ids_T
    for back in range(1, min(max_order, len(ids_T))):
        inside = position_T[back:] >= back
        windows_TN[back:, back] = np.where(inside, ids_T[: len(ids_T) - back], pad)
    return windows_TN


def mixes(windows_TN: Array, multipliers_NH: Array) -> Array:
    """The mix of each window for each head, before it is reduced by a prime: int64, [..., H] for `windows_TN` [..., N].

    `multipliers_NH` holds 0 where a head's order does not reach that far back: x xor 0 = x, so one pass serves all orders.
    """
    mixed: Array = windows_TN[..., 0, None] * multipliers_NH[0]
    for back in range(1, multipliers_NH.shape[0]):
        mixed = mixed ^ (windows_TN[..., back, None] * multipliers_NH[back])
    return mixed


def row_ids(windows_TN: Array, multipliers_NH: Array, primes_H: Array, offsets_H: Array) -> Array:
    """Rows that each window names: int64, [..., H] for `windows_TN` [..., N]; `multipliers_NH` as in `mixes`."""
    rows: Array = mixes(windows_TN, multipliers_NH) % primes_H + offsets_H
    return rows
