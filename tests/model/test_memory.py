"""The memory: the demo's gate, number for number, and nothing in it that grows with the table."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engram_cli.model.memory import Memory

WIDTH, LOOKED_UP = 6, 10


def memory_of(seed: int, signed_sqrt: bool = True) -> Memory:
    torch.manual_seed(seed)
    memory = Memory(WIDTH, LOOKED_UP, signed_sqrt)
    for norm in (memory.hidden_norm, memory.key_norm):
        torch.nn.init.normal_(norm.weight)
    return memory.eval().requires_grad_(False)


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, WIDTH, generator=generator), torch.randn(2, 3, LOOKED_UP, generator=generator)


def normed(numbers: list[float], gains: list[float]) -> list[float]:
    scale = math.sqrt(sum(number**2 for number in numbers) / len(numbers) + 1e-6)
    return [number / scale * gain for number, gain in zip(numbers, gains, strict=True)]


def gate_by_hand(memory: Memory, hidden: list[float], looked_up: list[float]) -> float:
    key = [sum(weight * number for weight, number in zip(row, looked_up, strict=True)) for row in memory.key.weight.tolist()]
    query, key = normed(hidden, memory.hidden_norm.weight.tolist()), normed(key, memory.key_norm.weight.tolist())
    score = sum(one * other for one, other in zip(query, key, strict=True)) / math.sqrt(WIDTH)
    if memory.signed_sqrt:
        score = math.copysign(math.sqrt(max(abs(score), 1e-6)), score)
    return 1 / (1 + math.exp(-score))


@given(seed=st.integers(0, 1000), signed_sqrt=st.booleans())
@settings(max_examples=25)
def test_the_gate_is_the_formula(seed: int, signed_sqrt: bool) -> None:
    memory = memory_of(seed, signed_sqrt)
    hidden_BTD, looked_up_BTM = inputs(seed)
    gate_BT1 = memory.gate(hidden_BTD, looked_up_BTM)
    assert gate_BT1.shape == (2, 3, 1)
    expected = [
        [gate_by_hand(memory, hidden, looked_up) for hidden, looked_up in zip(*rows, strict=True)]
        for rows in zip(hidden_BTD.tolist(), looked_up_BTM.tolist(), strict=True)
    ]
    torch.testing.assert_close(gate_BT1[..., 0], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_what_is_added_is_the_value_times_the_gate() -> None:
    memory = memory_of(0)
    hidden_BTD, looked_up_BTM = inputs(0)
    addition_BTD, gate_BT1 = memory(hidden_BTD, looked_up_BTM)
    assert torch.equal(gate_BT1, memory.gate(hidden_BTD, looked_up_BTM))
    assert torch.equal(addition_BTD, gate_BT1 * (looked_up_BTM @ memory.value.weight.T))
    assert not memory(hidden_BTD, torch.zeros_like(looked_up_BTM))[0].any()


def test_a_score_of_nothing_leaves_the_gate_half_open() -> None:
    memory = memory_of(0)
    assert memory.gate(*inputs(0)[:1], torch.zeros(2, 3, LOOKED_UP)).flatten().tolist() == [0.5] * 6


@pytest.mark.parametrize("signed_sqrt", [True, False])
def test_its_parameters_are_two_maps_and_two_gains(signed_sqrt: bool) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in Memory(WIDTH, LOOKED_UP, signed_sqrt).named_parameters()}
    assert shapes == {
        "key.weight": (WIDTH, LOOKED_UP),
        "value.weight": (WIDTH, LOOKED_UP),
        "hidden_norm.weight": (WIDTH,),
        "key_norm.weight": (WIDTH,),
    }
