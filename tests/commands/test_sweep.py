"""`engram sweep` as its user meets it."""

import json
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.report import sweep as sweeping
from engram_cli.report.report import read_report
from engram_cli.store.artifact import open_artifact
from tests.training import TINY

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml().replace("[2, 3, 4]", "[2, 3]"))


def test_the_report_is_saved_and_shown(ngrams_path: Path, capsys: Output) -> None:
    options = ["--rows", "2^10, 3000", "--shares", "0,0.5", "--tokens", "64", "-o", "made"]
    assert run(["sweep", str(ngrams_path), "--recipe", "tiny.toml", *options]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "[1/8] plain+statistics, 0 rows, seed 0"
    assert len(captured.err.splitlines()) == 8
    report = read_report("made")
    assert set(report.tables) == {"rows", "fits", "shares", "runs"}
    assert (Path("made") / "sweep.png").stat().st_size > 10_000
    assert open_artifact("made").manifest.recipe.startswith('name = "tiny"')
    assert run(["inspect", "made"]) == 0
    assert capsys.readouterr().out == captured.out


def test_json_holds_every_run(ngrams_path: Path, capsys: Output) -> None:
    options = ["--rows", "1000,2000", "--tokens", "64", "--json", "--quiet", "--seed", "7"]
    assert run(["sweep", str(ngrams_path), "--recipe", "tiny.toml", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "shares" not in document["tables"]
    assert {record["seed"] for record in document["tables"]["runs"]} == {7}
    assert [path.name for path in Path().iterdir()] == ["tiny.toml"]


def test_what_is_finished_is_kept_on_ctrl_c(ngrams_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    train, calls = sweeping.train, []

    def stopped(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 2:
            raise KeyboardInterrupt
        train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeping, "train", stopped)
    options = ["--rows", "1000,2000", "--tokens", "64", "-o", "made", "--quiet"]
    assert run(["sweep", str(ngrams_path), "--recipe", "tiny.toml", *options]) == 130
    assert "stopped after 2 of 6 runs" in capsys.readouterr().out
    assert read_report("made").tables["runs"].num_rows == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give --rows or --shares"),
        (["--rows", "many"], "--rows is a list of numbers"),
        (["--rows", "1000,"], "--rows is a list of numbers"),
        (["--rows", "-5"], "--rows is a list of numbers"),
        (["--rows", "999^99"], "`hash.size` must be from 2 to 2^40"),
        (["--rows", "0"], "a head has at least 2 rows"),
        (["--shares", "1.5"], "from 0 to below 1"),
        (["--shares", "nan"], "--shares is a list of numbers"),
        (["--shares", "0.5", "--parameters", "100"], "the narrowest takes"),
        (["--shares", "0.5", "--parameters", "0"], "'--parameters'"),
        (["--rows", "1000", "--minutes", "1", "--tokens", "64"], "both are given"),
        (["--rows", "1000", "--device", "gpu"], "--device is auto, cpu or cuda"),
    ],
    ids=str,
)
def test_options_that_cannot_be(ngrams_path: Path, options: list[str], reason: str, capsys: Output) -> None:
    assert run(["sweep", str(ngrams_path), "--recipe", "tiny.toml", "--out", "made", "--quiet", *options]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    assert reason in line
    assert not Path("made").exists()
