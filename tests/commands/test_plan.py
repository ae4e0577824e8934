"""`engram plan` as its user meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.recipe import load_recipe
from engram_cli.store.artifact import open_artifact
from tests.training import TINY

Output = pytest.CaptureFixture[str]
Refused = Callable[..., str]
DEEPSEEK = Path(__file__).resolve().parent.parent.parent / "tables/deepseek-v4.1-flash.toml"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml().replace("[2, 3, 4]", "[2, 3]"))


@pytest.fixture
def refused(ngrams_path: Path, tmp_path: Path, capsys: Output) -> Refused:
    """Run `engram plan` and return its one line of refusal; nothing in the folder may have changed."""

    def check(*options: str, ngrams: Path | None = ngrams_path) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert run(["plan", *([str(ngrams)] if ngrams else []), "--quiet", *options]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        (line,) = captured.err.splitlines()
        assert line.startswith("engram: ")
        return line

    return check


def test_a_budget_becomes_a_table(ngrams_path: Path, capsys: Output) -> None:
    """From a plan to the table that it told of, by the recipe it wrote."""
    options = ["--recipe", "tiny.toml", "--memory", "1MiB", "--no-measure", "-o", "mine.toml"]
    assert run(["plan", str(ngrams_path), *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (advised,) = (record for record in document["tables"]["plans"] if record["advised"])
    assert load_recipe("mine.toml").name == "mine"
    assert run(["collisions", str(ngrams_path), "--recipe", "mine.toml", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["facts"]["rows"] == advised["rows"]
    assert run(["build", str(ngrams_path), "--recipe", "mine.toml", "--tokens", "64", "-o", "table", "--quiet"]) == 0
    assert open_artifact("table", "table").manifest.facts["rows"] == advised["rows"]


def test_another_plan_can_be_taken(ngrams_path: Path) -> None:
    options = ["--recipe", "tiny.toml", "--memory", "1MiB", "--no-measure", "--quiet", "-o", "mine.toml"]
    assert run(["plan", str(ngrams_path), *options, "--take", "many-heads"]) == 0
    assert load_recipe("mine.toml").hash.heads == 8
    assert run(["plan", str(ngrams_path), *options, "--force", "--take", "f32"]) == 0
    assert load_recipe("mine.toml").hash.heads == 2


def test_speed_is_measured(ngrams_path: Path, capsys: Output) -> None:
    assert run(["plan", str(ngrams_path), "--recipe", "tiny.toml", "--json", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["[1/1] recipe: a few steps of training"]
    (record,) = json.loads(captured.out)["tables"]["training"]
    assert record["steps_measured"] >= 5
    assert record["training_speed"] > 0


def test_a_published_table_needs_no_ngrams(capsys: Output) -> None:
    assert run(["plan", "--recipe", str(DEEPSEEK)]) == 0
    shown = capsys.readouterr().out
    assert "188.83 GiB: 768,022,850 rows of 264 bytes" in shown
    assert "12,672 bytes in 48 rows" in shown
    assert "purity" not in shown


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give --memory or --recipe"),
        (["--memory", "1KiB"], "the smallest table, 1024 rows a head, takes"),
        (["--memory", "much"], "--memory is a size such as 512MiB"),
        (["--memory", "0"], "--memory is a size such as 512MiB"),
        (["--memory", "-1GiB"], "--memory is a size such as 512MiB"),
        (["--recipe", "nowhere.toml"], "cannot be read"),
        (["--recipe", "tiny.toml", "-o", "mine.toml"], "give --memory"),
        (["--memory", "1MiB", "--take", "bf16"], "give --out"),
        (["--memory", "1MiB", "-o", "tiny.toml"], "tiny.toml is there already"),
        (["--memory", "1MiB", "-o", ".", "--force"], "name a file"),
        (["--memory", "1MiB", "--device", "gpu"], "--device is auto, cpu or cuda"),
        (["--recipe", str(DEEPSEEK)], "counted only 1, 2, 3"),
        (["--recipe", str(DEEPSEEK), "--memory", "1GiB"], "the one host that is made here is engram"),
    ],
    ids=str,
)
def test_what_cannot_be(refused: Refused, options: list[str], reason: str) -> None:
    assert reason in refused(*options)


def test_a_plan_that_is_none_is_refused_before_any_is_measured(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram_cli.report.plan.measure_pace", None)
    assert "--take names one of the plans" in refused("--memory", "1MiB", "-o", "mine.toml", "--take", "none")


def test_a_budget_without_ngrams(refused: Refused) -> None:
    assert "name an n-gram artifact" in refused("--memory", "1GiB", ngrams=None)


def test_what_is_no_ngrams(refused: Refused, table_path: Path) -> None:
    assert "needs an artifact of kind ngrams" in refused("--memory", "1GiB", ngrams=table_path)
