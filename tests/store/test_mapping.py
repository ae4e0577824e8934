"""Mapped files that shrink while they are open: an error, never zeros, and never the end of the process."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engram_cli.errors import ArtifactError
from engram_cli.store.mapping import MappedFile

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(bytes(range(1, 251)) * 1000)
    return tmp_path / "file"


def test_what_is_in_the_file_is_in_the_map(path: Path) -> None:
    file = MappedFile(path)
    assert file.bytes.tobytes() == path.read_bytes()
    file.check()
    target = np.empty(300, np.uint8)
    file.read(100, target)
    assert target.tobytes() == path.read_bytes()[100:400]


@pytest.mark.parametrize("size", [0, 100, PAGE, 200_000, 249_999])
def test_a_file_that_was_cut_is_an_error(path: Path, size: int) -> None:
    file = MappedFile(path)
    os.truncate(path, size)
    file.bytes.max()  # pages that are gone are read, and the process lives
    with pytest.raises(ArtifactError, match=f"had 250000 bytes when it was opened but has {size} now"):
        file.check()
    with pytest.raises(ArtifactError, match="something cut it"):
        file.read(200_000, np.empty(50_000, np.uint8))


def test_a_file_that_is_cut_while_it_is_read(path: Path) -> None:
    for _ in range(20):
        os.truncate(path, 1 << 24)
        file = MappedFile(path)
        cut = threading.Thread(target=os.truncate, args=(path, PAGE))
        cut.start()
        for _ in range(1000):
            file.bytes[::PAGE].sum()
            try:
                file.check()
            except ArtifactError:
                break
        cut.join()
        with pytest.raises(ArtifactError, match="something cut it"):
            file.check()


def test_a_cut_through_zeros_is_an_error_where_it_is_read_as_something_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\1" * (PAGE + 10) + bytes(50))
    file = MappedFile(path)
    os.truncate(path, PAGE + 20)
    file.check()
    assert file.bytes[PAGE:].tolist() == [1] * 10 + [0] * 50  # as it was
    os.truncate(path, PAGE + 5)
    with pytest.raises(ArtifactError, match="something cut it"):
        file.check()


def test_a_cut_of_a_page_of_zeros_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\1" * PAGE + bytes(PAGE))
    file = MappedFile(path)
    os.truncate(path, PAGE)
    with pytest.raises(ArtifactError, match="something cut it"):
        file.check()


def test_a_last_byte_that_is_written_anew_is_no_cut(path: Path) -> None:
    file = MappedFile(path)
    with path.open("r+b") as writer:
        writer.seek(-1, os.SEEK_END)
        writer.write(b"\0")
    file.check()
    os.truncate(path, PAGE)
    with pytest.raises(ArtifactError, match="something cut it"):
        file.check()


def test_a_file_that_grew_is_none(path: Path) -> None:
    file = MappedFile(path)
    os.truncate(path, 1 << 20)
    file.check()


def test_changes_of_a_copy_are_read_from_it(path: Path) -> None:
    file = MappedFile(path, "c")
    file.bytes[7] = 0
    target = np.empty(10, np.uint8)
    file.read(0, target)
    assert target[7] == 0
    assert path.read_bytes()[7] == 8


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "none", "."):
        with pytest.raises(ArtifactError, match="cannot be mapped"):
            MappedFile(tmp_path / name)


def test_a_fault_that_is_not_ours_ends_the_process_as_before(path: Path) -> None:
    code = (
        "import mmap, os, sys; from pathlib import Path; from engram_cli.store.mapping import MappedFile\n"
        "ours = MappedFile(Path(sys.argv[1]))\n"
        "other = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, access=mmap.ACCESS_READ)\n"
        "os.truncate(sys.argv[1], 0); print(ours.bytes[100_000], flush=True); other[100_000]"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n"
    assert done.returncode < 0


def test_maps_are_forgotten_with_their_files(path: Path) -> None:
    from engram_cli.store import mapping

    before = len(mapping._ranges)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        MappedFile(path)
    assert len(mapping._ranges) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
