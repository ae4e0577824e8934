"""A foreign host: itself where no memory speaks, the same with and without a cache, cut and reordered, trained as far as asked."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engram_cli.model.foreign import ForeignHost
from engram_cli.model.host_directory import open_host
from engram_cli.model.memory import Memory
from engram_cli.recipe import MemoryRecipe
from tests.hosts import KINDS, LAYERS, WIDTH, write_host

LOOKED_UP, CARRYING, TOKENS = 8, (0, LAYERS - 1, LAYERS), 24  # the last at the output
CONVOLVED = MemoryRecipe(convolution="random")
Looked = dict[int, Tensor]


@pytest.fixture(scope="module", params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> ForeignHost:
    """A tiny host of each kind, whose memories have a convolution and are not zero."""
    directory = open_host(write_host(tmp_path_factory.mktemp("host") / request.param, tokenizer_path, request.param))
    made = ForeignHost(directory.model, directory.vocab, directory.context, memories())
    generator = torch.Generator().manual_seed(1)
    for layer in CARRYING:
        made.memories[str(layer)].initialise(generator)  # type: ignore[operator]
    return made.eval().requires_grad_(False)


def memories() -> dict[int, Memory]:
    return {layer: Memory(WIDTH, LOOKED_UP, CONVOLVED, dilation=3) for layer in CARRYING}


def inputs(host: ForeignHost, batch: int = 2) -> tuple[Tensor, Looked]:
    generator = torch.Generator().manual_seed(0)
    looked_up = {layer: torch.randn(batch, TOKENS, LOOKED_UP, generator=generator) for layer in CARRYING}
    return torch.randint(host.vocab, (batch, TOKENS), generator=generator), looked_up


def part(looked_up: Looked, first: int, last: int) -> Looked:
    return {layer: looked[:, first:last] for layer, looked in looked_up.items()}


def test_a_host_without_memory_is_the_model(host: ForeignHost) -> None:
    tokens_BT, looked_up = inputs(host)
    plain = host.model(input_ids=tokens_BT).logits[..., : host.vocab]
    assert torch.equal(host(tokens_BT), plain)
    assert not torch.allclose(host(tokens_BT, looked_up), plain)
    assert torch.equal(host(tokens_BT), plain)  # no hook stays behind


def test_the_last_logits_alone_are_the_same(host: ForeignHost) -> None:
    tokens_BT, looked_up = inputs(host)
    torch.testing.assert_close(host(tokens_BT, looked_up, last=1), host(tokens_BT, looked_up)[:, -1:])


def test_gates_are_those_of_each_layer(host: ForeignHost) -> None:
    tokens_BT, looked_up = inputs(host)
    host(tokens_BT, looked_up)
    assert {layer: gate.shape for layer, gate in host.gates.items()} == dict.fromkeys(CARRYING, (2, TOKENS, 1))


@given(cuts=st.sets(st.integers(1, TOKENS - 1)), memory=st.booleans())
@settings(max_examples=15)
def test_a_cache_changes_nothing(host: ForeignHost, cuts: set[int], memory: bool) -> None:
    """Keys and values, and what the convolution has seen."""
    tokens_BT, looked_up = inputs(host)
    cache, pieces = host.make_cache(), []
    for first, last in pairwise([0, *sorted(cuts), TOKENS]):
        pieces.append(host(tokens_BT[:, first:last], part(looked_up, first, last) if memory else None, cache))
        assert cache.length == last
    torch.testing.assert_close(torch.cat(pieces, dim=1), host(tokens_BT, looked_up if memory else None), rtol=1e-4, atol=1e-5)


@given(back=st.integers(0, TOKENS))
@settings(max_examples=15)
def test_a_cache_goes_back_as_if_it_had_not_gone_on(host: ForeignHost, back: int) -> None:
    tokens_BT, looked_up = inputs(host)
    cache = host.make_cache()
    host(tokens_BT.flip(1), {layer: looked.flip(1) for layer, looked in looked_up.items()}, cache)
    cache.length = 0
    host(tokens_BT, looked_up, cache)
    cache.length = min(back, TOKENS - 1)
    again = host(tokens_BT[:, cache.length :], part(looked_up, cache.length, TOKENS), cache)
    torch.testing.assert_close(again[:, -1], host(tokens_BT, looked_up)[:, -1], rtol=1e-4, atol=1e-5)


@given(places=st.lists(st.integers(0, 2), min_size=3, max_size=3), at=st.integers(1, TOKENS - 1))
@settings(max_examples=15)
def test_texts_go_on_from_the_places_they_are_given(host: ForeignHost, places: list[int], at: int) -> None:
    """What beam search does to a cache: keys, values and convolutions follow their text."""
    tokens_BT, looked_up = inputs(host, batch=3)
    cache = host.make_cache(3)
    host(tokens_BT[:, :at], part(looked_up, 0, at), cache)
    cache.reorder(places)
    found = host(tokens_BT[:, at:], part(looked_up, at, TOKENS), cache)
    whole = torch.cat([tokens_BT[places, :at], tokens_BT[:, at:]], dim=1)
    memory = {layer: torch.cat([looked[places, :at], looked[:, at:]], dim=1) for layer, looked in looked_up.items()}
    torch.testing.assert_close(found, host(whole, memory)[:, at:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("trained", "expected"), [("none", 0), ("last", 1), ("all", LAYERS)])
def test_as_much_of_a_host_is_trained_as_asked(tmp_path: Path, tokenizer_path: Path, trained: str, expected: int) -> None:
    directory = open_host(write_host(tmp_path / "host", tokenizer_path))
    host = ForeignHost(directory.model, directory.vocab, directory.context, memories(), trained)
    training = [block for block in host.blocks if all(p.requires_grad for p in block.parameters())]
    assert len(training) == expected
    assert not expected or training[-1] is host.blocks[-1]
    assert any(p.requires_grad for _, p in host.host_parameters()) == bool(expected)
    assert all(p.requires_grad for p in host.memories.parameters())
    assert (host.model is directory.model) == (trained == "none")  # what is trained is not what others share
