"""The disk that an extraction takes: what it says of it before it starts."""

from pathlib import Path

import pytest

from engram_cli.corpus import disk
from engram_cli.corpus.disk import Disk, expected, spill_folder
from engram_cli.corpus.extract import extract
from engram_cli.corpus.files import Files, Source
from engram_cli.errors import ResourceError
from engram_cli.progress import Silent


class Listener(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_more_orders_and_unpacking_take_more() -> None:
    plain, packed = (Files([Source("a.txt", "a.txt", "text", 3500, codec=codec)]) for codec in (None, "gzip"))
    assert expected(plain, 2).artifact < expected(plain, 3).artifact < expected(packed, 3).artifact
    assert expected(plain, 2).runs == 3000


def test_a_disk_that_may_fill_up_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    monkeypatch.setattr(disk, "free_disk", lambda folder: 1 << 20)
    Disk(1 << 20, 1 << 40).warn(tmp_path, listener)
    assert not listener.warnings
    Disk(1 << 21, 0).warn(tmp_path, listener)
    assert "about 2.0 MiB are needed, but 1.0 MiB are free" in listener.warnings[0]


def test_a_folder_for_runs_is_tried_before_anything_is_read(tmp_path: Path, tokenizer_path: Path) -> None:
    assert spill_folder(None) is None
    assert spill_folder(tmp_path / "made" / "runs") == tmp_path / "made" / "runs"
    assert not list((tmp_path / "made" / "runs").iterdir())
    (tmp_path / "file.txt").write_text("a river")
    with pytest.raises(ResourceError, match=r"--tmp must be a folder that can be written to, but .*file.txt is not"):
        extract([tmp_path / "file.txt"], tmp_path / "out", tokenizer=tokenizer_path, tmp=tmp_path / "file.txt")
    assert not list(tmp_path.glob("*out*"))
