"""Training: host and memory together, at a cost that follows the batch and never the table.

A step reads the distinct rows its tokens name, takes gradients for exactly those, and writes exactly those back (layer_rows.py); a
thread reads one step ahead (feed.py). AdamW for the host and the memory's projections, a rule of row_optimizer.py, without weight
decay, for the rows. A step takes its stretches in parts, with one set of rows: the mean of their gradients is that of the whole,
up to rounding. `training.accumulate` takes parts one after another; on a CPU each of these is cut again, for threads that compute
side by side, since a small host's operations leave little to share out within. Where rows speak beside the host (mixture.py), it
first learns alone and they are not looked up; then both learn together what they say as one.
Shapes: B stretches, T tokens, U distinct rows of a batch, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.allocator import keep_freed_memory
from engram_cli.errors import TrainingError
from engram_cli.model.carrier import Carrier
from engram_cli.model.data import Batches, HeldOut
from engram_cli.model.feed import Fed, Feed
from engram_cli.model.finite import first_lost, first_lost_module
from engram_cli.model.layer_rows import Gathered, LayerRows
from engram_cli.model.precision import computes_bfloat16
from engram_cli.model.table import TakesRows, look_up
from engram_cli.recipe import TrainingRecipe
from engram_cli.store.resources import free_memory
from engram_cli.table.layout import LayerLayout

_WARM_UP = 20  # steps until the learning rate is reached
_LAST = 0.1  # of the learning rate, at the end of the budget
_CLIP = 1.0  # norm that the gradient of host, memory and rows together is clipped to
_MIXTURE_RATE = 0.35  # of the learning rate; with 0.18 or 0.7 of it no more than 0.003 nats are lost
_ALONE = 0.4  # of the budget: how long a host learns before rows that speak beside it are heard
_PLENTY = 4 << 30  # bytes of memory at hand; with less, the holes in what is kept, half as much again as is in use, are too much
_LEAST = 4  # stretches of a part that a thread computes, at least


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

    def times(self, factor: float) -> "Budget":
        """A budget so many times as large."""
        if self.seconds is not None:
            return Budget(seconds=factor * self.seconds)
        return Budget(tokens=round(factor * (self.tokens or 1)))


class Trainer:
    """A host (with or without memories) and its rows, and the steps that train them.

    rows: layer -> LayerRows, empty for plain; `step_number`, `seconds` (evaluation not counted) and `log` say how far it is;
    rates: from which steps on which learning rates, of the host and of rows, were in force.
    """

    def __init__(self, host: Carrier, rows: Mapping[int, LayerRows], batches: Batches, recipe: TrainingRecipe) -> None:
        self.host, self.rows, self.batches, self.recipe = host, rows, batches, recipe
        self.step_number = 0
        self.seconds = 0.0
        self.log: list[StepRecord] = []
        self.optimizer = torch.optim.AdamW(_groups(host, recipe), betas=(0.9, 0.95), fused=True)
        beside = _side_by_side(host, recipe)
        self._parts = recipe.accumulate * beside
        self._size = batches.batch // self._parts  # stretches of a part
        self._threads = ThreadPoolExecutor(beside, "step", torch.set_num_threads, (max(1, torch.get_num_threads() // beside),))
        self.feed = Feed(batches, rows, host.device)
        self.rates = [(0, recipe.learning_rate, recipe.row_learning_rate)]
        self._mean_loss: Callable[..., Tensor] = _compiled(host.mean_loss) if recipe.compile else host.mean_loss
        if free_memory() >= _PLENTY:
            keep_freed_memory()

    @property
    def tokens(self) -> int:
        """Training tokens seen so far."""
        return self.step_number * self.batches.tokens

    @property
    def pending_bytes(self) -> int:
        """Memory that changed rows take until the next checkpoint."""
        return sum(rows.store.pending_bytes for rows in self.rows.values())

    def step(self, fraction: float) -> StepRecord:
        """Train on the next batch; `fraction` of the budget used up sets the learning rate, and whether rows speak yet.

        Raises TrainingError where the loss or its gradient is not finite; host and rows are then as before the step.
        """
        started = time.perf_counter()
        silent = self.host.speaking_layer if fraction < _ALONE else None
        fed = self.feed.take(self.step_number, tuple(layer for layer in self.rows if layer != silent))
        trains_rows = self.recipe.row_learning_rate > 0
        for item in fed.gathered.values():
            item.leaf_UE.requires_grad_(trains_rows)
        self.optimizer.zero_grad(set_to_none=True)
        value = self._backward(fed)
        self._update(fed.gathered if trains_rows else {}, self._rate(fraction))
        self.step_number += 1
        self.seconds += time.perf_counter() - started
        touched = sum(len(item.ids_U) for item in fed.gathered.values())
        self.log.append(StepRecord(self.step_number, self.tokens, self.seconds, value, None, touched))
        return self.log[-1]

    def _backward(self, fed: Fed) -> float:
        """The mean loss of a batch; leaves and parameters get its gradient, always added up in the same order."""
        leaves = [*self.host.parameters(), *(item.leaf_UE for item in fed.gathered.values())]
        trained = [leaf for leaf in leaves if leaf.requires_grad]

        def differentiate(part: int) -> tuple[float, tuple[Tensor | None, ...]]:
            loss = self._loss(fed, part)
            value = float(loss.detach())
            return value, torch.autograd.grad(loss, trained, allow_unused=True) if math.isfinite(value) else ()

        total = 0.0
        for part, (value, gradients) in enumerate(self._threads.map(differentiate, range(self._parts))):
            if not math.isfinite(value):
                raise self._lost("loss", value, self._where_lost(fed, part))
            total += value
            for leaf, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)
        if self._parts > 1:
            for leaf in trained:
                if leaf.grad is not None:
                    leaf.grad /= self._parts
        return total / self._parts

    def _loss(self, fed: Fed, part: int) -> Tensor:
        """The mean loss of part number `part` of a batch."""
        device, stretches = self.host.device, slice(part * self._size, (part + 1) * self._size)
        tokens_BT, targets_BT = (torch.from_numpy(ids[stretches]).to(device) for ids in (fed.batch.tokens_BT, fed.batch.targets_BT))
        memory = {layer: self.rows[layer].memory(item, targets_BT, stretches) for layer, item in fed.gathered.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
            return self._mean_loss(tokens_BT, targets_BT, memory)

    def _update(self, gathered: Mapping[int, Gathered], rate: float) -> None:
        parameters = [p for p in self.host.parameters() if p.grad is not None]
        leaves = [item.leaf_UE for item in gathered.values()]
        trained = [*parameters, *leaves]
        norm = torch.nn.utils.get_total_norm([tensor.grad for tensor in trained if tensor.grad is not None])
        if not bool(norm.isfinite()):
            gradients = [(name, parameter.grad) for name, parameter in self.host.named_parameters()]
            gradients += [(f"the rows of layer {layer}", item.leaf_UE.grad) for layer, item in gathered.items()]
            raise self._lost("gradient", float(norm), first_lost(gradients))
        torch.nn.utils.clip_grads_with_norm_(trained, _CLIP, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        self.optimizer.step()
        row_rate = self.recipe.row_learning_rate * rate
        self.feed.write({layer: self.rows[layer].update(item, row_rate) for layer, item in gathered.items()})

    def _where_lost(self, fed: Fed, part: int) -> str | None:
        """What made the loss of a batch's part no number: weights, rows, or the part of the host that first computed one."""
        weights = [(name, parameter) for name, parameter in self.host.named_parameters()]
        rows = [(f"the rows of layer {layer}", item.leaf_UE) for layer, item in fed.gathered.items()]
        return first_lost([*weights, *rows]) or first_lost_module(self.host, lambda: self._loss(fed, part))

    def _lost(self, what: str, value: float, where: str | None) -> TrainingError:
        place = f", first in {where}" if where else ""
        rates = "training.learning_rate" + (" or training.row_learning_rate" if self.recipe.row_learning_rate else "")
        return TrainingError(f"the {what} must stay finite, but it is {value} at step {self.step_number + 1}{place}; lower {rates}")

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
        return token_losses(self.host, self.rows, layers, held_out)


def _side_by_side(host: Carrier, recipe: TrainingRecipe) -> int:
    """How many parts of a batch are computed at once: as many as there are threads, if each has stretches enough."""
    if host.device.type != "cpu" or not host.computes_in_threads or recipe.compile:
        return 1
    most = min(torch.get_num_threads(), recipe.batch // _LEAST)
    return next((parts for parts in range(most, 1, -1) if recipe.batch % parts == 0), 1)


def _compiled(mean_loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`mean_loss` as kernels that torch.compile makes at the first call. Raises TrainingError there where it cannot, as without a
    C++ compiler."""
    kernels = torch.compile(mean_loss)

    def run(*inputs: Any) -> Tensor:
        try:
            return kernels(*inputs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().split("\n")[0]
            raise TrainingError(
                f"training.compile takes a compiler that torch can use (CXX, else g++), but it says `{reason}`; install one, or "
                "set training.compile = false"
            ) from None

    return run


def _groups(host: Carrier, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """What AdamW trains: gains without weight decay, and what was trained before, and a mixture, at learning rates of their own."""
    before = {p for _, p in host.host_parameters()} if host.pretrained else set()
    rates: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in host.named_parameters():
        rate = recipe.host_learning_rate if parameter in before else recipe.learning_rate
        rates.setdefault(rate * (_MIXTURE_RATE if name.startswith("mixture.") else 1), []).append(parameter)
    groups = []
    for rate, parameters in rates.items():
        trained = [p for p in parameters if p.requires_grad]
        for decay, gains in ((recipe.weight_decay, False), (0.0, True)):
            chosen = [p for p in trained if (p.ndim < 2) == gains]
            groups.append({"params": chosen, "initial_lr": rate, "lr": rate, "weight_decay": decay})
    return groups


@torch.no_grad()
def token_losses(
    host: Carrier, rows: Mapping[int, TakesRows], layers: Sequence[LayerLayout], held_out: HeldOut
) -> npt.NDArray[np.float64]:
    """Loss of every target of `held_out` under `host` with the memories in `rows`, nats, f64 [S * T], computed in f32."""
    losses = []
    for batch in held_out.batches():
        memory = look_up(layers, rows, batch.windows_BTN, host.device)
        tokens_BT, targets_BT = (torch.from_numpy(ids).to(host.device) for ids in (batch.tokens_BT, batch.targets_BT))
        losses.append(host.losses(tokens_BT, targets_BT, memory).flatten().double().cpu().numpy())
    return np.concatenate(losses)
