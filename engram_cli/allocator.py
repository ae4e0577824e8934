"""What glibc does with the memory of buffers that are made and freed step after step; nothing with another C library.

A training step makes logits of some 16 MB a thread over and over. Where that memory goes back to the system, each of its pages is
asked for and cleared again, which takes a twentieth to a tenth of a step (docs/log.md).
"""

import ctypes

_TRIM, _MMAP, _ARENAS = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h


def share_heap() -> None:
    """Let all threads that begin from now on take memory from one heap: those that glibc makes for threads hold 64 MiB each and go
    back to the system when they are empty, whatever `keep_freed_memory` asked."""
    _tune((_ARENAS, 1))


def keep_freed_memory() -> None:
    """Keep freed buffers instead of returning them to the system."""
    _tune((_MMAP, 1 << 30), (_TRIM, (1 << 31) - 1))


def _tune(*options: tuple[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc: nothing to tune
        return
    for option, value in options:
        mallopt(option, value)
