"""Counting and encoding as tasks on a Ray cluster, with the bytes of `--engine local`.

    [this process] texts -> tasks encode -> tokens, on a path that every node sees -> tasks count stretches -> runs, on such a path
    -> tasks merge ranges -> [this process] cascade -> files

A task is a plain function of values and files that do not change, and writes one file, which is renamed into place. So Ray may do
it again wherever it was lost: a worker or a node that goes costs what it was doing. Reading, and writing the artifact, stay in this
process: then documents have one order, and it does not matter which libraries nodes have. The price is that encoding on more than
five or six cores waits for it (docs/cluster.md).
"""

import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from engram_cli import __version__
from engram_cli.corpus.encoder import Encoded, Encoder, choose_encoder, make_encoder
from engram_cli.corpus.engine import Plan, Stretch, count_part, plan
from engram_cli.corpus.ngrams import Buffers, Packing, Rows
from engram_cli.corpus.runs import Range, Room, Run, merge_range
from engram_cli.errors import ClusterError, EngramError, ResourceError

RETRIES = 10  # of a task whose worker or node was lost
PATIENCE = 30  # seconds in which a cluster must answer
_T = TypeVar("_T")
_BUFFERS = Buffers()  # of a worker
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def connect(address: str | None, threads: int | None) -> Iterator["RayEngine"]:
    """An engine on the cluster at `address` ("HOST:PORT", or "auto" for one that runs here), None for one that is started here, on
    loopback, with as many workers as `threads` says. What was started is stopped; a session that this process has is used as it is.

    Raises ClusterError where Ray is not installed, or no cluster answers.
    """
    _prepare(address)
    try:
        import ray
    except ImportError:
        raise ClusterError('--engine ray needs Ray, but it is not installed; run pip install "engram-tables[ray]"') from None
    if ray.is_initialized():
        with _sharing(RayEngine(threads)) as engine:
            yield engine
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _init(address, threads)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray sets its own
        with _sharing(RayEngine(None if address is None else threads)) as engine:
            yield engine
    finally:
        ray.shutdown()


@contextmanager
def _sharing(engine: "RayEngine") -> Iterator["RayEngine"]:
    """Have errors say of what memory they speak."""
    try:
        yield engine
    except ResourceError as error:
        raise ResourceError(f"{error} (for each process: {engine.processes} of a machine share --memory)") from None


def _prepare(address: str | None) -> None:
    """The environment that Ray reads when it is first imported; what is set already stays."""
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address is None else {}  # its name for "take 127.0.0.1 as my address"
    for name, value in (_QUIET | loopback).items():
        os.environ.setdefault(name, value)


def _init(address: str | None, threads: int | None) -> None:
    import ray

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        ray.init(address="local", num_cpus=threads, include_dashboard=False, **quiet)
        return
    _knock(address)
    try:
        ray.init(address=address, **quiet)
    except (Exception, SystemExit) as error:  # Ray exits where it gives up
        raise ClusterError(
            f"--address names a running Ray cluster of which this machine is a node, but Ray said of {address} `{_line(error)}`; "
            "start a node here with `ray start`, or leave --address out"
        ) from None


def _knock(address: str) -> None:
    """See that a cluster answers, in a process that can be stopped: Ray itself tries for minutes."""
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--skip-version-check", "--address", address]
    with suppress(subprocess.TimeoutExpired):
        if not subprocess.run(check, capture_output=True, timeout=PATIENCE, check=False).returncode:
            return
    raise ClusterError(
        f"--address is HOST:PORT of a running Ray cluster, or auto on one of its nodes, but nothing at {address} answered as such in "
        f"{PATIENCE} seconds; see `ray status` there, or leave --address out"
    )


class RayEngine:
    """Tasks on the cluster that this process is connected to. limit: of tasks that are under way, None for as many as it takes."""

    def __init__(self, limit: int | None) -> None:
        import ray

        self.ray = ray
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        self.threads = limit or max(1, sum(cores))
        self.processes = min(self.threads, max(cores)) + 1
        self.ahead = limit or 2 * self.threads
        self.task = ray.remote(max_retries=RETRIES)(_task)

    def encoder(self, tokenizer: Tokenizer, sample: Sequence[str], dtype: npt.DTypeLike, end: int | None) -> Encoder:
        chosen = choose_encoder(tokenizer, sample, dtype, end)
        return _Spread(self, chosen.name, self.ray.put((chosen.name, tokenizer.to_str(), np.dtype(dtype), end)))

    def plan(self, memory: int, tokens: int, documents: int, packing: Packing, stretch: int) -> Plan:
        planned = plan(memory, tokens, documents, 1, packing, min(stretch, -(-tokens // self.threads)))
        return replace(planned, room=0)  # runs are where nodes see them

    def count(
        self, stretches: Iterable[Stretch], canonical_V: npt.NDArray[np.uint32], packing: Packing, room: Room
    ) -> Iterator[tuple[Run, Rows]]:
        room.folder.mkdir(parents=True, exist_ok=True)
        return self.in_order(_count, stretches, self.ray.put(canonical_V), packing, room.folder)

    def merge(self, ranges: Iterable[Range]) -> Iterator[Rows]:
        for key, top, counts in self.in_order(_merge, ranges):  # in the object store, where nothing may be changed
            yield Rows(key.copy(), None if top is None else top.copy(), counts.copy())

    def in_order(self, call: Callable[..., Any], parts: Iterable[Any], *shared: Any) -> Iterator[Any]:
        """call(part, *shared) for each of the parts, in order, few ahead of what is taken."""
        waiting: deque[Any] = deque()
        try:
            for part in parts:
                waiting.append(self.submit(call, part, *shared))
                if len(waiting) >= self.ahead:
                    yield self.result(waiting.popleft())
            while waiting:
                yield self.result(waiting.popleft())
        finally:
            for task in waiting:
                self.ray.cancel(task)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return self.task.options(name=call.__name__.strip("_")).remote(__version__, call, *arguments)

    def result(self, task: Any) -> Any:
        """What a task gave. Raises its error in one line: ours as it is, others as ClusterError."""
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, EngramError):
                raise cause from None
            raise ClusterError(
                f"tasks on a cluster succeed, here or when they are done again, but one did not ({_line(cause or error)}); "
                "mend that, or use --engine local"
            ) from None


class _Spread:
    """An encoder whose texts are encoded on the cluster. made: what `_encode` makes it of there, in the object store."""

    def __init__(self, engine: RayEngine, name: str, made: Any) -> None:
        self.engine = engine
        self.name = name
        self.calls = engine.ahead
        self.made = made

    def encode(self, texts: Sequence[str]) -> Encoded:
        return self.engine.result(self.engine.submit(_encode, texts, [self.made]))  # type: ignore[no-any-return]


def _task(version: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """What runs on a node. Raises ClusterError where the node is not like the others."""
    if version != __version__:
        raise ClusterError(f"all nodes have one engram, but {platform.node()} has {__version__} and not {version}; install it there")
    try:
        return call(*arguments)
    except FileNotFoundError as error:
        raise ClusterError(
            f"--out and --tmp lie where every node sees them, but {platform.node()} does not see {error.filename}; "
            "name folders that are mounted on all nodes"
        ) from None


def _count(stretch: Stretch, canonical_V: npt.NDArray[np.uint32], packing: Packing, folder: Path) -> tuple[Run, Rows]:
    rows, ends = count_part(_owned(stretch), canonical_V.copy(), packing, _BUFFERS)
    folder.stat()  # not made here, where others may not see it
    run = Room(0, folder).keep(rows, f"{stretch.begin}.{uuid.uuid4().hex}")  # another attempt may be under way
    assert isinstance(run.data, Path)
    run.data = run.data.rename(folder / str(stretch.begin))
    return run, ends


def _merge(part: Range) -> Rows:
    return merge_range(replace(part, runs=[_owned(run) for run in part.runs]))


def _owned(value: _T) -> _T:
    """The dataclass with its arrays copied: what Ray hands over may not be written, and kernels are compiled for what may."""
    arrays = {name: array.copy() for name, array in vars(value).items() if isinstance(array, np.ndarray)}
    return replace(value, **arrays)  # type: ignore[type-var]


def _encode(texts: Sequence[str], made: Sequence[Any]) -> Encoded:
    """What the encoder of this worker gives. made: [object reference], so that it is fetched by `_encoder` only."""
    return _encoder(made[0]).encode(texts)


@lru_cache(maxsize=1)
def _encoder(made: Any) -> Encoder:
    """The encoder of this worker."""
    import ray

    name, text, dtype, end = ray.get(made)
    os.environ["RAYON_NUM_THREADS"] = "1"  # each core has a worker
    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True
    return make_encoder(name, tokenizer, dtype, end, 1)


def _line(error: BaseException) -> str:
    """The last line of what an error says, which in Ray's is the one after the traceback."""
    said = str(error).strip().splitlines()
    with suppress(IndexError):
        return f"{type(error).__name__}: {said[-1]}"
    return type(error).__name__
