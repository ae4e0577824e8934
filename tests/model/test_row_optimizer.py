"""The rules that train rows: those of the papers, whatever steps a row was named in."""

import pytest
import torch
from torch import Tensor

from engram_cli.model.row_optimizer import OPTIMIZERS
from engram_cli.recipe import ROW_OPTIMIZERS

RATE = 0.03


def gradients(steps: int, rows: int = 5, dim: int = 4) -> Tensor:
    return torch.randn(steps, rows, dim, generator=torch.Generator().manual_seed(0))


def trained(name: str, gradient_TUE: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of ones after a step for each gradient, and their state."""
    rule = OPTIMIZERS[name]
    values_UE, state_US = torch.ones(gradient_TUE.shape[1:]), torch.zeros(gradient_TUE.shape[1], rule.width(gradient_TUE.shape[2]))
    for gradient_UE in gradient_TUE:
        rule.step(values_UE, state_US, gradient_UE.clone(), RATE)
    return values_UE, state_US


def test_every_rule_of_a_recipe_is_there_and_small_where_it_should_be() -> None:
    assert tuple(OPTIMIZERS) == ROW_OPTIMIZERS
    assert {name: rule.width(48) for name, rule in OPTIMIZERS.items()} == {"adagrad": 1, "adam": 1, "adam-full": 97}


def test_adagrad_divides_by_the_sum_of_mean_squares() -> None:
    gradient_TUE = gradients(3)
    squares_TU1 = gradient_TUE.square().mean(2, keepdim=True).cumsum(0)
    expected_UE = 1 - RATE * (gradient_TUE / squares_TU1.sqrt()).sum(0)
    values_UE, state_US = trained("adagrad", gradient_TUE)
    torch.testing.assert_close(values_UE, expected_UE)
    torch.testing.assert_close(state_US, squares_TU1[-1])


def test_adam_divides_by_a_moving_mean_that_begins_with_the_first_squares() -> None:
    gradient_TUE = gradients(3)
    squares_TU1 = gradient_TUE.square().mean(2, keepdim=True)
    mean_U1, expected_UE = squares_TU1[0], torch.ones(5, 4)
    for step, gradient_UE in enumerate(gradient_TUE):
        mean_U1 = 0.999 * mean_U1 + 0.001 * squares_TU1[step] if step else mean_U1
        expected_UE = expected_UE - RATE * gradient_UE / mean_U1.sqrt()
    torch.testing.assert_close(trained("adam", gradient_TUE)[0], expected_UE)


def test_full_adam_is_adam() -> None:
    gradient_TUE = gradients(6)
    expected_UE = torch.ones(5, 4, requires_grad=True)
    optimizer = torch.optim.Adam([expected_UE], lr=RATE)
    for gradient_UE in gradient_TUE:
        expected_UE.grad = gradient_UE
        optimizer.step()
    torch.testing.assert_close(trained("adam-full", gradient_TUE)[0], expected_UE.detach())


@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_a_first_step_is_as_long_whenever_it_comes(name: str) -> None:
    """A row that is named late moves as far as one named at once: its moments are its own."""
    values_UE, state_US = trained(name, gradients(1))
    first = (values_UE - 1).abs().mean()
    assert first == pytest.approx(RATE, rel=0.35)
    assert (state_US[:, 0] > 0).all()


@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_nothing_is_divided_by_zero(name: str) -> None:
    values_UE, _ = trained(name, torch.zeros(2, 5, 4))
    assert torch.equal(values_UE, torch.ones(5, 4))
