"""Verifying: any change of any byte is found, and nothing else is."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.progress import Amounts, Silent
from engram_cli.report.verify import damaged, verify
from engram_cli.store.artifact import open_artifact


@pytest.fixture
def copy(table_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(table_path, tmp_path / "copy"))


def states(path: Path) -> dict[str, str]:
    """What is not ok, by file."""
    files = verify([open_artifact(path)]).tables["files"].to_pylist()
    return {record["file"]: record["state"] for record in files if record["state"] != "ok"}


def test_an_untouched_artifact_is_what_was_written(table_path: Path, ngrams_path: Path) -> None:
    artifacts = [open_artifact(table_path), open_artifact(ngrams_path)]
    report = verify(artifacts)
    assert not damaged(report)
    assert not report.notes
    assert report.tables["artifacts"]["digest"].to_pylist() == [artifact.digest for artifact in artifacts]
    assert report.tables["files"].num_rows == sum(len(artifact.manifest.files) for artifact in artifacts)


@given(data=st.data())
def test_one_flipped_bit_anywhere_is_found(table_path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = Path(shutil.copytree(table_path, tmp_path_factory.mktemp("flip") / "copy"))
    name = data.draw(st.sampled_from(list(open_artifact(path).manifest.files)))
    content = bytearray((path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (path / name).write_bytes(content)
    assert states(path) == {name: "changed"}


def test_missing_cut_and_extra_files_are_found(copy: Path) -> None:
    (copy / "layout.arrow").unlink()
    with (copy / "host.safetensors").open("r+b") as file:
        file.truncate(100)
    (copy / "notes.txt").write_text("mine")
    assert states(copy) == {"layout.arrow": "missing", "host.safetensors": "changed", "notes.txt": "extra"}
    report = verify([open_artifact(copy)])
    assert damaged(report)
    found = {record["file"]: record for record in report.tables["damaged"].to_pylist()}
    written = open_artifact(copy).manifest.files["host.safetensors"]
    assert (found["host.safetensors"]["bytes"], found["host.safetensors"]["bytes_written"]) == (100, written.bytes)
    assert found["host.safetensors"]["xxh3_128_written"] == written.xxh3_128
    assert "3 of" in report.title


def test_progress_counts_every_byte(table_path: Path) -> None:
    told: list[tuple[float, float | None]] = []

    class Listener(Silent):
        def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
            told.append((done, total))

    verify([open_artifact(table_path)], Listener())
    size = open_artifact(table_path).manifest.bytes
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
