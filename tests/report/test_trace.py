"""The trace tells what was looked up; the stats tell what it took."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engram_cli.model.generate import Sampling
from engram_cli.model.session import Session
from engram_cli.model.table import open_table
from engram_cli.report.report import Measure
from engram_cli.report.trace import stats, trace
from tests.tables import RECIPE, write_table


@pytest.fixture
def session(table_path: Path) -> Session:
    return Session(open_table(table_path, "cpu"), Sampling(max_tokens=4))


def turn(session: Session, text: str) -> None:
    session.feed(text)
    list(session.generate())


def test_every_token_that_was_read_is_there_with_its_grams_and_gates(session: Session) -> None:
    turn(session, "The capital of")
    records = trace(session).tables["lookups"].to_pylist()
    text = [record for record in records if record["part"] == "text"]
    assert [record["token"] for record in text] == ["The", " capital", " of"]
    assert [record["2-gram"] for record in text] == ["⊢The", "The capital", " capital of"]
    assert [record["3-gram"] for record in text] == ["⊢⊢The", "⊢The capital", "The capital of"]
    assert [record["next"] for record in text[:2]] == [" capital", " of"]
    assert {record["part"] for record in records[3:]} <= {"answer"}
    assert [record["gate_2"] for record in records] == session.decoder.gates[2]
    assert all(0 < record["gate_0"] < 1 for record in records)


def test_the_last_token_of_an_answer_is_only_read_in_the_next_turn(session: Session) -> None:
    session.feed("The capital of")
    answer = session.generate()
    next(answer)
    answer.close()
    records = trace(session).tables["lookups"].to_pylist()
    assert len(records) == len(session.decoder.ids) - 1
    assert records[-1]["next"] == session.table.tokenizer.decode(session.decoder.ids[-1:])


def test_the_mixtures_gate_is_there_where_rows_speak_for_themselves(tmp_path: Path) -> None:
    mixing = RECIPE.replace("layers = [0, 2]", "layers = [3]") + "[memory]\nmixture = true\n"
    session = Session(open_table(write_table(tmp_path / "mixing", mixing), "cpu"), Sampling(max_tokens=4))
    mixture = session.table.host.mixture
    torch.nn.init.zeros_(mixture.gate_out.weight)  # type: ignore[union-attr, arg-type]
    torch.nn.init.constant_(mixture.gate_out.bias, -math.log(3))  # type: ignore[union-attr, arg-type]
    turn(session, "The capital of")
    report = trace(session)
    assert report.tables["lookups"].column_names[-3:] == ["3-gram", "gate_mixture", "next"]
    assert report.tables["lookups"]["gate_mixture"].to_pylist() == pytest.approx([0.25] * report.tables["lookups"].num_rows)
    assert report.facts["mean gate of the mixture"] == Measure(pytest.approx(0.25), "share")
    assert "how much what the rows say weighs" in report.notes[0]


def test_facts_sum_up_the_records(session: Session) -> None:
    turn(session, "The capital of")
    report, usage = trace(session), session.last_usage
    gates = report.tables["lookups"]["gate_0"].to_pylist()
    assert report.facts["mean gate of layer 0"] == Measure(pytest.approx(sum(gates) / len(gates)), "share")
    assert report.facts["rows read"] == Measure((usage.prefill_tokens + usage.decode_tokens) * 8, "rows")


def test_only_the_last_turn_is_traced_and_its_line_breaks_are_visible(session: Session) -> None:
    turn(session, "The capital of")
    turn(session, "It\nis")
    records = trace(session).tables["lookups"].to_pylist()
    assert "".join(record["token"] for record in records if record["part"] == "text") == "⏎⏎It⏎is"
    assert records[0]["3-gram"].endswith("⏎")
    assert not records[0]["3-gram"].startswith("⊢"), "the window reaches back into the turn before"


def test_without_memory_the_trace_says_so(session: Session) -> None:
    session.decoder.memory = False
    turn(session, "The capital of")
    report = trace(session)
    assert set(report.tables["lookups"]["gate_0"].to_pylist()) == {None}
    assert report.facts["mean gate of layer 0"] == Measure(None, "share")
    assert report.facts["rows read"] == Measure(0, "rows")
    assert "Memory is off" in report.notes[0]


def test_before_the_first_turn_there_is_nothing_to_trace(session: Session) -> None:
    report = trace(session)
    assert report.tables["lookups"].num_rows == 0
    assert "No turn yet" in report.title


def test_stats_are_of_the_last_turn_and_of_the_session(session: Session) -> None:
    empty = stats(session).tables["usage"].to_pylist()
    assert [record["decode_rate"] for record in empty] == [None, None]
    turn(session, "The capital of")
    session.sampling = replace(session.sampling, max_tokens=2)
    turn(session, "It is")
    last, whole = stats(session).tables["usage"].to_pylist()
    assert last["decoded_tokens"] == 1
    assert whole["decoded_tokens"] == 4
    assert last["decode_rate"] == pytest.approx(1 / session.last_usage.decode_seconds)
    assert whole["bytes_read"] == session.usage.bytes > last["bytes_read"] > 0
    assert stats(session).facts["bytes of rows per token"] == Measure(8 * 16, "bytes")
