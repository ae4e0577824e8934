"""Rows in another type after training: what is stated is what the two tables give, and a table that got too bad is not written."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import LossError, RecipeError
from engram_cli.model import build as module
from engram_cli.model.build import build
from engram_cli.model.quantise import LossGate
from engram_cli.model.table import open_table
from engram_cli.model.train import Budget
from engram_cli.recipe import Recipe
from engram_cli.report.convert import convert
from engram_cli.store.artifact import Artifact, verify_files
from tests.tables import whole
from tests.training import TINY, held_out_of

WIDE = replace(TINY, rows=replace(TINY.rows, dim=32))
BUDGET = Budget(tokens=64 * 4)


def made(ngrams: NGrams, out: Path, recipe: Recipe = WIDE, **options: Any) -> Artifact:
    return build(ngrams, recipe, out, BUDGET, device="cpu", **options)


@pytest.fixture(scope="module")
def plain(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A table as it was trained."""
    return made(ngrams, tmp_path_factory.mktemp("plain") / "made")


def loss_of(artifact: Artifact, ngrams: NGrams) -> float:
    table = open_table(artifact.path, "cpu")
    return LossGate(table.host, table.layout.layers, held_out_of(ngrams, table.layout, 1 << 18), None).loss(table.rows)


def rows_of(artifact: Artifact) -> dict[str, bytes]:
    return {name: artifact.file(name).read_bytes() for name in artifact.manifest.files if name.startswith("rows-")}


@pytest.mark.parametrize("dtype", ["bf16", "f16", "fp8-block", "fp8-scalar", "int8-row"])
def test_losses_are_those_of_the_two_tables(ngrams: NGrams, plain: Artifact, tmp_path: Path, dtype: str) -> None:
    artifact = made(ngrams, tmp_path / "small", rows_dtype=dtype, max_loss=0.5)
    facts, before = artifact.manifest.facts, plain.manifest.facts
    assert facts["dtype"] == dtype
    assert facts["held_out_loss_before_rounding"] == before["held_out_loss"] == round(loss_of(plain, ngrams), 6)
    assert facts["held_out_loss"] == round(loss_of(artifact, ngrams), 6)
    assert loss_of(artifact, ngrams) != loss_of(plain, ngrams)
    assert facts["bits_per_byte"] / before["bits_per_byte"] == pytest.approx(
        facts["held_out_loss"] / before["held_out_loss"], abs=1e-5
    )
    assert all(said == found for _, said, found in verify_files(artifact))
    report = convert(plain.path, "engram", tmp_path / "converted", dtype=dtype, ngrams=ngrams, max_loss=0.5)
    assert rows_of(artifact) == rows_of(Artifact(tmp_path / "converted", artifact.manifest)), "both ways to a type must agree"
    assert report.facts["held-out loss after"].value == pytest.approx(facts["held_out_loss"], abs=1e-6)  # type: ignore[union-attr]


def test_a_type_that_holds_all_numbers_changes_nothing(ngrams: NGrams, tmp_path: Path) -> None:
    recipe = replace(WIDE, rows=replace(WIDE.rows, dtype="bf16"))
    half, full = made(ngrams, tmp_path / "half", recipe), made(ngrams, tmp_path / "full", recipe, rows_dtype="f32", max_loss=0)
    facts = full.manifest.facts
    assert facts["held_out_loss"] == facts["held_out_loss_before_rounding"] == half.manifest.facts["held_out_loss"]
    tables = [open_table(artifact.path, "cpu") for artifact in (half, full)]
    for layer, rows in tables[0].rows.items():
        assert np.array_equal(whole(rows), whole(tables[1].rows[layer]))
    same = made(ngrams, tmp_path / "same", recipe, rows_dtype="bf16", max_loss=0)
    assert same.manifest.facts == half.manifest.facts


def test_a_type_that_costs_too_much_is_refused_and_another_can_be_tried(ngrams: NGrams, plain: Artifact, tmp_path: Path) -> None:
    recipe = replace(WIDE, training=replace(WIDE.training, row_learning_rate=3e5))
    out = tmp_path / "made"
    with pytest.raises(LossError, match=r"must stay finite, but rows of f16 take it from \d+\.\d{4} to nan .* with --resume"):
        made(ngrams, out, recipe, rows_dtype="f16")  # rows far beyond its 65,504
    with pytest.raises(LossError, match=r"may rise by 0\.01 \(--max-loss\), but rows of f16"):
        made(ngrams, out, recipe, rows_dtype="f16", max_loss=0.01, resume=True)
    assert not out.exists()
    artifact = made(ngrams, out, recipe, resume=True)
    again = made(ngrams, tmp_path / "again", recipe)
    assert artifact.manifest.facts == again.manifest.facts
    assert rows_of(artifact) == rows_of(again)
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_a_run_killed_after_the_change_goes_on_from_the_trained_rows(
    ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def quantise(*arguments: Any) -> None:
        original(*arguments)
        raise Killed

    original = module.quantise
    with monkeypatch.context() as patch:
        patch.setattr(module, "quantise", quantise)
        with pytest.raises(Killed):
            made(ngrams, tmp_path / "made", rows_dtype="int8-row")
    resumed = made(ngrams, tmp_path / "made", rows_dtype="int8-row", resume=True)
    straight = made(ngrams, tmp_path / "straight", rows_dtype="int8-row")
    assert resumed.manifest.facts == straight.manifest.facts
    assert rows_of(resumed) == rows_of(straight)


def test_a_type_that_the_rows_do_not_fit_is_refused_before_any_work(ngrams: NGrams, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`rows\.dim` must be a multiple of 32 in fp8-block"):
        made(ngrams, tmp_path / "made", TINY, rows_dtype="fp8-block")
    assert not os.listdir(tmp_path)
