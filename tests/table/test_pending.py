"""Changed rows in memory: what was put last is found, whatever the ids and however many."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.table.pending import Pending

KINDS = [("f4", (3,)), ("u2", (1,))]


def records(ids: list[int], salt: int) -> tuple[np.ndarray, np.ndarray]:
    """A record of each array for every id, told by the id and when it was put."""
    base = np.array([hash((number, salt)) % 60_000 for number in ids])
    return np.repeat(base[:, None], 3, 1).astype(np.float32), base[:, None].astype(np.uint16)


@given(st.lists(st.lists(st.integers(0, 2**40), unique=True, max_size=60), max_size=8))
def test_what_was_put_last_is_found(calls: list[list[int]]) -> None:
    pending, expected = Pending(KINDS), {}
    for salt, ids in enumerate(calls):
        made = records(ids, salt)
        pending.put(np.array(ids, np.int64), *made)
        expected |= {number: float(value) for number, value in zip(ids, made[1][:, 0], strict=True)}
    assert sorted(pending.ids) == sorted(expected)
    wanted = np.array([*expected, 2**41], np.int64)
    places = pending.find(wanted)
    assert places[-1] == -1
    for record in pending.records:
        assert record[places[:-1]][:, 0].tolist() == list(expected.values())


def test_it_grows_and_forgets() -> None:
    pending = Pending(KINDS)
    small = pending.bytes
    rng = np.random.default_rng(0)
    ids = rng.permutation(1 << 20)[:50_000]
    for part in np.array_split(ids, 7):
        pending.put(part, np.repeat(part[:, None], 3, 1).astype(np.float32), part[:, None].astype(np.uint16))
    assert np.array_equal(pending.records[0][pending.find(ids)][:, 2], ids)
    assert (pending.find(np.setdiff1d(np.arange(1 << 20), ids)) == -1).all()
    assert pending.count == 50_000
    assert pending.bytes > small
    pending.clear()
    assert (pending.count, pending.bytes) == (0, small)
    assert (pending.find(ids) == -1).all()
