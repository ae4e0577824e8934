"""What rows at the output say by themselves, multiplied with what the host says, and what learns from it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engram_cli.errors import RecipeError
from engram_cli.model.host import Host, initialise
from engram_cli.model.memory import Memory
from engram_cli.model.mixture import Mixture
from engram_cli.recipe import HostRecipe, MemoryRecipe, parse_recipe

RECIPE = HostRecipe(width=12, layers=2, heads=3, feed_forward=20, context=24)
VOCAB, NUMBERS, ORDERS, OUTPUT = 17, 5, 2, RECIPE.layers


@pytest.fixture
def host() -> Host:
    """With random weights in every part of its mixture."""
    generator = torch.Generator().manual_seed(0)
    made = Host(VOCAB, RECIPE, None, Mixture(VOCAB, NUMBERS, ORDERS, RECIPE.width, heard=(1,)))
    initialise(made, generator)
    assert made.mixture is not None
    for parameter in made.mixture.parameters():
        parameter.data.normal_(generator=generator)
    return made


def inputs(tokens: int = 20) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT, targets_BT = torch.randint(VOCAB, (2, 2, tokens), generator=generator)
    return tokens_BT, targets_BT, {OUTPUT: torch.randn(2, tokens, ORDERS * NUMBERS, generator=generator)}


def test_both_sides_are_multiplied(host: Host) -> None:
    tokens_BT, _, memory = inputs()
    mixture = host.mixture
    assert mixture is not None
    hidden_BTD = host.hidden(tokens_BT, memory)
    row_BTC = memory[OUTPUT][..., :NUMBERS] + memory[OUTPUT][..., NUMBERS:]
    gate_BT2 = torch.sigmoid(mixture.gate_out(F.silu(mixture.gate_in(torch.cat([hidden_BTD, memory[OUTPUT]], -1)))))
    host_BTD = 0.75 * gate_BT2[..., :1] * hidden_BTD + hidden_BTD @ mixture.map_host.weight.T
    rows_BTC = 1.5 * gate_BT2[..., 1:] * row_BTC + memory[OUTPUT] @ mixture.map_rows.weight.T
    wanted_BTV = host_BTD @ host.embedding.weight.T + rows_BTC @ mixture.vectors.T + mixture.bias
    torch.testing.assert_close(host(tokens_BT, memory), wanted_BTV)
    assert host.gated == ("mixture",)
    torch.testing.assert_close(host.gates["mixture"], gate_BT2[..., 1:])
    host(tokens_BT, memory, last=1)
    torch.testing.assert_close(host.gates["mixture"], gate_BT2[..., 1:])  # of all positions, whatever is asked of the last


def test_at_first_it_is_a_geometric_mean(host: Host) -> None:
    tokens_BT, _, memory = inputs()
    generator = torch.Generator().manual_seed(0)
    initialise(host, generator)
    assert host.mixture is not None
    vectors_VC, bias_V = torch.randn(VOCAB, NUMBERS, generator=generator), torch.randn(VOCAB, generator=generator)
    with torch.no_grad():
        host.bias.normal_(generator=generator)
        host.mixture.begin(vectors_VC, bias_V, host.bias)
    row_BTC = memory[OUTPUT][..., :NUMBERS] + memory[OUTPUT][..., NUMBERS:]
    says_BTV = host(tokens_BT).log_softmax(-1) * 0.375 + (row_BTC @ vectors_VC.T + bias_V).log_softmax(-1) * 0.75
    torch.testing.assert_close(host(tokens_BT, memory).log_softmax(-1), says_BTV.log_softmax(-1))
    torch.testing.assert_close(host.gates["mixture"], torch.full((2, 20, 1), 0.5))


def test_before_a_layer_it_is_told_of_the_host_hears_rows_of_all_orders_alike(host: Host) -> None:
    tokens_BT, _, memory = inputs()
    mixture, said = host.mixture, []
    assert mixture is not None
    taken = [block.register_forward_pre_hook(lambda _, stream: said.append(stream[0])) for block in host.blocks]
    host.hidden(tokens_BT)
    host.hidden(tokens_BT, memory)
    for hook in taken:
        hook.remove()
    assert torch.equal(said[2], said[0])
    order_BTOC = memory[OUTPUT].view(2, 20, ORDERS, NUMBERS)
    normed_BTM = (order_BTOC / order_BTOC.square().mean(-1, keepdim=True).sqrt()).view(2, 20, -1)
    hearing = mixture.hearing["1"]
    gate_BTD, up_BTD = (normed_BTM @ hearing.gate_up.weight.T).chunk(2, -1)
    wanted_BTD = normed_BTM @ hearing.direct.weight.T + (F.silu(gate_BTD) * up_BTD) @ hearing.down.weight.T
    torch.testing.assert_close(said[3] - said[1], wanted_BTD, rtol=1e-4, atol=1e-4)
    louder = {OUTPUT: torch.cat([3 * memory[OUTPUT][..., :NUMBERS], memory[OUTPUT][..., NUMBERS:]], -1)}
    torch.testing.assert_close(host.hidden(tokens_BT, louder), host.hidden(tokens_BT, memory))
    silent_BTM = torch.zeros_like(memory[OUTPUT])  # of grams that were never seen
    torch.testing.assert_close(host.hidden(tokens_BT, {OUTPUT: silent_BTM}), host.hidden(tokens_BT))
    initialise(host, torch.Generator().manual_seed(0))
    assert torch.equal(host.hidden(tokens_BT, memory), host.hidden(tokens_BT))


def test_all_branches_of_a_host_hear_the_same(host: Host) -> None:
    tokens_BT, _, memory = inputs()
    mixture = Mixture(VOCAB, NUMBERS, ORDERS, RECIPE.width, heard=(1,))
    branched = Host(VOCAB, replace(RECIPE, branches=2), None, mixture)
    initialise(branched, torch.Generator())
    branched.load_state_dict(host.state_dict(), strict=False)  # whose branches begin equal, so that two are as one
    torch.testing.assert_close(branched.hidden(tokens_BT, memory), host.hidden(tokens_BT, memory), rtol=1e-4, atol=1e-4)


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
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole_BTV, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(host(tokens_BT, memory, last=3), whole_BTV[:, -3:], rtol=1e-4, atol=1e-4)


def test_all_but_what_tokens_and_rows_mean_learns_from_the_mixture_and_the_host_alone_from_its_own_loss(host: Host) -> None:
    tokens_BT, targets_BT, memory = inputs()
    host.mean_loss(tokens_BT, targets_BT, memory).backward()
    unlearnt = {name for name, tensor in host.named_parameters() if tensor.grad is None}
    assert unlearnt == {"embedding.weight", "bias", "mixture.vectors"}
    host.zero_grad()
    value = host.mean_loss(tokens_BT, targets_BT, {})
    torch.testing.assert_close(value, host.losses(tokens_BT, targets_BT).mean())
    value.backward()
    learnt = {name for name, tensor in host.named_parameters() if tensor.grad is not None}
    assert learnt == {name for name, _ in host.host_parameters()}


def test_a_host_may_hear_rows_of_a_layer_while_others_do_not_speak_yet() -> None:
    tokens_BT, targets_BT, memory = inputs()
    host = Host(VOCAB, RECIPE, {0: Memory(RECIPE.width, 6, MemoryRecipe())}, Mixture(VOCAB, NUMBERS, ORDERS, RECIPE.width))
    initialise(host, torch.Generator().manual_seed(0))
    memory[0] = torch.randn(2, 20, 6, requires_grad=True)
    for heard in ({0: memory[0]}, memory):
        (gradient,) = torch.autograd.grad(host.mean_loss(tokens_BT, targets_BT, heard), memory[0])
        assert gradient.abs().sum() > 0


def test_it_belongs_to_the_memory(host: Host) -> None:
    assert not [name for name, _ in host.host_parameters() if "mixture" in name]
    assert "mixture.vectors" in host.stored()


@pytest.mark.parametrize(
    ("heard", "message"),
    [
        ("[1]\nmixture = false", "empty without memory.mixture, but it is 1"),
        ("[4]", "from 0 to 3, the layers of the host, but it is 4"),
        ("-1", "from 0 to 3, the layers of the host, but it is -1"),
        ("[2, 1]", "distinct and ascending, but it is 2, 1"),
        ("[1, 1]", "distinct and ascending, but it is 1, 1"),
    ],
)
def test_a_layer_hears_what_there_is_to_hear(heard: str, message: str) -> None:
    mixing = "" if "mixture" in heard else "\nmixture = true"
    with pytest.raises(RecipeError, match=f"`memory.heard` must be {message}; change it"):
        parse_recipe(f"[hash]\nlayers = [4]\n[memory]\nheard = {heard}{mixing}")


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
