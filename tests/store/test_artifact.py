"""Artifacts exist whole or not at all, and say what is wrong with them when they do not."""

import errno
import os
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest

from engram_cli.errors import ArtifactError
from engram_cli.store import manifest
from engram_cli.store.artifact import check_out, open_artifact, partial_path, verify_files, write_artifact
from engram_cli.store.manifest import FileRecord

NUMBERS = pa.table({"number": pa.array([1, 2, 3], pa.int64())})


def write(out: Path, table: pa.Table = NUMBERS, *, force: bool = False) -> None:
    with write_artifact(out, "ngrams", force=force) as draft:
        draft.table("numbers.arrow", table)
        draft.facts = {"tokens": 3}
        draft.inputs = {"corpus": "ab"}
        draft.recipe = 'name = "x"'


def write_until(stop: BaseException, out: Path, *, force: bool = False, keep_partial: bool = False) -> None:
    """Begin an artifact, and be stopped when its first file is written."""
    with write_artifact(out, "table", force=force, keep_partial=keep_partial) as draft:
        (draft.path / "checkpoint").write_text("step 7")
        raise stop


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "made")
    artifact = open_artifact(tmp_path / "made", "ngrams")
    assert artifact.table("numbers.arrow") == NUMBERS
    assert artifact.manifest.facts == {"tokens": 3}
    assert artifact.manifest.inputs == {"corpus": "ab"}
    assert artifact.manifest.recipe == 'name = "x"'
    assert artifact.manifest.bytes == artifact.file("numbers.arrow").stat().st_size
    assert names(tmp_path) == ["made"]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name)
        assert open_artifact(tmp_path / name).digest == open_artifact(tmp_path / "a").digest
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_parent_folders_are_made(tmp_path: Path) -> None:
    write(tmp_path / "deep/er/made")
    assert open_artifact(tmp_path / "deep/er/made").manifest.kind == "ngrams"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, SystemExit])
def test_whatever_stops_the_writing_nothing_is_left(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop):
        write_until(stop(), tmp_path / "made")
    assert names(tmp_path) == []


def test_a_stopped_replacement_leaves_the_old_artifact(tmp_path: Path) -> None:
    write(tmp_path / "made")
    with pytest.raises(KeyboardInterrupt):
        write_until(KeyboardInterrupt(), tmp_path / "made", force=True)
    assert open_artifact(tmp_path / "made").table("numbers.arrow") == NUMBERS
    assert names(tmp_path) == ["made"]


def test_a_full_disk_is_one_error_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"No space left.*nothing was changed"):
        write_until(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), tmp_path / "made")
    assert names(tmp_path) == []


def test_a_complete_file_is_digested_while_others_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digested = Event()
    digest = manifest.file_digest
    monkeypatch.setattr(manifest, "file_digest", lambda path: (digested.set(), digest(path))[1])
    with write_artifact(tmp_path / "made", "ngrams") as draft:
        draft.table("numbers.arrow", NUMBERS)
        assert digested.wait(60)
        (draft.path / "late").write_bytes(b"never sealed")
    files = open_artifact(tmp_path / "made").manifest.files
    assert files == {
        name: FileRecord((tmp_path / "made" / name).stat().st_size, digest(tmp_path / "made" / name)) for name in files
    }
    assert list(files) == ["late", "numbers.arrow"]


def test_a_file_is_not_written_to_after_it_was_sealed(tmp_path: Path) -> None:
    def write_on() -> None:
        with write_artifact(tmp_path / "made", "ngrams") as draft:
            draft.table("numbers.arrow", NUMBERS)
            draft._sealed["numbers.arrow"][0].result()
            with (draft.path / "numbers.arrow").open("ab") as file:
                file.write(b"more")

    with pytest.raises(AssertionError, match=r"numbers\.arrow was written to"):
        write_on()
    assert names(tmp_path) == []


def test_a_disk_that_is_full_only_when_a_file_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left.*nothing was changed"):
        write(tmp_path / "made")
    assert names(tmp_path) == []


def test_what_exists_is_kept_without_force(tmp_path: Path) -> None:
    write(tmp_path / "made")
    with pytest.raises(ArtifactError, match="--force to replace it"):
        write(tmp_path / "made", NUMBERS.slice(1))
    assert open_artifact(tmp_path / "made").table("numbers.arrow") == NUMBERS


def test_force_replaces_an_artifact(tmp_path: Path) -> None:
    write(tmp_path / "made")
    write(tmp_path / "made", NUMBERS.slice(1), force=True)
    assert open_artifact(tmp_path / "made").table("numbers.arrow").num_rows == 2
    assert names(tmp_path) == ["made"]


def test_force_never_removes_what_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").write_bytes(b"dear")
    (tmp_path / "letter").write_text("dear")
    for name in ("photos", "letter"):
        with pytest.raises(ArtifactError, match="replaces artifacts only"):
            write(tmp_path / name, force=True)
    assert (tmp_path / "photos/one.png").read_bytes() == b"dear"
    assert (tmp_path / "letter").read_text() == "dear"


def test_dangling_links_count_as_existing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="must not exist"):
        check_out(tmp_path / "link", force=False)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="must be writable"):
        write(tmp_path / "file/made")


def test_a_kept_draft_is_found_again(tmp_path: Path) -> None:
    out = tmp_path / "made"
    with pytest.raises(KeyboardInterrupt):
        write_until(KeyboardInterrupt(), out, keep_partial=True)
    assert (partial_path(out) / "checkpoint").read_text() == "step 7"
    with write_artifact(out, "table", keep_partial=True) as draft:
        assert (draft.path / "checkpoint").read_text() == "step 7"
    assert names(tmp_path) == ["made"]


def test_what_is_only_for_the_work_is_no_part_of_the_artifact(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "made", "table") as draft:
        draft.scratch.mkdir()
        (draft.scratch / "checkpoint").write_text("step 7")
        draft.table("numbers.arrow", NUMBERS)
    assert names(tmp_path / "made") == ["manifest.json", "numbers.arrow"]
    assert list(open_artifact(tmp_path / "made").manifest.files) == ["numbers.arrow"]


def test_an_unfinished_draft_is_dropped_when_it_is_not_wanted(tmp_path: Path) -> None:
    partial = partial_path(tmp_path / "made")
    partial.mkdir()
    (partial / "stale.arrow").write_bytes(b"stale")
    write(tmp_path / "made")
    assert list(open_artifact(tmp_path / "made").manifest.files) == ["numbers.arrow"]


def test_files_in_folders_are_part_of_an_artifact(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "made", "report") as draft:
        (draft.path / "pictures").mkdir()
        (draft.path / "pictures/one.png").write_bytes(b"png")
    assert list(open_artifact(tmp_path / "made").manifest.files) == ["pictures/one.png"]


def test_another_kind_is_refused_with_the_command_that_makes_the_right_one(tmp_path: Path) -> None:
    write(tmp_path / "made")
    with pytest.raises(ArtifactError, match=r"of kind table, but .* is of kind ngrams; make one with engram build"):
        open_artifact(tmp_path / "made", "table")


def test_columns_are_written_batch_by_batch(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "made", "ngrams") as draft, draft.columns("n.arrow", NUMBERS.schema) as writer:
        for at in range(3):
            writer.write_table(NUMBERS.slice(at, 1))
    assert open_artifact(tmp_path / "made").table("n.arrow") == NUMBERS


def test_a_file_the_artifact_does_not_have_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "made")
    with pytest.raises(ArtifactError, match=r"has no file other\.arrow"):
        open_artifact(tmp_path / "made").file("other.arrow")


def test_verifying_reads_every_byte_and_finds_every_difference(tmp_path: Path) -> None:
    write(tmp_path / "made")
    artifact, blocks = open_artifact(tmp_path / "made"), list[int]()
    assert [(name, written == found) for name, written, found in verify_files(artifact, blocks.append)] == [("numbers.arrow", True)]
    assert sum(blocks) == artifact.manifest.bytes
    (tmp_path / "made/extra").write_text("?")
    (tmp_path / "made/numbers.arrow").unlink()
    (_, written, gone), (name, unknown, found) = verify_files(artifact)
    assert (written is not None, gone, name, unknown, found and found.bytes) == (True, None, "extra", None, 1)
