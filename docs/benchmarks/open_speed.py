"""How long a table of hundreds of gigabytes takes to open, and what memory: each run a fresh process.

python -m tests.checkpoints CHECKPOINT
python docs/benchmarks/open_speed.py CHECKPOINT
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

RUNS = 5
OPEN = """
import resource, sys, time
import numpy as np
from engram_cli.table.formats import open_stored_table
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
stored = open_stored_table(sys.argv[1])
seconds = time.perf_counter() - started
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = stored.layers[0].rows
started = time.perf_counter()
rows.take(np.random.default_rng(0).integers(0, rows.count, 16384))
print(seconds, before / 1024, after / 1024, time.perf_counter() - started)
"""
COMMANDS = {"inspect": (), "inspect --text": ("--text", "Only Alexander the Great")}


def forget(directory: Path) -> None:
    """Ask the kernel to drop what it holds of the files."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def opened(directory: Path) -> list[float]:
    """Seconds to open; MiB before and after; seconds for rows."""
    done = subprocess.run([sys.executable, "-c", OPEN, directory], capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def commanded(directory: Path, options: tuple[str, ...]) -> list[float]:
    """Seconds from start to end of `engram inspect`, and of the processors; MiB at most."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "engram_cli", "inspect", directory, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    return [time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]


def main() -> None:
    directory = Path(sys.argv[1])
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{directory.name}: {size / 2**30:.1f} GiB in {sum(1 for _ in directory.iterdir())} files")
    jobs: dict[str, Callable[[Path], list[float]]] = {"open": opened}
    jobs |= {name: partial(commanded, options=options) for name, options in COMMANDS.items()}
    for state in ("cold", "warm"):
        for name, job in jobs.items():
            for _ in range(RUNS):
                if state == "cold":
                    forget(directory)
                print(state, name, *(f"{number:.3f}" for number in job(directory)))


if __name__ == "__main__":
    main()
