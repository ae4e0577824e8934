"""A build that is killed: its process gets SIGKILL, again and again, and the table that comes of it in the end is the same."""

import itertools
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.model import build as module
from engram_cli.model import checkpoint
from engram_cli.model.build import build
from engram_cli.model.train import Budget, Trainer
from engram_cli.store.artifact import Draft
from engram_cli.store.matrix import Matrix
from tests.training import TINY

BUDGET = Budget(tokens=64 * 4)  # steps of 64 tokens
CHANGES = (  # what changes the disk in a build, or comes between two such calls
    (Matrix, "put"), (Trainer, "step"), (Draft, "table"), (checkpoint, "write_tensors"), (os, "rename"), (os, "replace"),
    (os, "fsync"), (shutil, "rmtree"), (shutil, "copyfile"), (module, "save_weights"),
)  # fmt: skip


def build_and_die(ngrams: Path, out: Path, resume: bool, call: int) -> None:
    """Build with a checkpoint after every step, and no further than to call number `call` of CHANGES, which is done by half."""
    calls = itertools.count()

    def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            if next(calls) == call:
                if original is put:
                    put(arguments[0], arguments[1][::2], arguments[2][::2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return called

    put = Matrix.put
    for owner, name in CHANGES:
        setattr(owner, name, mortal(getattr(owner, name)))
    module._CHECKPOINT_SECONDS = 0.0
    build(open_ngrams(ngrams), TINY, out, BUDGET, device="cpu", rows="mmap" if call % 2 else "ram", resume=resume)


def test_killed_again_and_again_it_ends_with_the_same_bytes(ngrams: NGrams, ngrams_path: Path, tmp_path: Path) -> None:
    """While rows are filled, between checkpoints, in the midst of one, and while the table is written: each kill comes later than
    the one before it, so that the run gets through."""
    whole = build(ngrams, TINY, tmp_path / "whole", BUDGET, device="cpu")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "torch._dynamo"])  # which an optimizer loads
    out, partial, codes = tmp_path / "made", tmp_path / ".made.partial", []
    while not out.exists():
        arguments = (ngrams_path, out, partial.exists(), len(codes) * (len(codes) + 3) // 2)
        process = processes.Process(target=build_and_die, args=arguments)
        process.start()
        process.join()
        codes.append(process.exitcode)
        assert codes[-1] in (0, -signal.SIGKILL)
    assert len(codes) > 8
    assert not partial.exists()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.path.iterdir()
    }
