"""Pace: how fast a recipe trains on this machine, from a few real steps.

The host is made in memory; the rows are mapped files without content, which take no disk: a step's cost follows what it computes
and touches, not what is in it. So seconds suffice where filling a table would take minutes. Leaving documents out, which
needs the counts, is not in it.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from engram_cli.corpus.artifact import NGrams
from engram_cli.model.data import Batches
from engram_cli.model.start import Start, streams
from engram_cli.recipe import Recipe
from engram_cli.table.layout import Layout
from engram_cli.table.rows import Rows, rows_file

_WARM_UP = 3  # steps that are not counted
_FEWEST, _STEPS, _SECONDS = 5, 12, 6.0  # steps that are counted: up to the second number, while there is time


@dataclass(frozen=True)
class Pace:
    """steps: measured; seconds: the median of one; tokens: of one."""

    steps: int
    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def measure_pace(ngrams: NGrams, recipe: Recipe, layout: Layout, device: torch.device) -> Pace:
    """Train a few steps of `recipe`, whose layout is `layout`, and throw them away. Raises TrainingError for too little text."""
    training, _ = streams(ngrams, layout)
    batches = Batches(training, recipe.training.stretches, recipe.host.context, recipe.training.seed)
    with tempfile.TemporaryDirectory(prefix="engram-plan-") as directory:
        start = Start(ngrams.vocab, layout, Path(directory))
        for layer in layout.layers:
            Rows.create(start.directory / rows_file(layer.layer), layer.rows, recipe.rows.dim, recipe.rows.dtype)
        trainer = start.trainer(batches, recipe, device, "mmap")
        began = time.perf_counter()
        taken: list[float] = []
        while (counted := len(taken) - _WARM_UP) < _FEWEST or (counted < _STEPS and time.perf_counter() - began < _SECONDS):
            before = trainer.seconds
            trainer.step(1.0)  # where all rows are looked up
            taken.append(trainer.seconds - before)
    return Pace(len(taken) - _WARM_UP, statistics.median(taken[_WARM_UP:]), batches.tokens)
