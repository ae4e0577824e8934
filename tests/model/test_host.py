"""The host: plain where the memory is silent, causal, the same with and without a cache, and what its formulas say."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engram_cli.model.host import Cache, Host, initialise
from engram_cli.model.memory import Memory
from engram_cli.recipe import HostRecipe, MemoryRecipe

RECIPE = HostRecipe(width=12, layers=3, heads=3, feed_forward=20, context=24)
VOCAB, LOOKED_UP, LAYERS = 17, 8, (0, 2)
Looked = dict[int, Tensor]


def make(layers: tuple[int, ...] = LAYERS, seed: int = 0, convolution: str = "none") -> Host:
    recipe = MemoryRecipe(convolution=convolution)
    host = Host(VOCAB, RECIPE, {layer: Memory(RECIPE.width, LOOKED_UP, recipe, dilation=2) for layer in layers})
    initialise(host, torch.Generator().manual_seed(seed))
    return host.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["none", "random"])
def host(request: pytest.FixtureRequest) -> Host:
    return make(convolution=request.param)


def inputs(tokens: int, seed: int = 0) -> tuple[Tensor, Looked]:
    generator = torch.Generator().manual_seed(seed)
    looked_up = {layer: torch.randn(2, tokens, LOOKED_UP, generator=generator) for layer in LAYERS}
    return torch.randint(VOCAB, (2, tokens), generator=generator), looked_up


def plain_of(host: Host) -> Host:
    """A host that never had memories, with the same weights."""
    plain = make(())
    plain.load_state_dict(dict(host.host_parameters()))
    return plain


def test_a_gate_at_zero_is_plain_bit_for_bit(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_BT, looked_up = inputs(20)
    opened = host(tokens_BT, looked_up)
    monkeypatch.setattr(Memory, "gate", lambda self, hidden_BTD, memory_BTM: hidden_BTD.new_zeros(*hidden_BTD.shape[:2], 1))
    closed = host(tokens_BT, looked_up)
    assert torch.equal(closed, host(tokens_BT))
    assert torch.equal(closed, plain_of(host)(tokens_BT))
    assert not torch.allclose(opened, closed)


def test_a_layer_left_out_runs_without_its_memory(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_BT, looked_up = inputs(20)
    first_only = host(tokens_BT, {0: looked_up[0]})
    assert not torch.equal(first_only, host(tokens_BT, looked_up))
    monkeypatch.setattr(host.memories["2"], "gate", lambda hidden_BTD, memory_BTM: hidden_BTD.new_zeros(2, 20, 1))
    assert torch.equal(first_only, host(tokens_BT, looked_up))


@given(cuts=st.sets(st.integers(1, 23)), memory=st.booleans())
@settings(max_examples=40)
def test_a_cache_changes_nothing(host: Host, cuts: set[int], memory: bool) -> None:
    tokens_BT, looked_up = inputs(24)
    cache = Cache(host, batch=2)
    pieces = []
    for first, last in pairwise([0, *sorted(cuts), 24]):
        piece = {layer: looked[:, first:last] for layer, looked in looked_up.items()} if memory else None
        pieces.append(host(tokens_BT[:, first:last], piece, cache))
        assert cache.room == 24 - last
    whole = host(tokens_BT, looked_up if memory else None)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)


@given(cuts=st.lists(st.integers(1, 23), min_size=1, max_size=3), places=st.lists(st.integers(0, 1), min_size=1, max_size=4))
@settings(max_examples=40)
def test_a_reordered_cache_goes_on_as_the_texts_it_was_made_of(host: Host, cuts: list[int], places: list[int]) -> None:
    tokens_BT, looked_up = inputs(24)
    cache, chosen = Cache(host, batch=2), [0, 1]
    bounds = [0, *sorted(set(cuts)), 24]
    for first, last in pairwise(bounds):
        piece = {layer: looked[chosen, first:last] for layer, looked in looked_up.items()}
        logits = host(tokens_BT[chosen, first:last], piece, cache)
        whole = host(tokens_BT[:, :last], {layer: looked[:, :last] for layer, looked in looked_up.items()})[chosen, first:]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
        order = [place % len(chosen) for place in places]
        cache.reorder(order)
        chosen = [chosen[place] for place in order]


@given(first=st.integers(1, 23), kept=st.integers(0, 22))
@settings(max_examples=40)
def test_a_cache_that_was_taken_back_goes_on_from_there(host: Host, first: int, kept: int) -> None:
    tokens_BT, looked_up = inputs(24)
    cache, kept = Cache(host, batch=2), min(first, kept)
    host((tokens_BT[:, :first] + 1) % VOCAB, {layer: -looked[:, :first] for layer, looked in looked_up.items()}, cache)
    cache.length = 0
    host(tokens_BT[:, :first], {layer: looked[:, :first] for layer, looked in looked_up.items()}, cache)
    cache.length = kept
    logits = host(tokens_BT[:, kept:], {layer: looked[:, kept:] for layer, looked in looked_up.items()}, cache)
    torch.testing.assert_close(logits, host(tokens_BT, looked_up)[:, kept:], rtol=1e-4, atol=1e-5)


@given(at=st.integers(1, 19), seed=st.integers(1, 99))
@settings(max_examples=40)
def test_what_comes_later_never_changes_what_came_before(host: Host, at: int, seed: int) -> None:
    tokens_BT, looked_up = inputs(20)
    other_BT, other = inputs(20, seed)
    mixed_BT = torch.cat([tokens_BT[:, :at], other_BT[:, at:]], dim=1)
    mixed = {layer: torch.cat([looked_up[layer][:, :at], other[layer][:, at:]], dim=1) for layer in LAYERS}
    logits, changed = host(tokens_BT, looked_up), host(mixed_BT, mixed)
    assert torch.equal(logits[:, :at], changed[:, :at])
    assert not torch.equal(logits[:, at:], changed[:, at:])


def attention_by_hand(hidden_TD: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Position by position and head by head, with rotary positions as multiplication of complex numbers."""
    heads, width = RECIPE.heads, RECIPE.width // RECIPE.heads
    query, key, value = (hidden_TD @ weights["attention.query_key_value.weight"].T).chunk(3, dim=-1)
    frequency = 10_000.0 ** (-torch.arange(width // 2) / (width / 2))

    def turned(states_T: Tensor, at: int, head: int) -> Tensor:
        left, right = states_T[at, head * width : (head + 1) * width].chunk(2)
        return torch.complex(left, right) * torch.polar(torch.ones(width // 2), at * frequency)

    rows = []
    for at in range(len(hidden_TD)):
        mixed = []
        for head in range(heads):
            scores = [(turned(query, at, head) * turned(key, back, head).conj()).real.sum() for back in range(at + 1)]
            share = (torch.stack(scores) / math.sqrt(width)).softmax(0)
            mixed.append(share @ value[: at + 1, head * width : (head + 1) * width])
        rows.append(torch.cat(mixed))
    return torch.stack(rows) @ weights["attention.output.weight"].T


def test_logits_are_what_the_formulas_give(host: Host) -> None:
    tokens_BT, looked_up = inputs(9)
    hidden_TD = host.embedding.weight[tokens_BT[0]]
    for layer, block in enumerate(host.blocks):
        if layer in LAYERS:
            hidden_TD = hidden_TD + host.memories[str(layer)](hidden_TD[None], looked_up[layer][:1])[0][0]
        weights = dict(block.named_parameters())
        hidden_TD = hidden_TD + attention_by_hand(F.rms_norm(hidden_TD, (RECIPE.width,), eps=1e-6), weights)
        normed_TD = F.rms_norm(hidden_TD, (RECIPE.width,), eps=1e-6)
        gate, up = (normed_TD @ weights["feed_forward.gate_up.weight"].T).chunk(2, dim=-1)
        hidden_TD = hidden_TD + (gate * gate.sigmoid() * up) @ weights["feed_forward.down.weight"].T
    expected = F.rms_norm(hidden_TD, (RECIPE.width,), eps=1e-6) @ host.embedding.weight.T
    torch.testing.assert_close(host(tokens_BT, looked_up)[0], expected, rtol=1e-4, atol=1e-5)


def test_gates_of_the_last_pass_are_kept(host: Host) -> None:
    tokens_BT, looked_up = inputs(5)
    host(tokens_BT, looked_up)
    assert host.memory_layers == LAYERS
    assert {layer: gate.shape for layer, gate in host.gates.items()} == {0: (2, 5, 1), 2: (2, 5, 1)}
    assert torch.equal(host.gates[0], host.memories["0"].gate(host.embedding(tokens_BT), looked_up[0]))


def test_weights_follow_the_seed_and_keep_the_residual_stream_level() -> None:
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    assert all((gain == 1).all() for name, gain in first.named_parameters() if gain.ndim < 2 and name != "bias")
    assert not first.bias.any()
    wide = Host(2000, HostRecipe(width=64, layers=8, heads=2, feed_forward=256, context=8))
    initialise(wide, torch.Generator().manual_seed(0))
    deviations = {name: float(parameter.detach().std()) for name, parameter in wide.named_parameters() if parameter.ndim == 2}
    assert deviations["embedding.weight"] == pytest.approx(0.02, rel=0.05)
    assert deviations["blocks.0.feed_forward.gate_up.weight"] == pytest.approx(64**-0.5, rel=0.05)
    assert deviations["blocks.0.feed_forward.down.weight"] == pytest.approx(256**-0.5 / 4, rel=0.05)
    assert deviations["blocks.7.attention.output.weight"] == pytest.approx(64**-0.5 / 4, rel=0.05)
