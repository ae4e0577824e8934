"""`engram inspect`: any artifact, for people and as JSON."""

import json
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.store.artifact import open_artifact

Output = pytest.CaptureFixture[str]


def test_a_table_is_shown(table_path: Path, capsys: Output) -> None:
    assert run(["inspect", str(table_path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{table_path}: table artifact\n")
    assert open_artifact(table_path).digest in shown.out
    for heading in ("Layers", "Orders", "Weights", "Recipe", "Files"):
        assert f"\n{heading}\n" in shown.out
    assert shown.err == ""


def test_json_is_one_document(ngrams_path: Path, capsys: Output) -> None:
    assert run(["inspect", str(ngrams_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["facts"]["tokens"] == open_artifact(ngrams_path).manifest.facts["tokens"]
    assert [record["file"] for record in document["tables"]["files"]] == list(open_artifact(ngrams_path).manifest.files)


def test_what_was_found_is_kept_with_its_picture(ngrams_path: Path, tmp_path: Path, capsys: Output) -> None:
    assert run(["inspect", str(ngrams_path), "--out", str(tmp_path / "counts")]) == 0
    shown = capsys.readouterr().out
    saved = open_artifact(tmp_path / "counts", "report")
    assert "ngrams.png" in saved.manifest.files
    assert saved.manifest.inputs == {"ngrams": open_artifact(ngrams_path).digest}
    assert run(["inspect", str(tmp_path / "counts")]) == 0
    assert capsys.readouterr().out == shown
    assert run(["inspect", str(ngrams_path), "--out", str(tmp_path / "counts")]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["inspect", str(tmp_path), "--out", str(tmp_path / "all")]) == 0
    assert open_artifact(tmp_path / "all").manifest.inputs == {"counts": saved.digest}


def test_what_is_no_artifact_is_refused(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, message in (("empty", "has none"), ("file", "a file lies there"), ("nothing", "nothing is there")):
        assert run(["inspect", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


def test_a_table_is_looked_into(table_path: Path, tmp_path: Path, capsys: Output) -> None:
    assert run(["inspect", str(table_path), "--text", "The capital", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tables"]["rows"]
    first = rows[0]
    assert run(["inspect", str(table_path), "--row", f"{first['layer']}:{first['row']}", "--out", str(tmp_path / "row")]) == 0
    shown = capsys.readouterr().out
    assert f"row {first['row']} of layer {first['layer']}" in shown
    assert open_artifact(tmp_path / "row").manifest.inputs == {"table": open_artifact(table_path).digest}
    assert run(["inspect", str(tmp_path / "row")]) == 0
    assert capsys.readouterr().out == shown


def test_all_rows_of_a_table_are_weighed(table_path: Path, tmp_path: Path, capsys: Output) -> None:
    assert run(["inspect", str(table_path), "--stats", "--out", str(tmp_path / "stats")]) == 0
    shown = capsys.readouterr()
    assert "Heads" in shown.out
    assert "reading the rows of layer 0" in shown.err
    assert "table.png" in open_artifact(tmp_path / "stats").manifest.files


def test_questions_are_asked_one_at_a_time_and_of_a_table(table_path: Path, ngrams_path: Path, capsys: Output) -> None:
    for options, message in (
        ([str(table_path), "--text", "a", "--row", "0:1"], "one question at a time"),
        ([str(table_path), "--ngrams", str(ngrams_path)], "--ngrams belongs to a question"),
        ([str(ngrams_path), "--text", "a"], "table"),
        ([str(table_path), "--text", ""], "has none; give some text"),
        ([str(table_path), "--gram", "a"], "has 2 or 3 tokens"),
        ([str(table_path), "--row", "7:0"], "asks for layer 7"),
        ([str(table_path), "--row", "0:0", "--ngrams", str(ngrams_path)], "one token map"),
    ):
        assert run(["inspect", *options]) == 2
        assert message in capsys.readouterr().err
