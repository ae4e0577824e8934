"""Threads that compute side by side, where torch would cut every product in pieces."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def single_threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has, each of which computes alone, as the caller does meanwhile: two cores share out what one
    product is cut into badly, worse still where others want them, and bytes do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
