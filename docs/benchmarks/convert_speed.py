"""How fast a table is converted, against a plain copy that reads and writes as many bytes: each run a fresh process, taken in turn.

python -m tests.checkpoints FOLDER/v41 --size 3200000                      # 20.3 GB of random rows in the V4.1 layout
python docs/benchmarks/convert_speed.py FOLDER/v41 FOLDER/out [dtype ...]

Before each run the kernel is asked to drop the checkpoint and is left alone for a while; everything is on the disk at the end of
it, of the copy too. Left alone, because a virtual machine gives memory that was freed back to its host, and gets it again at a
gigabyte a second: who writes at once where another's file was just removed takes a third of the time.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

RUNS, BLOCK, PAUSE = 2, 1 << 23, 15.0
CONVERT = """
import sys, time
from engram_cli import convert
from engram_cli.report.peak_memory import peak_memory
started, worked = time.perf_counter(), time.process_time()
convert(sys.argv[1], "engram", sys.argv[2], dtype=sys.argv[3])
print(time.perf_counter() - started, time.process_time() - worked, peak_memory() / 2**20)
"""


def settle(path: Path) -> None:
    """Ask the kernel to drop what it holds of a file, and leave it alone."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    time.sleep(PAUSE)


def copy(source: Path, out: Path, written: int) -> tuple[float, float]:
    """Read a file and write `written` bytes of it, parts twice or not at all: seconds by the clock, and of the processors."""
    started, worked = time.perf_counter(), time.process_time()
    size, block = source.stat().st_size, bytearray(BLOCK)
    reading, writing = os.open(source, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    done = put = 0
    while count := os.readv(reading, [block]):
        done += count
        while put < written * done // size:
            put += os.write(writing, memoryview(block)[: min(count, written * done // size - put)])
    os.fsync(writing)
    os.close(reading)
    os.close(writing)
    return time.perf_counter() - started, time.process_time() - worked


def convert(checkpoint: Path, out: Path, dtype: str) -> tuple[float, float, float, int]:
    """Seconds by the clock, and of the processors; MiB at most; bytes written."""
    done = subprocess.run([sys.executable, "-c", CONVERT, checkpoint, out, dtype], capture_output=True, text=True, check=True)
    seconds, worked, peak = map(float, done.stdout.split())
    written = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    shutil.rmtree(out)
    return seconds, worked, peak, written


def main() -> None:
    checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = max(checkpoint.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    size = rows.stat().st_size / 1e9
    for dtype in sys.argv[3:] or ["fp8-block", "bf16", "int8-row"]:
        for _ in range(RUNS):
            settle(rows)
            seconds, worked, peak, written = convert(checkpoint, out, dtype)
            settle(rows)
            plain, copying = copy(rows, out, written)
            out.unlink()
            print(
                f"{dtype}, {size:.2f} GB read, {written / 1e9:.2f} written: {seconds:.1f} s, {written / 1e9 / seconds:.2f} GB/s "
                f"written ({worked:.1f} s of the processors, {peak:.0f} MiB); copy {plain:.1f} s, {written / 1e9 / plain:.2f} GB/s "
                f"({copying:.1f} s): {100 * plain / seconds:.0f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
