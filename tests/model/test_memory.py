"""The memory: the published module's numbers, its formulas part by part, and nothing in it that grows with the table."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engram_cli.model.memory import Memory
from engram_cli.recipe import HashRecipe, MemoryRecipe
from engram_cli.table.layout import plan_layout

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "memory.json").read_text())
DEMO = MemoryRecipe(convolution="random", biases=True, norm_eps=1.1920929e-07)
WIDTH, LOOKED_UP = 6, 10


def memory_of(seed: int, signed_sqrt: bool = True) -> Memory:
    torch.manual_seed(seed)
    memory = Memory(WIDTH, LOOKED_UP, MemoryRecipe(signed_sqrt=signed_sqrt))
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
    if memory.recipe.signed_sqrt:
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
    addition_BTD, gate_BT1, taken_in = memory(hidden_BTD, looked_up_BTM)
    assert taken_in is None
    assert torch.equal(gate_BT1, memory.gate(hidden_BTD, looked_up_BTM))
    assert torch.equal(addition_BTD, gate_BT1 * (looked_up_BTM @ memory.value.weight.T))
    assert not memory(hidden_BTD, torch.zeros_like(looked_up_BTM))[0].any()


def test_a_score_of_nothing_leaves_the_gate_half_open() -> None:
    memory = memory_of(0)
    assert memory.gate(*inputs(0)[:1], torch.zeros(2, 3, LOOKED_UP)).flatten().tolist() == [0.5] * 6


def test_its_parameters_are_two_maps_and_two_gains_unless_more_is_asked_for() -> None:
    def shapes(recipe: MemoryRecipe, branches: int) -> dict[str, tuple[int, ...]]:
        memory = Memory(WIDTH, LOOKED_UP, recipe, branches=branches)
        return {name: tuple(parameter.shape) for name, parameter in memory.named_parameters()}

    assert shapes(MemoryRecipe(), 1) == {
        "key.weight": (WIDTH, LOOKED_UP),
        "value.weight": (WIDTH, LOOKED_UP),
        "hidden_norm.weight": (WIDTH,),
        "key_norm.weight": (WIDTH,),
    }
    assert shapes(DEMO, 3) == {
        "key.weight": (3 * WIDTH, LOOKED_UP),
        "key.bias": (3 * WIDTH,),
        "value.weight": (WIDTH, LOOKED_UP),
        "value.bias": (WIDTH,),
        "hidden_norm.weight": (3 * WIDTH,),
        "key_norm.weight": (3 * WIDTH,),
        "convolution.norm.weight": (3 * WIDTH,),
        "convolution.weight": (4, 3, WIDTH),
    }


def demo_memory(weights: dict[str, Tensor]) -> Memory:
    """A memory with the demo's weights, by the names of its modules."""
    branches, width = GOLDEN["branches"], GOLDEN["width"]

    def stacked(name: str) -> Tensor:
        return torch.cat([weights[name.format(branch)] for branch in range(branches)])

    memory = Memory(width, weights["value_proj.weight"].shape[1], DEMO, dilation=max(GOLDEN["orders"]), branches=branches)
    state = {
        "key.weight": stacked("key_projs.{}.weight"),
        "key.bias": stacked("key_projs.{}.bias"),
        "value.weight": weights["value_proj.weight"],
        "value.bias": weights["value_proj.bias"],
        "key_norm.weight": stacked("norm1.{}.weight"),
        "hidden_norm.weight": stacked("norm2.{}.weight"),
        "convolution.norm.weight": stacked("short_conv.norms.{}.weight"),
        "convolution.weight": weights["short_conv.conv.weight"][:, 0].T.unflatten(1, (branches, width)),
    }
    memory.load_state_dict(state)
    return memory.requires_grad_(False)


@pytest.mark.parametrize("recorded", GOLDEN["layers"], ids=lambda recorded: f"layer {recorded['layer']}")
def test_it_equals_the_published_demo_under_its_weights(recorded: dict[str, Any]) -> None:
    recipe = HashRecipe(
        tuple(GOLDEN["orders"]), GOLDEN["heads"], tuple(GOLDEN["size"]), tuple(r["layer"] for r in GOLDEN["layers"]), GOLDEN["seed"]
    )
    layout = plan_layout(recipe, GOLDEN["vocab"], GOLDEN["pad"])
    layer = next(layer for layer in layout.layers if layer.layer == recorded["layer"])
    weights = {name: torch.tensor(item["numbers"]).view(item["shape"]) for name, item in recorded["weights"].items()}
    ids_BT = np.array(GOLDEN["ids"])
    windows_BTN = np.stack([layout.windows(ids_T, np.arange(len(ids_T))) for ids_T in ids_BT])
    rows_BTHE = weights["multi_head_embedding.embedding.weight"][torch.from_numpy(layer.row_ids(windows_BTN))]
    hidden_BTGD = torch.tensor(recorded["hidden"]).view(*ids_BT.shape, GOLDEN["branches"], GOLDEN["width"])
    memory = demo_memory(weights)
    addition_BTGD, _, _ = memory(hidden_BTGD, rows_BTHE.flatten(-2))
    torch.testing.assert_close(addition_BTGD.flatten(), torch.tensor(recorded["output"]), rtol=1e-5, atol=1e-5)
    memory.hidden_norm.eps = MemoryRecipe().norm_eps
    other_BTGD, _, _ = memory(hidden_BTGD, rows_BTHE.flatten(-2))
    assert (other_BTGD - addition_BTGD).abs().max() > 1e-3, "the recorded numbers would not tell one epsilon from another"


def test_it_equals_the_released_form_under_its_weights() -> None:
    """DeepSeek-V4.1: one matrix of four keys and the value, the product of both gains, no biases, no convolution
    (`Engram` of its `inference/model.py`)."""
    branches, eps = 4, 1e-6
    torch.manual_seed(0)
    wkv, q_weight, k_weight = torch.randn(5 * WIDTH, LOOKED_UP), torch.randn(branches, WIDTH), torch.randn(branches, WIDTH)
    hidden_BTGD, looked_up_BTM = torch.randn(2, 3, branches, WIDTH), torch.randn(2, 3, LOOKED_UP)
    keys, value_BTD = (looked_up_BTM @ wkv.T).split([branches * WIDTH, WIDTH], dim=-1)
    key_BTGD = keys.unflatten(-1, (branches, WIDTH))
    scale_BTG = ((hidden_BTGD.square().mean(-1) + eps) * (key_BTGD.square().mean(-1) + eps)).rsqrt() * WIDTH**-0.5
    score_BTG = (hidden_BTGD * q_weight * k_weight * key_BTGD).sum(-1) * scale_BTG
    gate_BTG = torch.copysign(score_BTG.abs().clamp_min(1e-6).sqrt(), score_BTG).sigmoid()

    memory = Memory(WIDTH, LOOKED_UP, MemoryRecipe(norm_eps=eps), branches=branches).requires_grad_(False)
    memory.load_state_dict(
        {
            "key.weight": wkv[: branches * WIDTH],
            "value.weight": wkv[branches * WIDTH :],
            "hidden_norm.weight": q_weight.flatten(),
            "key_norm.weight": k_weight.flatten(),
        }
    )
    addition_BTGD, found_BTG, _ = memory(hidden_BTGD, looked_up_BTM)
    torch.testing.assert_close(found_BTG, gate_BTG)
    torch.testing.assert_close(addition_BTGD, gate_BTG[..., None] * value_BTD[:, :, None])


def test_a_convolution_from_zero_changes_nothing_and_learns_from_the_first_step() -> None:
    hidden_BTD, looked_up_BTM = inputs(0)
    without = Memory(WIDTH, LOOKED_UP)
    memory = Memory(WIDTH, LOOKED_UP, MemoryRecipe(convolution="zero"), dilation=2)
    without.initialise(torch.Generator().manual_seed(3))
    memory.initialise(torch.Generator().manual_seed(3))
    addition_BTD, _, _ = memory(hidden_BTD, looked_up_BTM)
    assert torch.equal(addition_BTD, without(hidden_BTD, looked_up_BTM)[0])
    addition_BTD.sum().backward()
    assert memory.convolution.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_a_random_start_gives_every_part_its_own_scale() -> None:
    memory = Memory(64, 256, DEMO, branches=4)
    memory.initialise(torch.Generator().manual_seed(0))
    deviations = {name: float(parameter.detach().std()) for name, parameter in memory.named_parameters() if parameter.ndim > 1}
    assert deviations == pytest.approx({"key.weight": 1 / 16, "value.weight": 1 / 16, "convolution.weight": 1 / 2}, rel=0.1)
    assert not memory.key.bias.any()
    assert not memory.value.bias.any()
    assert (memory.key_norm.weight == 1).all()


def test_a_branch_alone_is_a_memory_of_one_branch() -> None:
    torch.manual_seed(1)
    memory = Memory(WIDTH, LOOKED_UP, DEMO, dilation=2, branches=3).requires_grad_(False)
    for parameter in memory.parameters():
        parameter.normal_()
    hidden_BTGD, looked_up_BTM = torch.randn(2, 9, 3, WIDTH), torch.randn(2, 9, LOOKED_UP)
    together_BTGD, gate_BTG, _ = memory(hidden_BTGD, looked_up_BTM)
    for branch in range(3):
        alone = Memory(WIDTH, LOOKED_UP, DEMO, dilation=2)
        own = slice(branch * WIDTH, (branch + 1) * WIDTH)
        alone.load_state_dict(
            {
                name: tensor if "value" in name else tensor[:, branch : branch + 1] if tensor.ndim == 3 else tensor[own]
                for name, tensor in memory.state_dict().items()
            }
        )
        addition_BTD, gate_BT1, _ = alone(hidden_BTGD[:, :, branch], looked_up_BTM)
        torch.testing.assert_close(addition_BTD, together_BTGD[:, :, branch])
        torch.testing.assert_close(gate_BT1[..., 0], gate_BTG[..., branch])


@given(cuts=st.sets(st.integers(1, 19)), dilation=st.integers(1, 5), kept=st.integers(0, 30))
@settings(max_examples=40)
def test_a_text_in_pieces_gives_what_the_whole_gives(cuts: set[int], dilation: int, kept: int) -> None:
    torch.manual_seed(2)
    memory = Memory(WIDTH, LOOKED_UP, DEMO, dilation=dilation, branches=2).requires_grad_(False)
    for parameter in memory.parameters():
        parameter.normal_()
    hidden_BTGD, looked_up_BTM = torch.randn(3, 20, 2, WIDTH), torch.randn(3, 20, LOOKED_UP)
    past, pieces = None, []
    for first, last in pairwise([0, *sorted(cuts), 20]):
        addition, _, inputs_BTGD = memory(hidden_BTGD[:, first:last], looked_up_BTM[:, first:last], past)
        past = inputs_BTGD if past is None else torch.cat([past, inputs_BTGD], dim=1)
        past = past[:, max(0, past.shape[1] - max(kept, 3 * dilation)) :]  # any more than its reach may be forgotten
        pieces.append(addition)
    torch.testing.assert_close(torch.cat(pieces, dim=1), memory(hidden_BTGD, looked_up_BTM)[0])
