"""Checkpoints: what a training run needs to go on, and nothing that it can find again.

The rows of the last checkpoint lie in their files. A checkpoint holds the host, the optimizer's moments, and the rows that were
changed since that one, with their optimizer state: its size follows the work and not the table. It is written beside the last
one, takes its place, and only then are its rows put into the files. Whoever goes on from it puts them there again, which changes
nothing where that was done: so a kill at any moment leaves one step, whole. Before the next one takes its place, files are flushed.

    .NAME.partial/          rows-LL.safetensors
        scratch/            state-LL.safetensors: one record of optimizer state for each row
            checkpoint/     state.json  host.safetensors  rows-LL.safetensors: ids, rows, state
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from engram_cli.errors import ArtifactError
from engram_cli.model.row_store import Changes, open_state, state_file
from engram_cli.model.train import StepRecord, Trainer
from engram_cli.store.artifact import scratch_path
from engram_cli.store.tensors import map_tensor, read_tensor_specs, write_tensors
from engram_cli.table.rows import Rows, rows_file

_DIRECTORY = "checkpoint"
_STATE, _HOST = "state.json", "host.safetensors"
_ADAM = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter that it has changed


def save_checkpoint(directory: Path, trainer: Trainer, fingerprint: str) -> None:
    """Write the trainer's state into the scratch of `directory`, where the rows are too; `fingerprint` says what run it belongs to.
    Raises OSError where the disk is full, with the last checkpoint intact."""
    scratch = scratch_path(directory)
    new, current, old = (scratch / f"{_DIRECTORY}{end}" for end in (".new", "", ".old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    changes = {layer: rows.changes() for layer, rows in trainer.rows.items()}
    try:
        write_tensors(new / _HOST, _host_tensors(trainer))
        for layer, changed in changes.items():
            numbers = Rows.open(directory / rows_file(layer)).type.numbers
            tensors = {"ids": ("I64", changed.ids_U), "rows": (numbers, changed.numbers_UE), "state": ("F32", changed.state_US)}
            write_tensors(new / rows_file(layer), tensors)
        state = {
            "fingerprint": fingerprint,
            "step": trainer.step_number,
            "seconds": trainer.seconds,
            "rates": trainer.rates,
            "log": [asdict(record) for record in trainer.log],
        }
        (new / _STATE).write_text(json.dumps(state), encoding="utf-8")
        in_files = [path for layer in changes for path in (directory / rows_file(layer), state_file(directory, layer))]
        for path in (*filter(Path.exists, in_files), *new.iterdir(), new):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if current.exists():
        shutil.rmtree(old, ignore_errors=True)  # there only after a kill
        os.rename(current, old)
    os.rename(new, current)
    shutil.rmtree(old, ignore_errors=True)
    for layer, changed in changes.items():
        _put(directory, layer, changed)
        trainer.rows[layer].store.settle()


def _put(directory: Path, layer: int, changed: Changes) -> None:
    if not len(changed.ids_U):  # rows that stay as they are have no state either
        return
    rows = Rows.open(directory / rows_file(layer), "r+")
    rows.numbers.put(changed.ids_U, changed.numbers_UE)
    open_state(directory, layer, rows.count, changed.state_US.shape[1]).put(changed.ids_U, changed.state_US)


def restore_rows(path: Path, directory: Path) -> None:
    """Put the rows of the checkpoint at `path` into the files in `directory`. Raises ArtifactError where it is damaged."""
    try:
        for file in sorted(directory.glob("rows-*.safetensors")):
            tensors = _read(path / file.name)
            changed = Changes(tensors["ids"], tensors["rows"], tensors["state"])
            if len({len(tensor) for tensor in tensors.values()}) > 1 or (len(changed.ids_U) and changed.ids_U[0] < 0):
                raise ValueError(f"{file.name} names other rows than it has")
            _put(directory, int(file.stem.removeprefix("rows-")), changed)
    except (ArtifactError, OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error) from None


def find_checkpoint(scratch: Path) -> Path | None:
    """The last whole checkpoint in `scratch`, or None. A kill between two renames leaves it under its other name."""
    for name in (_DIRECTORY, f"{_DIRECTORY}.old"):
        if (scratch / name / _STATE).is_file():
            return scratch / name
    return None


def saved_step(path: Path) -> int:
    """The step that the checkpoint at `path` was written after."""
    step: int = json.loads((path / _STATE).read_text(encoding="utf-8"))["step"]
    return step


@contextmanager
def whole_step() -> Iterator[None]:
    """Let Ctrl-C (and a handled SIGTERM) wait until the block is done: going on from half a step would take that half twice."""
    waiting: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in waiting[:1]:
            handlers[number](number, frame)


def read_state(path: Path, fingerprint: str) -> dict[str, Any]:
    """How far the checkpoint at `path` is. Raises ArtifactError where it belongs to another run or is damaged."""
    try:
        state: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
        found = state["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error) from None
    if found != fingerprint:
        raise ArtifactError(
            f"--resume continues the same run, but the checkpoint {path} was made from other n-grams, another recipe or another "
            "budget, or by another version of engram; give those again, or start anew with --force"
        )
    return state


def load_checkpoint(path: Path, trainer: Trainer, fingerprint: str) -> None:
    """Put the trainer where the checkpoint at `path` was; its rows were opened after `restore_rows`. Raises ArtifactError as
    `read_state` does."""
    state = read_state(path, fingerprint)
    try:
        _load_host(path / _HOST, trainer)
        trainer.step_number, trainer.seconds = state["step"], state["seconds"]
        trainer.log = [StepRecord(**record) for record in state["log"]]
        before = [(int(step), float(host), float(of_rows)) for step, host, of_rows in state["rates"]]
        _, *now = trainer.rates[-1]
        trainer.rates = before if now == [*before[-1][1:]] else [*before, (trainer.step_number, now[0], now[1])]
    except (ArtifactError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"the checkpoint {path} is damaged ({type(error).__name__}: {error}); start anew with --force")


def _host_tensors(trainer: Trainer) -> dict[str, tuple[str, Any]]:
    tensors: dict[str, tuple[str, Any]] = {}
    for name, parameter in trainer.host.stored().items():
        tensors[name] = ("F32", parameter.detach().cpu().numpy())
        for part, tensor in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"{part}.{name}"] = ("F32", tensor.cpu().numpy())
    return tensors


def _load_host(path: Path, trainer: Trainer) -> None:
    tensors = _read(path)
    with torch.no_grad():
        for name, parameter in trainer.host.stored().items():
            parameter.copy_(torch.from_numpy(tensors[name]))
            if any(f"{part}.{name}" in tensors for part in _ADAM):
                state = {part: torch.from_numpy(tensors[f"{part}.{name}"]).to(parameter) for part in _ADAM}
                trainer.optimizer.state[parameter] = state


def _read(path: Path) -> dict[str, Any]:
    return {name: np.array(map_tensor(path, spec)) for name, spec in read_tensor_specs(path).items()}
