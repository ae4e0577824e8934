"""The rows of a layer from one place to another, and from one row type to another, in blocks: memory does not grow with the table.

    for done in stream(source, target, error, first=0): ...     done: rows that are written, in order
    error.relative                                               what rounding took

Equal types are copied as they are stored. Else blocks are decoded and encoded, on two threads, in memory that is used again and
again: fresh pages can take the kernel four times as long as converting takes. What a reader of the new table sees is decoded again
and compared, so that the error is measured and not estimated; only for f32, which holds all types, there is nothing to measure. A
pass goes on from any row, with the sums up to there.
Shapes: R rows of a block, E numbers per row.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engram_cli.table.row_types import Floats
from engram_cli.table.rows import Rows

_THREADS = 2
_AHEAD = 4  # blocks that are worked on or wait to be told of
_NUMBERS = 1 << 19  # of a block: in f32 it stays in the cache of a core
_LET_GO = 1 << 26  # bytes that the kernel is told to write and to forget at a time
_WRITTEN = 4  # as many of those later it has written them
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass
class RoundingError:
    """What a change of type did to rows so far.

    squared, power: sums of squares of differences and of numbers, over those that are finite before and after; worst, worst_row:
    the largest relative RMS error of a row, and which; saturated: numbers beyond the ends of the new type: finite before and not
    after, or the other way round; not_finite: NaN and infinities before.
    """

    squared: float = 0.0
    power: float = 0.0
    worst: float = 0.0
    worst_row: int = -1
    saturated: int = 0
    not_finite: int = 0

    @property
    def relative(self) -> float:
        """RMS of the differences by RMS of the numbers."""
        return math.sqrt(self.squared / self.power) if self.power else 0.0

    def add(self, other: "RoundingError") -> None:
        """Count in a later block."""
        self.squared += other.squared
        self.power += other.power
        self.saturated += other.saturated
        self.not_finite += other.not_finite
        if other.worst > self.worst:
            self.worst, self.worst_row = other.worst, other.worst_row


def rounding_error(first: int, before_RE: Floats, after_RE: Floats) -> RoundingError:
    """The error of a block whose first row is `first`."""
    from engram_cli.table import codes  # numba takes a quarter of a second to import

    squared_R, power_R = np.empty((2, len(before_RE)))
    codes.sum_squares(before_RE, after_RE, squared_R, power_R)
    saturated = not_finite = 0
    odd = np.flatnonzero(~(np.isfinite(squared_R) & np.isfinite(power_R)))
    if len(odd):
        before, after = before_RE[odd].astype(np.float64), after_RE[odd].astype(np.float64)
        was, is_now = np.isfinite(before), np.isfinite(after)
        both = was & is_now
        before, after = np.where(both, before, 0), np.where(both, after, 0)
        squared_R[odd], power_R[odd] = ((after - before) ** 2).sum(1), (before**2).sum(1)
        saturated, not_finite = int((was != is_now).sum()), int((~was).sum())
    relative_R = np.sqrt(np.divide(squared_R, power_R, out=np.zeros_like(squared_R), where=power_R > 0))
    worst = int(relative_R.argmax())
    return RoundingError(
        float(squared_R.sum()), float(power_R.sum()), float(relative_R[worst]), first + worst, saturated, not_finite
    )


class _Room:
    """Memory for one block of `count` rows: as they are read, as f32, as they are written, and as f32 again."""

    def __init__(self, source: Rows, target: Rows, count: int) -> None:
        shape = (count, source.dim)
        self.count, self.read, self.written = count, source.type.room(shape), target.type.room(shape)
        self.before_RE, self.after_RE = np.empty((2, *shape), np.float32)


class _Rooms:
    """Rooms that are free to be used again, for any thread."""

    def __init__(self, source: Rows, target: Rows) -> None:
        self.source, self.target = source, target
        self.free: list[_Room] = []

    def take(self, count: int) -> _Room:
        try:
            room = self.free.pop()
        except IndexError:
            return _Room(self.source, self.target, count)
        return room if room.count == count else _Room(self.source, self.target, count)

    def give_back(self, room: _Room) -> None:
        self.free.append(room)


class _Behind:
    """Sees to it that what was written leaves memory soon after.

    A table larger than memory would push out all else, and a virtual machine that needs ever more memory gets it from its host more
    slowly than it writes (docs/benchmarks/2026-11-24_convert.md). Scales stay: they are read once more, for the file's digest.
    """

    def __init__(self, target: Rows, first: int) -> None:
        self.numbers, self.edge = target.numbers, first
        self.step = max(1, _LET_GO // target.numbers.row_bytes)

    def reach(self, done: int) -> None:
        """Rows up to `done` are written now."""
        while self.edge + self.step <= done:
            self.numbers.let_go(self.edge, self.step)
            self.numbers.let_go(max(0, self.edge - _WRITTEN * self.step), self.step)
            self.edge += self.step


def largest_number(rows: Rows) -> Iterator[tuple[int, float]]:
    """The largest finite magnitude, block by block: (rows seen, of the block)."""
    from engram_cli.table import codes

    rooms = _Rooms(rows, rows)

    def largest(block: tuple[int, int]) -> tuple[int, float]:
        room = rooms.take(block[1])
        values_RE = rows.type.decode(*rows.read_stored(*block, room.read), room.before_RE)
        size = codes.largest_size(values_RE.reshape(-1).view(np.uint32))
        rooms.give_back(room)
        return sum(block), float(np.uint32(size).view(np.float32))

    yield from in_order(largest, _blocks(rows, 0))


def stream(source: Rows, target: Rows, error: RoundingError, first: int = 0) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Write the rows of `source` from `first` on into `target`, adding to `error`.

    Yields, in order, how many rows are written, and the numbers of the last of them as they are stored: they hold until the next.

    Raises ArtifactError where a source was cut, OSError where the disk refuses.
    """
    copied, exact = source.type is target.type, target.type.name == "f32"
    scale = target.scales if isinstance(target.scales, np.ndarray) else None
    rooms, behind = _Rooms(source, target), _Behind(target, first)

    def move(block: tuple[int, int]) -> tuple[int, npt.NDArray[Any], RoundingError, _Room]:
        room, found = rooms.take(block[1]), RoundingError()
        numbers, scales = source.read_stored(*block, room.read)
        if not copied:
            before_RE = source.type.decode(numbers, scales, room.before_RE)
            numbers, scales = target.type.encode(before_RE, scale, room.written)
            if not exact:
                found = rounding_error(block[0], before_RE, target.type.decode(numbers, scales, room.after_RE))
        target.write_stored(block[0], numbers, scales)
        return sum(block), numbers, found, room

    for done, numbers, more, room in in_order(move, _blocks(source, first)):
        error.add(more)
        yield done, numbers
        rooms.give_back(room)
        behind.reach(done)


def _blocks(rows: Rows, first: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the blocks from `first` on."""
    step = max(1, _NUMBERS // rows.dim)
    return ((start, min(step, rows.count - start)) for start in range(first, rows.count, step))


def in_order(work: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """`work` done on two threads, a few items ahead; results come in order."""
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
