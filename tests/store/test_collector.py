"""The collector of cycles rests where it is told to, and is left as it was found."""

import gc

import pytest

from engram_cli.store.collector import collector_at_rest


def test_it_rests_within_and_not_after() -> None:
    @collector_at_rest()
    def work() -> bool:
        with collector_at_rest():
            pass
        return gc.isenabled()

    assert gc.isenabled()
    assert not work()
    assert gc.isenabled()


def test_it_is_left_as_it_was_found() -> None:
    with pytest.raises(KeyError), collector_at_rest():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_at_rest():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
