"""Hyper-connections: a host of several branches begins as one of a single branch, and then does what the formulas say."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engram_cli.model.connections import Connections, HyperConnections, branches_at
from engram_cli.model.host import Host, initialise
from engram_cli.model.memory import Memory
from engram_cli.recipe import HostRecipe, MemoryRecipe

RECIPE = HostRecipe(width=12, layers=3, heads=3, feed_forward=20, context=24)
VOCAB, LOOKED_UP, LAYERS = 17, 8, (0, 2, RECIPE.layers)  # the last at the output


def make(branches: int) -> Host:
    recipe = replace(RECIPE, branches=branches)
    parts = MemoryRecipe(convolution="random")
    memories = {layer: Memory(RECIPE.width, LOOKED_UP, parts, dilation=2, branches=branches_at(layer, recipe)) for layer in LAYERS}
    host = Host(VOCAB, recipe, memories)
    initialise(host, torch.Generator().manual_seed(0))
    return host.eval().requires_grad_(False)


def inputs() -> tuple[Tensor, dict[int, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(VOCAB, (2, 20), generator=generator)
    return tokens_BT, {layer: torch.randn(2, 20, LOOKED_UP, generator=generator) for layer in LAYERS}


def copy_to_all_branches(one: Host, several: Host) -> None:
    """Give `several` the weights of `one`, those of its one branch to each."""
    for layer in LAYERS:
        memory = several.memories[str(layer)]
        for name, parameter in one.memories[str(layer)].named_parameters():
            if name == "convolution.weight":
                memory.get_parameter(name).copy_(parameter.expand_as(memory.get_parameter(name)))
            else:
                wanted = memory.get_parameter(name)
                wanted.copy_(parameter.repeat(len(wanted) // len(parameter), *[1] * (parameter.ndim - 1)))


@pytest.mark.parametrize("branches", [2, 3, 4])
def test_at_first_it_is_the_host_with_one_branch(branches: int) -> None:
    one, several, (tokens_BT, looked_up) = make(1), make(branches), inputs()
    torch.testing.assert_close(several(tokens_BT), one(tokens_BT))
    assert not torch.allclose(several(tokens_BT, looked_up), one(tokens_BT, looked_up))  # whose memories have other keys
    copy_to_all_branches(one, several)
    torch.testing.assert_close(several(tokens_BT, looked_up), one(tokens_BT, looked_up))
    gates = {layer: gate.shape[-1] for layer, gate in several.gates.items()}
    assert gates == {0: branches, 2: branches, RECIPE.layers: 1}


def test_one_branch_has_no_connections_to_train() -> None:
    one, several = ({name for name, _ in make(branches).named_parameters()} for branches in (1, 2))
    assert {name.split(".")[-1] for name in several - one} == {"read", "write", "carry"}
    assert len(several - one) == 3 * 2 * RECIPE.layers
    assert not one - several


def test_sublayers_read_the_branches_in_turn() -> None:
    connections = [module for module in make(2).modules() if isinstance(module, Connections)]
    assert [module.read.tolist() for module in connections] == [[1, 0], [0, 1]] * RECIPE.layers


def test_logits_are_what_the_formulas_give() -> None:
    """Branch by branch, with connections that mix them all."""
    host, (tokens_BT, looked_up) = make(3), inputs()
    generator = torch.Generator().manual_seed(1)
    for module in host.modules():
        if isinstance(module, HyperConnections):
            for parameter in module.parameters():
                parameter.normal_(generator=generator)
    rotation_TC = (host.get_buffer("cosine")[:20], host.get_buffer("sine")[:20])

    def norm(hidden_BTD: Tensor) -> Tensor:
        return F.rms_norm(hidden_BTD, (RECIPE.width,), eps=1e-6)

    branches = [host.embedding(tokens_BT)] * 3
    for layer, block in enumerate(host.blocks):
        if layer in LAYERS:
            addition_BTGD = host.memories[str(layer)](torch.stack(branches, dim=2), looked_up[layer])[0]
            branches = [branch + addition for branch, addition in zip(branches, addition_BTGD.unbind(2), strict=True)]
        for name in ("attention", "feed_forward"):
            read, write, carry = (block.get_parameter(f"{name}_connections.{part}") for part in ("read", "write", "carry"))
            heard_BTD = norm(sum(read[h] * branches[h] for h in range(3)))
            answer_BTD = (
                block.attention(heard_BTD, rotation_TC, layer, None) if name == "attention" else block.feed_forward(heard_BTD)
            )
            branches = [sum(carry[3 * g + h] * branches[h] for h in range(3)) + write[g] * answer_BTD for g in range(3)]
    hidden_BTD = norm(sum(branches) / 3)
    hidden_BTD = hidden_BTD + host.memories[str(RECIPE.layers)](hidden_BTD, looked_up[RECIPE.layers])[0]
    torch.testing.assert_close(host(tokens_BT, looked_up), hidden_BTD @ host.embedding.weight.T, rtol=1e-4, atol=1e-4)


def test_the_stream_is_not_rounded_under_autocast() -> None:
    connections, stream = HyperConnections(2, 0), torch.randn(1, 3, 2, 8)
    connections.begin()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(connections.heard(stream), stream[..., 0, :])
        assert torch.equal(connections.answered(stream, torch.zeros(1, 3, 8)), stream)
