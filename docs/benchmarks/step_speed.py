"""What a training step costs by the size of the table and by where its rows live.

    python docs/benchmarks/step_speed.py NGRAMS FOLDER prepare          writes the rows, random, for both of the others
    python docs/benchmarks/step_speed.py NGRAMS FOLDER compare          100 thousand rows in memory, 100 million mapped: ms a step
    python docs/benchmarks/step_speed.py NGRAMS FOLDER limit 2          the 100 million in a process that may take 2 GiB of data

`compare` takes steps of both tables in turn, over the same batches, which were gone through once before: what is measured is warm.
`limit` forbids private memory beyond so many GiB (RLIMIT_DATA; pages of mapped files are none of it) and asks for the default, so
that the tool has to find out by itself that rows must be mapped; it saves a checkpoint where changed rows take their share.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from engram_cli.corpus.artifact import open_ngrams
from engram_cli.model.checkpoint import save_checkpoint
from engram_cli.model.data import Batches, layout_for
from engram_cli.model.placement import place_rows, rows_bytes
from engram_cli.model.start import Start, streams
from engram_cli.model.train import Trainer
from engram_cli.recipe import HashRecipe, Recipe, RowsRecipe
from engram_cli.store.resources import format_bytes, free_memory, resident_memory

DIM, HEADS = 16, 4  # numbers per row; heads of each of two orders
SIZES = {"small": 12_500, "large": 12_500_000}  # rows per head, of eight
STEPS, LIMITED_STEPS = 30, 40


def open_trainer(ngrams_path: str, folder: Path, name: str, where: str | None = None) -> Trainer:
    """A trainer over the table `name`; its rows are written where the folder has none. where: None for the tool's own choice."""
    ngrams = open_ngrams(ngrams_path)
    recipe = Recipe(hash=HashRecipe(heads=HEADS, size=(SIZES[name],)), rows=RowsRecipe(dim=DIM, init="random"))
    layout = layout_for(recipe.hash, ngrams)
    training, _ = streams(ngrams, layout)
    directory = folder / name
    missing = not directory.exists()
    directory.mkdir(exist_ok=True)
    start = Start.make(training, ngrams.vocab, recipe, layout, directory, fill=missing)
    where = where or place_rows("auto", layout, recipe, torch.device("cpu"))
    print(f"{name}: {layout.rows:,} rows, {format_bytes(rows_bytes(layout, recipe))} with optimizer state, {where}")
    batches = Batches(training, recipe.training.batch, recipe.host.context, seed=0)
    return start.trainer(batches, recipe, torch.device("cpu"), where)


def compare(ngrams_path: str, folder: Path) -> None:
    trainers = {name: open_trainer(ngrams_path, folder, name, where) for name, where in (("small", "ram"), ("large", "mmap"))}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(2):
        for trainer in trainers.values():
            trainer.step_number = 0
        for _ in range(STEPS):
            for name, trainer in trainers.items():
                started = time.perf_counter()
                record = trainer.step(0.5)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    for name, trainer in trainers.items():
        record = trainer.log[-1]
        print(f"{name}: {medians[name] * 1e3:.1f} ms a step (median of {STEPS}), {record.rows_touched:,} rows in the last")
    print(f"ratio {medians['large'] / medians['small']:.3f}")


def limit(ngrams_path: str, folder: Path, gibibytes: float) -> None:
    most = int(gibibytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    print(f"limit {format_bytes(most)} of data, {format_bytes(free_memory())} of it left")
    trainer = open_trainer(ngrams_path, folder, "large")
    room, saved, resident = free_memory() // 6, 0, []
    started = time.perf_counter()
    while trainer.step_number < LIMITED_STEPS:
        trainer.step(0.5)
        resident.append(resident_memory())
        if trainer.pending_bytes > room or trainer.step_number % 20 == 0:
            save_checkpoint(folder / "large", trainer, "limit")
            saved += 1
            print(f"step {trainer.step_number} saved after {time.perf_counter() - started:.0f} s", flush=True)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    data = {name: format_bytes(int(status[name].split()[0]) * 1024) for name in ("VmHWM", "RssAnon", "RssFile", "VmData")}
    print(f"{LIMITED_STEPS} steps, {saved} checkpoints, {time.perf_counter() - started:.0f} s; losses", end=" ")
    print(", ".join(f"{trainer.log[step].loss:.3f}" for step in (0, LIMITED_STEPS // 2, LIMITED_STEPS - 1)))
    print(f"peak resident {format_bytes(max(resident))}; at the end {data}")


def main(ngrams_path: str, folder: Path, what: str, *rest: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if what == "prepare":
        for name in SIZES:
            open_trainer(ngrams_path, folder, name, "mmap")
    elif what == "compare":
        compare(ngrams_path, folder)
    else:
        limit(ngrams_path, folder, float(rest[0]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
