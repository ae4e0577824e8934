"""The compiled loops do what their Python says: numba may not make floats of mixed integers, or read what was never written."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engram_cli.corpus import kernels, merge_kernels, ngrams, runs
from engram_cli.corpus.ngrams import Buffers, Packing, Rows

MODULES = (kernels, merge_kernels)
CHANCE = np.random.default_rng(0)
IDS_T = np.minimum(CHANCE.geometric(0.3, 700), 15).astype(np.uint16)
IDS_T[300:400] = 1  # one bucket that is too large


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it puts the Python of every kernel in the place of what was compiled from it."""

    def swap() -> None:
        for module in MODULES:
            for name, compiled in list(vars(module).items()):
                if hasattr(compiled, "py_func"):
                    monkeypatch.setattr(module, name, compiled.py_func)

    return swap


def results(packing: Packing) -> Iterator[npt.NDArray[Any] | None]:
    """What comes of every kernel: stretches counted, packed, unpacked, merged, shortened, tallied."""
    starts_D = np.array([0, 90, 91, 500])
    windows = (np.array(packing.blank), np.array(packing.mask), np.uint64(packing.bits))
    counted = []
    for begin, end in pairwise((0, 250, 300, 420, 500, 510, 620, 700)):
        inside = starts_D[(starts_D >= begin) & (starts_D < end)] - begin
        rows = ngrams.count_stretch(IDS_T[begin:end], np.arange(16, dtype=np.uint32), inside, 0, packing, Buffers())
        counted.append(runs.Room(1 << 20, Path()).keep(rows, ""))
    ends = Rows(np.zeros(4, np.uint64), np.zeros(4, np.uint64) if packing.wide else None, np.zeros(0, np.uint32))
    last_D = np.append(starts_D[1:], 700) - 1
    kernels.last_windows(IDS_T, np.arange(16, dtype=np.uint32), starts_D, last_D, packing.order, *windows, ends.key, ends.top)
    yield from ends
    for part in runs.ranges_of(counted, runs.splits_of(counted, 1), packing.wide):
        rows = runs.merge_range(part)
        yield from rows
        size = len(rows.key)
        yield np.array(merge_kernels.distinct(rows.key, rows.top, 0, 2 * size // 3, size // 3, size))
        if size:
            short = Rows(rows.key.copy(), None if rows.top is None else rows.top.copy(), rows.counts.copy())
            yield from short.part(0, merge_kernels.shorten(*rows, np.uint64(packing.bits), *short))
        dense_LC = np.zeros((4, 3), np.int64)
        beyond = merge_kernels.tally_counts(rows.counts, dense_LC)
        yield np.append(dense_LC, beyond)


@pytest.mark.parametrize(("order", "bits"), [(3, 4), (4, 16), (4, 17), (6, 21)])
def test_what_is_compiled_does_what_its_python_does(
    order: int, bits: int, python: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngrams, "_BUCKET", 32)
    monkeypatch.setattr(ngrams, "_STEP", 48)
    monkeypatch.setattr(runs, "BLOCK", 20)
    packing = Packing(order, bits, 3)
    compiled = list(results(packing))
    python()
    with np.errstate(over="ignore"):
        interpreted = list(results(packing))
    for one, other in zip(compiled, interpreted, strict=True):
        assert (one is None and other is None) or np.array_equal(one, other)
