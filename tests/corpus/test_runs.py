"""Runs: what is packed, in memory or on disk, comes out as it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus import runs
from engram_cli.corpus.ngrams import Rows
from engram_cli.corpus.runs import Range, Room, merge_range

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
ROWS = st.dictionaries(st.tuples(st.one_of(st.integers(0, 3), NUMBERS), NUMBERS), st.one_of(st.integers(1, 20), NUMBERS.filter(bool)))


@given(rows=ROWS, wide=st.booleans(), room=st.sampled_from([0, 1 << 20]))
def test_a_run_is_read_as_it_was_kept(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[tuple[int, int], int], wide: bool, room: int
) -> None:
    counted = {(top if wide else 0, key): count for (top, key), count in rows.items()}
    grams = sorted(counted)
    top_R, key_R = (np.array(column, np.uint64) for column in (zip(*grams, strict=True) if grams else ((), ())))
    counts_R = np.array([counted[gram] for gram in grams], np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "BLOCK", 3)
        run = Room(room, tmp_path_factory.mktemp("runs")).keep(Rows(key_R, top_R if wide else None, counts_R), "run")
    read = merge_range(Range(None, None, wide, [run]))
    assert read.key.tolist() == key_R.tolist()
    assert read.counts.tolist() == counts_R.tolist()
    assert (read.top is None) if not wide else (read.top is not None and read.top.tolist() == top_R.tolist())
