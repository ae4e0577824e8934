"""A report is what was written: read back, it is the same, whatever its tables hold."""

from pathlib import Path

import pyarrow as pa
import pytest

from engram_cli.errors import ArtifactError
from engram_cli.report.report import Measure, Report, column, metadata_of, read_report, table, write_report
from engram_cli.store.artifact import write_artifact

HEADS = table(
    [column("head", pa.int32()), column("load", pa.float64(), "grams/row"), column("name", pa.string(), "text")],
    [{"head": 0, "load": 0.5, "name": "é"}, {"head": 1, "load": float("inf")}],
    title="Heads",
    limit=1,
)
REPORT = Report(
    "trace", "What was found", {"rows": 7, "size": Measure(1536, "bytes"), "none": None}, {"heads": HEADS, "a": HEADS}, ("Mind.",)
)


def test_a_report_is_read_back(tmp_path: Path) -> None:
    write_report(tmp_path / "made", REPORT, inputs={"ngrams": "ab"}, recipe="name = 'x'")
    assert read_report(tmp_path / "made") == REPORT
    assert list(read_report(tmp_path / "made").tables) == ["heads", "a"]  # in their order, which is not that of their names


def test_a_report_says_what_it_was_made_from(tmp_path: Path) -> None:
    manifest = write_report(tmp_path / "made", REPORT, inputs={"ngrams": "ab"}, recipe="name = 'x'").manifest
    assert (manifest.kind, manifest.inputs, manifest.recipe) == ("report", {"ngrams": "ab"}, "name = 'x'")


def test_units_titles_and_limits_travel_with_the_table() -> None:
    assert [metadata_of(field, "unit") for field in HEADS.schema] == ["", "grams/row", "text"]
    assert (metadata_of(HEADS.schema, "title"), metadata_of(HEADS.schema, "limit")) == ("Heads", "1")
    assert HEADS.to_pylist()[1] == {"head": 1, "load": float("inf"), "name": None}


def test_an_existing_report_is_kept_without_force(tmp_path: Path) -> None:
    write_report(tmp_path / "made", REPORT, inputs={})
    with pytest.raises(ArtifactError, match="must not exist"):
        write_report(tmp_path / "made", Report("trace", "other"), inputs={})
    write_report(tmp_path / "made", Report("trace", "other"), inputs={}, force=True)
    assert read_report(tmp_path / "made").title == "other"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"about": 1, "title": "", "facts": [], "tables": [], "notes": []}'])
def test_a_report_json_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    with write_artifact(tmp_path / "made", "report") as draft:
        (draft.path / "report.json").write_text(content)
    with pytest.raises(ArtifactError, match="cannot be read as a report"):
        read_report(tmp_path / "made")
