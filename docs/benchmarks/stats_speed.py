"""How fast `engram inspect --stats` reads a table, against plain reads of the same bytes, and what memory it takes.

python -m tests.checkpoints TABLE --size 3500000           # 22 GB of random rows, more than the page cache holds
python docs/benchmarks/stats_speed.py TABLE [GIGABYTES]

Both read the first GIGABYTES of the rows of the first layer in turn: from the disk, after the kernel was asked to forget them, and,
once they were read unmeasured, from memory.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from engram_cli.report.table_stats import weigh
from engram_cli.store.matrix import Matrix
from engram_cli.table.formats import open_stored_table
from engram_cli.table.layout import LayerLayout
from engram_cli.table.stored import StoredLayer

RUNS, BLOCK = 3, 1 << 20


def plain(layer: StoredLayer, rows: int, threads: int) -> None:
    """Read numbers, then scales, of the first rows with preadv."""
    jobs = []
    for matrix in (layer.rows.numbers, layer.rows.scales):
        if isinstance(matrix, Matrix):
            stored = matrix.tensors[0]
            jobs += [(stored.path, stored.spec.offset + at) for at in range(0, rows * matrix.row_bytes, BLOCK)]

    def read(part: list[tuple[Path, int]]) -> None:
        buffer = np.empty(BLOCK, np.uint8)
        files: dict[Path, int] = {}
        for path, at in part:
            if path not in files:
                files[path] = os.open(path, os.O_RDONLY)
            os.preadv(files[path], [buffer.data], at)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, [jobs[number::threads] for number in range(threads)]))


def forget(layer: StoredLayer) -> None:
    """Ask the kernel to drop what it holds of the layer's files."""
    for path in {stored.path for stored in layer.tensors.values()}:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    layer = open_stored_table(sys.argv[1]).layers[0]
    rows = min(
        layer.rows.count, int(float(sys.argv[2]) * 1e9 / layer.rows.bytes_per_row) if len(sys.argv) > 2 else layer.rows.count
    )
    size = rows * layer.rows.bytes_per_row
    part = replace(layer, layout=LayerLayout(layer.layout.layer, (2,), (rows,), (1, 1)))
    cores = os.cpu_count() or 1
    jobs: dict[str, Callable[[], object]] = {
        "read": lambda: plain(layer, rows, 1),
        f"read by {cores}": lambda: plain(layer, rows, cores),
        "stats": lambda: weigh(part),
    }
    for place in ("disk", "memory"):
        for run in range(RUNS + (place == "memory")):
            rates = []
            for name, job in jobs.items():
                if place == "disk":
                    forget(layer)
                started = time.perf_counter()
                job()
                rates.append(f"{name} {size / 1e9 / (time.perf_counter() - started):.2f} GB/s")
            if place == "disk" or run:
                print(f"{place}:", *rates)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{size / 1e9:.1f} GB of {layer.rows.type.name}, {resident:.0f} MiB resident at most")


if __name__ == "__main__":
    main()
