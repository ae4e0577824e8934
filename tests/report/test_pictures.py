"""Pictures: one for each report that has numbers to see, drawn without a display, from its tables alone."""

from pathlib import Path

import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.recipe import HashRecipe
from engram_cli.report.collisions import collisions
from engram_cli.report.ngrams_summary import summarise
from engram_cli.report.pictures import draw
from engram_cli.report.report import Report
from engram_cli.table.layout import plan_layout


@pytest.mark.parametrize(
    "recipe",
    [HashRecipe(orders=(2,), heads=1, size=(2,), layers=(0,)), HashRecipe(orders=(2, 3), heads=8, size=(500,), layers=(1, 3, 9))],
    ids=["one head of two rows", "48 heads"],
)
def test_collisions_are_drawn(ngrams: NGrams, tmp_path: Path, recipe: HashRecipe) -> None:
    layout = plan_layout(recipe, ngrams.canonical_vocab, ngrams.canonical_pad)
    (path,) = draw(collisions(ngrams, layout, name="any", worst=1), tmp_path)
    assert path.parent == tmp_path
    assert path.read_bytes().startswith(b"\x89PNG")


def test_counts_are_drawn(ngrams: NGrams, tmp_path: Path) -> None:
    (path,) = draw(summarise(ngrams), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_report_without_numbers_has_no_picture(tmp_path: Path) -> None:
    assert draw(Report("verify", "Every byte is what was written"), tmp_path) == []
    assert not list(tmp_path.iterdir())
