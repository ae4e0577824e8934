"""Batches: stretches of a stream in an order that only the seed decides, with the windows that the hash needs.

Batch `i` can be asked for at any time and is always the same, which is what makes a resumed run equal an uninterrupted one, and
what makes two hosts comparable: same data, same order. Shapes: B stretches, T tokens, N highest order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engram_cli.corpus.artifact import NGrams, Stream
from engram_cli.errors import RecipeError, TrainingError
from engram_cli.recipe import HashRecipe
from engram_cli.table.hashing import FAMILIES
from engram_cli.table.layout import Layout, plan_layout

Ids = npt.NDArray[np.int64]


def layout_for(recipe: HashRecipe, ngrams: NGrams) -> Layout:
    """The layout of a table over the documents of an n-gram artifact.

    A family that hashes raw ids takes the end token for the pad, so what was counted must be raw ids with that pad: then counted
    windows are hashed windows here too. Raises RecipeError where they are not.
    """
    family = FAMILIES[recipe.family]
    if not family.canonical and ngrams.canonical_vocab != ngrams.vocab:
        raise RecipeError(
            f"{recipe.family} hashes raw ids, but {ngrams.artifact.path} folded {ngrams.vocab} of them into "
            f"{ngrams.canonical_vocab}; run engram extract with --no-canonical"
        )
    if family.wall == "pad" and ngrams.end != ngrams.pad:
        end = "no end token" if ngrams.end is None else f"the end token {ngrams.tokenizer.id_to_token(ngrams.end)!r}"
        raise RecipeError(
            f"the pad of {recipe.family} is the token that ends documents, but {ngrams.artifact.path} has {end} and the pad "
            f"{ngrams.tokenizer.id_to_token(ngrams.pad)!r}; run engram extract with --pad-token naming the end token"
        )
    return plan_layout(recipe, ngrams.canonical_vocab, ngrams.canonical_pad)


@dataclass(frozen=True)
class Windowed:
    """A stream with what turns its tokens into windows: the token map and the layout (None: no windows wanted)."""

    stream: Stream
    canonical_V: npt.NDArray[np.uint32]
    layout: Layout | None

    @property
    def max_order(self) -> int:
        return self.layout.max_order if self.layout else 0

    def windows(self, first: int, last: int) -> Ids:
        """Windows of the stream's tokens first .. last - 1: int64 [last - first, N], newest id first."""
        assert self.layout is not None
        begin = max(0, first - self.max_order + 1)
        ids = self.canonical_V[self.stream.tokens_T[begin:last]]
        windows_TN: Ids = self.layout.windows(ids, self.stream.position_T[begin:last])
        return windows_TN[first - begin :]


@dataclass(frozen=True)
class Batch:
    """tokens_BT and the tokens that follow each, targets_BT: int64; windows_BTN of the tokens, int64 (N = 0 without memory)."""

    tokens_BT: Ids
    targets_BT: Ids
    windows_BTN: Ids


def cut(source: Windowed, stretches_B: Ids, context: int) -> Batch:
    """The batch of stretches number `stretches_B` of `context` tokens each."""
    at_BT = stretches_B[:, None] * context + np.arange(context)
    tokens_T = source.stream.tokens_T
    windows_BTN = np.empty((*at_BT.shape, source.max_order), dtype=np.int64)
    for row, first in enumerate(at_BT[:, 0]) if source.layout else ():
        windows_BTN[row] = source.windows(int(first), int(first) + context)
    return Batch(tokens_T[at_BT].astype(np.int64), tokens_T[at_BT + 1].astype(np.int64), windows_BTN)


class Batches:
    """Training batches of `batch` stretches of `context` tokens, reshuffled every epoch.

    Raises TrainingError where the stream is too short for one batch.
    """

    def __init__(self, source: Windowed, batch: int, context: int, seed: int) -> None:
        self.source, self.batch, self.context, self.seed = source, batch, context, seed
        self.per_epoch = (len(source.stream.tokens_T) - 1) // context // batch
        if self.per_epoch < 1:
            raise TrainingError(
                f"a batch is {batch} x {context} + 1 tokens, but there are {len(source.stream.tokens_T)} to train on; "
                "give more text, or a smaller training.batch or host.context"
            )
        self._order = lru_cache(maxsize=1)(self._shuffle)

    @property
    def tokens(self) -> int:
        """Tokens per batch."""
        return self.batch * self.context

    def __getitem__(self, step: int) -> Batch:
        """Batch number `step`, from 0, without end."""
        epoch, at = divmod(step, self.per_epoch)
        return cut(self.source, self._order(epoch)[at * self.batch : (at + 1) * self.batch], self.context)

    def _shuffle(self, epoch: int) -> Ids:
        stretches = (len(self.source.stream.tokens_T) - 1) // self.context
        return np.random.default_rng((self.seed, epoch)).permutation(stretches)


class HeldOut:
    """The stretches that a loss is measured on: all of the stream, or `limit` tokens spread evenly over it.

    Raises TrainingError where the stream has no whole stretch.
    """

    def __init__(self, source: Windowed, context: int, limit: int) -> None:
        self.source, self.context = source, context
        stretches = (len(source.stream.tokens_T) - 1) // context
        if stretches < 1:
            raise TrainingError(
                f"the loss is measured on held-out stretches of {context} + 1 tokens, but only {len(source.stream.tokens_T)} "
                "tokens were held out; run engram extract with a larger --held-out"
            )
        wanted = max(1, min(stretches, limit // context))
        self.stretches_S: Ids = np.arange(wanted) * stretches // wanted

    @property
    def targets(self) -> Ids:
        """Which tokens of the stream are predicted, in the order of the batches: int64 [S * T]."""
        at: Ids = (self.stretches_S[:, None] * self.context + np.arange(1, self.context + 1)).reshape(-1)
        return at

    @property
    def tokens_per_byte(self) -> float:
        """Of the whole stream; turns nats per token into bits per byte."""
        return len(self.source.stream.tokens_T) / max(1, self.source.stream.bytes)

    def batches(self, batch: int = 8) -> Iterator[Batch]:
        """So many stretches at a time: no more than a step trains on, so that measuring takes no more memory than training."""
        for first in range(0, len(self.stretches_S), batch):
            yield cut(self.source, self.stretches_S[first : first + batch], self.context)
