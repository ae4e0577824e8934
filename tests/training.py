"""What trains in a moment: a tiny recipe, streams made by hand, and trainers that start from them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engram_cli.corpus.artifact import NGrams, Stream
from engram_cli.model.data import Batches, HeldOut, Windowed
from engram_cli.model.start import Start, streams
from engram_cli.model.train import Trainer
from engram_cli.progress import Silent
from engram_cli.recipe import HashRecipe, HostRecipe, MemoryRecipe, Recipe, RowsRecipe, TrainingRecipe
from engram_cli.table.layout import LayerLayout, Layout, plan_layout
from tests.strategies import laid_end_to_end

TINY = Recipe(
    name="tiny",
    hash=HashRecipe(orders=(2, 3, 4), heads=2, size=(211,), layers=(0, 1)),
    rows=RowsRecipe(dim=4),
    host=HostRecipe(width=16, layers=2, heads=2, feed_forward=32, context=16),
    training=TrainingRecipe(batch=4, learning_rate=5e-3, row_learning_rate=0.05),
)
SPEAKING = replace(  # like tables/demo.toml: ids alone too, whose rows are learnt, and rows that speak for themselves at the output
    TINY,
    hash=replace(TINY.hash, orders=(1, 2, 3)),
    memory=MemoryRecipe(signed_sqrt=False, mixture=True, heard=(0,)),
    host=replace(TINY.host, layers=1),
)
STILL = replace(  # rows that stay as they were filled, in a type that could not take small steps
    SPEAKING, rows=replace(SPEAKING.rows, dtype="int8-row"), training=replace(SPEAKING.training, row_learning_rate=0.0)
)
BRANCHED = replace(TINY, memory=MemoryRecipe(convolution="random"), host=replace(TINY.host, branches=2))
PAD = 2  # canonical, of streams made by hand


class Told(Silent):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def tiny(init: str = "counts", dtype: str = "f32", **training: Any) -> Recipe:
    """TINY with other rows or another training."""
    return replace(TINY, rows=replace(TINY.rows, init=init, dtype=dtype), training=replace(TINY.training, **training))


def stream_of(documents: Sequence[Sequence[int]]) -> Stream:
    """Documents of raw ids as a stream of one byte a token."""
    tokens_T, starts_D = laid_end_to_end([list(document) for document in documents])
    lengths_D = np.diff(starts_D, append=len(tokens_T)).astype(np.uint64)
    return Stream(tokens_T, starts_D, lengths_D, np.arange(len(starts_D), dtype=np.uint64))


def windowed(documents: Sequence[Sequence[int]], vocab: int, max_order: int) -> Windowed:
    """Documents of raw ids below `vocab`, every third of which folds into the one before."""
    canonical_V = (np.arange(vocab) - np.arange(vocab) % 3 // 2).astype(np.uint32)
    return Windowed(stream_of(documents), canonical_V, windows_of(max_order))


def windows_of(max_order: int) -> Layout | None:
    """A layout whose windows reach `max_order` ids back; 0: none."""
    layer = LayerLayout(0, (max_order,), (101,), (1,) * max_order)
    return Layout((layer,), PAD) if max_order else None


def layout_of(ngrams: NGrams, recipe: Recipe = TINY) -> Layout:
    return plan_layout(recipe.hash, ngrams.canonical_vocab, ngrams.canonical_pad)


def start_of(ngrams: NGrams, directory: Path, recipe: Recipe = TINY) -> Start:
    """Rows of `recipe`, filled in `directory`."""
    layout = layout_of(ngrams, recipe)
    return Start.make(streams(ngrams, layout)[0], ngrams.vocab, recipe, layout, directory)


def trainer_of(ngrams: NGrams, start: Start, recipe: Recipe = TINY, where: str = "ram") -> Trainer:
    """A new trainer from `start`."""
    training, _ = streams(ngrams, start.layout)
    batches = Batches(training, recipe.training.stretches, recipe.host.context, recipe.training.seed)
    return start.trainer(batches, recipe, torch.device("cpu"), where)


def seen_rows(trainer: Trainer, layer: int, steps: int) -> npt.NDArray[np.int64]:
    """Rows of a layer that some position of the first batches sees: named, and not left out as its document's own."""
    rows, seen = trainer.rows[layer], []
    for step in range(steps):
        batch = trainer.batches[step]
        ids_BTH = rows.layout.row_ids(batch.windows_BTN)
        own_BTH = rows.left_out.own(batch.windows_BTN, batch.targets_BT) if rows.left_out else np.zeros(ids_BTH.shape)
        seen.append(ids_BTH[np.isfinite(own_BTH)])
    return np.unique(np.concatenate(seen))


def held_out_of(ngrams: NGrams, layout: Layout | None, tokens: int = 512, context: int = TINY.host.context) -> HeldOut:
    return HeldOut(streams(ngrams, layout)[1], context, tokens)
