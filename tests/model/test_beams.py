"""Beam search: every beam's probability is that of its text run alone, and enough beams find the likeliest of all texts."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_cli.errors import ChatError
from engram_cli.model import beams as module
from engram_cli.model.beams import Beam, beam_search
from engram_cli.model.generate import Decoder, Sampling, generate
from engram_cli.model.table import Table, open_table
from tests.tables import ALL_PARTS, BRANCHED, SPEAKING, write_table


@pytest.fixture(scope="module", params=[ALL_PARTS, BRANCHED, SPEAKING], ids=["all parts", "branches", "mixture"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """All parts of the memory, so that all that is cached must move; or rows that make a distribution of their own."""
    return open_table(write_table(tmp_path_factory.mktemp("tables") / "tiny", request.param, seed=3), "cpu")


@torch.inference_mode()
def log_probability(table: Table, ids: list[int], continuation: tuple[int, ...]) -> float:
    """Of `continuation` after `ids`, by one pass without a cache."""
    text = [*ids, *continuation]
    windows_TN = table.layout.windows(table.canonical_V[np.array(text)], np.arange(len(text)))
    logits_TV = table.host(torch.tensor([text]), table.look_up(windows_TN[None]))[0]
    log_TV = logits_TV.log_softmax(-1)
    return sum(float(log_TV[len(ids) + at - 1, token]) for at, token in enumerate(continuation))


@given(ids=st.lists(st.integers(0, 255), min_size=1, max_size=14), beams=st.integers(1, 6), tokens=st.integers(1, 12))
@settings(max_examples=25)
def test_a_beam_is_as_likely_as_its_text_alone(table: Table, ids: list[int], beams: int, tokens: int) -> None:
    found = beam_search(table, ids, beams, tokens)
    assert len({(beam.ids, beam.ended) for beam in found}) == len(found) == beams
    assert [beam.log_probability for beam in found] == sorted((beam.log_probability for beam in found), reverse=True)
    for beam in found:
        assert table.end is not None
        said = (*beam.ids, table.end) if beam.ended else beam.ids
        assert beam.ended or len(beam.ids) == tokens
        assert beam.log_probability == pytest.approx(log_probability(table, ids, said), abs=1e-4)


@dataclass
class Small:
    """A table of whose tokens only the first few can come."""

    table: Table
    end: int | None

    def __post_init__(self) -> None:
        self.host, self.layout, self.rows, self.canonical_V = (
            self.table.host,
            self.table.layout,
            self.table.rows,
            self.table.canonical_V,
        )


@pytest.mark.parametrize("end", [None, 2])
def test_enough_beams_find_the_likeliest_of_all(table: Table, end: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    original, ids, tokens = module._logits, [40, 41, 42], 3
    monkeypatch.setattr(module, "_logits", lambda *arguments: original(*arguments)[:, :4])
    found = beam_search(Small(table, end), ids, 4**tokens, tokens)

    def score(text: tuple[int, ...]) -> float:
        total = 0.0
        for at, token in enumerate(text):
            whole = [*ids, *text[:at]]
            decoder = Decoder(table)
            decoder.extend(whole)
            total += float(decoder.logits()[:4].log_softmax(-1)[token])
        return total

    every = [text for text in itertools.product(range(4), repeat=tokens) if end not in text]
    beams = [Beam(text, score(text)) for text in every]
    if end is not None:
        short = [text for size in range(tokens) for text in itertools.product((0, 1, 3), repeat=size)]
        beams += [Beam(text, score((*text, end)), True) for text in short]
    beams = sorted(beams, key=lambda beam: -beam.log_probability)[: len(found)]
    assert len(found) == min(4**tokens, len(beams))
    assert [(beam.ids, beam.ended) for beam in found] == [(beam.ids, beam.ended) for beam in beams]


def test_one_beam_is_greedy(table: Table) -> None:
    decoder = Decoder(table)
    decoder.extend([5, 6, 7])
    greedy = tuple(generate(decoder, Sampling(temperature=0, repetition_penalty=1, max_tokens=8)))
    (beam,) = beam_search(Small(table, None), [5, 6, 7], 1, 8)
    assert beam.ids[: len(greedy)] == greedy


@pytest.mark.parametrize(("ids", "beams", "tokens"), [([], 1, 1), ([1], 0, 1), ([1], 1, 0), ([1] * 20, 2, 13)])
def test_what_does_not_fit_is_refused(table: Table, ids: list[int], beams: int, tokens: int) -> None:
    with pytest.raises(ChatError, match="within 32 tokens"):
        beam_search(table, ids, beams, tokens)
