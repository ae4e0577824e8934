"""Rows on disk: what is put is taken, in the precision of the dtype, and only rows that were put change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from engram_cli.errors import ArtifactError
from engram_cli.store.tensors import write_tensors
from engram_cli.table.rows import Rows, decode, encode, rows_file

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
FLOATS = st_numpy.arrays(np.float32, st.integers(1, 50), elements=st.floats(-60000, 60000, width=32))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_rows_come_back_in_the_precision_of_their_dtype(tmp_path: Path, dtype: str) -> None:
    rows = Rows.create(tmp_path / rows_file(3), 100, 8, dtype)
    ids, values = np.array([5, 99, 0]), np.random.default_rng(0).standard_normal((3, 8), dtype=np.float32)
    rows.put(ids, values)
    rows.flush()
    again = Rows(tmp_path / "rows-03.safetensors")
    rounded = torch.from_numpy(values).to(TORCH[dtype.upper()]).float().numpy()
    assert np.array_equal(again.take(ids), rounded)
    assert not again.take(np.setdiff1d(np.arange(100), ids)).any()
    assert (again.count, again.dim, again.bytes_per_row) == (100, 8, 32 if dtype == "f32" else 16)


def test_rows_of_any_shape_of_ids(tmp_path: Path) -> None:
    rows = Rows.create(tmp_path / "rows.safetensors", 10, 2, "f32")
    rows.put(np.arange(10), np.arange(20, dtype=np.float32).reshape(10, 2))
    assert rows.take(np.array([[[3], [4]]])).tolist() == [[[[6, 7]], [[8, 9]]]]


def test_copy_on_write_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    Rows.create(path, 10, 2, "f32").flush()
    before = path.read_bytes()
    rows = Rows(path, "c")
    rows.put(np.array([1]), np.ones((1, 2), np.float32))
    assert rows.take(np.array([1])).tolist() == [[1, 1]]
    assert path.read_bytes() == before


@pytest.mark.parametrize("id", [10, -11])
def test_rows_outside_the_matrix_are_an_error(tmp_path: Path, id: int) -> None:
    rows = Rows.create(tmp_path / "rows.safetensors", 10, 2, "f32")
    with pytest.raises(IndexError):
        rows.take(np.array([0, id]))


@given(values=FLOATS, dtype=st.sampled_from(sorted(TORCH)))
def test_numbers_are_rounded_as_torch_rounds_them(values: np.ndarray, dtype: str) -> None:
    expected = torch.from_numpy(values).to(TORCH[dtype]).float().numpy()
    assert np.array_equal(decode(encode(values, dtype), dtype), expected)


def test_what_is_no_matrix_of_rows_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ids", {"rows": ("I64", np.zeros((2, 2), np.int64))})
    write_tensors(tmp_path / "flat", {"rows": ("F32", np.zeros(4, np.float32))})
    write_tensors(tmp_path / "other", {"weight": ("F32", np.zeros((2, 2), np.float32))})
    for name in ("ids", "flat", "other"):
        with pytest.raises(ArtifactError, match="must hold one matrix `rows`"):
            Rows(tmp_path / name)
