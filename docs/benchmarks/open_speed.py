"""How long a table of hundreds of gigabytes takes to open, and what memory: each run a fresh process.

python -m tests.checkpoints CHECKPOINT
python docs/benchmarks/open_speed.py CHECKPOINT
"""

import os
import subprocess
import sys
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
INSPECT = """
import resource, sys, time
started = time.perf_counter()
from engram_cli.__main__ import run
run(["inspect", sys.argv[1], "--json"])
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
"""


def forget(directory: Path) -> None:
    """Ask the kernel to drop what it holds of the files."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    directory = Path(sys.argv[1])
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{directory.name}: {size / 2**30:.1f} GiB in {sum(1 for _ in directory.iterdir())} files")
    for state in ("cold", "warm"):
        for code, stream in ((OPEN, "stdout"), (INSPECT, "stderr")):
            for _ in range(RUNS):
                if state == "cold":
                    forget(directory)
                done = subprocess.run([sys.executable, "-c", code, directory], capture_output=True, text=True, check=True)
                print(
                    state, "open" if code == OPEN else "inspect", *(f"{float(n):.3f}" for n in getattr(done, stream).split()[-4:])
                )


if __name__ == "__main__":
    main()
