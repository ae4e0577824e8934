"""Counting: tokens on disk -> sorted counts of every order, within a budget of memory, on threads or on a cluster.

    [tokens] -> stretches, counted apart -> runs, in memory or spilled -> ranges of grams, merged apart -> cascade -> files

Neither the budget nor the engine nor the order in which stretches are done can be seen in what is written.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from engram_cli.corpus.cascade import Tally, Write, levels
from engram_cli.corpus.encoder import Encoder, choose_encoder
from engram_cli.corpus.ngrams import Buffers, Packing, Rows, count_stretch
from engram_cli.corpus.runs import BLOCK, Gram, Range, Room, Run, merge_range, ranges_of, splits_of
from engram_cli.errors import RecipeError, ResourceError
from engram_cli.store.resources import at_least, format_bytes, resident_memory

STRETCH = 1 << 24  # tokens counted at once, where memory allows: 0.4 GB while they are; half as many where grams are wide
_TIMES = 4  # that buffers are counted through at least: touching memory for the first time may cost more than counting through it
_SMALLEST = 1 << 18
_RANGE = 1 << 17  # rows merged at once, or more where there are many runs: what their blocks share with other ranges is read twice
_SLACK = 40 << 20  # bytes: what compiling, the interpreter and small arrays take beside the buffers
ENGINES = ("local", "ray")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Stretch:
    """Tokens begin..end of a corpus, with what it takes to count them anywhere.

    path, offset, dtype: where their raw ids begin in a file, `context` tokens earlier, and what an id is; starts_D: documents that
    begin here; first_D, last_D: first and last token of those that end here. All count from the first token of the context.
    """

    begin: int
    end: int
    context: int
    path: Path
    offset: int
    dtype: np.dtype[Any]
    starts_D: npt.NDArray[np.int64]
    first_D: npt.NDArray[np.int64]
    last_D: npt.NDArray[np.int64]

    def read(self, buffers: Buffers) -> npt.NDArray[Any]:
        """Raw ids, those of the context first, in a buffer."""
        size = self.context + self.end - self.begin
        ids_T = buffers.take("ids", size, self.dtype)[:size]
        with self.path.open("rb") as file:
            file.seek(self.offset)
            read = file.readinto(ids_T.data)
        assert read == ids_T.nbytes, (self.path, self.begin, self.end)
        return ids_T


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

    def stretches(self, size: int, order: int) -> Iterator[Stretch]:
        """All tokens in stretches of `size`, to be counted in grams of `order`."""
        last_D = np.append(self.starts_D[1:], self.tokens) - 1
        dtype = np.dtype(self.dtype)
        for begin in range(0, self.tokens, size):
            end = min(begin + size, self.tokens)
            context = min(begin, order - 1)
            offset = begin - context
            inside = slice(*np.searchsorted(self.starts_D, [offset, end]))
            ending = slice(*np.searchsorted(last_D, [begin, end]))
            documents = (self.starts_D[inside] - offset, self.starts_D[ending] - offset, last_D[ending] - offset)
            yield Stretch(begin, end, context, self.path, self.offset + offset * dtype.itemsize, dtype, *documents)


@dataclass(frozen=True)
class Plan:
    """threads: how many of those that were asked for; stretch: tokens counted at once by each; room: bytes of runs kept in memory;
    rows: merged at once by each."""

    threads: int
    stretch: int
    room: int
    rows: int

    @property
    def runs(self) -> int:
        """Runs that may be merged at once: of each, a range reads a block or more."""
        return max(2, self.rows // (2 * BLOCK))


def least_memory(documents: int, packing: Packing, tokens: int = 1 << 40, threads: int = 1) -> int:
    """Bytes that counting must have beside what the process has before it begins."""
    counting, merging, ends = _costs(packing)
    least = int(threads * min(_SMALLEST, tokens) * counting / 0.6) + (threads + 2) * _RANGE * merging
    return _SLACK + documents * ends + least


def _costs(packing: Packing) -> tuple[int, int, int]:
    """Bytes for each token of a stretch, each row that is merged, each document."""
    key = 16 if packing.wide else 8
    return 2 * key + 4 + 4 + 4, 6 * key + 48, 4 * key + packing.order * (key + 4)


def plan(memory: int, tokens: int, documents: int, threads: int, packing: Packing, stretch: int = STRETCH) -> Plan:
    """What fits `memory` bytes, of which this process has some already: on fewer threads where so many take too much. Raises
    ResourceError where too little is left."""
    counting, merging, ends = _costs(packing)
    left = memory - resident_memory()
    fitting = [n for n in range(threads, 0, -1) if least_memory(documents, packing, tokens, n) <= left]
    if not fitting:
        least = memory - left + least_memory(documents, packing, tokens)
        raise ResourceError(
            f"--memory must hold what counting takes at least, but it is {format_bytes(memory)}; give {at_least(least)} or more"
        )
    threads, free = fitting[0], left - _SLACK - documents * ends
    largest = int(free * 0.6 / threads / counting)
    rows = int(free * 0.5 / (threads + 2) / merging)
    few = -(-tokens // (_TIMES * threads))
    return Plan(threads, max(1, min(stretch >> packing.wide, largest, few)), int(free * 0.3), rows)


class Engine(Protocol):
    """Where the work of an extraction is done: `Local`, or a cluster (engine_ray.py).

    Its tasks are plain functions of what they are given, so that one may be done anywhere, and again where it was lost. processes:
    how many share the memory of a machine; threads: how many tasks at once.
    """

    processes: int
    threads: int

    def encoder(self, tokenizer: Tokenizer, sample: Sequence[str], dtype: npt.DTypeLike, end: int | None) -> Encoder:
        """What `choose_encoder` gives, or what has its texts encoded by such."""

    def plan(self, memory: int, tokens: int, documents: int, packing: Packing, stretch: int) -> Plan:
        """How to count so many tokens in `memory` of a process. Raises ResourceError where it does not suffice."""

    def count(
        self, stretches: Iterable[Stretch], canonical_V: npt.NDArray[np.uint32], packing: Packing, room: Room
    ) -> Iterator[tuple[Run, Rows]]:
        """What `count_part` gives for each of the stretches, in order, its run kept in `room`."""

    def merge(self, ranges: Iterable[Range]) -> Iterator[Rows]:
        """What `merge_range` gives for each of the ranges, in order."""


class Local:
    """So many threads of this process."""

    processes = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def encoder(self, tokenizer: Tokenizer, sample: Sequence[str], dtype: npt.DTypeLike, end: int | None) -> Encoder:
        return choose_encoder(tokenizer, sample, dtype, end, self.threads)

    def plan(self, memory: int, tokens: int, documents: int, packing: Packing, stretch: int = STRETCH) -> Plan:
        planned = plan(memory, tokens, documents, self.threads, packing, stretch)
        self.threads = planned.threads
        return planned

    def count(
        self, stretches: Iterable[Stretch], canonical_V: npt.NDArray[np.uint32], packing: Packing, room: Room
    ) -> Iterator[tuple[Run, Rows]]:
        pool: SimpleQueue[Buffers] = SimpleQueue()
        for _ in range(self.threads):
            pool.put(Buffers())

        def count(stretch: Stretch) -> tuple[Run, Rows]:
            buffers = pool.get()
            try:
                rows, ends = count_part(stretch, canonical_V, packing, buffers)
                return room.keep(rows, str(stretch.begin)), ends
            finally:
                pool.put(buffers)  # others wait for it, also where this one failed

        return in_order((partial(count, stretch) for stretch in stretches), self.threads)

    def merge(self, ranges: Iterable[Range]) -> Iterator[Rows]:
        return in_order((partial(merge_range, part) for part in ranges), self.threads)


def open_engine(name: str, address: str | None, threads: int | None) -> AbstractContextManager[Engine]:
    """The engine called `name`, to be left when its work is done. address: of the cluster, None for one of this machine's own;
    threads: None for all cores. Raises RecipeError where there is none of that name, or ClusterError."""
    if name not in ENGINES:
        raise RecipeError(f"--engine is one of {', '.join(ENGINES)}, but it is {name!r}; change it")
    if name == "ray":
        from engram_cli.corpus.engine_ray import connect

        return connect(address, threads)
    if address is not None:
        raise RecipeError(f"--address names a Ray cluster, but --engine is {name}; give --engine ray too")
    return nullcontext(Local(threads or cores()))


def count_tokens(
    tokens: Tokens,
    packing: Packing,
    writes: Sequence[Write],
    *,
    engine: Engine,
    memory: int,
    tmp: Path,
    min_count: int = 1,
    stretch: int = STRETCH,
    counted: Callable[[int], None] = lambda tokens: None,
    written: Callable[[int, int], None] = lambda done, total: None,
) -> list[Tally]:
    """Count grams of orders 1 to `packing.order`, and give each order's, sorted and in stretches, to its one of `writes`.

    engine: where it is done; memory: bytes a process may take; tmp: folder for runs that do not fit, made when needed (the
    caller removes it); min_count: rarer grams are not written; counted: told the tokens counted so far; written: told how many of
    how many ranges are. Returns what was written, by order. Raises ResourceError where memory or disk do not suffice.
    """
    planned = engine.plan(memory, tokens.tokens, len(tokens.starts_D), packing, stretch)
    runs: list[Run] = []
    ends: list[Rows] = []
    stretches = tokens.stretches(planned.stretch, packing.order)
    room = Room(planned.room, tmp)
    for run, ending in engine.count(stretches, tokens.canonical_V, packing, room):
        runs.append(run)
        ends.append(ending)
        counted(min(len(runs) * planned.stretch, tokens.tokens))
    runs = _few(runs, planned, engine, packing.wide, room)
    made = levels(packing, _all(ends), writes, min_count)
    splits = _splits(runs, planned)
    for number, rows in enumerate(engine.merge(ranges_of(runs, splits, packing.wide)), 1):
        made[-1].take(rows)
        written(number, len(splits) + 1)
    made[-1].finish()
    return [level.tally for level in made]


def compile_kernels(packing: Packing, dtype: npt.DTypeLike, folder: Path) -> None:
    """Have all that counting such grams of such ids calls ready: four tokens are counted. It takes half a second where it was compiled
    before, else ten."""
    path = folder / "four_tokens"
    np.zeros(4, dtype).tofile(path)
    tokens = Tokens(path, 0, dtype, 4, np.array([0, 2]), np.zeros(1, np.uint32))
    writes: list[Write] = [lambda columns: None] * packing.order
    count_tokens(tokens, packing, writes, engine=Local(1), memory=1 << 60, tmp=folder, stretch=2)


def _splits(runs: Sequence[Run], planned: Plan) -> list[Gram]:
    """Where the merge of all runs is split: beside its share, a range reads a block of each run."""
    return splits_of(runs, min(planned.rows - BLOCK * len(runs), max(_RANGE, 8 * BLOCK * len(runs))))


def _few(runs: list[Run], planned: Plan, engine: Engine, wide: bool, room: Room) -> list[Run]:
    """As many runs as can be merged at once, in place of more: a small memory makes short stretches, and many of them."""
    rounds = 0
    while len(runs) > planned.runs:
        rounds += 1
        groups = [runs[begin : begin + planned.runs] for begin in range(0, len(runs), planned.runs)]
        runs = [
            room.join(group, engine.merge(ranges_of(group, _splits(group, planned), wide)), f"{rounds}-{number}")
            for number, group in enumerate(groups)
        ]
    return runs


def count_part(stretch: Stretch, canonical_V: npt.NDArray[np.uint32], packing: Packing, buffers: Buffers) -> tuple[Rows, Rows]:
    """(sorted counts of a stretch, in `buffers` until they are used again; the last window of each document that ends in it)."""
    from engram_cli.corpus import kernels

    ids_T = stretch.read(buffers)
    rows = count_stretch(ids_T, canonical_V, stretch.starts_D, stretch.context, packing, buffers)
    size = len(stretch.last_D)
    ends = Rows(np.empty(size, np.uint64), np.empty(size, np.uint64) if packing.wide else None, np.empty(0, np.uint32))
    windows = (np.array(packing.blank), np.array(packing.mask), np.uint64(packing.bits))
    kernels.last_windows(ids_T, canonical_V, stretch.first_D, stretch.last_D, packing.order, *windows, ends.key, ends.top)
    return rows, ends


def _all(parts: list[Rows]) -> Rows:
    """Last windows of all documents, in one."""
    tops = [part.top for part in parts if part.top is not None]
    return Rows(np.concatenate([part.key for part in parts]), np.concatenate(tops) if tops else None, parts[0].counts)


def in_order(work: Iterable[Callable[[], _T]], threads: int) -> Iterator[_T]:
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


def load_kernels() -> None:
    """Compiled code into memory, so that what is left of it is known."""
    from engram_cli.corpus import kernels, merge_kernels  # noqa: F401


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
