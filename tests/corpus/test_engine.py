"""Counting a file of tokens: neither threads nor stretches nor memory can be seen in what is written."""

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus import engine, runs
from engram_cli.corpus.cascade import Tally
from engram_cli.corpus.engine import Local, Plan, Tokens, count_tokens, plan
from engram_cli.corpus.ngrams import Packing, count_shard, positions
from engram_cli.errors import ResourceError
from tests.strategies import MAX_ID, documents, laid_end_to_end

Columns = list[npt.NDArray[Any]]


def count(
    folder: Path,
    ids_T: npt.NDArray[Any],
    starts_D: npt.NDArray[np.int64],
    packing: Packing,
    planned: Plan,
    threads: int = 1,
    **settings: Any,
) -> tuple[list[Columns], list[Tally]]:
    """The columns of each order and what was written, counted as `planned`."""
    (folder / "ids").write_bytes(ids_T.tobytes())
    identity_V = np.arange(1 << packing.bits if packing.bits < 16 else MAX_ID + 1, dtype=np.uint32)
    tokens = Tokens(folder / "ids", 0, ids_T.dtype, len(ids_T), starts_D, identity_V)
    parts: list[list[Columns]] = [[] for _ in range(packing.order)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "plan", lambda *arguments: planned)
        means = {"engine": Local(threads), "memory": 0, "tmp": folder / "spill"}
        tallies = count_tokens(tokens, packing, [part.append for part in parts], **means, **settings)
    return [[np.concatenate(column) for column in zip(*part, strict=True)] for part in parts], tallies


def expected(ids_T: npt.NDArray[Any], starts_D: npt.NDArray[np.int64], packing: Packing, order: int) -> Columns:
    table = count_shard(ids_T, positions(starts_D, 0, len(ids_T)), order, packing.bits, packing.pad)
    return [column.to_numpy() for column in table.columns]


@given(
    documents(min_documents=1),
    st.integers(1, 6),
    st.sampled_from([4, 17]),
    st.integers(1, 30),
    st.sampled_from([0, 40, 1000]),
    st.integers(1, 3),
    st.integers(1, 9),
)
def test_every_order_is_counted_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    order: int,
    bits: int,
    stretch: int,
    room: int,
    threads: int,
    block: int,
) -> None:
    ids_T, starts_D = laid_end_to_end(documents)
    packing = Packing(order, bits, 3)
    folder = tmp_path_factory.mktemp("count")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "BLOCK", block)
        patch.setattr(engine, "BLOCK", block)
        written, tallies = count(folder, ids_T, starts_D, packing, Plan(threads, stretch, room, 2 * block), threads=threads)
    for number, columns in enumerate(written, 1):
        wanted = expected(ids_T, starts_D, packing, number)
        assert all(map(np.array_equal, columns, wanted))
        assert len(columns) == len(wanted)
        assert tallies[number - 1].distinct == len(wanted[0])
        assert tallies[number - 1].singletons == int((wanted[-1] == 1).sum())
    assert room or (folder / "spill").exists()


def test_pruning_is_told_and_leaves_lower_orders_exact(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    ids_T, starts_D = chance.integers(0, 9, 5000).astype(np.uint16), np.arange(0, 5000, 100)
    packing = Packing(3, 4, 0)
    whole, _ = count(tmp_path, ids_T, starts_D, packing, Plan(1, 999, 10**9, 4096))
    pruned, tallies = count(tmp_path, ids_T, starts_D, packing, Plan(1, 999, 10**9, 4096), min_count=5)
    for (grams, counts), (kept_grams, kept_counts), tally in zip(whole, pruned, tallies, strict=True):
        keep = counts >= 5
        assert np.array_equal(kept_grams, grams[keep])
        assert np.array_equal(kept_counts, counts[keep])
        assert (tally.pruned, tally.pruned_occurrences) == ((~keep).sum(), counts[~keep].sum())


def test_too_little_memory_is_refused_with_what_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = Packing(3, 15, 0)
    monkeypatch.setattr(engine, "resident_memory", lambda: 200 << 20)  # the process of the tests has whatever tests left
    with pytest.raises(ResourceError, match=r"give \d+\.0 MiB or more") as caught:
        plan(64 << 20, 10**9, 1000, 2, packing)
    least = int(re.findall(r"give (\d+)", str(caught.value))[0])
    assert plan(least << 20, 10**9, 1000, 8, packing).threads == 1  # fewer threads before it is refused
    assert plan((least + 200) << 20, 10**9, 1000, 2, packing).threads == 2
    small, large = (plan(memory << 20, 10**9, 1000, 2, packing) for memory in (1024, 8192))
    assert small.stretch < large.stretch
    assert small.room < large.room


def test_buffers_are_counted_through_several_times_before_they_are_greater() -> None:
    narrow, wide = Packing(3, 15, 0), Packing(5, 15, 0)
    few, many = ([plan(8 << 30, size, 1000, 2, packing).stretch for packing in (narrow, wide)] for size in (32 << 20, 1 << 30))
    assert few == [4 << 20, 4 << 20]
    assert many == [engine.STRETCH, engine.STRETCH // 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    def refuse(self: Path, *arguments: Any, **settings: Any) -> Any:
        if self.parent.name == "spill":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *arguments, **settings)

    opened = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    ids_T = np.arange(1000, dtype=np.uint16) % 16
    with pytest.raises(ResourceError, match=r"is full .*--resume"):
        count(tmp_path, ids_T, np.zeros(1, np.int64), Packing(2, 4, 0), Plan(1, 100, 0, 100), threads=threads)
