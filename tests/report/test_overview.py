"""A folder of artifacts: each is named, with what it was made from."""

from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.corpus.artifact import NGrams
from engram_cli.report.overview import artifacts_in, overview
from engram_cli.report.report import Measure, Report, write_report


@pytest.fixture
def folder(tmp_path: Path, ngrams: NGrams, ngrams_path: Path, table_path: Path) -> Path:
    """Links to the shared artifacts, and a report made from one of them."""
    (tmp_path / "counted").symlink_to(ngrams_path)
    (tmp_path / "table").symlink_to(table_path)
    report = Report("verify", "Shared rows", {"purity": Measure(0.75, "share")})
    write_report(tmp_path / "asked", report, inputs={"ngrams": ngrams.artifact.digest})
    (tmp_path / "notes").mkdir()
    (tmp_path / ".asked.partial").mkdir()
    return tmp_path


def test_artifacts_come_in_the_order_of_the_pipeline_and_say_what_they_were_made_from(folder: Path, ngrams: NGrams) -> None:
    report = overview(folder, artifacts_in(folder))
    records = report.tables["artifacts"].to_pylist()
    assert [Path(record["artifact"]).name for record in records] == ["counted", "table", "asked"]
    assert [record["kind"] for record in records] == ["ngrams", "table", "report"]
    assert records[2]["made_from"] == "counted"
    assert report.facts["counted: tokens"] == Measure(ngrams.artifact.manifest.facts["tokens"], "tokens")
    assert report.facts["asked: purity"] == Measure(0.75, "share")


def test_inspect_shows_a_folder_of_artifacts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(folder)]) == 0
    assert "asked: purity" in capsys.readouterr().out


def test_an_artifact_or_an_empty_folder_is_no_folder_of_artifacts(folder: Path, ngrams_path: Path) -> None:
    assert artifacts_in(ngrams_path) == artifacts_in(folder / "notes") == artifacts_in(folder / "absent") == []
