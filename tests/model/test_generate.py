"""Decoding on token ids: what is cached, hashed and cut must never change what a fresh start would give."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engram_cli.errors import ArtifactError, ChatError
from engram_cli.model.generate import Decoder, Sampling, decode_speed, generate, sample
from engram_cli.model.table import Table, open_table
from tests.tables import ALL_PARTS, BRANCHED, RECIPE, SPEAKING, write_table

CONTEXT = 32  # of the tiny table
GREEDY = Sampling(temperature=0, repetition_penalty=1)


@pytest.fixture(
    scope="module", params=[RECIPE, ALL_PARTS, BRANCHED, SPEAKING], ids=["plain gate", "all parts", "branches", "mixture"]
)
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return open_table(write_table(tmp_path_factory.mktemp("tables") / "tiny", request.param), "cpu")


def chunks(most: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=9), min_size=1, max_size=most)


@torch.inference_mode()
def full_logits(table: Table, ids: list[int], first: int = 0, memory: bool = True) -> Tensor:
    """What a host without a cache says after `ids`, of which it sees those from `first` on."""
    canonical_T = table.canonical_V[np.array(ids)]
    windows_TN = table.layout.windows(canonical_T, np.arange(len(ids)))[first:]
    looked_up = table.look_up(windows_TN[None]) if memory else None
    logits: Tensor = table.host(torch.tensor([ids[first:]]), looked_up)[0, -1]
    return logits


@given(parts=chunks(12))
def test_hashing_turn_by_turn_equals_hashing_from_scratch(table: Table, parts: list[list[int]]) -> None:
    decoder = Decoder(table)
    pieces = []
    for part in parts:
        decoder.extend(part)
        pieces.append(decoder.windows(len(decoder.ids) - len(part), len(decoder.ids)))
    whole_TN = table.layout.windows(table.canonical_V[np.array(decoder.ids)], np.arange(len(decoder.ids)))
    assert np.array_equal(np.concatenate(pieces), whole_TN)
    for layer in table.layout.layers:
        assert np.array_equal(np.concatenate([layer.row_ids(piece) for piece in pieces]), layer.row_ids(whole_TN))


@given(parts=chunks(3), memory=st.booleans())
@settings(deadline=None, max_examples=40)
def test_cached_decoding_equals_the_full_forward(table: Table, parts: list[list[int]], memory: bool) -> None:
    decoder = Decoder(table, memory)
    for part in parts:
        decoder.extend(part)
        torch.testing.assert_close(decoder.logits(), full_logits(table, decoder.ids, memory=memory), rtol=1e-4, atol=5e-5)


def test_memory_changes_the_logits_and_switching_it_forgets_the_cache(table: Table) -> None:
    decoder = Decoder(table)
    decoder.extend(range(40, 60))
    with_memory = decoder.logits()
    decoder.memory = False
    without = decoder.logits()
    assert (with_memory - without).abs().max() > 1e-3
    torch.testing.assert_close(without, full_logits(table, decoder.ids, memory=False), rtol=1e-4, atol=5e-5)
    decoder.extend([7])
    decoder.memory = True
    torch.testing.assert_close(decoder.logits(), full_logits(table, decoder.ids), rtol=1e-4, atol=5e-5)


def test_a_full_context_keeps_the_newest_half_and_windows_still_see_what_was_dropped(table: Table) -> None:
    decoder = Decoder(table)
    for token in range(50, 50 + CONTEXT):
        decoder.extend([token])
        decoder.logits()
    assert decoder.first == 0
    decoder.extend([99])
    logits_V = decoder.logits()
    assert decoder.first == len(decoder.ids) - CONTEXT // 2
    torch.testing.assert_close(logits_V, full_logits(table, decoder.ids, decoder.first), rtol=1e-4, atol=5e-5)
    kept_alone = full_logits(table, decoder.ids[decoder.first :])
    assert (logits_V - kept_alone).abs().max() > 1e-5, "the first windows must reach back over the cut"


def test_a_prompt_longer_than_the_context_is_handled_the_same_way(table: Table) -> None:
    decoder = Decoder(table)
    decoder.extend([token % 250 for token in range(5 * CONTEXT)])
    torch.testing.assert_close(decoder.logits(), full_logits(table, decoder.ids, 5 * CONTEXT - CONTEXT // 2), rtol=1e-4, atol=5e-5)
    assert decoder.gates[0][: decoder.first] == [None] * decoder.first
    assert len(list(generate(decoder, replace(GREEDY, max_tokens=3 * CONTEXT)))) > 0


@given(parts=chunks(8), length=st.integers(1, 72), more=st.lists(st.integers(0, 255), max_size=4))
@settings(deadline=None, max_examples=60)
def test_a_cut_document_goes_on_as_if_the_rest_had_never_been(
    table: Table, parts: list[list[int]], length: int, more: list[int]
) -> None:
    decoder = Decoder(table)
    for part in parts:
        decoder.extend(part)
        decoder.logits()
    ids = decoder.ids[:length]
    decoder.cut(length)
    assert decoder.ids == ids
    assert all(len(gates) <= length for gates in decoder.gates.values())
    decoder.extend(more)
    logits_V = decoder.logits()
    torch.testing.assert_close(logits_V, full_logits(table, ids + more, decoder.first), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("late", [False, True])
def test_an_interrupt_inside_a_pass_leaves_the_decoder_consistent(
    table: Table, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    decoder = Decoder(table)
    decoder.extend([5, 6, 7])
    decoder.logits()
    decoder.extend([8, 9])
    hidden = table.host.hidden

    def interrupted(*arguments: object) -> Tensor:
        if late:
            hidden(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(table.host, "hidden", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decoder.logits()
    torch.testing.assert_close(decoder.logits(), full_logits(table, [5, 6, 7, 8, 9]), rtol=1e-4, atol=5e-5)


def test_gates_are_those_of_a_full_pass(table: Table) -> None:
    decoder = Decoder(table)
    for part in ([10, 11, 12], [13], [14]):
        decoder.extend(part)
        decoder.logits()
    full_logits(table, decoder.ids)
    assert list(decoder.gates) == list(table.host.gated)
    for layer, gates in decoder.gates.items():
        assert gates == pytest.approx(table.host.gates[layer][0].mean(-1).tolist(), abs=1e-5)
    decoder.memory = False
    decoder.logits()
    assert decoder.gates[0] == [None] * 5


def test_usage_counts_tokens_rows_and_bytes(table: Table) -> None:
    decoder = Decoder(table)
    decoder.extend([1, 2, 3, 4])
    tokens = list(generate(decoder, Sampling(max_tokens=6, seed=3)))
    usage = decoder.usage
    assert len(tokens) == 6
    assert (usage.prefill_tokens, usage.decode_tokens) == (4, 5)  # the first answer token comes out of the prefill
    assert usage.prefill_seconds > 0
    assert usage.decode_seconds > 0
    assert usage.rows == (4 + 5) * 2 * 4  # two layers of 2 orders x 2 heads; each token is looked up once
    assert usage.bytes == usage.rows * 4 * 4  # rows of four f32
    assert usage.bytes == (4 + 5) * table.bytes_per_token
    decoder.memory = False
    decoder.extend([5])
    decoder.logits()
    assert decoder.usage.rows == usage.rows, "without memory nothing is read"


def test_a_seed_gives_the_same_tokens_and_another_seed_others(table: Table) -> None:
    def tokens(seed: int) -> list[int]:
        decoder = Decoder(table)
        decoder.extend([1, 2, 3])
        return list(generate(decoder, Sampling(temperature=1, top_k=0, top_p=1, max_tokens=12, seed=seed)))

    assert tokens(4) == tokens(4)
    assert tokens(4) != tokens(5)


def test_greedy_takes_the_likeliest(table: Table) -> None:
    decoder = Decoder(table)
    decoder.extend([1, 2, 3])
    for token in generate(decoder, replace(GREEDY, max_tokens=4)):
        assert token == int(full_logits(table, decoder.ids[:-1]).argmax())


@pytest.fixture
def end_is_likeliest(table: Table, monkeypatch: pytest.MonkeyPatch) -> int:
    """The end token would always be next."""
    assert table.end is not None
    logits_V = torch.zeros(len(table.canonical_V)).index_fill(0, torch.tensor([table.end]), 5.0)
    monkeypatch.setattr(Decoder, "logits", lambda self: logits_V)
    return table.end


def test_an_answer_is_never_empty_and_stops_at_the_end_token(table: Table, end_is_likeliest: int) -> None:
    decoder = Decoder(table)
    decoder.extend([1, 2, 3])
    tokens = list(generate(decoder, replace(GREEDY, max_tokens=9)))
    assert len(tokens) == 1
    assert end_is_likeliest not in decoder.ids


def test_sampling_keeps_to_top_k_and_top_p() -> None:
    logits_V = torch.tensor([0.0, 3.0, 2.9, 1.0, -5.0])
    random = torch.Generator().manual_seed(0)

    def drawn(**chosen: Any) -> set[int]:
        sampling = replace(Sampling(temperature=1, top_k=0, top_p=1, repetition_penalty=1), **chosen)
        return {sample(logits_V, [], sampling, random) for _ in range(300)}

    assert drawn() >= {0, 1, 2, 3}
    assert drawn(top_k=2) == {1, 2}
    assert drawn(top_p=0.6) == {1, 2}
    assert drawn(top_p=0.01) == {1}
    assert drawn(temperature=1e-300) == {1}
    assert drawn(top_k=1) == {1}


def test_the_repetition_penalty_makes_what_stands_there_less_likely() -> None:
    random = torch.Generator()
    penalised = replace(GREEDY, repetition_penalty=1.5)
    assert sample(torch.tensor([2.0, 1.9]), [0, 0], GREEDY, random) == 0
    assert sample(torch.tensor([2.0, 1.9]), [0, 0], penalised, random) == 1
    assert sample(torch.tensor([-1.9, -2.0]), [0], penalised, random) == 1, "a negative logit must go down, too"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ArtifactError, match="build the table again"):
        sample(torch.tensor([0.0, bad]), [], Sampling(), torch.Generator())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 11.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("max_tokens", 0),
        ("seed", -1),
        ("seed", 1 << 63),
    ],
)
def test_settings_that_break_a_rule_are_named(name: str, value: Any) -> None:
    with pytest.raises(ChatError, match=f"{name} must be"):
        replace(Sampling(), **{name: value})


def test_a_table_that_was_never_saved_decodes(table: Table) -> None:
    @dataclass
    class Unsaved:
        host = table.host
        layout = table.layout
        rows = table.rows
        canonical_V = table.canonical_V
        end = None

    assert decode_speed(Unsaved(), [1, 2, 3], 4) > 0
    assert decode_speed(Unsaved(), [1, 2, 3], 4, memory=False) > 0


def test_more_orders_and_narrower_rows_decode_alike(tmp_path: Path) -> None:
    recipe = """
        hash = {orders = [2, 3, 4], heads = 1, size = [11, 13, 17]}
        rows = {dim = 3, dtype = "bf16"}
        host = {width = 8, heads = 2}
    """
    table = open_table(write_table(tmp_path / "wide", recipe), "cpu")
    decoder = Decoder(table)
    for token in (1, 2, 3, 4, 5, 6):
        decoder.extend([token])
        torch.testing.assert_close(decoder.logits(), full_logits(table, decoder.ids), rtol=1e-4, atol=5e-5)
    assert decoder.usage.bytes == 6 * 3 * 3 * 2
