"""`engram build` as its user meets it: a table, or one line that says why not and nothing half-written."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engram_cli.__main__ import run
from engram_cli.corpus.artifact import NGrams
from engram_cli.model.quantise import LossGate
from engram_cli.recipe import INITS
from engram_cli.store.artifact import open_artifact
from tests.corpora import write_ngrams
from tests.hosts import write_host
from tests.training import TINY, layout_of

Output = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.to_toml())


@pytest.fixture
def refused(ngrams_path: Path, tmp_path: Path, capsys: Output) -> Refused:
    """Run `engram build` and return its one line of refusal; nothing in the folder may have changed."""

    def check(*options: str, ngrams: Path = ngrams_path, recipe: str = "tiny.toml") -> str:
        before = sorted(tmp_path.rglob("*"))
        assert run(["build", str(ngrams), "--recipe", recipe, "--out", "made", "--quiet", *options]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = captured.err.splitlines()
        assert line.startswith("engram: ")
        return line

    return check


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("smollm2", "SmolLM2-135M-Instruct"), ("deepseek-v4.1-flash", "DeepSeek-V4.1-Flash"), ("qwen-ple", "Qwen4Exp")],
)
def test_a_recipe_for_a_foreign_host_needs_that_host(refused: Refused, recipe: str, name: str) -> None:
    line = refused(recipe=str(Path(__file__).parents[2] / f"tables/{recipe}.toml"))
    assert f"the recipe is for {name}; give its directory to engram build with --host" in line


def test_a_recipe_for_our_host_takes_no_other(refused: Refused, ngrams: NGrams, tmp_path: Path) -> None:
    host = write_host(tmp_path / "host", ngrams.artifact.file("tokenizer.json"))
    assert "tiny.toml is for engram, the one that is made here; name the host in it" in refused("--host", str(host))


def test_a_gate_without_a_type_is_refused(refused: Refused) -> None:
    assert "name that type with --rows-dtype" in refused("--max-loss", "0.01")
    assert "`rows.dim` must be a multiple of 32 in fp8-block, but it is 4" in refused("--rows-dtype", "fp8-block")


def test_a_family_that_the_counts_do_not_suit_is_refused(refused: Refused, tmp_path: Path) -> None:
    raw = replace(TINY, hash=replace(TINY.hash, family="qwen-ple", layers=(1,)))
    (tmp_path / "raw.toml").write_text(raw.to_toml())
    assert "run engram extract with --no-canonical" in refused(recipe="raw.toml")


def test_a_table_is_built_and_shown(ngrams_path: Path, capsys: Output) -> None:
    assert run(["build", str(ngrams_path), "--recipe", "tiny.toml", "--tokens", "640", "-o", "made"]) == 0
    captured = capsys.readouterr()
    facts = open_artifact("made", "table").manifest.facts
    assert facts["tokens"] == 640
    assert f"{facts['held_out_loss']:.2f}" in captured.out
    assert captured.err.splitlines() == [
        f"[1/3] initialising {facts['rows']:,} rows: counts",
        "[2/3] training host and memory together, rows in memory",
        "[3/3] measuring on held-out text and writing the table",
    ]


@pytest.mark.parametrize("init", INITS)
def test_options_override_the_recipe_and_are_recorded(ngrams_path: Path, capsys: Output, init: str) -> None:
    options = ["--init", init, "--seed", "5", "--tokens", "64", "--threads", str(torch.get_num_threads()), "--device", "cpu"]
    assert run(["build", str(ngrams_path), "--recipe", "tiny.toml", "-o", "made", "--quiet", "--json", *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out)["facts"]["init"] == init
    manifest = open_artifact("made", "table").manifest
    assert manifest.facts["init"] == init
    assert f'init = "{init}"' in manifest.recipe
    assert "seed = 5\n" in manifest.recipe


def test_without_a_budget_the_recipes_minutes_count(ngrams_path: Path) -> None:
    Path("short.toml").write_text(TINY.to_toml().replace("minutes = 3.0", "minutes = 0.001"))
    assert run(["build", str(ngrams_path), "--recipe", "short.toml", "-o", "made", "--quiet"]) == 0
    assert open_artifact("made").table("training.arrow")["seconds"].to_pylist()[-1] >= 0.06


def test_rows_are_written_in_another_type_and_both_losses_are_shown(ngrams_path: Path, capsys: Output) -> None:
    arguments = ["build", str(ngrams_path), "--recipe", "tiny.toml", "--tokens", "64", "-o", "made", "--quiet"]
    assert run([*arguments, "--rows-dtype", "int8-row", "--max-loss", "0.5"]) == 0
    facts, shown = open_artifact("made", "table").manifest.facts, capsys.readouterr().out
    assert facts["dtype"] == "int8-row"
    for key in ("held out loss", "held out loss before rounding"):
        assert any(line.startswith(key) and f"{facts[key.replace(' ', '_')]:.2f}" in line for line in shown.splitlines()), shown


def test_rows_that_would_cost_too_much_leave_nothing_but_the_way_to_go_on(
    ngrams_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["build", str(ngrams_path), "--recipe", "tiny.toml", "--tokens", "64", "-o", "made", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(LossGate, "loss", lambda self, rows: 9.0)
        assert run([*arguments, "--rows-dtype", "int8-row", "--max-loss", "0.01"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("engram: the loss on held-out text may rise by 0.01 (--max-loss), but rows of int8-row take it from ")
    assert line.endswith(
        " to 9.0000 nats a token; give another --rows-dtype or more --max-loss, with --resume: what was trained is kept"
    )
    assert not Path("made").exists()
    assert run([*arguments, "--rows-dtype", "bf16", "--max-loss", "0.01", "--resume"]) == 0
    assert open_artifact("made", "table").manifest.facts["dtype"] == "bf16"


SLOW = """
import os, signal, sys
from engram_cli import __main__ as cli
from engram_cli.model.train import Trainer
step = Trainer.step
signalled, wake = os.pipe()  # where a signal is told of that came before it is waited for, too
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
def told(trainer, fraction):
    record = step(trainer, fraction)
    print("a step", flush=True)
    os.read(signalled, 1)
    return record
Trainer.step = told
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_build_goes_on(ngrams_path: Path, tmp_path: Path, capsys: Output, number: signal.Signals, code: int) -> None:
    arguments = ["build", str(ngrams_path), "--recipe", "tiny.toml", "--minutes", "0.01", "--out", "made"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a step\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    if number == signal.SIGKILL:  # within the first minute: no checkpoint yet, and the next run begins anew
        assert run([*arguments, "--resume"]) == 0
    else:
        warning, last = stderr.splitlines()[-2:]
        assert "a checkpoint was written, go on with --resume" in warning
        assert last == "engram: stopped"
        assert run(arguments) == 2
        assert "go on with --resume, or start anew with --force" in capsys.readouterr().err
        assert run([*arguments, "--resume"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "tiny.toml"]


# refused --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--minutes", "1", "--tokens", "5"], "both are given (1 and 5); give one"),
        (["--minutes", "0"], "--minutes must be above 0, but it is 0"),
        (["--minutes", "-2.5"], "--minutes must be above 0, but it is -2.5"),
        (["--minutes", "nan"], "--minutes must be above 0, but it is nan"),
        (["--tokens", "0"], "--tokens must be above 0, but it is 0"),
        (["--tokens", "-64"], "--tokens must be above 0, but it is -64"),
        (["--tokens", "1.5"], "'--tokens': Input should be a valid integer"),
        (["--init", "count"], "`rows.init` must be one of counts, random, zero, but it is count"),
        (["--seed", "-1"], "`training.seed` must be from 0 to 2^63 - 1, but it is -1"),
        (["--seed", "9223372036854775808"], "`training.seed` must be from 0 to 2^63 - 1"),
        (["--device", "tpu"], "--device is auto, cpu or cuda, but it is 'tpu'"),
        (["--resume"], "--resume needs an unfinished run"),
        (["--threads", "-1"], "'--threads': Input should be greater than or equal to 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be(refused: Refused, options: list[str], reason: str) -> None:
    assert reason in refused(*options)


def test_a_gpu_that_is_not_there(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda needs a CUDA GPU" in refused("--device", "cuda")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[hash]\nsizes = 5\n", "bad.toml: a recipe has only known keys, but `hash.sizes` is not one; did you mean `hash.size`?"),
        ("[hash]\nsize = [1099511627775]\n", "TiB of disk, but"),
        ("[hash]\nlayers = [5]\n", "`hash.layers` must be at most 4, the output, in a host of 4 layers, but it is 5"),
        ("[host]\ncontext = 9000000\n", "a batch is 8 x 9000000 + 1 tokens, but there are"),
        ("[training]\nseed = -3\n", "`training.seed` must be from 0"),
        ("[hash]\nseed = -3\n", "`hash.seed` must be from 0"),
        ("[training]\nlearning_rate = 1e30\n[rows]\ndim = 2\n[hash]\nsize = 50\n", "must stay finite"),
    ],
    ids=["unknown key", "too many rows", "layer too deep", "context too long", "training seed", "hash seed", "learning rate"],
)
def test_recipes_that_cannot_be(refused: Refused, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert reason in refused("--tokens", "8192", recipe="bad.toml")


def test_a_recipe_that_is_not_there(refused: Refused) -> None:
    assert "none.toml cannot be read" in refused(recipe="none.toml")


def test_what_is_no_ngrams(refused: Refused, table_path: Path, tmp_path: Path) -> None:
    assert "needs an artifact of kind ngrams, but" in refused(ngrams=table_path)
    refused(ngrams=tmp_path / "nothing")


def test_nothing_held_out(refused: Refused, tmp_path: Path) -> None:
    few = write_ngrams(tmp_path / "few", documents=40, held_out=0)
    assert "run engram extract with a larger --held-out" in refused(ngrams=few)


def test_a_disk_without_room(refused: Refused, ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 10_000

    monkeypatch.setattr("engram_cli.store.resources.shutil.disk_usage", lambda path: Full)
    rows = layout_of(ngrams).rows
    wanted = f"a table of {rows:,} rows x 16 bytes takes {rows * 20 / 1024:.1f} KiB of disk, but 9.8 KiB are free; lower hash.size"
    assert wanted in refused()


def test_what_is_in_the_way_is_kept(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/thesis.txt").write_text("mine")
    assert "--out must not exist" in refused()
    assert "--force replaces artifacts only" in refused("--force")
    assert (tmp_path / "made/thesis.txt").read_text() == "mine"
