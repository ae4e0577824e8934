"""How fast a table is converted, against copying the file that holds its rows: each run a fresh process, taken in turn.

python -m tests.checkpoints FOLDER/v41 --size 350000                       # 2.2 GB of random rows in the V4.1 layout
python docs/benchmarks/convert_speed.py FOLDER/v41 FOLDER/out [dtype ...]

Everything is on the disk at the end, of the copy too.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

RUNS = 2
CONVERT = """
import sys, time
from engram_cli import convert
from engram_cli.report.peak_memory import peak_memory
started = time.perf_counter()
convert(sys.argv[1], "engram", sys.argv[2], dtype=sys.argv[3])
print(time.perf_counter() - started, time.process_time(), peak_memory() / 2**20)
"""


def copy(source: Path, out: Path) -> tuple[float, float]:
    """Seconds by the clock, and of the processors."""
    started, worked = time.perf_counter(), time.process_time()
    shutil.copyfile(source, out)
    descriptor = os.open(out, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - started, time.process_time() - worked


def main() -> None:
    checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = max(checkpoint.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    size = rows.stat().st_size / 1e9
    print(f"{size:.2f} GB")
    for _ in range(RUNS):
        seconds, worked = copy(rows, out)
        out.unlink()
        print(f"copy: {size / seconds:.2f} GB/s, {worked:.1f} s of the processors")
        for dtype in sys.argv[3:] or ["fp8-block", "bf16", "int8-row"]:
            done = subprocess.run(
                [sys.executable, "-c", CONVERT, checkpoint, out, dtype], capture_output=True, text=True, check=True
            )
            seconds, worked, peak = map(float, done.stdout.split())
            written = sum(path.stat().st_size for path in out.iterdir()) / 1e9
            shutil.rmtree(out)
            rates = f"{size / seconds:.2f} GB/s read, {written / seconds:.2f} written"
            print(f"{dtype}: {rates}, {worked:.1f} s of the processors, {peak:.0f} MiB")


if __name__ == "__main__":
    main()
