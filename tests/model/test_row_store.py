"""Where rows live: every store reads what was written last, tells what differs from the files, and leaves the files alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engram_cli.model.row_store import HeldRows, MappedRows, RowStore, as_array, count_trained, open_state, open_store
from engram_cli.recipe import STILL_TYPES
from engram_cli.store import resources
from engram_cli.table.rows import Rows, rows_file

ROWS, DIM, WIDTH = 500, 6, 2
CPU = torch.device("cpu")


@pytest.fixture(params=["f32", "f16", "bf16"])
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def directory(tmp_path: Path, dtype: str) -> Path:
    values = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    Rows.create(tmp_path / rows_file(0), ROWS, DIM, dtype).put_range(0, values)
    return tmp_path


def numbers(store: RowStore, rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed)).to(store.type)


@pytest.mark.parametrize(("where", "kind"), [("ram", HeldRows), ("mmap", MappedRows)])
def test_what_was_written_last_is_read(directory: Path, dtype: str, where: str, kind: type[Any]) -> None:
    store = open_store(directory, 0, WIDTH, where, CPU)
    assert type(store) is kind
    assert (store.count, store.dim) == (ROWS, DIM)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    model, state = torch.from_numpy(store.take(np.arange(ROWS))), torch.zeros(ROWS, WIDTH)
    assert np.array_equal(model, Rows.open(directory / rows_file(0)).take(np.arange(ROWS)))
    rng = np.random.default_rng(1)
    written = set()
    for step in range(5):
        ids_U = np.sort(rng.choice(ROWS, 90, replace=False))
        written |= set(ids_U.tolist())
        made, kept = numbers(store, 90, step), torch.rand(90, WIDTH) + 0.1
        store.write(ids_U, made, kept)
        model[ids_U], state[ids_U] = made.float(), kept
        ids_U = np.sort(rng.choice(ROWS, 200, replace=False))
        found, found_state = store.read(ids_U)
        assert found.dtype == store.type
        assert torch.equal(found.float(), model[ids_U])
        assert torch.equal(found_state, state[ids_U])
        looked_up = rng.integers(0, ROWS, (3, 2))
        assert np.array_equal(store.take(looked_up), model[looked_up])
    changes = store.changes()
    assert changes.ids_U.tolist() == sorted(written)
    assert np.array_equal(changes.numbers_UE, as_array(model[changes.ids_U].to(store.type)))
    assert np.array_equal(changes.state_US, state[changes.ids_U])
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("where", ["ram", "mmap"])
def test_what_is_settled_is_read_from_the_files(directory: Path, where: str) -> None:
    store = open_store(directory, 0, WIDTH, where, CPU)
    ids_U = np.array([3, 77, 499])
    store.write(ids_U, numbers(store, 3, 0), torch.ones(3, WIDTH))
    changes = store.changes()
    Rows.open(directory / rows_file(0), "r+").numbers.put(changes.ids_U, changes.numbers_UE)
    open_state(directory, 0, ROWS, WIDTH).put(changes.ids_U, changes.state_US)
    store.settle()
    assert len(store.changes().ids_U) == 0
    for opened in (store, *(open_store(directory, 0, WIDTH, other, CPU) for other in ("ram", "mmap"))):
        assert torch.equal(opened.read(ids_U)[0], numbers(store, 3, 0))
        assert torch.equal(opened.read(ids_U)[1], torch.ones(3, WIDTH))
        assert not opened.read(np.array([0, 1]))[1].any()
    assert count_trained(directory, 0) == 3


@pytest.mark.parametrize("where", ["ram", "mmap"])
@pytest.mark.parametrize("still", STILL_TYPES)
def test_rows_that_stay_as_they_are_may_be_of_any_type(tmp_path: Path, still: str, where: str) -> None:
    values = np.random.default_rng(0).standard_normal((ROWS, 64), dtype=np.float32)
    rows = Rows.create(tmp_path / rows_file(0), ROWS, 64, still)
    rows.put_range(0, values)
    store = open_store(tmp_path, 0, 0, where, CPU)
    assert store.row_bytes == rows.bytes_per_row
    ids = np.array([0, 77, 499])
    for _ in range(2):
        found_UE, state_US = store.read(ids)
        assert np.array_equal(found_UE.numpy(), rows.take(ids))
        assert state_US.shape == (3, 0)
        assert np.array_equal(store.take(ids[None]), rows.take(ids[None]))
        changes = store.changes()
        assert (len(changes.ids_U), changes.numbers_UE.shape, changes.numbers_UE.dtype) == (0, (0, 64), rows.numbers.type)
        store.settle()
    with pytest.raises(AssertionError):
        store.write(ids, found_UE, state_US)
    assert [path.name for path in tmp_path.iterdir()] == [rows_file(0)]  # no state beside them


@pytest.mark.parametrize("still", ["f32", "int8-row"])
def test_still_rows_give_pages_back(tmp_path: Path, still: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram_cli.model.row_store.free_memory", lambda: 0)
    rows = Rows.create(tmp_path / rows_file(0), ROWS, 64, still)
    rows.put_range(0, np.random.default_rng(0).standard_normal((ROWS, 64), dtype=np.float32))
    rows.flush()
    store = open_store(tmp_path, 0, 0, "ram", CPU)
    assert np.array_equal(store.take(np.arange(ROWS)), store.take(np.arange(ROWS)))


def test_mapped_rows_give_pages_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they hold is then read again: the numbers are the same."""
    monkeypatch.setattr("engram_cli.model.row_store.free_memory", lambda: 0)
    store = open_store(directory, 0, WIDTH, "mmap", CPU)
    before = store.take(np.arange(ROWS))
    store.write(np.array([5]), numbers(store, 1, 0), torch.ones(1, WIDTH))
    after = store.take(np.arange(ROWS))
    assert np.array_equal(np.delete(after, 5, 0), np.delete(before, 5, 0))
    assert np.array_equal(after[5], numbers(store, 1, 0)[0].float())


def test_memory_of_changed_rows_is_told_and_set_free(directory: Path) -> None:
    store = open_store(directory, 0, WIDTH, "mmap", CPU)
    little = store.pending_bytes
    assert little < 1 << 20
    store.settle()
    assert store.pending_bytes == little
    assert open_store(directory, 0, WIDTH, "ram", CPU).pending_bytes == 0


def test_rows_that_were_never_trained_are_none(directory: Path) -> None:
    assert count_trained(directory, 0) == 0
    assert resources.mapped_memory() >= 0
