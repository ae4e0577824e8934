"""What does not fit is refused before work starts, with what it takes and what there is."""

from pathlib import Path

import pytest

from engram_cli.errors import ResourceError
from engram_cli.store.resources import format_bytes, free_memory, need_disk, need_memory


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1.6 * 2**30, "1.6 GiB"), (2**50, "1024.0 TiB")]
)
def test_bytes_are_written_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_some_memory_is_free() -> None:
    assert 1 << 20 < free_memory() < 1 << 50


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    need_memory(1, "a table", "take less")
    need_disk(tmp_path / "not/there/yet", 1, "a table", "take less")


def test_what_does_not_fit_says_the_bytes_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"a table takes 1024\.0 TiB of memory, but .* are free; take less"):
        need_memory(2**50, "a table", "take less")
    with pytest.raises(ResourceError, match=r"a table takes 1024\.0 TiB of disk, but .* are free; take less"):
        need_disk(tmp_path / "not/there/yet", 2**50, "a table", "take less")


def test_machines_without_proc_say_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert free_memory() > 1 << 20
