"""Python's search for cycles of dead objects, put off where a hundred thousand objects are made that are in none.

Each time so many are new it goes through them, and now and then through all: half of the time of opening a large model's headers.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No search within; as a decorator, none until what the function alone held is gone. May be nested."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
