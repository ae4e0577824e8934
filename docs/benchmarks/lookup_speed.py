"""Rows looked up through a warm map, against `numpy.take` on an array in memory of the same rows.

python docs/benchmarks/lookup_speed.py
"""

import tempfile
import timeit
from pathlib import Path

import numpy as np

from engram_cli.table.rows import Rows

ROWS, DIM, REPEATS = 1 << 20, 64, 7


def main() -> None:
    random = np.random.default_rng(0)
    values_RE = random.standard_normal((ROWS, DIM), dtype=np.float32)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.safetensors"
        made = Rows.create(path, ROWS, DIM, "f32")
        made.put(slice(0, ROWS), values_RE)
        made.flush()
        rows = Rows.open(path)
        for batch, number in ((16, 4000), (384, 500), (16384, 10)):
            ids_U = random.integers(0, ROWS, batch)
            call = {"ids": ids_U, "values": values_RE, "rows": rows, "numpy": np}
            memory, mapped = (
                min(timeit.repeat(code, globals=call, repeat=REPEATS, number=number)) / number * 1e6
                for code in ("numpy.take(values, ids, 0)", "rows.take(ids)")
            )
            print(f"{batch} rows: numpy.take {memory:.2f} us, Rows.take {mapped:.2f} us, {memory / mapped:.2f}x")


if __name__ == "__main__":
    main()
