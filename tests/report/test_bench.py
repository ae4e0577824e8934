"""The bench: every figure follows from the runs, the arms are comparable, and it says who wins in the same words either way."""

import dataclasses
import math
import mmap
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from engram_cli.corpus import count_model
from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.tokenizer import train_tokenizer
from engram_cli.errors import CorpusError, DeviceError, HostError, RecipeError, TrainingError
from engram_cli.model.build import build, count_parameters
from engram_cli.model.host_directory import HostDirectory, open_host
from engram_cli.model.mixture import cross_entropy
from engram_cli.model.table import make_host
from engram_cli.model.train import Budget
from engram_cli.progress import Silent
from engram_cli.recipe import HashRecipe, HostRecipe, Recipe, RowsRecipe, TrainingRecipe
from engram_cli.report import bench as module
from engram_cli.report import peak_memory as memory_module
from engram_cli.report.bench import bench
from engram_cli.report.bench_arms import COUNTS, OURS, choose, widen
from engram_cli.report.bench_reach import Reach, lengths, reach
from engram_cli.report.bench_tables import Run, bench_tables, equal_tokens, verdicts
from engram_cli.report.peak_memory import peak_memory, reset_peak_memory
from engram_cli.report.report import Measure, Report, read_report, write_report
from engram_cli.table.layout import plan_layout
from tests.corpora import make_documents
from tests.hosts import write_host
from tests.training import SPEAKING, TINY, Told, held_out_of, layout_of, stream_of, tiny

BUDGET = Budget(tokens=64 * 10)
ARMS = choose(None, OURS)
TRAINED = [arm for arm in ARMS if arm != COUNTS]
Records = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def host(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> HostDirectory:
    """A tiny host of someone else's, with the tokenizer of the n-grams."""
    return open_host(write_host(tmp_path_factory.mktemp("host") / "tiny", ngrams.artifact.file("tokenizer.json")))


@pytest.fixture(scope="module")
def report(ngrams: NGrams, folder: Path) -> Report:
    """All arms, two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        return bench(ngrams, tiny(seed=3), BUDGET, seeds=2, device="cpu")


def records(report: Report, table: str) -> Records:
    return {record["arm"]: record for record in report.tables[table].to_pylist()}


def of_arm(report: Report, table: str, arm: str) -> list[dict[str, Any]]:
    return [record for record in report.tables[table].to_pylist() if record["arm"] == arm]


def test_a_vocabulary_too_large_for_order_one_is_told(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram_cli.model.start.LARGEST_VOCAB", ngrams.vocab - 1)
    told = Told()
    bench(ngrams, SPEAKING, BUDGET, arms=["plain+statistics", "engram"], device="cpu", progress=told)
    (warning,) = told.warnings
    assert f"up to {ngrams.vocab - 1:,} ids" in warning


# a report -------------------------------------------------------------------------------------------------------------
def test_every_arm_ran_with_every_seed_on_equal_tokens(report: Report, ngrams: NGrams) -> None:
    assert set(report.tables) == {"losses", "costs", "runs", "curves"}
    for table in ("losses", "costs"):
        assert {record["arm"] for record in report.tables[table].to_pylist()} == set(ARMS)
    runs = report.tables["runs"].to_pylist()
    wanted = [("counts", 0), *((arm, seed) for arm in TRAINED for seed in (3, 4))]
    assert sorted((run["arm"], run["seed"]) for run in runs) == sorted(wanted)
    assert {run["tokens"] for run in runs if run["arm"] != "counts"} == {640}
    assert records(report, "runs")["counts"]["tokens"] == len(ngrams.stream(held_out=False).tokens_T)
    assert report.facts["equal tokens at"] == Measure(640, "tokens")
    assert report.facts["budget of a run"] == Measure(640, "tokens")
    assert report.facts["rows"] == Measure(layout_of(ngrams).rows, "rows")


def test_the_figures_of_an_arm_follow_from_its_runs(report: Report, ngrams: NGrams) -> None:
    bits = held_out_of(ngrams, None).tokens_per_byte / math.log(2)
    for arm, record in records(report, "losses").items():
        runs, costs = of_arm(report, "runs", arm), records(report, "costs")[arm]
        losses = [run["loss"] for run in runs]
        assert record["seeds"] == len(runs)
        assert record["loss"] == pytest.approx(np.mean(losses))
        assert record["bits_per_byte"] == pytest.approx(record["loss"] * bits)
        assert record["seconds"] == pytest.approx(np.mean([run["seconds"] for run in runs]))
        assert 0 <= record["preparation"] <= record["seconds"]
        assert costs["training_speed"] == pytest.approx(np.mean([run["training_speed"] for run in runs]))
        if arm == "counts":
            assert record["spread"] is record["loss_mixed_with_counts"] is record["loss_at_equal_tokens"] is None
        else:
            assert record["spread"] == pytest.approx(max(losses) - min(losses)) != 0
            assert record["loss_mixed_with_counts"] == pytest.approx(np.mean([run["loss_mixed_with_counts"] for run in runs]))


def test_curves_end_where_their_runs_do(report: Report) -> None:
    for arm in TRAINED:
        ends = []
        for run in of_arm(report, "runs", arm):
            curve = [point for point in of_arm(report, "curves", arm) if point["seed"] == run["seed"]]
            assert [point["tokens"] for point in curve] == [64 * step for step in (2, 3, 4, 5, 7, 8, 9, 10)]
            assert [point["seconds"] for point in curve] == sorted(point["seconds"] for point in curve)
            assert curve[-1]["seconds"] == pytest.approx(run["seconds"])
            ends.append(curve[-1]["loss"])
        assert records(report, "losses")[arm]["loss_at_equal_tokens"] == pytest.approx(np.mean(ends))
    assert [(point["tokens"], point["loss"]) for point in of_arm(report, "curves", "counts")] == [
        (records(report, "runs")["counts"]["tokens"], records(report, "losses")["counts"]["loss"])
    ]


def test_counts_stand_beside_the_curves_on_the_curves_text(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CURVE_TOKENS", 64)
    counted = bench(ngrams, TINY, BUDGET, arms=["counts"], device="cpu")
    model = count_model.estimate(ngrams.stream(held_out=False), ngrams.vocab, 5)
    few = held_out_of(ngrams, None, tokens=64)
    (point,) = of_arm(counted, "curves", "counts")
    assert point["loss"] == pytest.approx(-np.log(model.probability(few.source.stream)[few.targets - 1]).mean())
    assert point["loss"] != pytest.approx(records(counted, "losses")["counts"]["loss"], abs=1e-3)
    assert counted.facts["of them for curves, and at equal tokens"] == Measure(64, "tokens")


def test_mixing_is_never_worse_than_the_mean_of_both(report: Report) -> None:
    counts = records(report, "losses")["counts"]["loss"]
    for run in report.tables["runs"].to_pylist():
        if run["arm"] != "counts":
            assert min(run["loss"], counts) - math.log(2) < run["loss_mixed_with_counts"] < (run["loss"] + counts) / 2


def test_its_engram_is_the_one_that_build_builds(report: Report, ngrams: NGrams, tmp_path: Path) -> None:
    table = build(ngrams, tiny(seed=3), tmp_path / "made", BUDGET, device="cpu")
    run = of_arm(report, "runs", "engram")[0]
    assert run["seed"] == 3
    assert table.manifest.facts["held_out_loss"] == pytest.approx(run["loss"], abs=2e-6)
    parameters = table.manifest.facts["parameters"]
    costs = records(report, "costs")
    assert costs["engram"]["parameters_stored"] == sum(parameters.values())
    assert costs["engram"]["read_per_token"] == parameters["host"] + parameters["memory"] + 2 * 6 * 4
    assert costs["plain"]["parameters_stored"] == costs["plain"]["read_per_token"] == parameters["host"]
    assert costs["plain+statistics"]["parameters_stored"] == parameters["host"]


def test_counts_are_the_count_models(report: Report, ngrams: NGrams) -> None:
    """Which knows what follows the longest grams of the table, which are of order 4."""
    model = count_model.estimate(ngrams.stream(held_out=False), ngrams.vocab, 5)
    held_out = held_out_of(ngrams, None, tokens=1 << 17)
    probability_T = model.probability(held_out.source.stream)[held_out.targets - 1]
    assert records(report, "losses")["counts"]["loss"] == pytest.approx(-np.log(probability_T).mean())
    assert records(report, "costs")["counts"]["parameters_stored"] == model.parameters
    assert records(report, "costs")["counts"]["read_per_token"] == 15
    assert report.facts["held-out tokens measured"] == Measure(len(probability_T), "tokens")


def test_counts_are_of_order_4_at_least(ngrams: NGrams) -> None:
    counts = records(bench(ngrams, SPEAKING, BUDGET, arms=[COUNTS], device="cpu"), "costs")[COUNTS]
    model = count_model.estimate(ngrams.stream(held_out=False), ngrams.vocab, 4)
    assert (counts["parameters_stored"], counts["read_per_token"]) == (model.parameters, 12)


def test_speeds_are_speeds(report: Report) -> None:
    for arm, costs in records(report, "costs").items():
        assert costs["training_speed"] > 0
        assert costs["peak_memory"] > 1 << 20
        assert (costs["decode_speed"] is None) == (arm == "counts")
        assert (costs["decode_memory_off"] is None) == (arm != "engram")
        assert all(costs[name] is None or costs[name] > 0 for name in ("decode_speed", "decode_memory_off"))


def test_each_opponent_gets_its_sentence(report: Report) -> None:
    names = [note.split(" than ")[1].split(" (")[0] for note in report.notes]
    assert sorted(names) == sorted(
        ["counts", "plain", "plain+statistics", "plain-wide", "plain+statistics mixed half and half with counts"]
    )


def test_nothing_is_left_on_disk(report: Report, folder: Path) -> None:
    assert not list(folder.glob("engram-*"))


def test_it_is_saved_with_a_picture(report: Report, tmp_path: Path) -> None:
    artifact = write_report(tmp_path / "made", report, inputs={"ngrams": "ab"})
    assert set(artifact.manifest.files) == {
        "report.json", "losses.arrow", "costs.arrow", "runs.arrow", "curves.arrow", "bench.png",
    }  # fmt: skip
    assert artifact.file("bench.png").read_bytes().startswith(b"\x89PNG")
    again = read_report(tmp_path / "made")
    assert dict(again.facts) == dict(report.facts)
    assert all(again.tables[name].equals(table) for name, table in report.tables.items())


# which arms -----------------------------------------------------------------------------------------------------------
def test_some_arms(ngrams: NGrams, tmp_path: Path) -> None:
    stages = []

    class Told(Silent):
        def stage(self, number: int, of: int, text: str) -> None:
            stages.append((number, of, text))

    report = bench(ngrams, TINY, Budget(tokens=64), arms=["engram", "plain"], device="cpu", progress=Told())
    assert report.tables["losses"]["arm"].to_pylist() == ["plain", "engram"]
    assert [text for _, _, text in stages] == ["counts: estimating the count-only model", "plain, seed 0", "engram, seed 0"]
    assert [(number, of) for number, of, _ in stages] == [(1, 3), (2, 3), (3, 3)]
    assert [note.split(" than ")[1].split(" (")[0] for note in report.notes] == ["plain", "plain mixed half and half with counts"]
    assert report.tables["losses"]["spread"].to_pylist() == [None, None]
    counted = bench(ngrams, TINY, Budget(tokens=64), arms=["counts"], device="cpu")
    assert counted.tables["losses"]["arm"].to_pylist() == ["counts"]
    assert not counted.notes
    write_report(tmp_path / "made", counted, inputs={})


def test_arms_that_do_not_exist_are_refused(ngrams: NGrams) -> None:
    with pytest.raises(RecipeError, match=r"--arms names arms among plain, plain\+statistics, .* but 'wide' is not one"):
        bench(ngrams, TINY, BUDGET, arms=["plain", "wide"])


def test_a_plain_host_of_a_big_tables_size_is_left_out_and_said_so(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    big = dataclasses.replace(TINY, hash=HashRecipe(orders=(2, 3), heads=2, size=(6007,), layers=(0,)))
    ran = []

    def untrained(setting: object, arm: str, *rest: object) -> Run:
        ran.append(arm)
        return run_of(arm, 4.0)

    monkeypatch.setattr(module, "_train", untrained)
    report = bench(ngrams, big, BUDGET, device="cpu")
    assert ran == ["plain", "plain+statistics", "engram"]
    assert report.notes[-1].startswith("plain-wide was left out: a plain host with engram's ")
    assert "--arms plain-wide runs it all the same" in report.notes[-1]
    bench(ngrams, big, BUDGET, arms=["plain-wide"], device="cpu")
    assert ran[-1] == "plain-wide"


@pytest.mark.parametrize(
    ("rows", "host"),
    [
        (4_000, HostRecipe(width=16, layers=2, heads=2, feed_forward=32, context=16)),
        (65_536, HostRecipe()),
        (65_536, HostRecipe(width=64, layers=2, heads=1, feed_forward=100)),
        (1 << 20, HostRecipe(width=96, layers=6, heads=12, feed_forward=384)),
    ],
)
def test_plain_widened_holds_what_engram_holds(rows: int, host: HostRecipe) -> None:
    recipe = Recipe(hash=HashRecipe(size=(rows,)), rows=RowsRecipe(dim=16), host=host)
    recipe.check()
    layout = plan_layout(recipe.hash, 5000, 0)
    wide = widen(recipe, 8192, layout)
    dataclasses.replace(wide, rows=recipe.rows).check()

    def parameters(of: Recipe, memories: bool = False) -> int:
        with torch.device("meta"):
            made = make_host(of, 8192, layout if memories else None)
        return sum(count_parameters(made, layout.rows * 16 if memories else 0).values())

    engram = parameters(recipe, memories=True)
    narrower = dataclasses.replace(wide.host, width=wide.host.width - 2 * host.heads)
    shrunk = dataclasses.replace(narrower, feed_forward=round(narrower.width * host.feed_forward / host.width))
    assert parameters(dataclasses.replace(recipe, host=shrunk)) < engram <= parameters(wide) < 1.1 * engram
    assert (wide.host.layers, wide.host.heads, wide.host.context) == (host.layers, host.heads, host.context)
    assert wide.host.feed_forward / wide.host.width == pytest.approx(host.feed_forward / host.width, rel=0.05)


def test_random_rows_run_where_they_are_asked_for_and_are_trained(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = [], []

    def noted(trainer: Any, *rest: Any) -> None:
        made.append(trainer)
        rows.append(trainer.rows[0].take(np.arange(211)))

    monkeypatch.setattr(module, "train", noted)
    bench(ngrams, tiny(row_learning_rate=0.0), BUDGET, arms=["engram-random", "engram"], device="cpu")
    counted, random = made
    assert (counted.recipe.row_learning_rate, random.recipe.row_learning_rate) == (0, TrainingRecipe.row_learning_rate)
    assert 0.01 < rows[1].std() < 0.03
    assert rows[0].std() != pytest.approx(rows[1].std(), rel=0.5)


# a foreign host -------------------------------------------------------------------------------------------------------
def test_a_memory_stands_beside_the_last_block_trained_for_as_long(ngrams: NGrams, host: HostDirectory) -> None:
    recipe = dataclasses.replace(TINY, host=HostRecipe(context=16))
    report = bench(ngrams, recipe, BUDGET, host=host, seeds=2, device="cpu")
    losses = records(report, "losses")
    assert [*losses] == ["counts", "plain", "plain+last", "engram", "engram+last"]
    assert (losses["plain"]["seeds"], losses["plain"]["tokens"]) == (1, 0)
    assert {losses[arm]["tokens"] for arm in ("plain+last", "engram", "engram+last")} == {640}
    for arm in ("plain+last", "engram", "engram+last"):
        assert losses[arm]["loss"] < losses["plain"]["loss"]
    assert report.facts["equal tokens at"] == Measure(640, "tokens")
    (untrained,) = of_arm(report, "curves", "plain")
    assert losses["plain"]["loss_at_equal_tokens"] == untrained["loss"]
    names = [note.split(" than ")[1].split(" (")[0] for note in report.notes]
    assert names == ["counts", "plain", "plain+last", "engram+last", "plain+last mixed half and half with counts"]


def test_the_untrained_host_is_the_host(ngrams: NGrams, host: HostDirectory, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, host=HostRecipe(context=16))
    report = bench(ngrams, recipe, BUDGET, arms=["plain"], host=host, device="cpu")
    losses = []
    for batch in held_out_of(ngrams, None, tokens=1 << 14).batches():
        with torch.no_grad():
            logits = host.model(input_ids=torch.from_numpy(batch.tokens_BT)).logits[..., : host.vocab]
        losses.append(cross_entropy(logits, torch.from_numpy(batch.targets_BT)))
    assert records(report, "losses")["plain"]["loss"] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)
    write_report(tmp_path / "made", report, inputs={})  # its one point is drawn


def test_a_host_that_does_not_suit_the_ngrams_is_refused(raw_ngrams: NGrams, host: HostDirectory, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--host"):
        bench(raw_ngrams, dataclasses.replace(TINY, host=HostRecipe(name="other", context=16)), BUDGET)
    train_tokenizer([make_documents(5)], 300).save(str(tmp_path / "tokenizer.json"))
    other = open_host(write_host(tmp_path / "other", tmp_path / "tokenizer.json"))
    with pytest.raises(HostError, match="reads the ids of its own tokenizer"):
        bench(raw_ngrams, dataclasses.replace(TINY, host=HostRecipe(context=16)), BUDGET, host=other)


# budgets and refusals -------------------------------------------------------------------------------------------------
def test_preparation_is_taken_off_the_minutes(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    def one_step(trainer: Any, budget: Budget, *rest: Any) -> None:
        budgets.append(budget)
        trainer.step(0.0)

    monkeypatch.setattr(module, "train", one_step)
    report = bench(ngrams, TINY, Budget(seconds=600), seeds=2, arms=["engram", "plain"], device="cpu")
    losses = records(report, "losses")
    assert 600 - budgets[0].seconds == pytest.approx(losses["plain"]["preparation"])
    assert budgets[2] == budgets[3]  # prepared once, paid by both
    assert 600 - budgets[2].seconds == pytest.approx(losses["engram"]["preparation"])
    assert losses["engram"]["preparation"] > losses["plain"]["preparation"] > 0
    assert losses["engram"]["seconds"] > losses["engram"]["preparation"]
    assert report.facts["budget of a run"] == Measure(600, "seconds")


def test_minutes_that_preparation_uses_up_are_refused(ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    refusal = r"engram prepared for \d+\.\d of 0\.0 seconds; give more --minutes, or compare by --tokens"
    with pytest.raises(TrainingError, match=refusal):
        bench(ngrams, TINY, Budget(seconds=1e-4), arms=["engram"], device="cpu")
    assert not list(tmp_path.glob("engram-*"))


def test_too_little_text_is_refused(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"a batch is 100000 x 16 \+ 1 tokens"):
        bench(ngrams, tiny(batch=100_000), BUDGET, arms=["plain"], device="cpu")
    wide = dataclasses.replace(TINY, host=dataclasses.replace(TINY.host, context=100_000))
    with pytest.raises(TrainingError, match=r"held-out stretches of 100000 \+ 1 tokens"):
        bench(ngrams, wide, BUDGET, device="cpu")
    held_out, of_nothing = ngrams.stream(held_out=True), stream_of([])
    monkeypatch.setattr(NGrams, "stream", lambda ngrams, held_out, kept=held_out: kept if held_out else of_nothing)
    with pytest.raises(CorpusError, match="at least 2 tokens, but the corpus has 0"):
        bench(ngrams, TINY, BUDGET, device="cpu")


def test_a_device_that_is_not_there_is_refused_first(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "_count", pytest.fail)
    with pytest.raises(DeviceError):
        bench(ngrams, TINY, BUDGET, device="cuda")


def test_contexts_shorter_than_the_prompt_decode_too(ngrams: NGrams) -> None:
    short = dataclasses.replace(TINY, host=dataclasses.replace(TINY.host, context=2))
    costs = records(bench(ngrams, short, Budget(tokens=8), arms=["engram"], device="cpu"), "costs")["engram"]
    assert costs["decode_speed"] > 0
    assert costs["decode_memory_off"] > 0


# figures from runs ----------------------------------------------------------------------------------------------------
def run_of(arm: str, loss: float, seed: int = 0, curve: Sequence[tuple[int, float, float]] | None = None, **costs: Any) -> Run:
    curve = curve or [(100, 1.0, loss + 1), (200, 2.0, loss)]
    stated = {"parameters_stored": 10, "read_per_token": 5, "peak_memory": 1000, "training_speed": 100.0, **costs}
    return Run(arm, seed, loss, loss - 0.1, curve[-1][0], curve[-1][1], 0.5, curve, stated)


@pytest.mark.parametrize(("engram", "word"), [(3.5, "better"), (4.5, "worse")])
def test_the_verdict_has_the_same_words_whoever_wins(engram: float, word: str) -> None:
    runs = [run_of("counts", 4.0), run_of("plain", 3.9), run_of("plain", 4.1, seed=1), run_of("engram", engram)]
    assert verdicts(runs) == [
        f"engram is 0.500 nats {word} than counts ({engram:.3f} against 4.000)",
        f"engram is 0.500 nats {word} than plain ({engram:.3f} against 4.000)",
        f"engram is {abs(3.9 - engram):.3f} nats {word} than plain mixed half and half with counts ({engram:.3f} against 3.900)",
    ]


def test_the_fair_control_is_mixed_where_it_ran() -> None:
    runs = [run_of("plain", 4.0), run_of("plain+statistics", 3.0), run_of("engram", 2.95)]
    beaten = "engram is 0.050 nats worse than plain+statistics mixed half and half with counts (2.950 against 2.900)"
    assert verdicts(runs)[-1] == beaten
    assert verdicts([run_of("plain", 4.0), run_of("counts", 3.0)]) == []


# how long the control needs -------------------------------------------------------------------------------------------
def reached_by(*losses: float, engram: float) -> tuple[Reach, list[float]]:
    """A control that comes to these losses with 1, 2, 4 ... times the budget of 10 s, and for which of them it was trained."""
    asked = []

    def longer(number: int, times: float) -> Run:
        asked.append(times)
        return run_of("plain", losses[number], curve=[(100, 10 * times, losses[number])])

    runs = [run_of("plain", losses[0], curve=[(10, 10.0, losses[0])]), run_of("engram", engram, curve=[(10, 9.0, engram)])]
    return reach(runs, "plain", lengths(4), longer), asked


def test_the_time_the_control_needs_lies_between_two_of_its_runs() -> None:
    found, asked = reached_by(5.0, 4.0, 3.0, engram=3.5)
    assert asked == [2, 4]
    assert [(point.times_the_budget, point.loss) for point in found.points] == [(1, 5.0), (2, 4.0), (4, 3.0)]
    assert found.note().startswith("plain needs about 28 s to reach engram's loss of 3.500, 3.1 times engram's 9 s")  # 20 sqrt 2


@pytest.mark.parametrize(
    ("losses", "trained", "note"),
    [
        ([5.0, 3.5], [2], "plain needs about 20 s to reach engram's loss of 3.500"),
        ([3.4], [], "plain reaches engram's loss of 3.500 within the budget"),
        ([5.0, 4.0, 3.6], [2, 4], "plain did not reach engram's loss of 3.500 within 40 s, 4 times the budget: it came to 3.600"),
    ],
)
def test_the_control_is_trained_no_longer_than_needed(losses: list[float], trained: list[float], note: str) -> None:
    found, asked = reached_by(*losses, engram=3.5)
    assert asked == trained
    assert found.note().startswith(note)


def test_lengths_double_up_to_the_factor() -> None:
    assert [lengths(factor) for factor in (1.5, 2, 5, 8)] == [[1.5], [2], [2, 4, 5], [2, 4, 8]]


def test_the_fairest_control_runs_longer_and_is_told(ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    def one_step(trainer: Any, budget: Budget, *rest: Any) -> None:
        budgets.append(budget.tokens)
        for _ in range(1 + 4 * bool(trainer.rows)):  # engram is ahead
            trainer.step(0.0)

    monkeypatch.setattr(module, "train", one_step)
    arms = ["plain", "plain+statistics", "engram"]
    report = bench(ngrams, TINY, Budget(tokens=64), arms=arms, seeds=2, reach_within=3, device="cpu")
    assert budgets == [64] * 6 + [128, 192]
    records = report.tables["reach"].to_pylist()
    assert [(record["arm"], record["times_the_budget"]) for record in records] == [("plain+statistics", n) for n in (1, 2, 3)]
    assert report.notes[-1].startswith("plain+statistics did not reach engram's loss of ")
    write_report(tmp_path / "made", report, inputs={})


@pytest.mark.parametrize("arms", [["engram", "counts"], ["plain"], ["counts"]])
def test_nothing_to_reach_is_refused(ngrams: NGrams, arms: list[str]) -> None:
    with pytest.raises(RecipeError, match="name engram and a control in --arms"):
        bench(ngrams, TINY, BUDGET, arms=arms, reach_within=2)


def losses_of(*runs: Run) -> Records:
    return {record["arm"]: record for record in bench_tables(runs, bits_per_nat=0.5)["losses"].to_pylist()}


def test_losses_at_equal_tokens_lie_between_evaluations() -> None:
    fast = run_of("plain", 3.0, curve=[(100, 1.0, 5.0), (300, 3.0, 4.0), (500, 5.0, 3.0)])
    slow = run_of("engram", 3.5, curve=[(100, 1.0, 4.5), (200, 3.0, 3.5)])
    assert equal_tokens([fast, slow, run_of("counts", 2.0, curve=[(10, 1.0, 2.0)])]) == 200
    at = {arm: record["loss_at_equal_tokens"] for arm, record in losses_of(fast, slow).items()}
    assert at == {"plain": 4.5, "engram": 3.5}
    other = run_of("plain", 2.0, seed=1, curve=[(200, 1.0, 4.0), (400, 2.0, 2.0)])
    assert losses_of(fast, other, slow)["plain"]["loss_at_equal_tokens"] == 4.25


def test_where_nothing_was_measured_yet_no_loss_is_made_up() -> None:
    fast = run_of("plain", 3.0, curve=[(1000, 1.0, 4.0), (8000, 8.0, 3.0)])
    slow = run_of("plain-wide", 3.5, curve=[(100, 1.0, 4.5), (800, 8.0, 3.5)])
    losses = losses_of(fast, slow)
    assert losses["plain"]["loss_at_equal_tokens"] is None
    assert losses["plain-wide"]["loss_at_equal_tokens"] == 3.5


def test_costs_are_means_and_memory_is_the_most() -> None:
    runs = [
        run_of("engram", 3.0, decode_speed=10.0, decode_memory_off=30.0),
        run_of("engram", 3.0, seed=1, peak_memory=3000, training_speed=300.0, decode_speed=20.0, decode_memory_off=50.0),
        run_of("counts", 3.0, peak_memory=None),
    ]
    costs = {record["arm"]: record for record in bench_tables(runs, 1.0)["costs"].to_pylist()}
    assert costs["engram"] == {
        "arm": "engram", "parameters_stored": 10, "read_per_token": 5, "peak_memory": 3000, "training_speed": 200.0,
        "decode_speed": 15.0, "decode_memory_off": 40.0,
    }  # fmt: skip
    assert costs["counts"]["peak_memory"] is costs["counts"]["decode_speed"] is None


def test_every_number_has_its_unit() -> None:
    for table in bench_tables([run_of("plain", 3.0)], 1.0).values():
        for field in table.schema:
            assert field.name in ("seed", "seeds") or (field.metadata or {})[b"unit"], field.name
            assert field.type in (pa.string(), pa.int64(), pa.float64())


# memory ---------------------------------------------------------------------------------------------------------------
def test_peak_memory_follows_what_is_used() -> None:
    try:
        memory_module._CLEAR.write_text("5")
    except OSError:
        pytest.skip("this system does not let a process forget its peak")
    reset_peak_memory()
    before = peak_memory()
    assert before is not None
    with mmap.mmap(-1, 64 << 20) as taken:
        taken.write(b"\1" * (64 << 20))
    after = peak_memory()
    assert after is not None
    assert after - before > 60 << 20


def test_where_the_system_does_not_say_the_peak_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(memory_module, "_CLEAR", tmp_path / "missing/clear_refs")
    reset_peak_memory()
    assert peak_memory() is None
    (tmp_path / "status").write_text("Name:\tengram\nVmHWM:\t  2048 kB\n")
    assert peak_memory() == 2 << 20
