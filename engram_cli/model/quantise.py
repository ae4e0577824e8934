"""Rows in another type once they are trained, and what that costs: the loss on held-out text before and after, with a gate.

Training wants numbers that can take small steps, a table numbers that take little room. So rows are trained in one type and written
in another, and whether that was worth it is not left to a rule of thumb: the same text is measured with both. The trained rows are
put aside and not away, so that a run killed at any moment goes on from them.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engram_cli.errors import LossError
from engram_cli.model.carrier import Carrier
from engram_cli.model.data import HeldOut, Windowed
from engram_cli.model.train import token_losses
from engram_cli.recipe import Recipe
from engram_cli.store.artifact import scratch_path
from engram_cli.table.convert import RoundingError, largest_number, stream
from engram_cli.table.layout import LayerLayout
from engram_cli.table.row_types import ROW_TYPES, matrix_scale
from engram_cli.table.rows import Rows, rows_file

_MEASURED_TOKENS = 262_144  # of the held-out text, that a table's loss is stated for
_FOREIGN_TOKENS = 16_384  # the same with a foreign host, which reads so much more slowly
_NEW, _TRAINED = "quantised", "trained"


@dataclass(frozen=True)
class LossGate:
    """What a table's loss is measured with, and how many nats a token it may rise (max_loss, None: any number that is finite)."""

    host: Carrier
    layers: Sequence[LayerLayout]
    held_out: HeldOut
    max_loss: float | None

    def loss(self, rows: Mapping[int, Rows]) -> float:
        """Mean loss on the held-out text with the rows of each layer, nats a token."""
        return float(token_losses(self.host, rows, self.layers, self.held_out).mean())

    def must_hold(self, before: float, after: float, dtype: str, way_out: str) -> None:
        """Raises LossError where the loss rose by more than it may."""
        most = math.inf if self.max_loss is None else self.max_loss
        if not (math.isfinite(after) and after - before <= most):
            allowed = "must stay finite" if self.max_loss is None else f"may rise by {most:g} (--max-loss)"
            raise LossError(
                f"the loss on held-out text {allowed}, but rows of {dtype} take it from {before:.4f} to {after:.4f} nats a token; "
                f"{way_out}"
            )


def measured_text(source: Windowed, recipe: Recipe) -> HeldOut:
    """The part of the held-out stream `source` that the loss of a table of `recipe` is stated for."""
    return HeldOut(source, recipe.host.context, _FOREIGN_TOKENS if recipe.host.foreign else _MEASURED_TOKENS)


def loss_facts(loss: float, tokens_per_byte: float) -> dict[str, float]:
    """What a manifest says of a loss in nats a token."""
    return {"held_out_loss": round(loss, 6), "bits_per_byte": round(loss / math.log(2) * tokens_per_byte, 6)}


def quantise(directory: Path, gate: LossGate, before: float, dtype: str) -> dict[str, str | float]:
    """Write the rows in `directory` anew, in the row type `dtype`; returns what the manifest says of them.

    before: the loss with the rows as they are. Raises LossError, with those in place, where `gate` does not hold.
    """
    new, trained = (scratch_path(directory) / name for name in (_NEW, _TRAINED))
    for folder in (new, trained):
        folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for layer in gate.layers:
        source = Rows.open(directory / rows_file(layer.layer))
        scale = None
        if ROW_TYPES[dtype].share == "matrix":
            scale = matrix_scale(max(size for _, size in largest_number(source)))
        rows[layer.layer] = Rows.create(new / rows_file(layer.layer), source.count, source.dim, dtype, scale)
        for _ in stream(source, rows[layer.layer], RoundingError()):
            pass
    after = gate.loss(rows)
    gate.must_hold(before, after, dtype, "give another --rows-dtype or more --max-loss, with --resume: what was trained is kept")
    for layer in gate.layers:
        name = rows_file(layer.layer)
        os.rename(directory / name, trained / name)
        os.rename(new / name, directory / name)
    facts = loss_facts(after, gate.held_out.tokens_per_byte)
    return {"dtype": dtype, **facts, "held_out_loss_before_rounding": round(before, 6)}


def put_back(directory: Path) -> None:
    """Put the trained rows back where a run was stopped after `quantise`."""
    for path in (scratch_path(directory) / _TRAINED).glob("*"):
        path.replace(directory / path.name)
