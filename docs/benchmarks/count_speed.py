"""How fast ready tokens are counted, against KenLM, DuckDB, Polars and numpy: files in, files out, in turns.

    .venv/bin/python docs/benchmarks/count_speed.py NGRAMS [--order 3] [--tokens 30e6] [--rounds 2]
        [--kenlm BUILD/bin/count_ngrams] [--peers PYTHON] [--alone]

NGRAMS is an n-gram artifact: its training tokens are counted again as raw ids. PYTHON is an interpreter that has duckdb and polars.
What each way reads and writes:

    engram   a file of ids -> Arrow files of orders 1 to N, sorted
    kenlm    the ids as text, a document a line -> order N, sorted; it runs several threads, so look at its CPU-seconds
    others   grams of order N, packed to u64 beforehand, as Parquet or .npy -> order N, sorted, uncompressed

--alone leaves out the peers and adds what engram takes on two threads, with 512 MiB, and for a tenth of the tokens. Each way runs
in a process of its own, its imports and compiling not timed, KenLM as it is. A first round is not shown: touching memory that the
machine never handed out before costs more than counting. Prints medians.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engram_cli.corpus import engine
from engram_cli.corpus.artifact import open_ngrams
from engram_cli.corpus.ngrams import Packing, gram_bits
from engram_cli.store.schema import ngrams_schema
from engram_cli.store.stream import ColumnWriter

TIMED = "import json, time\n{}\nwall, cpu = time.perf_counter(), time.process_time()\n{}\n" + (
    "print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))"
)
PEERS = {
    "polars group_by, streaming": (
        "import polars as pl",
        "pl.scan_parquet('grams.parquet').group_by('gram').len().sort('gram').sink_parquet('out', compression='uncompressed')",
    ),
    "polars sort and rle": (
        "import polars as pl",
        "runs = pl.read_parquet('grams.parquet')['gram'].sort().rle().struct.unnest()\n"
        "runs.write_parquet('out', compression='uncompressed')",
    ),
    "duckdb group by, order by": (
        "import duckdb\nduckdb.sql('SET threads = 1; SET enable_progress_bar = false')",
        "q = 'SELECT gram, count(*) FROM \"grams.parquet\" GROUP BY gram ORDER BY gram'\n"
        "duckdb.sql(f\"COPY ({q}) TO 'out' (FORMAT parquet, COMPRESSION uncompressed)\")",
    ),
}
NUMPY = (
    "import numpy as np",
    "g = np.load('grams.npy'); g.sort(); at = np.flatnonzero(np.append(True, g[1:] != g[:-1]))\n"
    "np.savez('out.npz', g[at], np.diff(at, append=len(g)))",
)


@dataclass(frozen=True)
class Way:
    """A command, run in the folder of the data. tokens: how many it counts; text: whether it reads ids.txt."""

    name: str
    command: list[str]
    tokens: int
    text: bool = False


def count(folder: Path, tokens: int, order: int, vocab: int, threads: int, memory: int) -> None:
    """What a process of engram's does: count, and print seconds and CPU-seconds."""
    starts_D = np.load(folder / "starts.npy")
    packing = Packing(order, gram_bits(vocab, order), 0)
    dtype = np.uint16 if vocab <= 1 << 16 else np.uint32
    for size in (min(tokens, 100_000), tokens):  # the first compiles
        stored = engine.Tokens(folder / "ids.bin", 0, dtype, size, starts_D[starts_D < size], np.arange(vocab, dtype=np.uint32))
        wall, cpu = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory(dir=folder) as out, ExitStack() as files:
            writers = [
                files.enter_context(ColumnWriter(Path(out) / str(lower), ngrams_schema(lower, packing.bits)))
                for lower in range(1, order + 1)
            ]
            writes = [writer.write for writer in writers]
            local = engine.Local(threads)
            engine.count_tokens(stored, packing, writes, engine=local, memory=memory << 20, tmp=Path(out) / "spill")
            for writer in writers:
                writer.close()
            seconds = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps(seconds))


def prepare(artifact: Path, folder: Path, tokens: int, order: int, packed: bool, text: bool) -> tuple[int, int]:
    """Write what the ways read; returns the tokens there are and the number of different ids."""
    ngrams = open_ngrams(artifact)
    stream = ngrams.stream(held_out=False)
    ids_T = np.array(stream.tokens_T[:tokens])
    starts_D = stream.starts_D[stream.starts_D < len(ids_T)]
    ids_T.tofile(folder / "ids.bin")
    np.save(folder / "starts.npy", starts_D)
    bits = gram_bits(ngrams.vocab, order)
    if packed:
        grams_T = np.zeros(len(ids_T), np.uint64)
        for back in range(order):  # across documents: so little differs that it costs nothing
            grams_T[back:] |= ids_T[: len(ids_T) - back].astype(np.uint64) << np.uint64(back * bits)
        np.save(folder / "grams.npy", grams_T)
        pq.write_table(pa.table({"gram": grams_T}), folder / "grams.parquet", compression="none", use_dictionary=False)
    if text:
        with (folder / "ids.txt").open("w") as file:
            for begin, end in zip(starts_D, np.append(starts_D[1:], len(ids_T)), strict=True):
                file.write(" ".join(map(str, ids_T[begin:end].tolist())) + "\n")
    return len(ids_T), ngrams.vocab


def run(way: Way, folder: Path) -> tuple[float, float, float]:
    """(seconds, CPU-seconds, MiB at most) of one run."""
    begin = time.perf_counter()
    environment = os.environ | {"POLARS_MAX_THREADS": "1"}
    with (folder / "ids.txt").open("rb") if way.text else open(os.devnull, "rb") as source, (folder / "said").open("wb") as said:
        process = subprocess.Popen(way.command, cwd=folder, stdin=source, stdout=said, env=environment, stderr=subprocess.PIPE)
        assert process.stderr is not None
        complaint = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"count_speed: {way.name} failed: {complaint}")
    if way.text:
        wall, cpu = time.perf_counter() - begin, used.ru_utime + used.ru_stime
    else:
        wall, cpu = json.loads((folder / "said").read_text())
    return wall, cpu, used.ru_maxrss / 1024


def ways_of(options: argparse.Namespace, tokens: int, vocab: int, folder: Path) -> list[Way]:
    def ours(name: str, size: int, threads: int, memory: int) -> Way:
        numbers = (size, options.order, vocab, threads, memory)
        return Way(name, [sys.executable, __file__, "--count", str(folder), *map(str, numbers)], size)

    ways = [ours("engram", tokens, 1, 8192)]
    if options.alone:
        ways.append(ours("engram, two threads", tokens, 2, 8192))
        ways.append(ours("engram, 512 MiB", tokens, 1, 512))
        return [*ways, ours("engram, a tenth of the tokens", tokens // 10, 1, 8192)]
    if options.kenlm:
        command = [str(options.kenlm.resolve()), "-o", str(options.order), "-S", "8G", "--write_vocab_list", "vocab"]
        ways.append(Way("kenlm count_ngrams", [*command, "-T", str(folder / "kenlm")], tokens, text=True))
    if gram_bits(vocab, options.order) * options.order <= 64:
        peers = PEERS if options.peers else {}
        ways += [Way(name, [options.peers, "-c", TIMED.format(*code)], tokens) for name, code in peers.items()]
        ways.append(Way("numpy sort and run-length", [sys.executable, "-c", TIMED.format(*NUMPY)], tokens))
    return ways


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--count"]:
        count(Path(arguments[1]), *map(int, arguments[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ngrams", type=Path)
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--tokens", type=float, default=30e6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kenlm", type=Path)
    parser.add_argument("--peers")
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.ngrams.absolute().parent) as name:
        folder = Path(name)
        packed = not options.alone and options.order < 5
        with ProcessPoolExecutor(1) as pool:  # a process starts with the peak of the one that started it
            what = options.ngrams, folder, int(options.tokens), options.order, packed, bool(options.kenlm)
            tokens, vocab = pool.submit(prepare, *what).result()
        ways = ways_of(options, tokens, vocab, folder)
        taken = [[run(way, folder) for way in ways] for _ in range(options.rounds + 1)][1:]
    print(f"{tokens:,} tokens, order {options.order}, medians of {options.rounds} rounds\n")
    print("| | M tokens per CPU-second | M tokens/s | MiB | CPU-seconds, engram's = 1 |\n|---|---|---|---|---|")
    middles = [[median(number) for number in zip(*runs, strict=True)] for runs in zip(*taken, strict=True)]
    for way, (wall, cpu, memory) in zip(ways, middles, strict=True):
        million = way.tokens / 1e6
        share = cpu / way.tokens / middles[0][1] * tokens
        print(f"| {way.name} | {million / cpu:.1f} | {million / wall:.1f} | {memory:,.0f} | {share:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
