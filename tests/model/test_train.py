"""Training: a step reads, trains and writes the rows its batch names, as a dense table would, and no others."""

import functools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import TrainingError
from engram_cli.model import train as module
from engram_cli.model.data import HeldOut
from engram_cli.model.feed import Feed
from engram_cli.model.host import Host
from engram_cli.model.row_store import HeldRows
from engram_cli.model.start import Start
from engram_cli.model.train import Budget, Trainer
from engram_cli.recipe import ROW_OPTIMIZERS
from tests.training import SPEAKING, TINY, held_out_of, seen_rows, start_of, tiny, trainer_of

STEPS = 5


@pytest.fixture(scope="module")
def start(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return start_of(ngrams, tmp_path_factory.mktemp("start"))


@pytest.fixture
def trainer(ngrams: NGrams, start: Start) -> Trainer:
    return trainer_of(ngrams, start)


@pytest.fixture
def held_out(ngrams: NGrams, start: Start) -> HeldOut:
    return held_out_of(ngrams, start.layout)


def named(trainer: Trainer, layer: int, steps: int) -> npt.NDArray[np.int64]:
    """Rows that the windows of the first batches name."""
    return np.unique(np.concatenate([named_by(trainer, layer, step) for step in range(steps)]))


def named_by(trainer: Trainer, layer: int, step: int) -> npt.NDArray[np.int64]:
    """Rows that the windows of one batch name."""
    return np.unique(trainer.rows[layer].layout.row_ids(trainer.batches[step].windows_BTN))


def matrix(trainer: Trainer, layer: int) -> npt.NDArray[np.float32]:
    rows = trainer.rows[layer]
    return rows.take(np.arange(rows.store.count))


def state(trainer: Trainer, layer: int) -> npt.NDArray[np.float32]:
    rows = trainer.rows[layer]
    rows.finish()
    return rows.store.read(np.arange(rows.store.count))[1].numpy().copy()


def test_numpy_and_torch_name_the_same_rows(trainer: Trainer) -> None:
    batch = trainer.batches[0]
    for rows in trainer.rows.values():
        gathered = rows.gather(batch, torch.device("cpu"))
        ids_BTH = rows.layout.row_ids(torch.from_numpy(batch.windows_BTN))
        assert torch.equal(torch.from_numpy(gathered.ids_U)[gathered.place_BTH], ids_BTH)
        assert np.array_equal(gathered.ids_U, np.unique(ids_BTH.numpy()))
        assert torch.equal(gathered.leaf_UE, torch.from_numpy(rows.take(gathered.ids_U)))


def test_exactly_the_rows_that_positions_see_change(trainer: Trainer, start: Start) -> None:
    files = {path: path.read_bytes() for path in start.directory.rglob("*") if path.is_file()}
    before = {layer: matrix(trainer, layer) for layer in trainer.rows}
    for _ in range(STEPS):
        trainer.step(0.0)
    for layer, rows in trainer.rows.items():
        ids, seen = named(trainer, layer, STEPS), seen_rows(trainer, layer, STEPS)
        assert len(ids) < rows.store.count
        assert np.array_equal(np.flatnonzero((matrix(trainer, layer) != before[layer]).any(axis=1)), seen)
        changed = rows.changes()
        assert np.array_equal(changed.ids_U, ids)
        assert np.array_equal(changed.ids_U[(changed.state_US > 0).all(axis=1)], seen)
    assert {path: path.read_bytes() for path in start.directory.rglob("*") if path.is_file()} == files


def test_a_step_reads_and_writes_each_named_row_once(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, npt.NDArray[np.int64]]] = []
    for name in ("read", "write"):
        original = getattr(HeldRows, name)

        def spy(rows: HeldRows, ids: npt.NDArray[np.int64], *values: Any, name: str = name, original: Any = original) -> Any:
            calls.append((name, ids))
            return original(rows, ids, *values)

        monkeypatch.setattr(HeldRows, name, spy)
    record = trainer.step(0.0)
    for rows in trainer.rows.values():
        rows.finish()
    order = [("read", 0), ("read", 1), ("write", 0)]  # what the next step reads is read before this one writes
    wanted = [(name, named_by(trainer, layer, step)) for name, step in order for layer in trainer.rows]
    assert [name for name, _ in calls] == [name for name, _ in wanted]
    assert all(np.array_equal(ids, expected) for (_, ids), (_, expected) in zip(calls, wanted, strict=True))
    assert record.rows_touched == sum(len(ids) for name, ids in calls if name == "write")


@pytest.mark.parametrize("steps", [1, 3])
def test_rows_train_as_a_dense_table_would(ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The same steps with whole matrices as parameters: row-wise Adagrad after clipping everything together."""
    monkeypatch.setattr(module, "computes_bfloat16", lambda device: False)
    recipe = tiny("random")
    start = start_of(ngrams, tmp_path, recipe)
    trainer, twin = trainer_of(ngrams, start, recipe), trainer_of(ngrams, start, recipe)
    dense = {layer: torch.from_numpy(matrix(twin, layer)).requires_grad_() for layer in twin.rows}
    squares = {layer: torch.zeros(len(table)) for layer, table in dense.items()}
    optimizer = torch.optim.AdamW(twin.optimizer.param_groups, betas=(0.9, 0.95))
    for step in range(steps):
        trainer.step(0.5)
        batch, rate = twin.batches[step], (step + 1) / 20 * 0.55
        layouts = {layer: rows.layout for layer, rows in twin.rows.items()}
        looked_up = {
            layer: F.embedding(torch.from_numpy(layouts[layer].row_ids(batch.windows_BTN)), table).flatten(-2)
            for layer, table in dense.items()
        }
        logits_BTV = twin.host(torch.from_numpy(batch.tokens_BT), looked_up)
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), torch.from_numpy(batch.targets_BT).flatten())
        assert trainer.log[-1].loss == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*twin.host.parameters(), *dense.values()], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.training.learning_rate * rate
        optimizer.step()
        with torch.no_grad():
            for layer, table in dense.items():
                squares[layer] += table.grad.square().mean(dim=1)
                table -= recipe.training.row_learning_rate * rate * table.grad / (squares[layer].sqrt() + 1e-8)[:, None]
                table.grad = None
    for layer, table in dense.items():
        np.testing.assert_allclose(matrix(trainer, layer), table.detach(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(state(trainer, layer)[:, 0], squares[layer], rtol=1e-3, atol=1e-12)
    for one, other in zip(trainer.host.parameters(), twin.host.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_training_leaves_its_own_document_out_and_measuring_does_not(trainer: Trainer) -> None:
    batch = trainer.batches[0]
    targets_BT = torch.from_numpy(batch.targets_BT)
    for rows in trainer.rows.values():
        gathered = rows.gather(batch, torch.device("cpu"))
        looked_up = torch.from_numpy(rows.take(rows.layout.row_ids(batch.windows_BTN)))
        assert rows.left_out is not None
        own_BTH = torch.from_numpy(rows.left_out.own(batch.windows_BTN, batch.targets_BT))
        left = rows.left_out.without(looked_up, own_BTH, targets_BT)
        assert (left - looked_up).abs().max() > 1e-3
        torch.testing.assert_close(rows.memory(gathered, targets_BT), left.flatten(-2))


def test_rows_at_a_rate_of_zero_stay_as_they_were(ngrams: NGrams, start: Start) -> None:
    trainer = trainer_of(ngrams, start, tiny(row_learning_rate=0))
    before = {layer: matrix(trainer, layer) for layer in trainer.rows}
    weights = trainer.host.embedding.weight.detach().clone()
    for _ in range(STEPS):
        trainer.step(0.0)
    assert all(np.array_equal(matrix(trainer, layer), before[layer]) for layer in trainer.rows)
    assert not any(len(rows.changes().ids_U) for rows in trainer.rows.values())
    assert not torch.equal(trainer.host.embedding.weight, weights)


def test_the_rate_warms_up_and_falls_to_a_tenth(trainer: Trainer) -> None:
    rates = []
    for fraction in [0.0] * 20 + [0.5, 1.0, 3.0]:
        trainer.step(fraction)
        rates.append(trainer.optimizer.param_groups[0]["lr"] / TINY.training.learning_rate)
    assert rates == pytest.approx([(step + 1) / 20 for step in range(20)] + [0.55, 0.1, 0.1])


def test_the_loss_falls_and_the_log_tells(trainer: Trainer, held_out: HeldOut) -> None:
    untrained = trainer.evaluate(held_out)
    assert trainer.log == []
    for _ in range(60):
        trainer.step(0.0)
    trained = trainer.evaluate(held_out)
    assert trained < untrained - 0.3
    assert [(record.step, record.tokens) for record in trainer.log] == [(n, n * 64) for n in range(1, 61)]
    assert [record.held_out_loss for record in trainer.log] == [None] * 59 + [trained]
    assert [record.seconds for record in trainer.log] == sorted(record.seconds for record in trainer.log)
    assert trainer.log[-1].seconds == trainer.seconds


@torch.no_grad()
def test_the_loss_is_the_mean_over_every_target(trainer: Trainer, held_out: HeldOut) -> None:
    losses_T = trainer.token_losses(held_out)
    targets = held_out.source.stream.tokens_T[held_out.targets]
    expected = []
    for stretch in held_out.stretches_S:
        first, last = stretch * TINY.host.context, (stretch + 1) * TINY.host.context
        windows_TN = held_out.source.windows(first, last)
        looked_up = {
            layer: torch.from_numpy(rows.take(rows.layout.row_ids(windows_TN))).flatten(-2)[None]
            for layer, rows in trainer.rows.items()
        }
        logits_TV = trainer.host(torch.from_numpy(held_out.source.stream.tokens_T[first:last].astype(np.int64))[None], looked_up)[0]
        expected.append(-logits_TV.log_softmax(-1).numpy())
    np.testing.assert_allclose(losses_T, np.concatenate(expected)[np.arange(len(targets)), targets], rtol=1e-4)
    assert trainer.evaluate(held_out) == losses_T.mean()


def snapshot(trainer: Trainer) -> list[npt.NDArray[Any]]:
    weights = [parameter.detach().numpy().copy() for parameter in trainer.host.parameters()]
    states = [state(trainer, layer) for layer in trainer.rows]
    return [*weights, *states, *(matrix(trainer, layer) for layer in trainer.rows)]


def same(one: list[npt.NDArray[Any]], other: list[npt.NDArray[Any]]) -> bool:
    return all(np.array_equal(left, right, equal_nan=True) for left, right in zip(one, other, strict=True))


def test_a_loss_that_is_lost_stops_the_run_before_it_does_harm(trainer: Trainer) -> None:
    trainer.step(0.0)
    with torch.no_grad():
        trainer.host.final_norm.weight[0] = math.nan
    before = snapshot(trainer)
    with pytest.raises(TrainingError, match=r"loss must stay finite, but it is nan at step 2, first in final_norm.weight;"):
        trainer.step(0.0)
    assert same(snapshot(trainer), before)
    assert (trainer.step_number, len(trainer.log)) == (1, 1)


def test_a_gradient_that_is_lost_stops_the_run_before_it_does_harm(trainer: Trainer) -> None:
    trainer.step(0.0)
    before = snapshot(trainer)
    trainer.host.final_norm.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"must stay finite, but it is (inf|nan) at step 2, first in final_norm.weight;"):
        trainer.step(0.0)
    assert same(snapshot(trainer), before)


def test_what_computed_no_number_first_is_told(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.host.get_submodule("blocks.1.feed_forward.gate_up").weight.mul_(1e30)
    with pytest.raises(TrainingError, match=r"at step 1, first in blocks\.1\.feed_forward\.(gate_up|down); lower"):
        trainer.step(0.0)


@pytest.mark.parametrize(
    ("rate", "rates"), [(0.05, "training.learning_rate or training.row_learning_rate"), (0.0, "training.learning_rate")]
)
def test_the_rates_that_trained_are_to_be_lowered(ngrams: NGrams, start: Start, rate: float, rates: str) -> None:
    trainer = trainer_of(ngrams, start, tiny(row_learning_rate=rate))
    with torch.no_grad():
        trainer.host.final_norm.weight[0] = math.nan
    with pytest.raises(TrainingError, match=f"; lower {rates}$"):
        trainer.step(0.0)


def test_rows_that_are_no_numbers_are_told(trainer: Trainer) -> None:
    rows = trainer.rows[1]
    ids_U = named(trainer, 1, 1)
    numbers_UE, state_US = rows.store.read(ids_U)
    rows.store.write(ids_U, numbers_UE * math.inf, state_US)
    with pytest.raises(TrainingError, match="at step 1, first in the rows of layer 1; lower"):
        trainer.step(0.0)


# a step in parts, and a batch ahead -----------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_a_step_in_parts_equals_one_large_batch(
    ngrams: NGrams, start: Start, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "computes_bfloat16", lambda device: False)
    whole, parts = (
        trainer_of(ngrams, start, tiny(batch=batch, accumulate=accumulate, row_optimizer=optimizer))
        for batch, accumulate in ((8, 1), (2, 4))
    )
    seen = []
    parts.host.register_forward_hook(lambda host, arguments, output: seen.append(len(arguments[0])))
    for trainer in (whole, parts):
        for _ in range(3):
            trainer.step(0.5)
    assert seen == [2] * 12
    assert [record.tokens for record in parts.log] == [record.tokens for record in whole.log] == [128, 256, 384]
    assert [record.loss for record in parts.log] == pytest.approx([record.loss for record in whole.log], rel=1e-5)
    for one, other in zip(parts.host.parameters(), whole.host.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for layer in whole.rows:
        np.testing.assert_allclose(matrix(parts, layer), matrix(whole, layer), rtol=1e-2, atol=1e-3)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
@pytest.mark.usefixtures("two_threads")
def test_a_step_in_threads_equals_one_alone(ngrams: NGrams, start: Start, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "computes_bfloat16", lambda device: False)
    recipe = tiny(batch=8, accumulate=2, row_optimizer=optimizer)
    first, second = trainer_of(ngrams, start, recipe), trainer_of(ngrams, start, recipe)
    monkeypatch.setattr(module, "_side_by_side", lambda host, recipe: 1)
    alone = trainer_of(ngrams, start, recipe)
    seen: list[tuple[str, int]] = []
    first.host.register_forward_hook(lambda host, inputs, output: seen.append((threading.current_thread().name, len(inputs[0]))))
    losses = [[trainer.step(0.5).loss for _ in range(3)] for trainer in (first, second, alone)]
    assert [size for _, size in seen] == [4] * 12
    assert {name for name, _ in seen} <= {"step_0", "step_1"}
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-5)
    assert same(snapshot(first), snapshot(second))
    for one, other in zip(first.host.parameters(), alone.host.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for layer in first.rows:
        np.testing.assert_allclose(matrix(first, layer), matrix(alone, layer), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("batch", "threads", "compile", "parts"),
    [(8, 1, False, 1), (8, 2, False, 2), (8, 3, False, 2), (12, 8, False, 3), (9, 2, False, 1), (7, 2, False, 1), (8, 2, True, 1)],
)
def test_how_many_parts_are_computed_at_once(
    batch: int, threads: int, compile: bool, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with four stretches or more, all of one size; a compiled objective, and a host with hooks, one at a time."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    host, recipe = Host(32, TINY.host), tiny(batch=batch, compile=compile).training
    assert module._side_by_side(host, recipe) == parts
    host.computes_in_threads = False
    assert module._side_by_side(host, recipe) == 1


@pytest.mark.usefixtures("two_threads")
def test_a_loss_that_is_lost_in_a_thread_is_told(ngrams: NGrams, start: Start) -> None:
    trainer = trainer_of(ngrams, start, tiny(batch=8))
    with torch.no_grad():
        trainer.host.blocks[0].attention.output.weight[0, 0] = math.nan
    before = snapshot(trainer)
    with pytest.raises(TrainingError, match=r"loss must stay finite.* first in blocks\.0\.attention\.output\.weight"):
        trainer.step(0.0)
    assert same(snapshot(trainer), before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("layers", "rate"), [((1,), 0.0), ((1,), 0.1), ((0, 1), 0.0)])
def test_a_host_learns_alone_before_rows_speak_beside_it(
    ngrams: NGrams, tmp_path: Path, layers: tuple[int, ...], rate: float
) -> None:
    training = replace(SPEAKING.training, row_learning_rate=rate, batch=8)
    recipe = replace(SPEAKING, hash=replace(SPEAKING.hash, layers=layers), training=training)
    trainer = trainer_of(ngrams, start_of(ngrams, tmp_path, recipe), recipe)
    mixture = trainer.host.mixture.state_dict()
    before = {name: tensor.clone() for name, tensor in mixture.items()}
    rows = {layer: matrix(trainer, layer).copy() for layer in layers}
    early = trainer.step(0.39)
    assert (early.rows_touched > 0) == (layers == (0, 1))  # a memory within the host is heard from the first step
    assert all(torch.equal(tensor, before[name]) for name, tensor in mixture.items())
    assert np.array_equal(matrix(trainer, 1), rows[1])
    late = [trainer.step(0.4) for _ in range(2)][-1]
    assert late.rows_touched > early.rows_touched
    assert {name for name, tensor in mixture.items() if torch.equal(tensor, before[name])} == {"vectors"}
    assert np.array_equal(matrix(trainer, 1), rows[1]) == (rate == 0)


@pytest.mark.parametrize("where", ["ram", "mmap"])
def test_reading_a_batch_ahead_changes_nothing(ngrams: NGrams, start: Start, where: str) -> None:
    """Against a run that reads every batch only when all that came before is written."""
    ahead, waiting = trainer_of(ngrams, start, where=where), trainer_of(ngrams, start, where=where)
    for _ in range(6):
        ahead.step(0.25)
        waiting.feed = Feed(waiting.batches, waiting.rows, waiting.host.device)
        waiting.step(0.25)
        for rows in waiting.rows.values():
            rows.finish()
    assert same(snapshot(ahead), snapshot(waiting))
    assert [record.loss for record in ahead.log] == [record.loss for record in waiting.log]


def test_clipping_clips_the_rows(ngrams: NGrams, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Adagrad keeps of a step is its mean squares: a tenth of the norm leaves a hundredth."""
    squares = []
    for clip in (1e-3, 1e-4):
        monkeypatch.setattr(module, "_CLIP", clip)
        trainer = trainer_of(ngrams, start)
        trainer.step(0.0)
        squares.append(state(trainer, 1)[named(trainer, 1, 1)].astype(np.float64).sum())
    assert squares[0] == pytest.approx(100 * squares[1], rel=1e-3)


def test_threads_that_wait_do_not_spin() -> None:
    """As OpenMP tells when torch loads it; spinning, they took forty times as long where others wanted the cores too."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {"OMP_DISPLAY_ENV": "TRUE"}
    done = subprocess.run([sys.executable, "-c", "from engram_cli import Budget"], capture_output=True, text=True, env=environment)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


def test_how_much_of_a_budget_is_used_up() -> None:
    assert Budget(seconds=4.0).fraction(1.0, 10**9) == 0.25
    assert Budget(tokens=1000).fraction(10**9, 500) == 0.5


of_torch = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks at all inputs


def compiling_with(monkeypatch: pytest.MonkeyPatch, backend: str | Callable[..., Any]) -> None:
    """Let torch.compile trace and differentiate as always, but leave the kernels to `backend`: in C++ they take a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


@of_torch
def test_compiled_losses_train_as_others_do(ngrams: NGrams, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling_with(monkeypatch, "aot_eager")
    losses = []
    for compiled in (False, True):
        trainer = trainer_of(ngrams, start, tiny(compile=compiled, accumulate=2))
        losses.append([trainer.step(0.1).loss for _ in range(STEPS)])
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)


@of_torch
def test_where_nothing_can_be_compiled_it_says_so(ngrams: NGrams, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found\nin three lines\nof advice")

    compiling_with(monkeypatch, compiler)
    trainer = trainer_of(ngrams, start, tiny(compile=True))
    with pytest.raises(TrainingError, match=r"takes a compiler .* says `.*No working C\+\+ compiler found`; install one, or set"):
        trainer.step(0.1)
