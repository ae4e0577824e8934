"""Counting on one machine: tokens on disk -> sorted counts of every order, within a budget of memory, on so many threads.

    [tokens] -> stretches, counted on threads -> runs, in memory or spilled -> ranges of grams, merged on threads -> cascade ->
    files

Neither the budget nor the threads nor the order in which stretches are done can be seen in what is written.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.cascade import Tally, Write, levels
from engram_cli.corpus.ngrams import Buffers, Packing, Rows, count_stretch
from engram_cli.corpus.runs import BLOCK, Runs
from engram_cli.errors import ResourceError
from engram_cli.store.resources import format_bytes, resident_memory

STRETCH = 1 << 25  # tokens counted at once, where memory allows: about 0.4 GB while they are
_SMALLEST = 1 << 18
_RANGE = 1 << 17  # rows merged at once, or more where there are many runs: what their blocks share with other ranges is read twice
_SLACK = 40 << 20  # bytes: what compiling, the interpreter and small arrays take beside the buffers
_T = TypeVar("_T")


@dataclass(frozen=True)
class Tokens:
    """Documents laid end to end in a file. offset: where ids begin in it; dtype: of an id; tokens: how many; starts_D: first token
    of each document; canonical_V: the canonical id of each raw id."""

    path: Path
    offset: int
    dtype: npt.DTypeLike
    tokens: int
    starts_D: npt.NDArray[np.int64]
    canonical_V: npt.NDArray[np.uint32]

    def read(self, begin: int, end: int, buffers: Buffers) -> npt.NDArray[Any]:
        """Raw ids begin..end, in a buffer."""
        width = np.dtype(self.dtype).itemsize
        ids_T = buffers.take("ids", end - begin, self.dtype)[: end - begin]
        with self.path.open("rb") as file:
            file.seek(self.offset + begin * width)
            read = file.readinto(ids_T.data)
        assert read == ids_T.nbytes, (self.path, begin, end)
        return ids_T


@dataclass(frozen=True)
class Plan:
    """stretch: tokens counted at once by a thread; room: bytes of runs kept in memory; rows: merged at once by a thread."""

    stretch: int
    room: int
    rows: int


def plan(memory: int, tokens: int, documents: int, threads: int, packing: Packing, stretch: int = STRETCH) -> Plan:
    """What fits `memory` bytes, of which this process has some already. Raises ResourceError where too little is left."""
    key = 16 if packing.wide else 8
    counting, merging = 2 * key + 4 + 4 + 4, 6 * key + 48
    ends = documents * (4 * key + packing.order * (key + 4))
    free = memory - resident_memory() - _SLACK - ends
    least = int(threads * min(_SMALLEST, tokens) * counting / 0.6) + (threads + 2) * _RANGE * merging
    if free < least:
        raise ResourceError(
            f"--memory must hold what counting on {threads} threads takes at least, but it is {format_bytes(memory)}; "
            f"give {format_bytes(memory - free + least)} or more, or fewer --threads"
        )
    fitting = int(free * 0.6 / threads / counting)
    return Plan(max(1, min(stretch, fitting, -(-tokens // threads))), int(free * 0.3), int(free * 0.5 / (threads + 2) / merging))


def count_tokens(
    tokens: Tokens,
    packing: Packing,
    writes: Sequence[Write],
    *,
    memory: int,
    tmp: Path,
    threads: int = 1,
    min_count: int = 1,
    stretch: int = STRETCH,
    counted: Callable[[int], None] = lambda tokens: None,
    written: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tally]:
    """Count grams of orders 1 to `packing.order`, and give each order's, sorted and in stretches, to its one of `writes`.

    memory: bytes this process may take; tmp: folder for runs that do not fit, made when needed (the caller removes it); min_count:
    rarer grams are not written; counted: told the tokens counted so far; written: told how many of how many ranges are.
    Returns what was written, by order. Raises ResourceError where memory or disk do not suffice.
    """
    planned = plan(memory, tokens.tokens, len(tokens.starts_D), threads, packing, stretch)
    runs = Runs(planned.room, packing.wide, tmp)
    ends = _count_stretches(tokens, packing, runs, planned.stretch, threads, counted)
    made = levels(packing, ends, writes, min_count)
    ranges = runs.ranges(min(planned.rows, max(_RANGE, 8 * BLOCK * len(runs.runs))))
    for number, rows in enumerate(_in_order(ranges, threads), 1):
        made[-1].take(rows)
        written(number, len(ranges))
    made[-1].finish()
    return [level.tally for level in made]


def _count_stretches(
    tokens: Tokens, packing: Packing, runs: Runs, stretch: int, threads: int, counted: Callable[[int], None]
) -> Rows:
    """Count all stretches into `runs`; returns the last window of each document."""
    starts_D = tokens.starts_D
    last_D = np.append(starts_D[1:], tokens.tokens) - 1
    ends = Rows(
        np.empty(len(last_D), np.uint64), np.empty(len(last_D), np.uint64) if packing.wide else None, np.empty(0, np.uint32)
    )
    pool: SimpleQueue[Buffers] = SimpleQueue()
    for _ in range(threads):
        pool.put(Buffers())

    def count(begin: int, buffers: Buffers) -> int:
        end = min(begin + stretch, tokens.tokens)
        context = min(begin, packing.order - 1)
        offset = begin - context
        ids_T = tokens.read(offset, end, buffers)
        inside = slice(*np.searchsorted(starts_D, [offset, end]))
        runs.add(count_stretch(ids_T, tokens.canonical_V, starts_D[inside] - offset, context, packing, buffers))
        ending = slice(*np.searchsorted(last_D, [begin, end]))
        _last_windows(ids_T, tokens.canonical_V, starts_D[ending] - offset, last_D[ending] - offset, packing, ends, ending)
        return end

    def count_in_buffers(begin: int) -> int:
        buffers = pool.get()
        try:
            return count(begin, buffers)
        finally:
            pool.put(buffers)  # others wait for it, also where this one failed

    for end in _in_order([lambda b=begin: count_in_buffers(b) for begin in range(0, tokens.tokens, stretch)], threads):  # type: ignore[misc]
        counted(end)
    return ends


def _last_windows(
    ids_T: npt.NDArray[Any],
    canonical_V: npt.NDArray[np.uint32],
    first_D: npt.NDArray[np.int64],
    last_D: npt.NDArray[np.int64],
    packing: Packing,
    ends: Rows,
    ending: slice,
) -> None:
    from engram_cli.corpus import kernels

    windows = (np.array(packing.blank), np.array(packing.mask), np.uint64(packing.bits))
    top = None if ends.top is None else ends.top[ending]
    kernels.last_windows(ids_T, canonical_V, first_D, last_D, packing.order, *windows, ends.key[ending], top)


def _in_order(work: Iterable[Callable[[], _T]], threads: int) -> Iterator[_T]:
    """The results in order, made on so many threads (one: on this), few ahead of what is taken."""
    if threads == 1:
        yield from (call() for call in work)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_T]] = deque()
        try:
            for call in work:
                waiting.append(pool.submit(call))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
