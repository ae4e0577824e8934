"""What a training step costs by the size of the table and by where its rows live.

    python docs/benchmarks/step_speed.py NGRAMS FOLDER FORM prepare     writes the rows, random, for those that follow
    python docs/benchmarks/step_speed.py NGRAMS FOLDER FORM compare     no rows, 100 thousand in memory, 100 million mapped
    python docs/benchmarks/step_speed.py NGRAMS FOLDER FORM cold ahead  the 100 million, none of them in the page cache at first
    python docs/benchmarks/step_speed.py NGRAMS FOLDER FORM cold now    the same with nothing read ahead

FORM: `trained`, rows in layer 1 that change, or `speaking`, as tables/demo.toml has them, at the output and as they were.
`compare` takes steps of the three in turn, over the same batches, which were gone through once before: what is measured is warm.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engram_cli.corpus.artifact import open_ngrams
from engram_cli.model.data import Batches, layout_for
from engram_cli.model.feed import Fed, Feed
from engram_cli.model.placement import rows_bytes
from engram_cli.model.start import Start, streams
from engram_cli.model.table import pick_device
from engram_cli.model.train import Trainer
from engram_cli.recipe import BUILT_IN, HashRecipe, Recipe, RowsRecipe
from engram_cli.store.resources import format_bytes

ROWS = {"plain": 0, "small": 100_000, "large": 100_000_000}
FORMS = {
    "trained": Recipe(hash=HashRecipe(heads=4), rows=RowsRecipe(dim=16)),
    "speaking": replace(BUILT_IN, rows=RowsRecipe(dim=16)),
}
STEPS = 30


def open_trainer(ngrams_path: str, folder: Path, form: Recipe, name: str, where: str = "ram") -> Trainer:
    """A trainer over the table `name`, "plain" for none; its rows are written where the folder has none."""
    ngrams = open_ngrams(ngrams_path)
    size = ROWS[name] // (form.hash.heads * len(form.hash.orders))
    recipe = replace(form, hash=replace(form.hash, size=(size or 2,)))
    layout = layout_for(recipe.hash, ngrams) if size else None
    training, _ = streams(ngrams, layout)
    directory = folder / name
    missing = not directory.exists()
    directory.mkdir(exist_ok=True)
    start = Start.make(training, ngrams.vocab, recipe.starting_from("random"), layout, directory, fill=missing)
    if layout:
        print(f"{name}: {layout.rows:,} rows, {format_bytes(rows_bytes(layout, recipe))} with optimizer state, {where}")
    batches = Batches(training, recipe.training.batch, recipe.host.context, seed=0)
    return start.trainer(batches, recipe, pick_device("cpu"), where)


def compare(ngrams_path: str, folder: Path, form: Recipe) -> None:
    trainers = {
        name: open_trainer(ngrams_path, folder, form, name, where)
        for name, where in (("plain", "ram"), ("small", "ram"), ("large", "mmap"))
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(2):
        for trainer in trainers.values():
            trainer.step_number = 0
        for _ in range(STEPS):
            for name, trainer in trainers.items():
                started = time.perf_counter()
                trainer.step(0.5)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    for name, trainer in trainers.items():
        print(f"{name}: {medians[name] * 1e3:.1f} ms a step (median of {STEPS}), {trainer.log[-1].rows_touched:,} rows in the last")
    print(f"small / plain {medians['small'] / medians['plain']:.3f}, large / small {medians['large'] / medians['small']:.3f}")


def cold(ngrams_path: str, folder: Path, form: Recipe, ahead: bool) -> None:
    for path in (folder / "large").rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    trainer = open_trainer(ngrams_path, folder, form, "large", "mmap")
    if not ahead:
        trainer.feed = Now(trainer.batches, trainer.rows, trainer.host.device)
    before, seconds = from_disk(), []
    for _ in range(STEPS):
        started = time.perf_counter()
        trainer.step(0.5)
        seconds.append(time.perf_counter() - started)
    way = "read ahead" if ahead else "read when needed"
    print(
        f"{way}: {np.median(seconds) * 1e3:.0f} ms a step (median of {STEPS}), {np.sum(seconds[1:]):.1f} s from the second on; ",
        end="",
    )
    print(f"{format_bytes(from_disk() - before)} from the disk")


class Now(Feed):
    """Reads a step's rows when the step begins."""

    def take(self, step: int, layers: Sequence[int]) -> Fed:
        return self._thread.submit(self._read, step, layers).result()


def from_disk() -> int:
    """Bytes that this process has had read from a disk."""
    figures = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(figures["read_bytes"])


def main(ngrams_path: str, folder: Path, form: str, what: str, *rest: str) -> None:
    folder /= form
    folder.mkdir(parents=True, exist_ok=True)
    if what == "prepare":
        for name in ROWS:
            open_trainer(ngrams_path, folder, FORMS[form], name, "mmap")
    elif what == "compare":
        compare(ngrams_path, folder, FORMS[form])
    else:
        cold(ngrams_path, folder, FORMS[form], rest[0] == "ahead")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
