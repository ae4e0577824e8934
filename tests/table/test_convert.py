"""Rows that go from one place to another in blocks are those that one block of all would give."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engram_cli.store.matrix import Matrix
from engram_cli.table import convert as streaming
from engram_cli.table.convert import RoundingError, largest_number, stream
from engram_cli.table.row_types import ROW_TYPES
from engram_cli.table.rows import Rows

ROWS, DIM = 103, 64  # the last block is a short one
SCALE = np.array([0.01], np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_NUMBERS", 4 * DIM)
    monkeypatch.setattr(streaming, "_LET_GO", 8 * DIM * 2)  # 8 rows of bf16


def filled(path: Path, dtype: str) -> Rows:
    rows = Rows.create(path, ROWS, DIM, dtype, SCALE if dtype == "fp8-scalar" else None)
    rows.put(slice(None), np.random.default_rng(1).standard_normal((ROWS, DIM), np.float32))
    return rows


@pytest.mark.parametrize("after", ROW_TYPES)
@pytest.mark.parametrize("before", ["f32", "fp8-block"])
def test_many_blocks_give_what_one_gives(before: str, after: str, tmp_path: Path) -> None:
    source = filled(tmp_path / "before", before)
    target = Rows.create(tmp_path / "after", ROWS, DIM, after, SCALE if after == "fp8-scalar" else None)
    error = RoundingError()
    told = [(done, numbers.copy()) for done, numbers in stream(source, target, error)]
    assert [done for done, _ in told] == [*range(4, ROWS, 4), ROWS]
    numbers, scales = target.read_stored(0, ROWS)
    assert np.array_equal(np.concatenate([part for _, part in told]), numbers)
    encoded = ROW_TYPES[after].encode(source.read(0, ROWS), SCALE)
    expected, expected_scales = source.read_stored(0, ROWS) if before == after else encoded
    assert np.array_equal(numbers, expected)
    assert scales is None or np.array_equal(scales, expected_scales)
    change = target.read(0, ROWS).astype(np.float64) - source.read(0, ROWS)
    assert error.squared == pytest.approx((change**2).sum(), rel=1e-5)


def test_the_largest_number_is_found_in_any_block(tmp_path: Path) -> None:
    rows = filled(tmp_path / "rows", "bf16")
    rows.put(np.array([7]), np.full((1, DIM), np.inf, np.float32))
    rows.put(np.array([ROWS - 1]), np.full((1, DIM), -42, np.float32))
    found = list(largest_number(rows))
    assert (found[-1][0], max(size for _, size in found)) == (ROWS, 42)


def test_rows_that_were_written_are_let_go_and_again_once_they_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = filled(tmp_path / "before", "f32"), Rows.create(tmp_path / "after", ROWS, DIM, "bf16")
    told: list[tuple[int, int, int]] = []
    written = 0
    monkeypatch.setattr(Matrix, "let_go", lambda _, first, count: told.append((first, count, written)))
    for done, _ in stream(source, target, RoundingError()):
        written = done
    assert {count for _, count, _ in told} == {8}
    assert all(first + count <= now for first, count, now in told)
    times = Counter(first for first, _, _ in told)
    assert list(times) == list(range(0, ROWS - 7, 8))
    assert all(times[first] >= 2 for first in range(0, 64, 8))
