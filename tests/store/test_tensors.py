"""Matrices on disk: any safetensors reader reads ours, we read anyone's, and data starts on a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from engram_cli.errors import ArtifactError
from engram_cli.store.tensors import PAGE, STORAGE, TensorSpec, create_tensors, map_tensor, read_tensor_specs, write_tensors

ARRAYS = st.sampled_from(["F32", "F16", "I64", "BF16"]).flatmap(
    lambda dtype: st.tuples(st.just(dtype), st_numpy.arrays(STORAGE[dtype], st_numpy.array_shapes(max_dims=3, max_side=5)))
)


@given(tensors=st.dictionaries(st.text("abc.", min_size=1), ARRAYS, max_size=4))
def test_tensors_are_read_back(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("tensors") / "file"
    write_tensors(path, tensors)
    specs = read_tensor_specs(path)
    assert list(specs) == list(tensors)
    for name, (dtype, array) in tensors.items():
        assert specs[name].dtype == dtype
        assert np.array_equal(map_tensor(path, specs[name]), array, equal_nan=dtype != "I64")
    assert min((spec.offset for spec in specs.values()), default=PAGE) % PAGE == 0


def test_the_safetensors_library_reads_ours(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3)}
    write_tensors(tmp_path / "file", {"a": ("F32", arrays["a"]), "b": ("I64", arrays["b"])})
    loaded = safetensors.numpy.load_file(tmp_path / "file")
    assert {name: array.tolist() for name, array in loaded.items()} == {name: array.tolist() for name, array in arrays.items()}


def test_we_read_those_of_the_safetensors_library(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    safetensors.numpy.save_file({"a": array}, tmp_path / "file", metadata={"format": "pt"})
    assert np.array_equal(map_tensor(tmp_path / "file", read_tensor_specs(tmp_path / "file")["a"]), array)


def test_the_bytes_of_a_file_stay_what_they_are(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"rows": ("F32", np.array([[1, 2]], np.float32))})
    content = (tmp_path / "file").read_bytes()
    header = b'{"rows":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    assert content == (PAGE - 8).to_bytes(8, "little") + header.ljust(PAGE - 8) + bytes.fromhex("0000803f00000040")


def test_created_files_are_sparse_zeros(tmp_path: Path) -> None:
    specs = create_tensors(tmp_path / "file", {"rows": TensorSpec("F32", (1 << 20, 64))})
    status = (tmp_path / "file").stat()
    assert status.st_size == PAGE + (1 << 28)
    assert status.st_blocks * 512 < 1 << 20
    assert not map_tensor(tmp_path / "file", specs["rows"])[-1].any()


def test_copies_on_write_stay_in_memory(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"rows": ("F32", np.zeros((2, 2), np.float32))})
    before = (tmp_path / "file").read_bytes()
    mapped = map_tensor(tmp_path / "file", read_tensor_specs(tmp_path / "file")["rows"], "c")
    mapped[0] = 1
    assert (tmp_path / "file").read_bytes() == before


def with_header(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"rows": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"\xff\xff\xff",
        b"[" * 100_000,
        [1, 2],
        {"rows": 3},
        {"rows": {"dtype": "F32", "shape": [1]}},
        entry(dtype=5),
        entry(offsets=[4, 0]),
        entry(shape=[1 << 70]),
        b'{"rows":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"rows":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        entry() | {"more": entry(offsets=(0, 4))["rows"]},
        entry(dtype="F99", offsets=(0, 8)) | {"more": entry(offsets=(4, 8))["rows"]},
        entry(dtype=["F32"]),
        entry(shape=["1"]),
        entry(shape=[-1], offsets=[4, 0]),
        entry(shape=[True]),
        entry(shape=[2]),
        entry(shape=None),
        entry(offsets=[-4, 0]),
        entry(offsets=[0]),
        entry(offsets=["0", "4"]),
    ],
    ids=lambda header: str(header)[:60],
)
def test_headers_that_are_none_are_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(ArtifactError, match="is not a safetensors file"):
        read_tensor_specs(with_header(tmp_path / "file", header, b"1234"))


@pytest.mark.parametrize("length", [0, 1, 200, 1 << 40, (1 << 64) - 1])
def test_header_lengths_that_cannot_be_are_refused_without_reading_so_much(tmp_path: Path, length: int) -> None:
    with pytest.raises(ArtifactError, match="header length"):
        read_tensor_specs(with_header(tmp_path / "file", entry(), b"1234", length))


def test_files_shorter_than_their_header_says_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="it is truncated"):
        read_tensor_specs(with_header(tmp_path / "file", entry(shape=[1 << 60], offsets=[0, 1 << 62]), b"1234"))
    with pytest.raises(ArtifactError, match="it is truncated"):
        read_tensor_specs(with_header(tmp_path / "file", entry(), b"123"))


def test_tensors_of_types_that_are_not_known_do_not_keep_others_from_being_read(tmp_path: Path) -> None:
    header = entry("F99", [7, 9], (0, 5)) | {"ids": entry("I64", [1], (5, 13))["rows"]}
    path = with_header(tmp_path / "file", header, bytes(13))
    specs = read_tensor_specs(path)
    assert (specs["rows"].shape, specs["rows"].bytes, specs["ids"].bytes) == ((7, 9), 5, 8)
    assert map_tensor(path, specs["ids"]).tolist() == [0]
    with pytest.raises(ArtifactError, match=r"one in .* is F99"):
        map_tensor(path, specs["rows"])
