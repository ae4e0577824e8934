"""What does not fit is refused before work starts, with what it takes and what there is."""

import subprocess
import sys
from pathlib import Path

import pytest

from engram_cli.errors import ResourceError
from engram_cli.store import resources
from engram_cli.store.resources import format_bytes, free_memory, need_disk, need_memory

MOVED = {"/proc/self/cgroup": "cgroup", "/sys/fs/cgroup": ""}


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


def test_a_limit_of_the_process_is_all_the_memory_there_is() -> None:
    code = (
        "import resource; from engram_cli.store.resources import free_memory; before = free_memory()\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)); print(before, free_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < min(before, 1 << 30)


def test_memory_of_a_control_group_is_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 and 1 of them; what their files hold in memory can be dropped, what limits a group above limits all below."""
    (tmp_path / "cgroup").write_text("4:memory:/outer/inner\n2:cpu:/\n0::/own\n")
    figures = {
        "own/memory.max": "5000\n", "own/memory.current": "3000\n", "own/memory.stat": "active_file 700\ninactive_file 100\n",
        "memory/outer/memory.limit_in_bytes": "9000", "memory/outer/memory.usage_in_bytes": "7500",
        "memory/outer/memory.stat": "cache 1\nactive_file 20\ninactive_file 1\n",
    }  # fmt: skip
    for name, text in figures.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(resources, "Path", lambda *parts: Path(tmp_path, *(MOVED.get(part, part) for part in parts)))
    assert sorted(resources._left_by_cgroup()) == [1521, 2800]


def test_machines_without_proc_say_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert free_memory() > 1 << 20
