"""Files opened by memory map that may shrink while they are open, and must then be an error: neither a crash nor zeros.

A map outlives the bytes behind it. When another process cuts the file, touching a page that is gone raises SIGBUS, which ends the
process; and what lies beyond the cut within the last page reads as zeros. Looking at the size before a read leaves a gap, and
reading by `pread` costs a system call a row, ten times a look-up. So the file is looked at *after* each read, before anybody sees
what was read, and on Linux a handler of SIGBUS puts zero pages in place of those that are gone, so that the read ends and the check
is reached (systemd reads its journal in this way). A fault that is not in one of our maps goes to whoever handled SIGBUS before.

To ask for the size takes as long as sixteen rows do. Mostly a byte tells as much: the last one of the file that is not zero, its
mark. Where a cut takes it, it reads as zero; a cut behind it takes zeros, which are read as zeros still.
"""

import ctypes
import mmap
import os
import signal
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from engram_cli.errors import ArtifactError

Mode = Literal["r", "r+", "c"]
Bytes = npt.NDArray[np.uint8]
_ACCESS = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}


class MappedFile:
    """A file mapped whole: `bytes` is u8 [size]. mode: "r" read only, "r+" written through, "c" changes stay in memory.

    After reading from `bytes`, call `check`. `read` goes past the map, so that a long pass does not fill the process with pages.
    Raises ArtifactError where the file cannot be opened.
    """

    def __init__(self, path: Path, mode: Mode = "r") -> None:
        self.path, self.mode = path, mode
        try:
            self._descriptor = os.open(path, os.O_RDWR if mode == "r+" else os.O_RDONLY)
            try:
                self.size = os.fstat(self._descriptor).st_size
                self._map = mmap.mmap(self._descriptor, self.size, access=_ACCESS[mode])
            except BaseException:
                os.close(self._descriptor)
                raise
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise ArtifactError(f"{path} cannot be mapped ({error}); make the file readable, or make or fetch it again") from None
        if mode == "r" and sys.platform == "linux":
            self._map.madvise(mmap.MADV_RANDOM)  # rows lie anywhere: reading ahead fetches, and keeps, what nobody asked for
        weakref.finalize(self, os.close, self._descriptor)
        self.bytes: Bytes = np.frombuffer(self._map, np.uint8)
        _guard(self, self.bytes)
        self._mark = self._mark_at = 0
        if mode == "r" and sys.platform == "linux":  # of the others, pages of our own may outlive a cut
            self._find_mark()

    def _find_mark(self) -> None:
        """In the last page; where that holds zeros only, there is none."""
        first = (self.size - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        marks = np.flatnonzero(self.bytes[first:])
        if len(marks):
            self._mark_at = first + int(marks[-1])
            mark = self.bytes.item(self._mark_at)
            self.check()  # before it is believed: a file cut meanwhile has another
            self._mark = mark

    def check(self) -> None:
        """Raises ArtifactError where the file is shorter than when it was opened: what was read since may be zeros."""
        if self._mark and self.bytes.item(self._mark_at) == self._mark:
            return
        size = os.lseek(self._descriptor, 0, os.SEEK_END)  # cheaper than fstat; the position is used by nobody
        if size < self.size:
            raise self._shrunk(size)

    def ask(self, offsets_U: npt.NDArray[np.int64], size: int) -> None:
        """Have the disk fetch `size` bytes at each of many places at once: a read by itself waits for one page after another."""
        if self.mode == "r" and sys.platform == "linux":
            starts_U = offsets_U & -mmap.PAGESIZE
            ask = partial(self._map.madvise, mmap.MADV_WILLNEED)
            for start, length in zip(starts_U.tolist(), (offsets_U - starts_U + size).tolist(), strict=True):
                ask(start, length)

    def read(self, offset: int, target: Bytes) -> None:
        """Fill `target` (u8, contiguous) from `offset` on. Raises ArtifactError where the file ends before that is done."""
        if self.mode == "c":  # what was changed lies in memory only
            target[...] = self.bytes[offset : offset + len(target)]
            return self.check()
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self._descriptor, [target[done:].data], offset + done)
            except OSError as error:
                raise ArtifactError(f"{self.path} cannot be read ({error.strerror}); make or fetch it again") from None
            if not count:
                raise self._shrunk(os.fstat(self._descriptor).st_size)
            done += count

    def write(self, offset: int, source: Bytes) -> None:
        """Write `source` (u8, contiguous) from `offset` on, past an "r+" map. Raises OSError where the disk refuses."""
        done = 0
        while done < len(source):
            done += os.pwrite(self._descriptor, source[done:].data, offset + done)

    def let_go(self, offset: int, size: int) -> None:
        """Have the kernel begin to write those bytes to the disk, where it has not yet, and forget them, where it has."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        """Write what was changed through an "r+" map to the disk."""
        self._map.flush()

    def release(self) -> None:
        """Give back the pages of an "r" map that the process holds; they are read again when they are touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _shrunk(self, size: int) -> ArtifactError:
        return ArtifactError(
            f"{self.path} had {self.size} bytes when it was opened but has {size} now: something cut it while it was read; make or "
            "fetch it again"
        )


# The handler of SIGBUS -------------------------------------------------------------------------------------------------------
class _Action(ctypes.Structure):
    """struct sigaction of Linux."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


_SA_SIGINFO = 4
_ADDRESS_AT = 16  # of si_addr in siginfo_t, where pointers have 8 bytes
_FIXED = 0x10  # MAP_FIXED
_ranges: dict[int, int] = {}  # first byte of each map -> one past its last
_before = _Action()


def _guard(owner: MappedFile, mapped: Bytes) -> None:
    """Remember a map as ours until its owner is gone, and see to it that SIGBUS comes to us."""
    if sys.platform != "linux":
        return
    start = mapped.ctypes.data
    _ranges[start] = start + len(mapped)
    weakref.finalize(mapped, _ranges.pop, start)
    found = _Action()
    _LIBC.sigaction(signal.SIGBUS, None, ctypes.byref(found))
    if found.handler != _OURS.handler:
        _LIBC.sigaction(signal.SIGBUS, ctypes.byref(_OURS), ctypes.byref(_before))


def _on_fault(number: int, info: int, context: int) -> None:
    """Runs where a read met a page that is gone: nothing but memory is touched there, so no lock is held. The read is then done
    again: from zero pages if the map is ours, else to end as it would have ended without us."""
    address = ctypes.c_uint64.from_address(info + _ADDRESS_AT).value
    for start, stop in _ranges.items():
        if start <= address < stop:
            page = address - address % mmap.PAGESIZE
            kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED
            _LIBC.mmap(page, stop - page, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
            return
    _LIBC.sigaction(number, ctypes.byref(_before), None)


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(_on_fault)
_OURS = _Action(ctypes.cast(_HANDLER, ctypes.c_void_p).value, flags=_SA_SIGINFO)
_LIBC = ctypes.CDLL(None)
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
