"""`engram diff`: 0 where all rows are the same, 1 where some differ, 2 where that could not be told."""

import json
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.report.convert import convert

Output = pytest.CaptureFixture[str]


def test_the_exit_code_is_the_verdict(table_path: Path, tmp_path: Path, capsys: Output) -> None:
    convert(table_path, "engram", tmp_path / "half", dtype="f16")
    convert(tmp_path / "half", "engram", tmp_path / "wide", dtype="f32")
    assert run(["diff", str(table_path), str(table_path)]) == 0
    assert capsys.readouterr().out.startswith("The tables are the same: their digests are equal\n")
    assert run(["diff", str(tmp_path / "half"), str(tmp_path / "wide")]) == 0
    assert capsys.readouterr().out.startswith("All ")
    assert run(["diff", str(table_path), str(tmp_path / "half"), "--json", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["tables"]["rows"]) == 10
    assert shown.err == ""
    assert run(["diff", str(table_path), str(tmp_path / "nothing")]) == 2
