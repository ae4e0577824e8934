"""Rows looked up through the map: warm against `numpy.take` on an array in memory, cold against maps used by hand, and both against
engramdb where a Python that has it is named.

python docs/benchmarks/lookup_speed.py FOLDER [GIGABYTES] [PYTHON]

Random rows of 64 f32 are made in FOLDER where they are missing: one file, and for engramdb the same rows in eight shards, read by
eight threads, which is its best. Cold: the kernel drops the files before every run, and every run asks for rows of its own.
"""

import mmap
import os
import subprocess
import sys
import time
import timeit
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engram_cli.store.matrix import Matrix
from engram_cli.store.tensors import Stored, TensorSpec
from engram_cli.table.row_types import ROW_TYPES
from engram_cli.table.rows import Rows

DIM, WARM_ROWS, RUNS = 64, 1 << 20, 5
STEP = 1 << 16  # rows that are made at a time
WARM = {16: 4000, 384: 500, 16384: 10}  # rows of a batch: how many of them are timed at once
COLD = {16: 200, 384: 20, 16384: 1}
Ids = npt.NDArray[np.int64]
Lookup = Callable[[Ids], object]
SHARDS = 8
ENGRAMDB = """
import sys, time, timeit, zlib
import engramdb
folder, shards, rows, repeats = sys.argv[1], *map(int, sys.argv[2:])
store = engramdb.Store(folder, shards, rows, 256, threads=8)
batches = [[int(row) for row in batch.split()] for batch in sys.stdin.read().split(";")]
number = max(1, 20000 // len(batches[0])) if repeats else 1
def run():
    for batch in batches:
        run.last = store.fetch(batch)
print(min(timeit.repeat(run, repeat=max(1, repeats), number=number)) / number, zlib.crc32(run.last))
"""


def make(folder: Path, gigabytes: float, shards: int) -> int:
    """Files of random rows, unless they are there; how many rows a file has. The same rows lie end to end, however many files."""
    rows = int(gigabytes * 1e9) // (4 * DIM * SHARDS) * SHARDS
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for path in (folder / f"shard_{shard:03}.bin" for shard in range(shards)):
        if path.exists():
            continue
        with path.open("wb") as file:
            for first in range(0, rows // shards, STEP):
                file.write(random.standard_normal((min(STEP, rows // shards - first), DIM), np.float32).data)
            os.fsync(file.fileno())
    return rows // shards


def open_rows(path: Path, rows: int) -> Rows:
    return Rows(ROW_TYPES["f32"], Matrix([Stored(path, TensorSpec("F32", (rows, DIM)))]))


def by_hand(path: Path, advice: int | None, ahead: bool) -> Lookup:
    """A map used without this project: `advice` for all of it, and each page asked for `ahead` of taking the rows."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if advice is not None:
        mapped.madvise(advice)
    values_RE = np.frombuffer(mapped, np.float32).reshape(-1, DIM)

    def look_up(ids: Ids) -> object:
        if ahead:
            for page in np.unique(ids * (4 * DIM) // mmap.PAGESIZE).tolist():
                mapped.madvise(mmap.MADV_WILLNEED, page * mmap.PAGESIZE, mmap.PAGESIZE)
        return values_RE.take(ids, 0)

    return look_up


def timed(look_up: Lookup, batches: Ids) -> float:
    started = time.perf_counter()
    for ids in batches:
        look_up(ids)
    return time.perf_counter() - started


class Engramdb:
    """engramdb in a process of its own, which another Python runs."""

    def __init__(self, python: str, folder: Path, gigabytes: float, same: Rows) -> None:
        self.rows, self.same = make(folder, gigabytes, SHARDS), same
        self.command = [python, "-c", ENGRAMDB, str(folder), str(SHARDS), str(self.rows)]

    def seconds(self, batches: Ids, repeats: int = 0) -> float:
        """For all batches once, or the least of some repeats."""
        lines = ";".join(" ".join(map(str, ids.tolist())) for ids in batches)
        done = subprocess.run([*self.command, str(repeats)], input=lines, capture_output=True, text=True, check=True)
        seconds, checksum = done.stdout.split()
        assert int(checksum) == zlib.crc32(self.same.take(batches[-1]).tobytes()), "engramdb read other rows"
        return float(seconds)


def warm(path: Path, rows: int, other: Engramdb | None) -> Iterator[str]:
    """Each batch again and again from the first 256 MiB of the file."""
    random, count = np.random.default_rng(1), min(rows, WARM_ROWS)
    values_RE = np.fromfile(path, np.float32, count * DIM).reshape(-1, DIM)
    mapped = open_rows(path, rows)
    mapped.take(np.arange(count))
    for batch, number in WARM.items():
        ids = random.integers(0, count, batch)
        calls = (lambda ids=ids: np.take(values_RE, ids, 0), lambda ids=ids: mapped.take(ids))
        memory, ours = (min(timeit.repeat(call, repeat=RUNS, number=number)) / number for call in calls)
        line = f"warm, {batch} rows: numpy.take {memory * 1e6:.2f} us, Rows.take {ours * 1e6:.2f} us ({memory / ours:.2f}x)"
        if other:
            theirs = other.seconds(ids[None], RUNS)
            line += f", engramdb {theirs * 1e6:.2f} us ({theirs / ours:.0f}x)"
        yield line


def cold(path: Path, rows: int, other: Engramdb | None) -> Iterator[str]:
    """Batches of rows that lie on the disk, thousand rows a second of each run, in turn."""
    random = np.random.default_rng(2)
    ways: dict[str, Callable[[Ids], float]] = {
        "map": lambda batches: timed(by_hand(path, None, False), batches),
        "map, MADV_RANDOM": lambda batches: timed(by_hand(path, mmap.MADV_RANDOM, False), batches),
        "map, MADV_RANDOM, MADV_WILLNEED": lambda batches: timed(by_hand(path, mmap.MADV_RANDOM, True), batches),
        "Rows.take": lambda batches: timed(open_rows(path, rows).take, batches),
    }
    if other:
        ways["engramdb"] = other.seconds
    for batch, number in COLD.items():
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(RUNS):
            for way, run in ways.items():
                batches = random.integers(0, rows, (number, batch))
                forget(path.parent)
                rates[way].append(batches.size / run(batches) / 1e3)
        for way, found in rates.items():
            shown = ", ".join(f"{rate:.1f}" for rate in found)
            yield f"cold, {batch} rows, {way}: {np.median(found):.1f} thousand rows a second ({shown})"


def forget(folder: Path) -> None:
    for path in folder.rglob("*.bin"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    folder, gigabytes = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 4.3
    rows = make(folder, gigabytes, 1)
    path = folder / "shard_000.bin"
    other = Engramdb(sys.argv[3], folder / "shards", gigabytes, open_rows(path, rows)) if len(sys.argv) > 3 else None
    for line in (*warm(path, rows, other), *cold(path, rows, other)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
