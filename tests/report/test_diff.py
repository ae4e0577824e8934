"""Comparing tables: the rows that differ, and no others, by what they mean."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.errors import ArtifactError
from engram_cli.report import diff as comparing
from engram_cli.report.diff import diff, differs
from engram_cli.store.artifact import open_artifact
from engram_cli.store.matrix import Matrix
from engram_cli.store.shards import open_shards
from tests.checkpoints import write_demo
from tests.tables import RECIPE, write_table

LAYERS = (1, 15)


def change(path: Path, layer: int, row: int, values: list[float]) -> None:
    """Set the first numbers of a row."""
    matrix = Matrix([open_shards(path)[f"layers.{layer}.engram.multi_head_embedding.embedding.weight"]], "r+")
    numbers = matrix.read(row, 1)
    numbers[0, : len(values)] = values
    matrix.write(row, numbers)


def test_equal_digests_are_said_at_once(table_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(table_path, tmp_path / "copy"))
    monkeypatch.setattr(comparing, "_Layer", None)  # nothing is read
    report = diff(table_path, copy)
    assert not differs(report)
    assert report.facts["digest"] == open_artifact(copy).digest


@given(st.dictionaries(st.tuples(st.sampled_from(LAYERS), st.integers(0, 200)), st.floats(50, 1000, width=32), max_size=15))
def test_what_was_changed_is_found_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[tuple[int, int], float]
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    one, other = write_demo(folder / "one"), write_demo(folder / "other")
    for (layer, row), number in changes.items():
        change(one, layer, row, [0.0])
        change(other, layer, row, [number])
    report = diff(one, other)
    heads = report.tables["heads"].to_pylist()
    assert sum(head["differ"] for head in heads) == len(changes)
    assert max(head["largest_difference"] for head in heads) == max(changes.values(), default=0)
    assert differs(report) == bool(changes)
    if changes:
        first = report.tables["rows"].to_pylist()
        assert [(row["layer"], row["row"]) for row in first] == sorted(changes)[:10]
        assert [row["rms_difference"] for row in first] == [
            pytest.approx(changes[place] / 8**0.5) for place in sorted(changes)[:10]
        ]


def test_rows_belong_to_their_heads(tmp_path: Path) -> None:
    one, other = write_demo(tmp_path / "one"), write_demo(tmp_path / "other")
    change(other, 1, 53, [9.0])  # the primes of layer 1 are 53, 59, 61, 67
    (row,) = diff(one, other).tables["rows"].to_pylist()
    assert (row["order"], row["head"], row["row"]) == (2, 1, 53)


def test_what_is_no_number_equals_itself_only(tmp_path: Path) -> None:
    one, other = write_demo(tmp_path / "one"), write_demo(tmp_path / "other")
    for path, zero in ((one, 0.0), (other, -0.0)):
        change(path, 1, 5, [np.nan, np.inf, -np.inf, zero])
        change(path, 1, 6, [np.nan if path == one else 1.0])
    (row,) = diff(one, other).tables["rows"].to_pylist()
    assert (row["row"], row["largest_difference"]) == (6, np.inf)


def test_other_heads_cannot_be_compared(table_path: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other", RECIPE.replace("size = 50", "size = 60"))
    with pytest.raises(ArtifactError, match=r"but layer 0 .* has .* rows x 4 of 4 heads \(primes 53 to"):
        diff(table_path, other)
    with pytest.raises(ArtifactError, match=r"has layers 0, 2 and .* has 1, 15"):
        diff(table_path, write_demo(tmp_path / "demo"))


def test_another_token_map_is_told(table_path: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other", texts=("Entirely other words make another tokenizer, and another map.",), vocab=300)
    assert any("another token map" in note for note in diff(table_path, other).notes)
