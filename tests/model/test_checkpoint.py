"""Checkpoints: all that going on needs, of the size of the work done, and never half of one in place of a whole one."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError
from engram_cli.model import checkpoint as module
from engram_cli.model.checkpoint import find_checkpoint, load_checkpoint, restore_rows, save_checkpoint, whole_step
from engram_cli.model.start import Start
from engram_cli.model.train import Trainer
from engram_cli.recipe import ROW_OPTIMIZERS
from engram_cli.store.artifact import scratch_path
from engram_cli.store.matrix import Matrix
from engram_cli.store.tensors import map_tensor, read_tensor_specs, write_tensors
from engram_cli.table.rows import Rows, rows_file
from tests.tables import whole
from tests.training import start_of, tiny, trainer_of

FINGERPRINT = "this run"


@dataclass
class Run:
    """A trainer and the directory that its rows are in."""

    trainer: Trainer
    directory: Path

    @property
    def scratch(self) -> Path:
        return scratch_path(self.directory)

    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.trainer.step(0.25)

    def save(self) -> Path:
        save_checkpoint(self.directory, self.trainer, FINGERPRINT)
        found = find_checkpoint(self.scratch)
        assert found is not None
        return found


@dataclass
class Runs:
    """Makes runs that start from the same rows, each from files of its own, and runs that go on from checkpoints."""

    ngrams: NGrams
    start: Start
    folder: Path
    where: str = "ram"
    optimizer: str = "adagrad"
    dtype: str = "f32"

    def make(self, steps: int) -> Run:
        """A run that has taken so many steps."""
        directory = self.folder / str(len(list(self.folder.iterdir())))
        shutil.copytree(self.start.directory, directory)
        run = self._open(directory)
        run.step(steps)
        return run

    def resume(self, directory: Path) -> Run:
        """A run that goes on from the last checkpoint in `directory`, which is left as it is."""
        copied = self.folder / str(len(list(self.folder.iterdir())))
        shutil.copytree(directory, copied)
        path = find_checkpoint(scratch_path(copied))
        assert path is not None
        restore_rows(path, copied)
        run = self._open(copied)
        load_checkpoint(path, run.trainer, FINGERPRINT)
        return run

    def _open(self, directory: Path) -> Run:
        recipe = tiny(dtype=self.dtype, row_optimizer=self.optimizer)
        return Run(trainer_of(self.ngrams, replace(self.start, directory=directory), recipe, self.where), directory)


@pytest.fixture(scope="module")
def start(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return start_of(ngrams, tmp_path_factory.mktemp("start"))


@pytest.fixture
def runs(ngrams: NGrams, start: Start, tmp_path: Path) -> Runs:
    return Runs(ngrams, start, tmp_path)


def everything(trainer: Trainer) -> dict[str, Any]:
    """All numbers that the next step depends on, and the log but for its clock."""
    found: dict[str, Any] = {}
    for name, parameter in trainer.host.named_parameters():
        found[name] = parameter.detach().numpy().copy()
        for moment, value in trainer.optimizer.state.get(parameter, {}).items():
            found[f"{moment} of {name}"] = value.numpy().copy()
    for layer, rows in trainer.rows.items():
        rows.finish()
        numbers, state = rows.store.read(np.arange(rows.store.count))
        found |= {f"rows {layer}": numbers.float().numpy(), f"state {layer}": state.numpy()}
    log = [(record.step, record.tokens, record.loss, record.held_out_loss, record.rows_touched) for record in trainer.log]
    return found | {"step": np.array(trainer.step_number), "log": np.array(log, dtype=float)}


def assert_same(one: Run, other: Run) -> None:
    left, right = everything(one.trainer), everything(other.trainer)
    assert left.keys() == right.keys()
    assert not [name for name in left if not np.array_equal(left[name], right[name], equal_nan=True)]


@pytest.mark.parametrize("where", ["ram", "mmap"])
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_going_on_from_a_checkpoint_equals_never_having_stopped(runs: Runs, where: str, optimizer: str) -> None:
    runs.where, runs.optimizer = where, optimizer
    stopped = runs.make(2)
    stopped.save()
    stopped.step(1)
    stopped.save()
    resumed = runs.resume(stopped.directory)
    assert_same(resumed, stopped)
    assert (resumed.trainer.seconds, resumed.trainer.log) == (stopped.trainer.seconds, stopped.trainer.log)
    resumed.step(2)
    resumed.save()
    resumed.step(2)
    assert_same(resumed, runs.make(7))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_rows_train_alike_wherever_they_live(ngrams: NGrams, tmp_path: Path, dtype: str) -> None:
    """A run may even be stopped in one place and go on in another."""
    (tmp_path / "start").mkdir()
    runs = Runs(ngrams, start_of(ngrams, tmp_path / "start", tiny(dtype=dtype)), tmp_path, dtype=dtype)
    in_memory = runs.make(5)
    runs.where = "mmap"
    mapped = runs.make(3)
    mapped.save()
    runs.where = "ram"
    moved = runs.resume(mapped.directory)
    for run in (mapped, moved):
        run.step(2)
        assert_same(run, in_memory)


def test_the_files_hold_the_rows_of_the_last_checkpoint(runs: Runs) -> None:
    for runs.where in ("ram", "mmap"):
        run = runs.make(2)
        run.save()
        files = {path: path.read_bytes() for path in run.directory.rglob("*.safetensors")}
        run.step(2)
        assert {path: path.read_bytes() for path in run.directory.rglob("*.safetensors")} == files
        table = runs.resume(run.directory).trainer
        for layer, rows in table.rows.items():
            mapped = Rows.open(run.directory / rows_file(layer))
            assert np.array_equal(whole(mapped), rows.take(np.arange(mapped.count)))


def test_its_size_follows_the_rows_that_changed_since_the_last(runs: Runs) -> None:
    for runs.where in ("ram", "mmap"):
        run = runs.make(1)
        run.save()
        run.step(1)
        path = run.save()
        assert {file.name for file in path.iterdir()} == {
            "state.json",
            "host.safetensors",
            "rows-00.safetensors",
            "rows-01.safetensors",
        }
        for layer, rows in run.trainer.rows.items():
            file = path / f"rows-{layer:02}.safetensors"
            specs = read_tensor_specs(file)
            named = np.unique(rows.layout.row_ids(run.trainer.batches[1].windows_BTN))
            assert np.array_equal(map_tensor(file, specs["ids"]), named)
            assert {name: spec.shape for name, spec in specs.items()} == {
                "ids": (len(named),),
                "rows": (len(named), 4),
                "state": (len(named), 1),
            }


def test_before_the_first_step_there_is_little_to_keep(runs: Runs) -> None:
    run = runs.make(0)
    run.save()
    resumed = runs.resume(run.directory)
    assert_same(resumed, run)
    resumed.step(1)
    assert_same(resumed, runs.make(1))


def test_another_run_is_refused(runs: Runs) -> None:
    run = runs.make(1)
    with pytest.raises(ArtifactError, match=r"--resume continues the same run, but .* another recipe or another budget.*--force"):
        load_checkpoint(run.save(), runs.make(0).trainer, "another run")


def spoil_ids(path: Path) -> None:
    specs = read_tensor_specs(path / "rows-01.safetensors")
    map_tensor(path / "rows-01.safetensors", specs["ids"], "r+")[-1] = 1 << 40


def spoil_shape(path: Path) -> None:
    name = "embedding.weight"
    specs = read_tensor_specs(path / "host.safetensors")
    tensors = {key: ("F32", np.array(map_tensor(path / "host.safetensors", spec))) for key, spec in specs.items()}
    tensors[name] = ("F32", tensors[name][1][:-1])
    write_tensors(path / "host.safetensors", tensors)


SPOILERS: dict[str, Callable[[Path], object]] = {
    "state is not JSON": lambda path: (path / "state.json").write_text("{"),
    "state is no object": lambda path: (path / "state.json").write_text("[]"),
    "state lacks the step": lambda path: (path / "state.json").write_text(json.dumps({"fingerprint": "this run", "log": []})),
    "host cut short": lambda path: os.truncate(path / "host.safetensors", 5000),
    "host empty": lambda path: os.truncate(path / "host.safetensors", 0),
    "host of another shape": spoil_shape,
    "rows missing": lambda path: (path / "rows-01.safetensors").unlink(),
    "rows of other tensors": lambda path: shutil.copy(path / "host.safetensors", path / "rows-00.safetensors"),
    "ids outside the table": spoil_ids,
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_damaged_checkpoint_is_refused(runs: Runs, spoil: Callable[[Path], object]) -> None:
    run = runs.make(1)
    spoil(run.save())
    with pytest.raises(ArtifactError, match=r"the checkpoint .* is damaged \(.*\); start anew with --force"):
        runs.resume(run.directory)


class Killed(BaseException):
    """What nothing in the tool catches."""


class Death:
    """Comes at the call after so many; a write to a matrix is done by half then."""

    def __init__(self, calls: int) -> None:
        self.calls_left = calls

    def before(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if not self.calls_left:
                if original.__name__ == "put":
                    original(arguments[0], arguments[1][::2], arguments[2][::2])
                raise Killed
            self.calls_left -= 1
            return original(*arguments, **options)

        return call


def test_a_kill_at_any_moment_of_saving_leaves_the_last_checkpoint_or_the_new_one(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes the disk is the last one in turn."""
    first, second = runs.make(2), runs.make(3)
    ends = []
    while not ends or ends[-1] != "saved":
        run = runs.make(2)
        run.save()
        run.step(1)
        death = Death(calls=len(ends))
        with monkeypatch.context() as patch:
            for owner, name in ((Matrix, "put"), (module, "write_tensors"), (os, "rename"), (shutil, "rmtree")):
                patch.setattr(owner, name, death.before(getattr(owner, name)))
            try:
                run.save()
                ends.append("saved")
            except Killed:
                ends.append("killed")
        resumed = runs.resume(run.directory)
        assert_same(resumed, first if resumed.trainer.step_number == 2 else second)
    assert len(ends) > 10


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    first, run = runs.make(1), runs.make(1)
    run.save()
    run.step(1)

    def fail(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise stop

    monkeypatch.setattr(module, "write_tensors", fail)
    with pytest.raises(type(stop)):
        run.save()
    assert [entry.name for entry in run.scratch.iterdir() if entry.is_dir()] == ["checkpoint"]
    assert_same(runs.resume(run.directory), first)


def test_ctrl_c_waits_for_the_end_of_a_step() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), whole_step():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        done.append("first half")
        os.kill(os.getpid(), signal.SIGINT)
        done.append("second half")
    assert done == ["first half", "second half"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handled_sigterm_waits_too_and_an_unhandled_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with whole_step():
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with whole_step():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_steps_outside_the_main_thread_are_steps_too() -> None:
    seen = []

    def work() -> None:
        with whole_step():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
