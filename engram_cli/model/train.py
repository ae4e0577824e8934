"""Training: host and memory together, at a cost that follows the batch and never the table.

A step hashes its tokens, reads the distinct rows they name, takes gradients for exactly those, and writes exactly those back: rows
are mapped copy-on-write (table/rows.py), so that a table larger than memory trains too. AdamW for the host and the memory's
projections; row-wise Adagrad (one scalar per row, no weight decay) for the rows.
Shapes: B stretches, T tokens, H heads, E numbers per row, M = H * E, U distinct rows of a batch, R rows of a layer, V vocabulary.
"""

import ctypes
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from engram_cli.errors import TrainingError
from engram_cli.model.data import Batch, Batches, HeldOut
from engram_cli.model.host import Host
from engram_cli.model.statistics import TokenVectors, leave_one_out
from engram_cli.model.table import look_up
from engram_cli.recipe import TrainingRecipe
from engram_cli.table.layout import LayerLayout
from engram_cli.table.rows import Rows

_WARM_UP = 20  # steps until the learning rate is reached
_LAST = 0.1  # of the learning rate, at the end of the budget
_CLIP = 1.0  # norm that the gradient of host, memory and rows together is clipped to
_EPSILON = 1e-8


@dataclass
class Gathered:
    """The distinct rows of one batch: ids_U, the leaf that receives their gradient, and where each position's rows are in it."""

    ids_U: npt.NDArray[np.int64]
    leaf_UE: Tensor
    place_BTH: Tensor


class LayerRows:
    """One layer's rows in training: mapped rows, one Adagrad scalar per row, and what leave-one-out needs.

    rows: opened "c" (changes stay in memory); occurrences_R and vectors: from `fill_rows`, None where rows are not from counts.
    Memory besides touched rows: 4 bytes a row, of which the system commits only the pages that are touched.
    """

    def __init__(
        self,
        layout: LayerLayout,
        rows: Rows,
        occurrences_R: npt.NDArray[np.float32] | None = None,
        vectors: TokenVectors | None = None,
    ) -> None:
        self.layout, self.rows = layout, rows
        self.occurrences_R, self.vectors = occurrences_R, vectors
        self.squares_R = np.zeros(rows.count, dtype=np.float32)

    def gather(self, windows_BTN: npt.NDArray[np.int64], device: torch.device) -> Gathered:
        ids_BTH = self.layout.row_ids(windows_BTN)
        ids_U, place = np.unique(ids_BTH, return_inverse=True)
        leaf_UE = torch.from_numpy(self.rows.take(ids_U)).to(device)
        return Gathered(ids_U, leaf_UE, torch.from_numpy(place.reshape(ids_BTH.shape)).to(device))

    def memory(self, gathered: Gathered, targets_BT: Tensor) -> Tensor:
        """What the batch looked up, f32 [B, T, M], with each position's own occurrence left out of rows that were counted."""
        values_BTHE = gathered.leaf_UE[gathered.place_BTH]
        if self.occurrences_R is not None and self.vectors is not None:
            counted_U = torch.from_numpy(self.occurrences_R[gathered.ids_U]).to(targets_BT.device)
            values_BTHE = values_BTHE + leave_one_out(
                self.layout, values_BTHE, counted_U[gathered.place_BTH], targets_BT, self.vectors
            )
        return values_BTHE.flatten(-2)

    def update(self, gathered: Gathered, rate: float, scale: float) -> None:
        """One step of row-wise Adagrad on the batch's rows; `scale` is what clipping multiplies the gradient by."""
        assert gathered.leaf_UE.grad is not None
        gradient_UE = gathered.leaf_UE.grad.cpu().numpy() * np.float32(scale)
        squares_U = self.squares_R[gathered.ids_U] + np.square(gradient_UE).mean(axis=1)
        self.squares_R[gathered.ids_U] = squares_U
        values_UE = gathered.leaf_UE.detach().cpu().numpy()
        self.rows.put(gathered.ids_U, values_UE - rate * gradient_UE / (np.sqrt(squares_U) + _EPSILON)[:, None])

    @property
    def touched(self) -> npt.NDArray[np.int64]:
        """Ids of the rows that were changed so far, ascending."""
        return np.flatnonzero(self.squares_R)


@dataclass(frozen=True)
class StepRecord:
    """One step, as it is logged in training.arrow (store/schema.py TRAINING)."""

    step: int
    tokens: int
    seconds: float
    loss: float
    held_out_loss: float | None
    rows_touched: int


@dataclass(frozen=True)
class Budget:
    """How long to train: so many seconds of training, or so many tokens; exactly one is given."""

    seconds: float | None = None
    tokens: int | None = None

    def fraction(self, seconds: float, tokens: int) -> float:
        """How much of it is used up, from 0; at 1 and beyond the run is over."""
        return seconds / self.seconds if self.seconds is not None else tokens / (self.tokens or 1)


class Trainer:
    """A host (with or without memories) and its rows, and the steps that train them.

    rows: layer -> LayerRows, empty for plain; `step_number`, `seconds` (evaluation not counted) and `log` say how far it is.
    """

    def __init__(self, host: Host, rows: Mapping[int, LayerRows], batches: Batches, recipe: TrainingRecipe) -> None:
        self.host, self.rows, self.batches, self.recipe = host, rows, batches, recipe
        self.step_number = 0
        self.seconds = 0.0
        self.log: list[StepRecord] = []
        matrices = [p for p in host.parameters() if p.ndim >= 2]
        gains = [p for p in host.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)
        keep_freed_memory()

    @property
    def tokens(self) -> int:
        """Training tokens seen so far."""
        return self.step_number * self.batches.tokens

    def step(self, fraction: float) -> StepRecord:
        """Train on the next batch; `fraction` of the budget used up sets the learning rate.

        Raises TrainingError where the loss or its gradient is not finite; host and rows are then as before the step.
        """
        started = time.perf_counter()
        batch = self.batches[self.step_number]
        gathered = {layer: rows.gather(batch.windows_BTN, self.host.device) for layer, rows in self.rows.items()}
        trains_rows = self.recipe.row_learning_rate > 0
        for item in gathered.values():
            item.leaf_UE.requires_grad_(trains_rows)
        loss = self._loss(batch, gathered)
        value = float(loss.detach())
        self._must_be_finite("loss", value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._update(gathered if trains_rows else {}, self._rate(fraction))
        self.step_number += 1
        self.seconds += time.perf_counter() - started
        touched = sum(len(item.ids_U) for item in gathered.values())
        self.log.append(StepRecord(self.step_number, self.tokens, self.seconds, value, None, touched))
        return self.log[-1]

    def _loss(self, batch: Batch, gathered: Mapping[int, Gathered]) -> Tensor:
        device = self.host.device
        targets_BT = torch.from_numpy(batch.targets_BT).to(device)
        memory = {layer: self.rows[layer].memory(item, targets_BT) for layer, item in gathered.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
            logits_BTV = self.host(torch.from_numpy(batch.tokens_BT).to(device), memory)
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    def _update(self, gathered: Mapping[int, Gathered], rate: float) -> None:
        parameters = [p for p in self.host.parameters() if p.grad is not None]
        leaves = [item.leaf_UE for item in gathered.values()]
        norms = [t.grad.norm() for t in (*parameters, *leaves) if t.grad is not None]
        norm = float(torch.stack(norms).norm())
        self._must_be_finite("gradient", norm)
        scale = min(1.0, _CLIP / (norm + _EPSILON))
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(scale)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        self.optimizer.step()
        for layer, item in gathered.items():
            self.rows[layer].update(item, self.recipe.row_learning_rate * rate, scale)

    def _must_be_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {name} must stay finite, but it is {value} at step {self.step_number}; lower training.learning_rate, and "
                "start anew with --force"
            )

    def _rate(self, fraction: float) -> float:
        """The share of the learning rates in force: linear warm-up, then linear decay to a tenth."""
        return min(1.0, (self.step_number + 1) / _WARM_UP) * (1 - (1 - _LAST) * min(1.0, fraction))

    def evaluate(self, held_out: HeldOut) -> float:
        """Mean loss over the held-out stretches, nats per token; noted in the log with the last step."""
        loss = float(self.token_losses(held_out).mean())
        if self.log:
            self.log[-1] = StepRecord(**{**vars(self.log[-1]), "held_out_loss": loss})
        return loss

    def token_losses(self, held_out: HeldOut) -> npt.NDArray[np.float64]:
        """Loss of every target of `held_out`, nats, f64 [S * T], computed in f32."""
        layers = [rows.layout for rows in self.rows.values()]
        return token_losses(self.host, {layer: rows.rows for layer, rows in self.rows.items()}, layers, held_out)


@torch.no_grad()
def token_losses(host: Host, rows: Mapping[int, Rows], layers: Sequence[LayerLayout], held_out: HeldOut) -> npt.NDArray[np.float64]:
    """Loss of every target of `held_out` under `host` with the memories in `rows`, nats, f64 [S * T], computed in f32."""
    losses = []
    for batch in held_out.batches():
        memory = look_up(layers, rows, batch.windows_BTN, host.device)
        logits_BTV = host(torch.from_numpy(batch.tokens_BT).to(host.device), memory)
        targets = torch.from_numpy(batch.targets_BT).to(host.device).flatten()
        losses.append(F.cross_entropy(logits_BTV.flatten(0, 1), targets, reduction="none").double().cpu().numpy())
    return np.concatenate(losses)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bf16 is faster than f32 there: GPUs that have it, and processors with AVX-512 BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def keep_freed_memory() -> None:
    """Ask glibc to keep freed buffers instead of returning them to the system between steps, which costs a quarter of each."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc: nothing to tune
        return
    threshold, trim, top_pad = -3, -1, -2  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h
    for option, size in ((threshold, 1 << 30), (trim, (1 << 31) - 1), (top_pad, 1 << 26)):
        mallopt(option, size)
