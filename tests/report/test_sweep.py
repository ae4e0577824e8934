"""Sweep: sizes and shares are what was asked for, lines are least squares, and stopping keeps what is finished."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import RecipeError, TrainingError
from engram_cli.model.train import Budget
from engram_cli.report import sweep as sweeping
from engram_cli.report.report import Report
from engram_cli.report.sweep import sweep
from engram_cli.report.sweep_tables import Outcome, fit_line, sweep_notes, sweep_tables
from tests.training import TINY

SMALL = replace(TINY, hash=replace(TINY.hash, orders=(2, 3), layers=(1,), size=(50, 100)))
MOMENT = Budget(tokens=64)


@pytest.fixture(scope="module")
def report(ngrams: NGrams) -> Report:
    found, finished = sweep(ngrams, SMALL, MOMENT, rows=[8000, 3000, 3000], shares=[0.6, 0, 0.3], seeds=2, device="cpu")
    assert finished
    return found


def test_every_size_is_run_from_counts_and_random(report: Report) -> None:
    records = report.tables["rows"].to_pylist()
    lines = ["plain+statistics", "plain", "counts", "counts", "random", "random"]
    assert [record["line"] for record in records] == lines
    sizes = [record["rows"] for record in records[2:4]]
    assert sizes == [record["rows"] for record in records[4:]]
    for rows, asked in zip(sizes, (3000, 8000), strict=True):
        assert rows == pytest.approx(asked, rel=0.05)  # primes lie a little above the sizes
    levels = {record["line"]: record["loss"] for record in records[:2]}
    for record in records[2:]:
        level = levels["plain+statistics" if record["line"] == "counts" else "plain"]
        assert record["below_plain"] == pytest.approx(level - record["loss"])
        assert (record["seeds"], record["tokens"]) == (2, 64)
        assert record["spread"] >= 0


def test_ids_alone_keep_their_rows_up_to_half_of_all() -> None:
    recipe = replace(SMALL, hash=replace(SMALL.hash, orders=(1, 2, 3), heads=2, size=(100, 200, 600)))
    assert sweeping._sized(recipe, 8200).hash.sizes == (100, 1000, 3000)
    assert sweeping._sized(recipe, 320).hash.sizes == (80, 20, 60)
    alone = replace(recipe, hash=replace(recipe.hash, orders=(1,), size=(100,)))
    assert sweeping._sized(alone, 320).hash.sizes == (160,)


def test_every_share_has_the_same_parameters(report: Report) -> None:
    records = report.tables["shares"].to_pylist()
    assert [record["share"] for record in records] == pytest.approx([0, 0.3, 0.6], abs=0.02)
    assert [record["rows"] > 0 for record in records] == [False, True, True]
    totals = [record["parameters"] for record in records]
    assert max(totals) / min(totals) < 1.02
    assert [record["width"] for record in records] == sorted((record["width"] for record in records), reverse=True)


def test_the_runs_are_those_of_the_tables(report: Report) -> None:
    runs = report.tables["runs"].to_pylist()
    assert len(runs) == 2 * (2 + 4 + 3)
    counts = [run for run in runs if run["line"] == "counts"]
    found = fit_line([run["rows"] for run in counts], [run["loss"] for run in counts])
    assert found is not None
    assert report.tables["fits"].to_pylist()[0]["per_doubling"] == found.per_doubling


@given(st.floats(-1, 1), st.floats(-10, 10), st.lists(st.integers(8, 1 << 24), min_size=4, max_size=9, unique=True))
def test_a_line_is_found_again(slope: float, level: float, rows: list[int]) -> None:
    found = fit_line(rows, [level + slope * float(np.log2(size)) for size in rows])
    assert found is not None
    assert found.per_doubling == pytest.approx(slope, abs=1e-6)
    assert found.level == pytest.approx(level, abs=1e-4)


def test_a_bend_is_told_from_noise() -> None:
    rows = [2**power for power in range(10, 18)] * 2
    noise = np.random.default_rng(0).normal(0, 0.01, len(rows))
    x = np.log2(rows)
    straight = fit_line(rows, list(5 - 0.1 * x + noise))
    assert straight is not None
    assert straight.within is not None
    assert straight.straight
    assert abs(straight.per_doubling + 0.1) < straight.within < 0.01
    bent = fit_line(rows, list(5 - 0.1 * x + 0.01 * (x - 13) ** 2 + noise))
    assert bent is not None
    assert bent.bend == pytest.approx(0.02, abs=0.005)
    assert bent.straight is False


def test_the_error_is_that_of_a_textbook() -> None:
    """y = 1, 2, 2, 3 over x = 1, 2, 3, 4: slope 0.6, standard error 0.1414 (two degrees of freedom, t = 4.30)."""
    found = fit_line([2, 4, 8, 16], [1.0, 2.0, 2.0, 3.0])
    assert found is not None
    assert found.per_doubling == pytest.approx(0.6)
    assert found.within == pytest.approx(4.30 * 0.02**0.5, rel=1e-3)


def test_too_few_runs_say_so() -> None:
    assert fit_line([16], [1.0]) is None
    assert fit_line([16, 16], [1.0, 1.1]) is None
    two = fit_line([16, 32], [2.0, 1.0])
    assert two is not None
    assert (two.per_doubling, two.within, two.straight) == (pytest.approx(-1.0), None, None)
    three = fit_line([16, 32, 64], [2.0, 1.0, 0.1])
    assert three is not None
    assert three.within is not None
    assert three.straight is None


def outcome(line: str, loss: float, rows: int = 0, share: float | None = None) -> Outcome:
    return Outcome(line, rows, share, 16, 1000, 0, loss, 64, 1.0)


def test_what_the_curves_say() -> None:
    straight = [outcome("counts", 5.0 - 0.1 * power, 2**power) for power in range(10, 16)]
    (note,) = sweep_notes(straight)
    assert note.startswith("rows from counts: each doubling lowers the loss by 0.100 +- 0.000 nats")
    (note,) = sweep_notes([outcome("random", 5.0 + 0.01 * (power % 2), 2**power) for power in range(10, 16)])
    assert note.startswith("random rows: how many makes no difference that 6 runs can tell")
    valley = [outcome("shares", loss, 10, share) for share, loss in ((0.0, 3.0), (0.2, 2.5), (0.8, 2.9))]
    (note,) = sweep_notes(valley)
    assert note == "the loss is lowest with 20 % of the parameters in rows, and rises to both sides"
    (note,) = sweep_notes([*valley, outcome("shares", 2.0, 10, 0.9)])
    assert "at the end of what was swept" in note
    assert set(sweep_tables(valley)) == {"shares", "runs"}


def test_stopping_keeps_what_is_finished(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    train, calls = sweeping.train, []

    def stopped(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 3:
            raise KeyboardInterrupt
        train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeping, "train", stopped)
    found, finished = sweep(ngrams, SMALL, MOMENT, rows=[600, 3000], device="cpu")
    assert not finished
    assert found.tables["runs"].num_rows == 3
    assert found.notes[-1] == "stopped after 3 of 6 runs; the others are missing"
    with pytest.raises(KeyboardInterrupt):
        sweep(ngrams, SMALL, MOMENT, rows=[600], device="cpu")


def test_what_cannot_be_swept(ngrams: NGrams) -> None:
    with pytest.raises(RecipeError, match="neither is given"):
        sweep(ngrams, SMALL, MOMENT)
    with pytest.raises(RecipeError, match="a head has at least 2 rows"):
        sweep(ngrams, SMALL, MOMENT, rows=[7])
    with pytest.raises(RecipeError, match="from 0 to below 1"):
        sweep(ngrams, SMALL, MOMENT, shares=[1.0])
    with pytest.raises(RecipeError, match="the narrowest takes"):
        sweep(ngrams, SMALL, MOMENT, shares=[0.99])
    with pytest.raises(RecipeError, match=r"hash\.size"):
        sweep(ngrams, SMALL, MOMENT, rows=[1 << 62])
    with pytest.raises(TrainingError, match="give more --minutes"):
        sweep(ngrams, SMALL, Budget(seconds=1e-6), rows=[600], device="cpu")
