"""Checkpoints: all that going on needs, of the size of the work done, and never half of one in place of a whole one."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError
from engram_cli.model import checkpoint as module
from engram_cli.model.build import Start
from engram_cli.model.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint, whole_step
from engram_cli.model.train import Trainer
from engram_cli.store.tensors import map_tensor, read_tensor_specs, write_tensors
from tests.tables import whole
from tests.training import start_of, trainer_of


@pytest.fixture(scope="module")
def start(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return start_of(ngrams, tmp_path_factory.mktemp("start"))


@pytest.fixture
def make(ngrams: NGrams, start: Start) -> Callable[[int], Trainer]:
    """A trainer that has taken so many steps."""

    def trained(steps: int) -> Trainer:
        trainer = trainer_of(ngrams, start)
        for _ in range(steps):
            trainer.step(0.25)
        return trainer

    return trained


def saved(trainer: Trainer, scratch: Path, fingerprint: str = "this run") -> Path:
    save_checkpoint(scratch, trainer, fingerprint)
    found = find_checkpoint(scratch)
    assert found is not None
    return found


def assert_same(one: Trainer, other: Trainer) -> None:
    """Equal in every number that the next step depends on, and in the log but for its clock."""
    for parameter, twin in zip(one.host.parameters(), other.host.parameters(), strict=True):
        assert np.array_equal(parameter.detach(), twin.detach())
        assert one.optimizer.state[parameter].keys() == other.optimizer.state[twin].keys()
        for name, moment in one.optimizer.state[parameter].items():
            assert np.array_equal(moment, other.optimizer.state[twin][name])
    for layer, rows in one.rows.items():
        assert np.array_equal(whole(rows.rows), whole(other.rows[layer].rows))
        assert np.array_equal(rows.squares_R, other.rows[layer].squares_R)
    assert one.step_number == other.step_number
    assert [{**vars(record), "seconds": 0} for record in one.log] == [{**vars(record), "seconds": 0} for record in other.log]


def test_going_on_from_a_checkpoint_equals_never_having_stopped(make: Callable[[int], Trainer], tmp_path: Path) -> None:
    stopped, resumed = make(3), make(0)
    load_checkpoint(saved(stopped, tmp_path), resumed, "this run")
    assert_same(resumed, stopped)
    assert (resumed.seconds, resumed.log) == (stopped.seconds, stopped.log)
    for _ in range(4):
        resumed.step(0.25)
    assert_same(resumed, make(7))


def test_its_size_follows_the_rows_that_changed(make: Callable[[int], Trainer], tmp_path: Path) -> None:
    trainer = make(1)
    path = saved(trainer, tmp_path)
    assert {file.name for file in path.iterdir()} == {
        "state.json",
        "host.safetensors",
        "rows-00.safetensors",
        "rows-01.safetensors",
    }
    for layer, rows in trainer.rows.items():
        file = path / f"rows-{layer:02}.safetensors"
        specs = read_tensor_specs(file)
        assert np.array_equal(map_tensor(file, specs["ids"]), rows.touched)
        assert {name: spec.shape for name, spec in specs.items()} == {
            "ids": (len(rows.touched),),
            "rows": (len(rows.touched), 4),
            "squares": (len(rows.touched),),
        }


def test_before_the_first_step_there_is_little_to_keep(make: Callable[[int], Trainer], tmp_path: Path) -> None:
    resumed = make(0)
    load_checkpoint(saved(make(0), tmp_path), resumed, "this run")
    assert_same(resumed, make(0))
    resumed.step(0.25)
    assert_same(resumed, make(1))


def test_another_run_is_refused(make: Callable[[int], Trainer], tmp_path: Path) -> None:
    path = saved(make(1), tmp_path)
    with pytest.raises(ArtifactError, match=r"--resume continues the same run, but .* another recipe or another budget.*--force"):
        load_checkpoint(path, make(0), "another run")


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
def test_a_damaged_checkpoint_is_refused(make: Callable[[int], Trainer], tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = saved(make(1), tmp_path)
    spoil(path)
    with pytest.raises(ArtifactError, match=r"the checkpoint .* is damaged \(.*\); start anew with --force"):
        load_checkpoint(path, make(0), "this run")


def test_the_last_whole_checkpoint_is_found_wherever_a_kill_left_it(make: Callable[[int], Trainer], tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    first, second = make(1), make(2)
    path = saved(first, tmp_path)
    os.rename(path, tmp_path / "checkpoint.old")  # killed before the new one took its place
    found = find_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint.old"
    resumed = make(0)
    load_checkpoint(found, resumed, "this run")
    assert_same(resumed, first)

    shutil.copytree(saved(second, tmp_path), tmp_path / "checkpoint.old")  # killed before the old one was removed
    resumed = make(0)
    load_checkpoint(saved(second, tmp_path), resumed, "this run")
    assert_same(resumed, second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]

    (tmp_path / "checkpoint.new").mkdir()  # killed while the new one was written
    (tmp_path / "checkpoint.new/host.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint"


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    make: Callable[[int], Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    first, second = make(1), make(2)
    path = saved(first, tmp_path)

    def fail(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise stop

    monkeypatch.setattr(module, "write_tensors", fail)
    with pytest.raises(type(stop)):
        save_checkpoint(tmp_path, second, "this run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]
    resumed = make(0)
    load_checkpoint(path, resumed, "this run")
    assert_same(resumed, first)


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
