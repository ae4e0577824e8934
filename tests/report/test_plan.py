"""Plan: what a table costs is what it takes, what is chosen fits, and the advice can be built."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError, RecipeError
from engram_cli.model.build import build
from engram_cli.model.data import layout_for
from engram_cli.model.pace import measure_pace
from engram_cli.model.train import Budget
from engram_cli.recipe import BUILT_IN, HashRecipe, Recipe, load_recipe, parse_recipe
from engram_cli.report import plan as planning
from engram_cli.report.costs import costs_of
from engram_cli.report.plan import AS_IT_IS, plan
from engram_cli.table.layout import plan_layout
from tests.training import TINY, start_of, tiny, trainer_of

TABLES = Path(__file__).resolve().parent.parent.parent / "tables"
SMALL = replace(TINY, hash=replace(TINY.hash, orders=(2, 3), layers=(1,)))
MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "gib", "per_token", "rows"),
    [
        ("deepseek-v4.1-flash", 188.83, 12_672, 768_022_850),
        ("qwen-ple", 47.68, 2_560, 320_001_536),
        ("engram-27b", 10.79, 5_120, 72_404_232),
        ("demo", 0.59, 600, 6_307_980),
    ],
)
def test_published_tables(name: str, gib: float, per_token: int, rows: int) -> None:
    """188.83 GiB and 12,672 bytes a token, as they are published."""
    found = plan(recipe=load_recipe(TABLES / f"{name}.toml"))
    (costs,) = found.report.tables["costs"].to_pylist()
    (record,) = found.report.tables["plans"].to_pylist()
    assert round(costs["table"] / 2**30, 2) == gib
    assert (record["rows"], record["read_per_token"]) == (rows, per_token)
    assert found.report.facts["table"] == f"{gib:.2f} GiB: {rows:,} rows of {costs['table'] // rows:,} bytes"
    assert "purity" not in record
    assert found.advised is None


@pytest.mark.parametrize("recipe", [tiny(), tiny("random"), tiny(dtype="bf16")], ids=["counts", "random", "bf16"])
def test_costs_are_what_a_table_takes(ngrams: NGrams, tmp_path: Path, recipe: Recipe) -> None:
    layout = layout_for(recipe.hash, ngrams)
    costs = costs_of(recipe, layout, ngrams.vocab)
    artifact = build(ngrams, recipe, tmp_path / "table", Budget(tokens=64), device="cpu")
    header = 4096
    rows = sum(record.bytes - header for name, record in artifact.manifest.files.items() if name.startswith("rows-"))
    assert costs.table == rows
    weights = artifact.manifest.facts["parameters"]
    assert costs.weights == weights["host"] + weights["memory"]
    trainer = trainer_of(ngrams, start_of(ngrams, tmp_path, recipe), recipe)
    kept = [item.store.read(np.zeros(1, np.int64))[1].nbytes * item.store.count for item in trainer.rows.values()]
    assert costs.optimizer == sum(kept)
    window = np.zeros((1, layout.max_order), np.int64)
    numbers = [item.store.read(item.layout.row_ids(window)[0])[0] for item in trainer.rows.values()]
    assert costs.read_per_token == sum(read.nbytes for read in numbers)


@pytest.mark.parametrize("memory", [2 * MIB, 3 * MIB, 1 << 62])
@pytest.mark.parametrize("base", [None, SMALL, replace(SMALL, hash=replace(SMALL.hash, layers=(0, 1)))], ids=["-", "one", "two"])
def test_what_is_chosen_fits(ngrams: NGrams, memory: int, base: Recipe | None) -> None:
    found = plan(ngrams, recipe=base, memory=memory, measure=False)
    records = {record["plan"]: record for record in found.report.tables["plans"].to_pylist()}
    assert [name for name, record in records.items() if record["advised"]] == [found.advised]
    for name, recipe in found.recipes.items():
        if name != AS_IT_IS:
            recipe.check()
            recipe.check_buildable()
            assert records[name]["memory"] <= memory
            assert costs_of(recipe, layout_for(recipe.hash, ngrams), ngrams.vocab).memory == records[name]["memory"]
            assert recipe.host == (base or BUILT_IN).host
            assert recipe.hash.layers == (base or BUILT_IN).hash.layers


def test_more_memory_is_never_worse(ngrams: NGrams) -> None:
    found = [plan(ngrams, recipe=SMALL, memory=size * MIB, measure=False).report.tables for size in (1, 2, 4)]
    purities = [{record["plan"]: record["purity"] for record in tables["plans"].to_pylist()} for tables in found]
    for less, more in itertools.pairwise(purities):
        assert all(more[name] >= purity - 1e-3 for name, purity in less.items() if name != AS_IT_IS)
    gains = [record["gain"] for record in found[0]["budgets"].to_pylist()[1:]]
    assert all(gain > -1e-3 for gain in gains)


def test_the_smallest_budget_that_is_named_works(ngrams: NGrams) -> None:
    with pytest.raises(RecipeError, match="the smallest table") as refused:
        plan(ngrams, memory=10_000, measure=False)
    named = int(str(refused.value).split("give ")[-1].split("KiB")[0])
    assert plan(ngrams, memory=named * 1024, measure=False).recipes
    with pytest.raises(RecipeError, match="the smallest table"):
        plan(ngrams, memory=(named - 1) * 1024, measure=False)


def test_more_than_the_counts_can_use_is_left(ngrams: NGrams) -> None:
    found = plan(ngrams, memory=1 << 44, measure=False)
    assert any("more rows would change nothing" in note for note in found.report.notes)
    assert max(record["memory"] for record in found.report.tables["plans"].to_pylist()) < 1 << 32


def test_a_recipe_that_is_larger_than_the_machine_is_told_of(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_memory", lambda: 1000)
    monkeypatch.setattr(planning, "free_disk", lambda directory: 1000)
    notes = " ".join(plan(ngrams, recipe=SMALL, measure=False).report.notes)
    assert "filling the rows takes" in notes
    assert "held in memory the table takes" in notes
    assert "of disk, but 1000 B are free here" in notes


def test_what_filling_takes_and_what_raw_ids_gain_is_told(ngrams: NGrams, raw_ngrams: NGrams) -> None:
    folded, raw = (" ".join(plan(counted, memory=2 * MIB, measure=False).report.notes) for counted in (ngrams, raw_ngrams))
    assert "extract --no-canonical" in folded
    assert "extract --no-canonical" not in raw
    for notes in (folded, raw):
        assert "of memory for the grams besides, and time on top of training" in notes
    random = replace(SMALL, rows=replace(SMALL.rows, init="random"))
    assert "filling" not in " ".join(plan(ngrams, recipe=random, measure=False).report.notes)


def test_the_recipe_written_is_the_plan(ngrams: NGrams, tmp_path: Path) -> None:
    found = plan(ngrams, recipe=SMALL, memory=MIB, measure=False)
    for name, recipe in found.recipes.items():
        text = found.recipe_text(name, "mine")
        read = parse_recipe(text)
        assert (read.name, read.hash, read.rows, read.host, read.training) == (
            "mine", recipe.hash, recipe.rows, recipe.host, recipe.training,
        )  # fmt: skip
        assert "# n of the n-grams that are looked up" in text
        assert "#" not in text.split("[host]")[1].split("[training]")[0]
    with pytest.raises(RecipeError, match="--take names one of the plans"):
        found.recipe_text("nothing")
    built = build(ngrams, parse_recipe(found.recipe_text()), tmp_path / "table", Budget(tokens=64), device="cpu")
    assert built.manifest.facts["rows"] == costs_of(found.recipes[found.advised or ""], layout_for(parse_recipe(
        found.recipe_text()).hash, ngrams), ngrams.vocab).rows  # fmt: skip


def test_a_family_with_one_size_has_one(raw_ngrams: NGrams) -> None:
    base = replace(SMALL, hash=HashRecipe(family="qwen-ple", layers=(1,), multiple=128))
    found = plan(raw_ngrams, recipe=base, memory=MIB, measure=False)
    assert all(len(recipe.hash.size) == 1 for recipe in found.recipes.values())


def test_pace_is_measured_on_rows_that_take_no_room(ngrams: NGrams) -> None:
    layout = layout_for(SMALL.hash, ngrams)
    pace = measure_pace(ngrams, SMALL, layout, torch.device("cpu"))
    assert 5 <= pace.steps <= 12
    assert pace.tokens == SMALL.training.batch * SMALL.host.context
    assert pace.tokens_per_second == pace.tokens / pace.seconds
    (record,) = plan(ngrams, recipe=SMALL, device="cpu").report.tables["training"].to_pylist()
    assert record["tokens_in_those"] == round(60 * SMALL.training.minutes * record["training_speed"])


def test_what_cannot_be_planned(ngrams: NGrams, raw_ngrams: NGrams) -> None:
    with pytest.raises(RecipeError, match="neither is given"):
        plan(ngrams)
    with pytest.raises(RecipeError, match="no n-grams are given"):
        plan(recipe=SMALL, memory=MIB)
    with pytest.raises(RecipeError, match="the one host that is made here is engram"):
        plan(ngrams, recipe=load_recipe(TABLES / "engram-27b.toml"), memory=MIB)
    with pytest.raises(ArtifactError, match="counted only"):
        plan(ngrams, recipe=replace(SMALL, hash=replace(SMALL.hash, orders=(2, 5))))
    with pytest.raises(RecipeError, match="hashes raw ids"):
        plan(ngrams, recipe=load_recipe(TABLES / "qwen-ple.toml"))


def test_rows_follow_from_the_sizes_alone(ngrams: NGrams) -> None:
    assert plan_layout(SMALL.hash, 2, 0).rows == layout_for(SMALL.hash, ngrams).rows
