"""`engram bench` as its user meets it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engram_cli.__main__ import run
from engram_cli.model.host_directory import open_host
from engram_cli.recipe import HostRecipe
from engram_cli.report.report import read_report
from engram_cli.store.artifact import open_artifact
from tests.hosts import write_host
from tests.training import TINY

Output = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())


@pytest.fixture
def refused(ngrams_path: Path, tmp_path: Path, capsys: Output) -> Refused:
    """Run `engram bench` and return its one line of refusal; nothing in the folder may have changed."""

    def check(*options: str, ngrams: Path = ngrams_path) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert run(["bench", str(ngrams), "--recipe", "tiny.toml", "--out", "made", "--quiet", *options]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = captured.err.splitlines()
        assert line.startswith("engram: ")
        return line

    return check


def test_the_report_is_saved_and_shown(ngrams_path: Path, capsys: Output) -> None:
    options = ["--tokens", "128", "--arms", "counts, engram,plain", "--seeds", "2", "-o", "made"]
    assert run(["bench", str(ngrams_path), "--recipe", "tiny.toml", *options]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "[1/5] counts: estimating the count-only model", "[2/5] plain, seed 0", "[3/5] plain, seed 1",
        "[4/5] engram, seed 0", "[5/5] engram, seed 1",
    ]  # fmt: skip
    report = read_report("made")
    for note in report.notes:
        assert note in " ".join(captured.out.split())
    for shown in ("Held-out loss", "Costs", "training tokens", "Bench of tiny on small"):
        assert shown in captured.out
    manifest = open_artifact("made", "report").manifest
    assert manifest.inputs == {"ngrams": open_artifact(ngrams_path).digest}
    assert manifest.recipe == TINY.to_toml()
    assert Path("made/bench.png").stat().st_size > 10_000


def test_json_is_the_whole_report(ngrams_path: Path, tmp_path: Path, capsys: Output) -> None:
    options = ["--tokens", "64", "--arms", "engram,plain", "--quiet", "--json", "--seed", "7"]
    assert run(["bench", str(ngrams_path), "--recipe", "tiny.toml", *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(captured.out)
    assert [record["arm"] for record in document["tables"]["losses"]] == ["plain", "engram"]
    assert {run["seed"] for run in document["tables"]["runs"]} == {7}
    assert {run["tokens"] for run in document["tables"]["runs"]} == {64}
    assert {"losses", "costs", "runs", "curves"} == set(document["tables"])
    assert all(note.startswith("engram is ") for note in document["notes"])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--arms", "plain,nothing"], "but 'nothing' is not one"),
        (["--arms", ","], "but '' is not one"),
        (["--minutes", "1", "--tokens", "64"], "both are given"),
        (["--tokens", "0"], "--tokens must be above 0"),
        (["--reach", "1", "--arms", "engram,plain"], "above 1, but it is 1"),
        (["--reach", "nan", "--arms", "engram,plain"], "above 1, but it is nan"),
        (["--reach", "4", "--arms", "plain"], "but the arms that train are plain; name engram and a control"),
        (["--arms", "plain+last"], "but 'plain+last' is not one"),
        (["--host", "nowhere"], "nowhere is no directory"),
        (["--seeds", "0"], "'--seeds': Input should be greater than or equal to 1"),
        (["--seed", "-1"], "`training.seed` must be from 0"),
        (["--minutes", "0.0000001", "--arms", "engram"], "engram prepared for"),
        (["--device", "gpu"], "--device is auto, cpu or cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be(refused: Refused, options: list[str], reason: str) -> None:
    assert reason in refused(*options)


def test_a_foreign_host_gets_the_memory_and_the_control(ngrams_path: Path, tmp_path: Path, capsys: Output) -> None:
    host = write_host(tmp_path / "foreign", ngrams_path / "tokenizer.json")
    (tmp_path / "tiny.toml").write_text(replace(TINY, host=HostRecipe(name="tiny", context=16)).to_toml())
    options = ["--tokens", "64", "--arms", "plain,plain+last,engram", "--quiet", "--reach", "2", "-o", "made", "--json"]
    assert run(["bench", str(ngrams_path), "--recipe", "tiny.toml", "--host", str(host), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [record["arm"] for record in document["tables"]["losses"]] == ["plain", "plain+last", "engram"]
    assert document["facts"]["host"] == "tiny"
    assert document["tables"]["reach"][0]["arm"] == "plain+last"
    inputs = open_artifact("made", "report").manifest.inputs
    assert inputs == {"ngrams": open_artifact(ngrams_path).digest, "host": open_host(host).digest}


def test_a_gpu_that_is_not_there(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda needs a CUDA GPU" in refused("--device", "cuda")


def test_what_is_no_ngrams(refused: Refused, table_path: Path) -> None:
    assert "needs an artifact of kind ngrams" in refused(ngrams=table_path)


def test_what_is_in_the_way_is_refused_before_any_work(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    monkeypatch.setattr("engram_cli.report.bench.bench", pytest.fail)
    assert "--out must not exist" in refused()
    assert "--force replaces artifacts only" in refused("--force")
