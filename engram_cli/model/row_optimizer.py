"""What a step does to the rows that it has gradients for: rules that keep a few numbers beside each row.

| rule | numbers a row | update |
|---|---|---|
| `adagrad` | 1 | gradient / sqrt(sum of its mean squares): row-wise Adagrad (arXiv 2104.05158) |
| `adam` | 1 | gradient / sqrt(moving mean of its mean squares): Adam's second moment, one for a row, and no first |
| `adam-full` | 2 * dim + 1 | Adam (arXiv 1412.6980) with both moments of every number, and the steps that named the row |

A row's moments move only in steps that name it, or a step would cost what the table costs. So `adam` begins with the first squares
themselves, which needs no correction, and `adam-full` corrects by the row's own steps: the first steps of a rare row are as long as
those of a frequent one. The first of a row's numbers is above zero once a gradient has reached it.
Shapes: U rows of a step, E numbers per row, S numbers of the rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_EPSILON = 1e-8
_FIRST, _SECOND = 0.9, 0.999  # how much of its moments a row keeps


@dataclass(frozen=True)
class RowOptimizer:
    """width: dim -> S; step: changes values [U, E] and state [U, S], both f32, in place, by gradient [U, E] and learning rate."""

    width: Callable[[int], int]
    step: Callable[[Tensor, Tensor, Tensor, float], None]


def _adagrad(values_UE: Tensor, state_US: Tensor, gradient_UE: Tensor, rate: float) -> None:
    state_US += gradient_UE.square().mean(1, keepdim=True)
    values_UE.addcdiv_(gradient_UE, state_US.sqrt() + _EPSILON, value=-rate)


def _adam(values_UE: Tensor, state_US: Tensor, gradient_UE: Tensor, rate: float) -> None:
    squares_U1 = gradient_UE.square().mean(1, keepdim=True)
    state_US.copy_(torch.where(state_US > 0, state_US.lerp(squares_U1, 1 - _SECOND), squares_U1))
    values_UE.addcdiv_(gradient_UE, state_US.sqrt() + _EPSILON, value=-rate)


def _adam_full(values_UE: Tensor, state_US: Tensor, gradient_UE: Tensor, rate: float) -> None:
    steps_U1, first_UE, second_UE = torch.split(state_US, [1, values_UE.shape[1], values_UE.shape[1]], dim=1)
    steps_U1 += 1
    first_UE.lerp_(gradient_UE, 1 - _FIRST)
    second_UE.lerp_(gradient_UE.square(), 1 - _SECOND)
    spread_UE = (second_UE / (1 - _SECOND**steps_U1)).sqrt_() + _EPSILON
    values_UE.addcdiv_(first_UE / (1 - _FIRST**steps_U1), spread_UE, value=-rate)


OPTIMIZERS: Mapping[str, RowOptimizer] = {
    "adagrad": RowOptimizer(lambda dim: 1, _adagrad),
    "adam": RowOptimizer(lambda dim: 1, _adam),
    "adam-full": RowOptimizer(lambda dim: 2 * dim + 1, _adam_full),
}
