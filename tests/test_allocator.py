"""Buffers that are freed stay with the process, also those of threads."""

import os
import platform
import subprocess
import sys

import pytest

SMALL_PAGES = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}  # as torch has them
PROGRAM = """
import resource
import threading

import engram_cli.model
import numpy as np
from engram_cli.allocator import keep_freed_memory

keep_freed_memory()

def work():
    for turn in range(10):
        if turn == 2:
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        [np.ones(mebibytes << 20, np.uint8) for mebibytes in (16, 2, 16, 3, 8, 16, 4)]

faults = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, which is left as it is")
def test_a_thread_gets_back_the_memory_it_freed() -> None:
    pages = int(subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, env=SMALL_PAGES).stdout)
    assert pages < 1024  # of some 130,000 touched; 8,200 come again where a thread has a heap of its own
