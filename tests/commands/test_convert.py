"""`engram convert`: one table in, one table out; a kill costs the time since the last note and nothing else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.model.quantise import LossGate
from tests.checkpoints import write_demo
from tests.training import TINY

Output = pytest.CaptureFixture[str]
KILLED = """
import os, signal, sys
from engram_cli.progress import Silent
from engram_cli.report import convert as converting
from engram_cli.table import convert as streaming
converting._RECORD_SECONDS, streaming._NUMBERS = 0.0, 64
class Kill(Silent):
    def advance(self, done, total, unit, note=""):
        if done > 0.6 * total:
            os.kill(os.getpid(), signal.SIGKILL)
converting.convert(sys.argv[1], "engram", sys.argv[2], dtype="int8-row", progress=Kill())
"""


def test_a_table_is_converted(table_path: Path, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "half"
    assert run(["convert", str(table_path), "--to", "engram", "--dtype", "f16", "--out", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["about"] == "convert"
    assert [layer["dtype"] for layer in document["tables"]["layers"]] == ["f16", "f16"]
    assert 0 < document["facts"]["relative RMS error"] < 0.001
    assert shown.err.startswith("[1/2] writing ")
    assert run(["verify", str(out), "--quiet"]) == 0
    assert run(["inspect", str(out)]) == 0


def test_the_loss_is_shown_and_gates(ngrams_path: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())
    built, out = str(tmp_path / "built"), tmp_path / "out"
    assert run(["build", str(ngrams_path), "--recipe", str(tmp_path / "tiny.toml"), "--tokens", "64", "-o", built, "--quiet"]) == 0
    capsys.readouterr()
    arguments = ["convert", built, "--to", "engram", "--dtype", "bf16", "--ngrams", str(ngrams_path), "--quiet", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(LossGate, "loss", lambda self, rows: 2.0 if rows[0].type.name == "f32" else 2.5)
        assert run([*arguments, "--max-loss", "0.01"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "rows of bf16 take it from 2.0000 to 2.5000 nats a token; give another --dtype or more --max-loss" in line
        assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "tiny.toml"]
        assert run([*arguments, "--max-loss", "0.6"]) == 0
    shown = capsys.readouterr().out
    assert "held-out loss before" in shown
    assert "held-out loss after" in shown


def test_a_killed_run_goes_on_to_the_same_bytes(tokenizer_path: Path, tmp_path: Path) -> None:
    demo, out, other = write_demo(tmp_path / "demo", tokenizer_path), tmp_path / "out", tmp_path / "other"
    done = subprocess.run([sys.executable, "-c", KILLED, str(demo), str(out)], check=False, cwd=os.getcwd())
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    arguments = ["convert", str(demo), "--to", "engram", "--dtype", "int8-row", "--quiet", "--out"]
    assert run([*arguments, str(out)]) == 2
    assert run([*arguments, str(out), "--resume"]) == 0
    assert run([*arguments, str(other)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == {
        path.name: path.read_bytes() for path in other.iterdir() if path.is_file()
    }


def test_what_cannot_be_is_one_line(table_path: Path, tmp_path: Path, capsys: Output) -> None:
    assert run(["convert", str(table_path), "--to", "deepseek-v4.1", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("engram: the layout of DeepSeek-V4.1 is read with the hash")
    assert run(["convert", str(table_path), "--to", "engram", "--resume", "--out", str(tmp_path / "out")]) == 2
    assert "needs an unfinished run" in capsys.readouterr().err
