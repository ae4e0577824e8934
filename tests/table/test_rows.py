"""Rows on disk: what is put is taken, in the precision of the row type, and only rows that were put change."""

from pathlib import Path

import numpy as np
import pytest

from engram_cli.errors import ArtifactError
from engram_cli.store.mapping import MappedFile
from engram_cli.store.tensors import write_tensors
from engram_cli.table.row_types import ROW_TYPES
from engram_cli.table.rows import Rows, rows_file

OWN_BYTES = {"f32": 256, "f16": 128, "bf16": 128, "fp8-block": 66, "fp8-scalar": 64, "int8-row": 68}


@pytest.mark.parametrize("name", ROW_TYPES)
def test_rows_come_back_in_the_precision_of_their_type(tmp_path: Path, name: str) -> None:
    path = tmp_path / rows_file(3)
    scale = np.array([0.01], np.float32)
    rows = Rows.create(path, 100, 64, name, scale if name == "fp8-scalar" else None)
    ids, values = np.array([5, 99, 0]), np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    rows.put(ids, values)
    rows.flush()
    again = Rows.open(tmp_path / "rows-03.safetensors")
    rounded = again.type.decode(*again.type.encode(values, scale))
    assert np.array_equal(again.take(ids), rounded)
    assert np.array_equal(again.read(98, 2)[1], rounded[1])
    assert not again.take(np.setdiff1d(np.arange(100), ids)).any()
    assert (again.type.name, again.count, again.dim, again.bytes_per_row) == (name, 100, 64, OWN_BYTES[name])


def test_numbers_and_scales_are_asked_for_before_either_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rows.create(tmp_path / "rows", 100, 64, "fp8-block")
    rows, calls = Rows.open(tmp_path / "rows"), list[str]()
    monkeypatch.setattr(MappedFile, "ask", lambda *_: calls.append("ask"))
    monkeypatch.setattr(MappedFile, "check", lambda _: calls.append("read"))
    rows.numbers.slow = True
    rows.take(np.array([3, 70]))
    assert calls == ["ask", "ask", "read", "read"]
    rows.numbers.slow = rows.scales.slow = False
    rows.take(np.array([3, 70]))
    assert calls[4:] == ["read", "read"]


@pytest.mark.parametrize("name", ROW_TYPES)
def test_written_rows_are_those_that_were_put(tmp_path: Path, name: str) -> None:
    scale = np.array([0.01], np.float32) if name == "fp8-scalar" else None
    put, written = (Rows.create(tmp_path / rows_file(layer), 9, 64, name, scale) for layer in (0, 1))
    values = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    put.put(np.arange(4, 7), values)
    written.write_range(4, values)
    assert np.array_equal(written.read(0, 9), put.read(0, 9))
    assert np.array_equal(written.take(np.arange(9)), put.take(np.arange(9)))  # a map sees it too


def test_rows_of_any_shape_of_ids(tmp_path: Path) -> None:
    rows = Rows.create(tmp_path / "rows.safetensors", 10, 2, "f32")
    rows.put(np.arange(10), np.arange(20, dtype=np.float32).reshape(10, 2))
    assert rows.take(np.array([[[3], [4]]])).tolist() == [[[[6, 7]], [[8, 9]]]]
    assert rows.take(np.zeros((0, 3), np.int64)).shape == (0, 3, 2)


def test_copy_on_write_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    Rows.create(path, 10, 2, "f32").flush()
    before = path.read_bytes()
    rows = Rows.open(path, "c")
    rows.put(np.array([1]), np.ones((1, 2), np.float32))
    rows.put_range(3, np.ones((2, 2), np.float32))
    assert rows.take(np.array([1])).tolist() == [[1, 1]]
    assert rows.read(0, 5).tolist() == [[0, 0], [1, 1], [0, 0], [1, 1], [1, 1]]
    assert path.read_bytes() == before


@pytest.mark.parametrize("id", [10, -1, -11])
def test_rows_outside_the_matrix_are_an_error(tmp_path: Path, id: int) -> None:
    rows = Rows.create(tmp_path / "rows.safetensors", 10, 2, "f32")
    with pytest.raises(IndexError):
        rows.take(np.array([0, id]))


def test_blocks_are_all_rows_once(tmp_path: Path) -> None:
    rows = Rows.create(tmp_path / "rows.safetensors", 200_000, 64, "f16")
    blocks = list(rows.blocks())
    assert len(blocks) > 1
    assert [first for first, _ in blocks] == np.cumsum([0, *(count for _, count in blocks[:-1])]).tolist()
    assert sum(count for _, count in blocks) == 200_000


def test_what_is_no_matrix_of_rows_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ids", {"rows": ("I64", np.zeros((2, 2), np.int64))})
    write_tensors(tmp_path / "flat", {"rows": ("F32", np.zeros(4, np.float32))})
    write_tensors(tmp_path / "other", {"weight": ("F32", np.zeros((2, 2), np.float32))})
    write_tensors(tmp_path / "no scales", {"rows": ("F8_E4M3", np.zeros((2, 32), np.uint8))})
    scales = ("F8_E8M0", np.zeros((2, 2), np.uint8))
    write_tensors(tmp_path / "too many scales", {"rows": ("F8_E4M3", np.zeros((2, 32), np.uint8)), "scales": scales})
    for name in ("ids", "flat", "other", "no scales", "too many scales"):
        with pytest.raises(ArtifactError, match="must hold one matrix `rows`"):
            Rows.open(tmp_path / name)
