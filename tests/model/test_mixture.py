"""What rows at the output say by themselves: a distribution, the host's beside it, and the same loss either way."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engram_cli.errors import RecipeError
from engram_cli.model.host import Host, initialise
from engram_cli.model.mixture import Mixture
from engram_cli.recipe import HostRecipe, parse_recipe

RECIPE = HostRecipe(width=12, layers=2, heads=3, feed_forward=20, context=24)
VOCAB, NUMBERS, ORDERS, OUTPUT = 17, 5, 2, RECIPE.layers


@pytest.fixture
def host() -> Host:
    """With random weights in every part of its mixture."""
    generator = torch.Generator().manual_seed(0)
    made = Host(VOCAB, RECIPE, None, Mixture(VOCAB, NUMBERS, ORDERS, RECIPE.width))
    initialise(made, generator)
    assert made.mixture is not None
    for parameter in made.mixture.parameters():
        parameter.data.normal_(generator=generator)
    return made


def inputs(tokens: int = 20) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT, targets_BT = torch.randint(VOCAB, (2, 2, tokens), generator=generator)
    return tokens_BT, targets_BT, {OUTPUT: torch.randn(2, tokens, ORDERS * NUMBERS, generator=generator)}


def test_both_sides_are_weighed(host: Host) -> None:
    tokens_BT, _, memory = inputs()
    mixture = host.mixture
    assert mixture is not None
    hidden_BTD = host.hidden(tokens_BT)
    row_BTC = memory[OUTPUT][..., :NUMBERS] + memory[OUTPUT][..., NUMBERS:]
    own_BTV = torch.softmax(row_BTC @ mixture.vectors.T + mixture.bias, -1)
    says_BTV = torch.softmax(hidden_BTD @ host.embedding.weight.T + host.bias, -1)
    sure_BT2 = torch.stack([says_BTV.amax(-1), own_BTV.amax(-1)], -1).log()
    heard = torch.cat([hidden_BTD, memory[OUTPUT], sure_BT2], -1)
    weight_BT1 = torch.sigmoid(mixture.gate_out(F.silu(mixture.gate_in(heard))))
    wanted_BTV = (1 - weight_BT1) * says_BTV + weight_BT1 * own_BTV
    torch.testing.assert_close(host(tokens_BT, memory).exp(), wanted_BTV)
    assert host.gated == ("mixture",)
    torch.testing.assert_close(host.gates["mixture"], weight_BT1)
    host(tokens_BT, memory, last=1)
    torch.testing.assert_close(host.gates["mixture"], weight_BT1)  # of all positions, whatever is asked of the last


def test_at_first_both_sides_weigh_the_same(host: Host) -> None:
    tokens_BT, _, memory = inputs()
    initialise(host, torch.Generator().manual_seed(0))
    host(tokens_BT, memory)
    torch.testing.assert_close(host.gates["mixture"], torch.full((2, 20, 1), 0.5))


def test_losses_are_those_of_the_distribution(host: Host) -> None:
    tokens_BT, targets_BT, memory = inputs()
    wanted_BT = F.cross_entropy(host(tokens_BT, memory).transpose(1, 2), targets_BT, reduction="none")
    torch.testing.assert_close(host.losses(tokens_BT, targets_BT, memory), wanted_BT)
    plain_BT = F.cross_entropy(host(tokens_BT).transpose(1, 2), targets_BT, reduction="none")
    torch.testing.assert_close(host.losses(tokens_BT, targets_BT), plain_BT)


def test_a_text_in_pieces_is_the_text(host: Host) -> None:
    tokens_BT, _, memory = inputs()
    whole_BTV = host(tokens_BT, memory)
    cache = host.make_cache(2)
    pieces = [host(tokens_BT[:, at], {OUTPUT: memory[OUTPUT][:, at]}, cache) for at in (slice(0, 7), slice(7, 8), slice(8, 20))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole_BTV)
    torch.testing.assert_close(host(tokens_BT, memory, last=3), whole_BTV[:, -3:])


def test_what_rows_mean_stays_while_the_gate_learns(host: Host) -> None:
    tokens_BT, targets_BT, memory = inputs()
    host.losses(tokens_BT, targets_BT, memory).mean().backward()
    assert host.mixture is not None
    learns = {name: parameter.grad is not None for name, parameter in host.mixture.named_parameters()}
    assert learns == {
        "vectors": False,
        "bias": False,
        "gate_in.weight": True,
        "gate_in.bias": True,
        "gate_out.weight": True,
        "gate_out.bias": True,
    }
    assert np.all(host.embedding.weight.grad.abs().sum(1).numpy() > 0)


def test_rows_learn_from_the_mixture_where_they_are_trained(host: Host) -> None:
    tokens_BT, targets_BT, memory = inputs()
    initialise(host, torch.Generator().manual_seed(0))  # a gate that hears nothing yet
    memory[OUTPUT].requires_grad_()
    host.losses(tokens_BT, targets_BT, memory).mean().backward()
    mixed = F.nll_loss(host(tokens_BT, memory).transpose(1, 2), targets_BT)
    torch.testing.assert_close(memory[OUTPUT].grad, torch.autograd.grad(mixed, memory[OUTPUT])[0])


def test_the_host_learns_as_if_it_were_alone(host: Host) -> None:
    tokens_BT, targets_BT, memory = inputs()
    host.losses(tokens_BT, targets_BT, memory).mean().backward()
    learnt = {name: parameter.grad.clone() for name, parameter in host.host_parameters() if parameter.grad is not None}
    host.zero_grad()
    logits_BTV = host.hidden(tokens_BT) @ host.embedding.weight.T + host.bias
    F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT).backward()
    for name, parameter in host.host_parameters():
        torch.testing.assert_close(learnt[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_it_belongs_to_the_memory(host: Host) -> None:
    assert not [name for name, _ in host.host_parameters() if "mixture" in name]
    assert "mixture.vectors" in host.stored()


@pytest.mark.parametrize(
    "recipe",
    [
        "[memory]\nmixture = true\n[hash]\nlayers = [1]",
        '[memory]\nmixture = true\n[hash]\nlayers = [4]\n[host]\nname = "other"',
    ],
)
def test_only_rows_at_our_output_speak(recipe: str) -> None:
    with pytest.raises(RecipeError, match=r"mixture` must be false without a layer of the table at the output"):
        parse_recipe(recipe)


def test_only_rows_from_counts_speak() -> None:
    recipe = "[memory]\nmixture = true\n[hash]\nlayers = [4]\n[rows]\ninit = "
    assert parse_recipe(recipe + '"counts"').mixes
    assert not parse_recipe(recipe + '"random"').mixes
