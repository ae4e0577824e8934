"""A matrix of tensors end to end gives the rows that the tensors hold, picked or in stretches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.store import matrix as matrices
from engram_cli.store.mapping import MappedFile
from engram_cli.store.matrix import Matrix
from engram_cli.store.tensors import Stored, read_tensor_specs, write_tensors


def spread(folder: Path, lengths: list[int], files: int) -> tuple[Matrix, np.ndarray]:
    """A matrix of 3 numbers a row whose parts are dealt out to files, and what it holds."""
    whole = np.arange(sum(lengths) * 3, dtype=np.int16).reshape(-1, 3)
    parts = np.split(whole, np.cumsum(lengths)[:-1])
    stored: list[Stored | None] = [None] * len(parts)
    for number in range(min(files, len(parts))):
        path = folder / f"{number}.safetensors"
        write_tensors(
            path,
            {"odd": ("U8", np.ones(number + 1, np.uint8))} | {str(i): ("I16", parts[i]) for i in range(number, len(parts), files)},
        )
        for name, spec in read_tensor_specs(path).items():
            if name != "odd":
                stored[int(name)] = Stored(path, spec)
    return Matrix([part for part in stored if part is not None]), whole


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any),
    files=st.integers(1, 3),
    data=st.data(),
)
def test_parts_make_one_matrix(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], files: int, data: st.DataObject
) -> None:
    matrix, whole = spread(tmp_path_factory.mktemp("matrix"), lengths, files)
    assert (matrix.count, matrix.row_shape, matrix.row_bytes) == (len(whole), (3,), 6)
    ids = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)), np.int64)
    assert np.array_equal(matrix.take(ids), whole[ids])
    first = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - first))
    assert np.array_equal(matrix.read(first, count), whole[first : first + count])
    for bad in (-1, len(whole)):
        with pytest.raises(IndexError):
            matrix.take(np.array([0, bad]))


def test_a_tensor_of_one_dimension_has_rows_of_one_number(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"scales": ("F32", np.arange(4, dtype=np.float32))})
    matrix = Matrix([Stored(tmp_path / "file", read_tensor_specs(tmp_path / "file")["scales"])])
    assert matrix.take(np.array([[3, 1]])).tolist() == [[3, 1]]
    assert matrix.read(1, 2).tolist() == [1, 2]


@pytest.mark.parametrize("lengths", [[5000], [3000, 0, 2000]])
def test_rows_that_are_asked_for_ahead_are_the_same(lengths: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, whole = spread(tmp_path, lengths, 2)
    ids = np.random.default_rng(0).integers(0, 5000, (2, 1500))
    asked: list[int] = []
    ask = MappedFile.ask
    monkeypatch.setattr(MappedFile, "ask", lambda file, places, size: (asked.append(len(places)), ask(file, places, size)))
    for slow, expected in ((1.0, ids.size), (-1.0, 0), (1.0, ids.size), (1.0, 0)):  # the first, and after one that took long
        monkeypatch.setattr(matrices, "_SLOW", slow)
        asked.clear()
        np.testing.assert_array_equal(matrix.take(ids), whole[ids])
        assert sum(asked) == expected
    matrix.slow = True
    ids[1, 700] = 5000
    with pytest.raises(IndexError, match="out of bounds"):
        matrix.take(ids)
