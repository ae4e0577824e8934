"""The only floor with torch: the memory module, the host that carries it, and how both are initialised, trained and run."""

from engram_cli.allocator import share_heap

share_heap()  # as soon as it is known that something computes; not for those that encode text, who would wait for one another
