"""What a table takes and reads, counted from its recipe: on disk, in memory, on a GPU, of the optimizer, for a token.

Nothing is opened and nothing measured. Memory is that of `--rows ram`, which holds every row with what its optimizer keeps; with
`--rows mmap` those that no batch names stay on disk (model/row_store.py). A batch's activations come on top: they do not grow with
the table.
"""

from dataclasses import dataclass

import torch

from engram_cli.model.build import count_parameters
from engram_cli.model.placement import filling_memory, state_width
from engram_cli.model.row_optimizer import OPTIMIZERS
from engram_cli.model.table import make_host
from engram_cli.recipe import Recipe
from engram_cli.table.layout import Layout

_STATE_BYTES = 4  # a number that the optimizer keeps for a row
_STORED_BYTES, _TRAINED_BYTES = 4, 16  # a weight of host and memory; with its gradient and AdamW's moments


@dataclass(frozen=True)
class Costs:
    """Bytes, but for `rows` and `weights`.

    table: all rows; read_per_token: the rows that one token names; optimizer: what training keeps for all rows; adam: what Adam's
    moments for every number would take in its place; filling: memory for the rows while they are filled from counts,
    given back before training, None where they are not, or not trained here; weights: numbers in host and
    memory, None where the host is someone else's or the number of token ids is not known.
    """

    rows: int
    table: int
    read_per_token: int
    optimizer: int
    adam: int
    filling: int | None
    weights: int | None

    @property
    def memory(self) -> int:
        """The table in training, all of it held in memory."""
        return self.table + self.optimizer

    @property
    def disk(self) -> int:
        """The table artifact: rows and weights."""
        return self.table + _STORED_BYTES * (self.weights or 0)

    @property
    def gpu(self) -> int | None:
        """Host and memory in training, the rows being elsewhere."""
        return None if self.weights is None else _TRAINED_BYTES * self.weights

    @property
    def gpu_with_rows(self) -> int | None:
        return None if self.gpu is None else self.gpu + self.memory


def bytes_per_row(recipe: Recipe) -> int:
    """What a row takes in training: itself and what is kept for it."""
    return recipe.rows.row_bytes + _STATE_BYTES * state_width(recipe)


def costs_of(recipe: Recipe, layout: Layout, vocab: int | None) -> Costs:
    """What the table of `recipe` costs; `layout` follows from it, `vocab` is the number of token ids (None: not known)."""
    rows, counted = layout.rows, recipe.rows.init == "counts" and recipe.buildable
    return Costs(
        rows=rows,
        table=rows * recipe.rows.row_bytes,
        read_per_token=sum(layer.heads for layer in layout.layers) * recipe.rows.row_bytes,
        optimizer=rows * _STATE_BYTES * state_width(recipe),
        adam=rows * _STATE_BYTES * OPTIMIZERS["adam-full"].width(recipe.rows.dim),
        filling=filling_memory(layout) if counted else None,
        weights=None if vocab is None or recipe.host.foreign else _weights(recipe, layout, vocab),
    )


def _weights(recipe: Recipe, layout: Layout, vocab: int) -> int:
    with torch.device("meta"):
        host = make_host(recipe, vocab, layout)
    return sum(count_parameters(host, 0).values())
