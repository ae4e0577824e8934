"""The hash: window of ids -> one mix per order -> one bucket per head, and the families that published models have of it.

    mix_n  = (x_t * m_0) xor (x_{t-1} * m_1) xor ... over n ids
    bucket = mix_n mod prime,   row = offset of the head + bucket

(arXiv 2601.07372 and `engram_demo_v1.py`.) Multipliers are bounded so that no product reaches 2^63; plain int64 arithmetic is
exact, and since numpy and torch agree on it, the functions below work on arrays of either. Primes, mix and bucket are the same in
all families. What differs is a `Family`: which ids are hashed, how multipliers are drawn, and what a window shows of what lies
behind a boundary. A layout knows its family, so to hash tokens one asks the layout:

    windows_TN = layout.windows(canonical_V[raw_T], position_T)     # raw ids as they are where `layout.family` is not `canonical`
    rows_TH = layout.layers[0].row_ids(windows_TN)

One token at a time is the same with the last N-1 ids in front. A further family is one more record in FAMILIES (and its name in
recipe.py). Shapes: T positions (any leading shape), N highest order, H heads over all orders.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engram_cli.errors import RecipeError

Array = TypeVar("Array", bound=Any)  # numpy.ndarray or torch.Tensor, int64
Multipliers = npt.NDArray[np.int64]
DEAD = -1  # in place of an id: a position that takes part in no gram, as an image token in DeepSeek-V4.1
_LAYER_STEP = 10007  # between the seeds of two layers
_GAMMA = 0x9E3779B97F4A7C15
_INT64_MAX, _64_BITS = 2**63 - 1, 2**64 - 1


def multipliers(seed: int, layer: int, max_order: int, vocab: int) -> Multipliers:
    """The odd multipliers m_0 .. m_{N-1} of a layer, int64 [N]; `vocab` is the number of ids.

    `default_rng(seed + 10007 * layer)` draws r in [0, half), half = max(1, ((2^63 - 1) // vocab) // 2), and m = 2r + 1, so that
    (vocab - 1) * m < 2^63.
    """
    draws = np.random.default_rng(seed + _LAYER_STEP * layer).integers(0, _half(vocab), size=max_order, dtype=np.int64)
    return draws * 2 + 1


def splitmix_multipliers(seed: int, layer: int, max_order: int, vocab: int) -> Multipliers:
    """As `multipliers`, with r = splitmix64(seed + 10007 * layer + gamma * (i + 1)) mod half for m_i (Qwen4Exp)."""
    draws = [_splitmix64(seed + _LAYER_STEP * layer + _GAMMA * (back + 1)) % _half(vocab) for back in range(max_order)]
    return np.array(draws, dtype=np.int64) * 2 + 1


def _half(vocab: int) -> int:
    return max(1, (_INT64_MAX // vocab) // 2)


def _splitmix64(value: int) -> int:
    """Steele, Lea and Flood 2014: advance by gamma, then mix the bits."""
    value = (value + _GAMMA) & _64_BITS
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return value ^ (value >> 31)


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

    "Used" is over all layers and orders, as in the demo, so the order of `layers` matters. Where all sizes are equal, head h of the
    i-th layer of H heads gets the (i * H + h + 1)-th prime above size - 1: the rule of Qwen4Exp.
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


def windows(ids_T: Any, position_T: Any, max_order: int, pad: int) -> Any:
    """The window of ids at each position, newest first: int64 [T, N].

    `ids_T`: ids of a stretch of tokens, of any integer type in numpy, int64 in torch; `position_T`: how many tokens precede each
    within its document, counting only tokens the window may see. Slots before a document's first token hold `pad`. To continue a
    stretch, put the last N-1 ids of the one before in front and drop their windows: what comes out equals the windows of the whole.
    """
    shape = (len(ids_T), max_order)
    windows_TN = np.full(shape, pad, np.int64) if isinstance(ids_T, np.ndarray) else ids_T.new_full(shape, pad)
    windows_TN[:, 0] = ids_T
    for back in range(1, min(max_order, len(ids_T))):
        windows_TN[back:, back] = ids_T[: len(ids_T) - back]
        windows_TN[:, back][position_T < back] = pad
    return windows_TN


@dataclass(frozen=True)
class Family:
    """What is a published model's own in its hash.

    canonical: it hashes canonical ids, else raw ones, and its pad is of that kind too; draw: (seed, layer, N, vocab) ->
    multipliers, where layer is the 0-based layer of the host or, with `by_place`, 0 for the first layer with a memory, 1 for the
    next; wall: what a window does not look behind, besides its document's first token. "dead": a position that is DEAD, "pad": an
    older token that is the pad itself; there and in all older slots stands the pad.
    """

    name: str
    canonical: bool = True
    draw: Callable[[int, int, int, int], Multipliers] = multipliers
    by_place: bool = False
    wall: str | None = None

    def settle(self, windows_TN: Array, pad: int) -> Array:
        """Windows with the pad where the family's wall hides what was there: changed in place, and returned."""
        if self.wall is None:
            return windows_TN
        wall, first = (DEAD, 0) if self.wall == "dead" else (pad, 1)
        hidden_T = windows_TN[..., 0] != windows_TN[..., 0]
        for back in range(first, windows_TN.shape[-1]):
            hidden_T = hidden_T | (windows_TN[..., back] == wall)
            windows_TN[..., back][hidden_T] = pad
        return windows_TN


FAMILIES = {
    family.name: family
    for family in (
        Family("demo"),  # before a document's first token, the pad
        Family("deepseek-v4.1", wall="dead"),
        Family("qwen-ple", canonical=False, draw=splitmix_multipliers, by_place=True, wall="pad"),  # its pad is the end of a text
    )
}
