"""How the memory that an extraction was given is shared out while text is read and encoded.

What a byte of text costs is measured (docs/benchmarks/2026-11-24_memory.md) and rounded up: it is taken once as read, as text,
parsed and as ids where it is held, and by an encoder many times over where it must be encoded in one piece.
"""

from dataclasses import dataclass

from engram_cli.corpus.cutting import PIECE
from engram_cli.errors import ResourceError
from engram_cli.store.resources import at_least, format_bytes, resident_memory

_HELD = 16  # bytes of memory for a byte of a document that is held whole
_UNCUT = 128  # for one of a text that is encoded in one piece
_BATCH = 2 << 20  # bytes of text encoded in one call, where there is room
_LEAST = 96 << 20  # bytes of room that reading and encoding must have
_SLACK = 128 << 20  # bytes: what encoders, compiling what counts meanwhile, the interpreter and small arrays take
_DOCUMENT = 96  # bytes kept of a document while it is read: its record and its digest


@dataclass(frozen=True)
class Budget:
    """memory: bytes this process may take; room: what is left of them for text."""

    memory: int
    room: int

    @property
    def held(self) -> int:
        """Bytes of the longest line or value that may be held whole."""
        return self.room // 2 // _HELD

    @property
    def uncut(self) -> int:
        """Bytes of the longest text that may be encoded in one piece."""
        return max(2 * PIECE, self.room // 2 // _UNCUT)

    @property
    def page(self) -> int:
        """Bytes of the largest page of a Parquet file, packed and unpacked, that may be held."""
        return self.room // 2

    def batch(self, calls: int) -> int:
        """Bytes of text to encode in one call, where so many calls are under way at a time and as many wait."""
        return min(_BATCH, self.room // 2 // (2 * calls + 2) // _HELD)

    def to_hold(self, size: int) -> str:
        """The memory, in words, with which a line or value of `size` bytes may be held."""
        return format_bytes(self.memory - self.room + 2 * _HELD * size)

    def to_unpack(self, size: int) -> str:
        """The memory, in words, with which a page of `size` bytes, packed and unpacked, may be held."""
        return format_bytes(self.memory - self.room + 2 * size)

    def to_encode(self, size: int) -> str:
        """The memory, in words, with which a text of `size` bytes may be encoded in one piece."""
        return format_bytes(self.memory - self.room + 2 * _UNCUT * size)


    def watch(self, documents: int, counting: int) -> None:
        """Raise ResourceError where so many documents leave less than the `counting` bytes that must be left to count them."""
        needed = self.memory - self.room - _SLACK + documents * _DOCUMENT + counting
        if needed > self.memory:
            raise ResourceError(
                f"--memory must hold what is kept of each document, but it is {format_bytes(self.memory)} for {documents:,} of them so "
                f"far; go on with --resume and {at_least(needed)} or more"
            )


AMPLE = Budget(1 << 60, 1 << 60)


def share_out(memory: int, documents: int = 0, counting: int = 0) -> Budget:
    """The budget of a process that was given `memory` bytes, of which it has some already.

    documents: how many there are at least; counting: bytes that counting them takes at least. Raises ResourceError where too little
    is left, with the memory that suffices.
    """
    has = resident_memory()
    room = memory - has - _SLACK - documents * _DOCUMENT
    least = has + documents * _DOCUMENT + max(_SLACK + _LEAST, counting)
    if memory < least:
        raise ResourceError(
            f"--memory must hold what reading, encoding and counting take at least, but it is {format_bytes(memory)}; "
            f"give {at_least(least)} or more"
        )
    return Budget(memory, room)
