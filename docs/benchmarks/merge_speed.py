"""How fast `engram merge` is, against copying the larger of the two artifacts: both on one disk, both flushed to it, in turns.

    .venv/bin/python docs/benchmarks/merge_speed.py ONE/ngrams OTHER/ngrams [rounds]

Prints, for each round, seconds of the copy (`cp -r`, then fsync of every file), of `merge()` and of the whole command, and last
the medians, and what share of the copy's speed they are. A first round that is not shown warms the page cache, and memory that the
machine never handed out before: touching that for the first time can cost ten times the writing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from engram_cli.corpus.merge import merge

ENGRAM = Path(sys.executable).with_name("engram")


def copy(source: Path, to: Path) -> None:
    subprocess.run(["cp", "-r", str(source), str(to)], check=True)
    for path in (*to.iterdir(), to):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def seconds(work: Callable[[Path], object], folder: Path) -> float:
    out = folder / "out"
    os.sync()  # what was there before
    begin = time.perf_counter()
    work(out)
    taken = time.perf_counter() - begin
    shutil.rmtree(out)
    return taken


def main(one: Path, other: Path, rounds: int) -> None:
    size = {path: sum(file.stat().st_size for file in path.iterdir()) for path in (one, other)}
    larger = max(size, key=lambda path: size[path])
    command = [str(ENGRAM), "merge", str(one), str(other), "--quiet", "-o"]
    ways: dict[str, Callable[[Path], object]] = {
        "copy": lambda out: copy(larger, out),
        "merge()": lambda out: merge(one, other, out),
        "engram merge": lambda out: subprocess.run([*command, str(out)], check=True, stdout=subprocess.DEVNULL),
    }
    print(f"{size[one] / 1e6:.0f} and {size[other] / 1e6:.0f} MB; seconds, and share of the copy's speed")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=one.parent) as folder:
        for number in range(rounds + 1):
            for name, work in ways.items():
                taken[name].append(seconds(work, Path(folder)))
            if number:
                print("  ".join(f"{name} {taken[name][-1]:.2f}" for name in ways))
    best = {name: median(times[1:]) for name, times in taken.items()}
    print("median: " + "  ".join(f"{name} {best[name]:.2f} ({best['copy'] / best[name]:.2f})" for name in ways))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 5)
