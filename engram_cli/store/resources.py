"""What this machine has left: asked before work starts, so that what cannot fit is refused with its numbers."""

import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engram_cli.errors import ResourceError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_bytes(count: float) -> str:
    """A byte count for people: 1.6 GiB."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def at_least(count: int) -> str:
    """Bytes to ask for, for people: rounded up, with a little to spare for what differs from run to run."""
    step = 16 << 20
    return format_bytes(-(-(count + (4 << 20)) // step) * step)


def free_memory() -> int:
    """Bytes of memory that can be used without swapping, within the limits of this process (ulimit -v and -d, cgroups)."""
    return max(0, min([_available(), *_left_by_ulimit(), *_left_by_cgroup()]))


def _available() -> int:
    try:
        return _figures(Path("/proc/meminfo"))["MemAvailable"] * 1024
    except (OSError, KeyError):  # not Linux: take all there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def need_start(wanted: int, what: str) -> None:
    """Raise ResourceError where the limits of this process leave less than `wanted` bytes of memory to what is loaded next, which
    might end it without a word: C libraries give up where they get no memory for a thread."""
    left = min(_left_by_ulimit(), default=wanted)
    need_room(wanted, max(0, left), what, "memory", "raise the limits of this process (ulimit -d, ulimit -v)")


def _left_by_ulimit() -> Iterator[int]:
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            with suppress(OSError, KeyError):
                yield most - _figures(Path("/proc/self/status"))[used] * 1024


def _left_by_cgroup() -> Iterator[int]:
    """What the memory cgroups above this process leave; pages of files are not counted as used, since they can be dropped."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, inside = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            limit, used = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
            own = Path("/sys/fs/cgroup", controllers, inside.lstrip("/"))
            for group in (own, *own.parents):
                with suppress(OSError, ValueError, KeyError):
                    most, now = (int((group / f"memory.{name}").read_text(encoding="ascii")) for name in (limit, used))
                    files = _figures(group / "memory.stat")
                    yield most - now + files["active_file"] + files["inactive_file"]


def _figures(path: Path) -> dict[str, int]:
    """Name -> number, of a file of the kernel with one of each on a line, as "MemAvailable: 12 kB"."""
    parts = (line.replace(":", " ").split() for line in path.read_text(encoding="ascii").splitlines())
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdigit()}


def need_memory(wanted: int, what: str, way_out: str) -> None:
    """Raise ResourceError where `wanted` bytes of memory for `what` are more than there are."""
    need_room(wanted, free_memory(), what, "memory", way_out)


def free_disk(directory: Path) -> int:
    """Bytes free on the disk of `directory`, or of its nearest parent that exists."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def need_disk(directory: Path, wanted: int, what: str, way_out: str) -> None:
    """Raise ResourceError where `wanted` bytes for `what` are more than the disk of `directory` (or its nearest parent) has."""
    need_room(wanted, free_disk(directory), what, "disk", way_out)


def need_room(wanted: int, free: int, what: str, where: str, way_out: str) -> None:
    """Raise ResourceError where `wanted` bytes for `what` are more than the `free` ones of `where`."""
    if wanted > free:
        raise ResourceError(f"{what} takes {format_bytes(wanted)} of {where}, but {format_bytes(free)} are free; {way_out}")


def release_memory() -> None:
    """Give back to the system what was freed: the C library keeps it, up to half as much again as was ever used at a time."""
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def mapped_memory() -> int:
    """Bytes of mapped files among the memory this process has now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[2]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def resident_memory() -> int:
    """Bytes of memory this process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # not Linux: the most it ever had
    return pages * os.sysconf("SC_PAGE_SIZE")
