"""What this machine has left: asked before work starts, so that what cannot fit is refused with its numbers."""

import ctypes
import os
import shutil
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
    """Bytes of memory that can be used without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: take all there is
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def need_memory(wanted: int, what: str, way_out: str) -> None:
    """Raise ResourceError where `wanted` bytes of memory for `what` are more than there are."""
    need_room(wanted, free_memory(), what, "memory", way_out)


def need_disk(directory: Path, wanted: int, what: str, way_out: str) -> None:
    """Raise ResourceError where `wanted` bytes for `what` are more than the disk of `directory` (or its nearest parent) has."""
    while not directory.exists():
        directory = directory.parent
    need_room(wanted, shutil.disk_usage(directory).free, what, "disk", way_out)


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
        import resource  # not Linux: the most it ever had

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * os.sysconf("SC_PAGE_SIZE")
