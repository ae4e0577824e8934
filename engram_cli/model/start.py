"""Where training starts from: rows filled on disk, a host with memories, and the streams of an n-gram artifact.

Shapes: R rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engram_cli.corpus.artifact import NGrams
from engram_cli.model.carrier import Carrier
from engram_cli.model.data import Batches, Windowed
from engram_cli.model.host import initialise
from engram_cli.model.host_directory import HostDirectory
from engram_cli.model.layer_rows import LayerRows
from engram_cli.model.left_out import LeftOut
from engram_cli.model.order_one import LARGEST_VOCAB
from engram_cli.model.output_vectors import initialise_output, output_vectors
from engram_cli.model.placement import state_width
from engram_cli.model.row_optimizer import OPTIMIZERS
from engram_cli.model.row_store import open_store
from engram_cli.model.rows_from_counts import Counted, fill_rows
from engram_cli.model.statistics import TokenVectors, initialise_host, token_vectors
from engram_cli.model.table import make_foreign_host, make_host
from engram_cli.model.threads import single_threads
from engram_cli.model.train import Trainer
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.recipe import Recipe
from engram_cli.store.artifact import scratch_path
from engram_cli.store.tensors import map_tensor, read_tensor_specs, reserve, write_tensors
from engram_cli.table.layout import Layout
from engram_cli.table.rows import Rows, rows_file

_VECTORS = ("vectors", "pairs")  # where token vectors are kept
_RANDOM_SCALE = 0.02  # of rows with init = "random"


def streams(ngrams: NGrams, layout: Layout | None) -> tuple[Windowed, Windowed]:
    """The training and the held-out stream with what the layout's windows need (None: no windows)."""
    training, held_out = (Windowed(ngrams.stream(held_out=held), ngrams.canonical_V, layout) for held in (False, True))
    return training, held_out


@dataclass(frozen=True)
class Start:
    """Where training starts from: the layout and its filled rows on disk (None for plain), and the corpus's token vectors: those
    that rows name tokens by, and those of adjacent pairs, which are the same unless order 1 was learnt (None where nothing starts
    from statistics); host: a foreign one that gets the memory, None for ours. One start serves several trainers: none of them
    changes it."""

    vocab: int
    layout: Layout | None
    directory: Path
    vectors: TokenVectors | None = None
    pairs: TokenVectors | None = None
    host: HostDirectory | None = None

    @classmethod
    def make(
        cls,
        training: Windowed,
        vocab: int,
        recipe: Recipe,
        layout: Layout | None,
        directory: Path,
        *,
        host: HostDirectory | None = None,
        fill: bool = True,
        progress: ProgressLike = SILENT,
    ) -> "Start":
        """Initialise rows by `recipe.rows.init` in `directory`; with `fill` false they lie there already."""
        layers = layout.layers if layout else ()
        vectors, pairs, counted = None, None, None
        if recipe.rows.init == "counts" and layout and not fill:
            vectors, pairs = (_kept_vectors(directory, name) for name in _VECTORS)
        elif recipe.rows.init == "counts":
            vectors, pairs, counted = _count(training, vocab, recipe, layout, host, progress)
            if layout:
                for name, made in zip(_VECTORS, (vectors, pairs), strict=True):
                    _keep(directory, name, {part: tensor.numpy() for part, tensor in vars(made).items() if tensor is not None})
        for number, layer in enumerate(layers):
            progress.advance(number, len(layers), "layers")
            if fill:
                rows = Rows.create(directory / rows_file(layer.layer), layer.rows, recipe.rows.dim, recipe.rows.dtype)
                reserve(directory / rows_file(layer.layer))
                if recipe.rows.init == "random":
                    _randomise(rows, recipe.training.seed + layer.layer)
                if counted and vectors:
                    _keep(directory, _left_out(layer.layer), fill_rows(layer, rows, counted, vectors.vectors_VC))
            progress.advance(number + 1, len(layers), "layers")
        return cls(vocab, layout, directory, vectors, pairs, host)

    def trainer(self, batches: Batches, recipe: Recipe, device: torch.device, where: str = "ram") -> Trainer:
        """A new trainer: host initialised by the recipe's seed, rows opened `where` they shall live."""
        host = self._make_host(recipe)
        rows = {}
        for layer in self.layout.layers if self.layout else ():
            store = open_store(self.directory, layer.layer, state_width(recipe), where, device)
            left_out = None
            if self.vectors is not None:
                left_out = LeftOut(layer, self.vectors.vectors_VC.to(device), _kept(self.directory, _left_out(layer.layer)))
            rows[layer.layer] = LayerRows(layer, store, OPTIMIZERS[recipe.training.row_optimizer], left_out)
        return Trainer(host.to(device), rows, batches, recipe.training)

    def _make_host(self, recipe: Recipe) -> Carrier:
        generator = torch.Generator().manual_seed(recipe.training.seed)
        if self.host is not None:
            foreign = make_foreign_host(self.host, recipe, self.layout)
            foreign.initialise(generator)
            if self.vectors is not None:
                initialise_output(foreign, self.host.layers, self.vectors)
            return foreign
        ours = make_host(recipe, self.vocab, self.layout)
        initialise(ours, generator)
        if self.vectors is not None and self.pairs is not None:
            initialise_host(ours, self.vectors, self.pairs)
        return ours


def _count(
    training: Windowed, vocab: int, recipe: Recipe, layout: Layout | None, host: HostDirectory | None, progress: ProgressLike
) -> tuple[TokenVectors, TokenVectors, Counted | None]:
    """Token vectors, as in `Start`, and what rows are filled from (None without rows).

    A table of order 1 learns both from it. A foreign host's vectors are what they are, and a very large vocabulary would take
    minutes, which is told: then rows of order 1 make do with the vectors from adjacent pairs.
    """
    with single_threads() as pool:
        making = pool.submit(_pairs, training, vocab, recipe, host)
        counted = Counted(training, layout.max_order, vocab) if layout else None
        pairs = making.result()
    if counted is None or host is not None or 1 not in recipe.hash.orders:
        return pairs, pairs, counted
    if vocab > LARGEST_VOCAB:
        progress.warn(
            f"order 1 is learnt up to {LARGEST_VOCAB:,} ids, since more would take minutes, but the vocabulary has {vocab:,}; "
            "rows begin from pairs of tokens, which says less; a smaller vocabulary says more"
        )
        return pairs, pairs, counted
    order_one = counted.learn(pairs.vectors_VC, recipe.training.seed)
    return replace(pairs, vectors_VC=order_one.vectors_VM, bias_V=order_one.bias_V), pairs, counted


def _pairs(training: Windowed, vocab: int, recipe: Recipe, host: HostDirectory | None) -> TokenVectors:
    """Token vectors from what a foreign host says, or from adjacent pairs."""
    tokens_T, size, seed = training.stream.tokens_T, recipe.hash.heads * recipe.rows.dim, recipe.training.seed
    if host is not None:
        return output_vectors(host.output_VD, tokens_T, size, seed)
    return token_vectors(tokens_T, vocab, size, recipe.host.width, seed)


def _keep(directory: Path, name: str, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Keep tensors beside the unfinished rows, for a run that is resumed."""
    path = _kept_file(directory, name)
    path.parent.mkdir(exist_ok=True)
    types = {"uint64": "U64", "float32": "F32", "uint8": "U8"}
    write_tensors(path, {name: (types[tensor.dtype.name], tensor) for name, tensor in tensors.items()})


def _kept(directory: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """What `_keep` wrote, mapped."""
    path = _kept_file(directory, name)
    return {name: map_tensor(path, spec) for name, spec in read_tensor_specs(path).items()}


def _kept_file(directory: Path, name: str) -> Path:
    return scratch_path(directory) / f"{name}.safetensors"


def _left_out(layer: int) -> str:
    """Where what `LeftOut` needs is kept."""
    return f"left-out-{layer:02}"


def _kept_vectors(directory: Path, name: str) -> TokenVectors:
    return TokenVectors(**{part: torch.from_numpy(np.array(tensor)) for part, tensor in _kept(directory, name).items()})


def _randomise(rows: Rows, seed: int) -> None:
    generator = np.random.default_rng(seed)
    block = 1 << 16
    for first in range(0, rows.count, block):
        shape = (min(block, rows.count - first), rows.dim)
        rows.put_range(first, generator.standard_normal(shape, dtype=np.float32) * np.float32(_RANDOM_SCALE))
