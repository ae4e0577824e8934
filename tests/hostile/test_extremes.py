"""Corpora that are too long, too many, too mixed or not at rest, and disks and memories that are too small for them."""

import errno
import gzip
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engram_cli.__main__ import run
from engram_cli.corpus import budget, engine, extract, reader, sources
from engram_cli.corpus.budget import Budget, share_out
from engram_cli.corpus.engine import Plan
from engram_cli.corpus.tokens import TokenFiles
from engram_cli.errors import ResourceError
from engram_cli.store.stream import ColumnWriter
from tests.corpora import make_documents, write_jsonl
from tests.hostile.test_corpora import Refused, refused

__all__ = ["refused"]  # the fixture
TEXT = "\n".join(make_documents(9)).encode()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for lines of 1,000 bytes, and for as many characters without a place to cut."""
    monkeypatch.setattr(sources, "_BLOCK", 500)
    monkeypatch.setattr(reader, "PIECE", 100)
    monkeypatch.setattr(budget, "PIECE", 500)
    monkeypatch.setattr(extract, "share_out", lambda *arguments: Budget(100_000, 32_000))


# too long -------------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("small")
def test_one_long_line(refused: Refused) -> None:
    line = refused("a.jsonl", files={"a.jsonl": b'{"text": "a"}\n{"text": "' + b"word " * 9000 + b'"}\n'})
    assert "up to 1000 B of it, but the JSONL line a.jsonl:2 has 44.0 KiB; give --memory 1.4 MiB or more, or make it a text" in line


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("letters", [b"a", b"9", b".", "漢".encode(), b"a\n\n"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_text_without_a_place_to_cut(refused: Refused, letters: bytes, suffix: str) -> None:
    content = b"a b " * 900 + letters * 5000
    line = refused("a.txt" + suffix, files={"a.txt" + suffix: gzip.compress(content) if suffix else content})
    assert re.search(rf"a document of a\.txt{suffix} has [\d,]+ characters or more without; give --memory .*iB or more", line)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [1 << 16, 1 << 25])
def test_nothing_but_spaces_however_many(refused: Refused, size: int) -> None:
    line = refused("a.txt.gz", files={"a.txt.gz": gzip.compress(b" " * size)})
    assert "there is none in a.txt.gz" in line


def test_a_little_file_that_unpacks_to_much(refused: Refused) -> None:
    assert "has one at byte 0" in refused("a.txt.gz", files={"a.txt.gz": gzip.compress(b"\0" * (1 << 26))})


# too many -------------------------------------------------------------------------------------------------------------
def test_memory_counts_what_is_kept_of_each_document() -> None:
    shared = share_out(8 << 30, documents=10**7, counting=1 << 28)
    assert share_out(8 << 30).room - shared.room > 10**7 * 50
    with pytest.raises(ResourceError, match=r"is 512\.0 MiB; give .* or more"):
        share_out(512 << 20, documents=10**7, counting=1 << 28)
    shared.watch(10**7, 1 << 28)
    with pytest.raises(ResourceError, match=r"for 100,000,000 of them so far; go on with --resume and .* or more"):
        shared.watch(10**8, 1 << 28)


def test_the_smallest_memory_that_is_told_works(tmp_path: Path, tokenizer_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", make_documents(50))
    engram = [sys.executable, "-m", "engram_cli", "extract", str(corpus), "--tokenizer", str(tokenizer_path), "--quiet"]
    engram += ["--out", str(tmp_path / "out"), "--threads", "2", "--memory"]
    small = subprocess.run([*engram, "100MiB"], capture_output=True, text=True, check=False)
    assert small.returncode == 2
    told = re.findall(r"--memory must hold .*, but it is 100\.0 MiB; give ([\d.]+) MiB or more", small.stderr)
    assert len(small.stderr.splitlines()) == len(told) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    peak = "import re, sys\nfrom engram_cli.__main__ import run\ncode = run(sys.argv[1:])\n"
    peak += "print(re.findall(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[0], file=sys.stderr)\nsys.exit(code)"
    for _ in range(2):  # the first may have to compile what counts, which takes more, once on a machine
        command = [sys.executable, "-c", peak, *engram[3:], f"{told[0]}MiB", "--force"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stderr.splitlines()[-1]) < float(told[0]) * 1024


# too mixed ------------------------------------------------------------------------------------------------------------
def test_the_third_file_is_in_another_encoding(refused: Refused) -> None:
    files = {"in/1.txt": TEXT, "in/2.txt": TEXT, "in/3.txt": TEXT + "café ".encode("latin-1"), "in/4.txt": TEXT}
    assert f"in/3.txt has 0xe9 at byte {len(TEXT) + 3} (" in refused("in", files=files)
    assert "in/3.txt has one at byte 3: it is binary or UTF-16" in refused("in", files={"in/3.txt": "text".encode("utf-16")})


def test_a_name_that_is_no_utf8(tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_bytes(TEXT)
    assert run(["extract", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet", "--tokenizer", str(tokenizer_path)]) == 0
    documents = pa.ipc.open_file(tmp_path / "out" / "documents.arrow").read_all()
    assert documents["source"].to_pylist() == [f"{tmp_path}/caf\\xe9.txt"]


def test_links_that_lead_in_a_circle(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").symlink_to("a.txt")
    (tmp_path / "in" / "loop").symlink_to("../in")
    assert "in/a.txt is not (Too many levels of symbolic links); leave it out" in refused("in")


def test_a_pipe_is_read_once(tmp_path: Path, tokenizer_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[gzip.compress(TEXT)])
    writer.start()
    out = tmp_path / "out"
    assert run(["extract", str(tmp_path / "pipe"), "--out", str(out), "--quiet", "--tokenizer", str(tokenizer_path)]) == 0
    writer.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pipe"]


def test_ready_tokens_that_cannot_be_right(refused: Refused) -> None:
    files = {"a.bin": np.array([1, 2, 999, 3], np.uint16).tobytes()}
    assert "token 2 of a.bin is 999" in refused("a.bin", "--token-dtype", "u16", files=files)
    index = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + bytes([8]) + (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    index += np.array([7], "<i4").tobytes() + np.array([0], "<i8").tobytes() + np.array([0, 1], "<i8").tobytes()
    assert "b.idx tells of 14 bytes, and b.bin has 8" in refused("b.bin", files={"b.idx": index, "b.bin": b"\0" * 8})
    assert "b.idx is cut short" in refused("b.bin", files={"b.idx": index[:-9]})


# not at rest ----------------------------------------------------------------------------------------------------------
CHANGES = {
    "grows": lambda file: file.write_bytes(TEXT + b"more"),
    "is touched": lambda file: os.utime(file, (1, 1)),
    "is cut": lambda file: os.truncate(file, 3),
    "disappears": lambda file: os.unlink(os.path.realpath(file)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, change: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.txt"
    elsewhere.write_bytes(TEXT)
    (tmp_path / "a.txt").symlink_to(elsewhere)
    committed = TokenFiles.commit
    monkeypatch.setattr(TokenFiles, "commit", lambda files: (committed(files), CHANGES[change](tmp_path / "a.txt")))
    line = refused("a.txt")
    assert "a corpus must not change while it is read, but 1 of its files did, such as a.txt; wait until" in line


# disks that are full --------------------------------------------------------------------------------------------------
def test_a_spill_disk_that_is_full_and_then_has_room(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *arguments: Any, **settings: Any) -> Any:
        if self.is_relative_to(spill) and self.name == "300":  # the first runs still fit
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *arguments, **settings)

    opened, spill = Path.open, tmp_path / "spill"
    spill.mkdir()
    corpus = write_jsonl(tmp_path / "a.jsonl", make_documents(50))
    command = [
        "extract",
        str(corpus),
        "--quiet",
        "--tokenizer",
        str(tokenizer_path),
        "--tmp",
        str(spill),
        "--threads",
        "1",
        "--out",
    ]
    assert run([*command, str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(engine, "plan", lambda *arguments: Plan(1, 100, 0, 100))
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        assert run([*command, str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"engram: warning: what was encoded so far, [\d,]+ tokens, is kept in .*: --resume goes on from there", lines[0]
    )
    assert re.fullmatch(
        rf"engram: sorted runs that do not fit --memory go to {spill}, but it is full \(No space left on device\) after .*B; make "
        r"room, give another --tmp or more --memory, and go on with --resume",
        lines[1],
    )
    assert not (tmp_path / "out").exists()
    assert not list(spill.iterdir())
    assert run([*command, str(tmp_path / "out"), "--resume"]) == 0
    assert not list(spill.iterdir())
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_an_out_disk_that_is_full(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ColumnWriter, columns: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ColumnWriter, "write", full)
    assert "out could not be written (No space left on device); nothing was changed: make room" in refused(
        "a.txt", files={"a.txt": TEXT}
    )
