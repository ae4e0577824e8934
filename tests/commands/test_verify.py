"""`engram verify`: 0 where every byte is what was written, 1 where one is not, 2 where it could not be told."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from engram_cli.__main__ import run
from engram_cli.store.tensors import write_tensors

Output = pytest.CaptureFixture[str]


@pytest.fixture
def copy(table_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(table_path, tmp_path / "copy"))


def test_whole_artifacts_pass(table_path: Path, ngrams_path: Path, capsys: Output) -> None:
    assert run(["verify", str(table_path), str(ngrams_path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Every byte is what was written\n")
    assert shown.err.splitlines() == [f"[1/2] reading {table_path}", f"[2/2] reading {ngrams_path}"]


def test_one_changed_byte_fails(copy: Path, table_path: Path, capsys: Output) -> None:
    with (copy / "rows-00.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"\x55")
    assert run(["verify", str(table_path), str(copy), "--json", "--quiet"]) == 1
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert [(r["artifact"], r["file"], r["state"]) for r in document["tables"]["damaged"]] == [
        (str(copy), "rows-00.safetensors", "changed")
    ]
    assert [record["damaged"] for record in document["tables"]["artifacts"]] == [0, 1]
    assert shown.err == ""


def test_damage_is_shown_with_what_was_written(copy: Path, capsys: Output) -> None:
    (copy / "layout.arrow").unlink()
    (copy / "extra").write_text("")
    assert run(["verify", str(copy)]) == 1
    shown = capsys.readouterr().out
    assert "2 of 8 files are not what was written" in shown
    assert "make a damaged artifact again" in shown


def test_what_is_no_artifact_is_an_error_and_nothing_is_read(table_path: Path, tmp_path: Path, capsys: Output) -> None:
    assert run(["verify", str(table_path), str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_a_checkpoint_is_recorded_when_it_is_first_seen_and_compared_later(tmp_path: Path, capsys: Output) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    write_tensors(model / "model.safetensors", {"weight": ("U8", np.zeros(8, np.uint8))})
    assert run(["verify", str(model)]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 files are seen for the first time")
    assert run(["verify", str(model)]) == 0
    assert capsys.readouterr().out.startswith("Every byte is what was written\n")
    write_tensors(model / "model.safetensors", {"weight": ("U8", np.ones(8, np.uint8))})
    (model / "more").write_bytes(b"")
    assert run(["verify", str(model), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["tables"]["damaged"]
    assert [(record["file"], record["state"]) for record in found] == [("model.safetensors", "changed"), ("more", "extra")]


def test_a_checkpoint_that_is_seen_to_be_cut_is_not_recorded(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_tensors(tmp_path / "model.safetensors", {"weight": ("U8", np.zeros(8, np.uint8))})
    os.truncate(tmp_path / "model.safetensors", 4100)
    assert run(["verify", str(tmp_path)]) == 2
    assert "it is truncated" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_digests_of_a_checkpoint_may_lie_elsewhere(tmp_path: Path, table_path: Path, capsys: Output) -> None:
    model, digests = tmp_path / "model", tmp_path / "digests.json"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert run(["verify", str(model), "--digests", str(digests)]) == 0
    assert {path.name for path in model.iterdir()} == {"config.json"}
    digests.write_text("[]")
    assert run(["verify", str(model), "--digests", str(digests)]) == 2
    assert run(["verify", str(model), str(table_path), "--digests", str(digests)]) == 2
    assert capsys.readouterr().err.count("engram: ") == 2
