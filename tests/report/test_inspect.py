"""What an artifact is: every figure agrees with the artifact itself."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError
from engram_cli.report.inspect import inspect
from engram_cli.report.report import Report, write_report
from engram_cli.store import schema
from engram_cli.store.artifact import Draft, open_artifact, write_artifact
from engram_cli.store.tensors import write_tensors


def remake(source: Path, out: Path, change: Callable[[Draft], object]) -> Path:
    """A table artifact like another, but for what `change` does to it before its manifest is written."""
    artifact = open_artifact(source)
    with write_artifact(out, "table") as draft:
        for name in artifact.manifest.files:
            shutil.copy(artifact.file(name), draft.path / name)
        draft.facts, draft.recipe = dict(artifact.manifest.facts), artifact.manifest.recipe
        change(draft)
    return out


def add_training(draft: Draft) -> None:
    """A log of 100 steps: the loss falls, and every second step is evaluated."""
    records = [
        {"step": step, "tokens": 64 * step, "seconds": step / 10, "loss": 9 - step / 50, "held_out_loss": None if step % 2 else 8.0}
        for step in range(1, 101)
    ]
    draft.table("training.arrow", pa.Table.from_pylist(records, schema.TRAINING))


def test_a_table_says_its_layout_weights_and_origin(table_path: Path) -> None:
    artifact = open_artifact(table_path)
    report = inspect(artifact)
    assert report.facts["digest"] == artifact.digest
    assert report.facts["token map"] == artifact.manifest.facts["token_map_digest"]
    assert report.facts["parameters: rows"] == artifact.manifest.facts["parameters"]["rows"]
    layers = report.tables["layers"].to_pylist()
    assert [(layer["layer"], layer["heads"], layer["dim"], layer["dtype"]) for layer in layers] == [
        (0, 4, 4, "f32"),
        (2, 4, 4, "f32"),
    ]
    assert [layer["rows"] for layer in layers] == [53 + 59 + 61 + 67, 71 + 73 + 79 + 83]
    assert all(layer["bytes"] == layer["parameters"] * 4 for layer in layers)
    assert all(layer["bytes_read_per_token"] == 4 * 4 * 4 for layer in layers)
    orders = report.tables["orders"].to_pylist()
    assert [(r["layer"], r["order"], r["first_prime"], r["last_prime"]) for r in orders][1] == (0, 3, 61, 67)
    weights = {record["file"]: record["parameters"] for record in report.tables["weights"].to_pylist()}
    assert weights["host.safetensors"] == artifact.manifest.facts["parameters"]["host"]
    assert weights["memory.safetensors"] == artifact.manifest.facts["parameters"]["memory"]
    assert {"setting": "hash.orders", "value": "2, 3"} in report.tables["settings"].to_pylist()
    assert report.tables["files"]["file"].to_pylist() == list(artifact.manifest.files)


def test_training_is_shown_from_its_first_to_its_last_step(table_path: Path, tmp_path: Path) -> None:
    report = inspect(open_artifact(remake(table_path, tmp_path / "trained", add_training)))
    steps = report.tables["training"]["step"].to_pylist()
    assert (steps[0], steps[-1]) == (1, 100)
    assert steps == sorted(set(steps))
    assert 5 <= len(steps) <= 14
    assert all(loss == 8.0 for loss in report.tables["training"]["held_out_loss"].to_pylist()[1:-1])


def test_ngrams_say_what_was_counted_and_where_it_came_from(ngrams: NGrams) -> None:
    report = inspect(ngrams.artifact)
    assert report.facts["made from corpus"] == ngrams.artifact.manifest.inputs["corpus"]
    assert report.facts["digest"] == ngrams.artifact.digest
    assert report.tables["orders"]["distinct"].to_pylist() == [len(ngrams.counts(order)[0]) for order in ngrams.orders]
    assert "files" in report.tables


def test_a_report_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = Report("trace", "What was found", {"loss": 4.1}, {}, ("Mind.",))
    assert inspect(write_report(tmp_path / "made", saved, inputs={})) == saved


def test_a_table_without_the_rows_of_a_layer_is_refused(table_path: Path, tmp_path: Path) -> None:
    path = remake(table_path, tmp_path / "less", lambda draft: (draft.path / "rows-02.safetensors").unlink())
    with pytest.raises(ArtifactError, match=r"has no file rows-02\.safetensors"):
        inspect(open_artifact(path))


def test_rows_that_are_not_those_of_the_layout_are_refused(table_path: Path, tmp_path: Path) -> None:
    rows = {"rows": ("F32", np.zeros((305, 4), np.float32))}
    path = remake(table_path, tmp_path / "short", lambda draft: write_tensors(draft.path / "rows-02.safetensors", rows))
    with pytest.raises(ArtifactError, match="must hold 306 x 4 rows by the layout, but holds 305 x 4"):
        inspect(open_artifact(path))


def test_a_recipe_that_is_not_toml_is_refused(table_path: Path, tmp_path: Path) -> None:
    path = remake(table_path, tmp_path / "odd", lambda draft: setattr(draft, "recipe", "[["))
    with pytest.raises(ArtifactError, match="is not TOML"):
        inspect(open_artifact(path))
