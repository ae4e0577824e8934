"""Documents that come again: left out, whatever batch they are in, and kept where that is wanted."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.duplicates import Seen
from engram_cli.corpus.extract import extract
from tests.corpora import make_documents, write_jsonl
from tests.corpus.test_extract import Listener


@given(st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=8))
def test_a_digest_is_fresh_once(batches: list[list[int]]) -> None:
    seen = Seen()
    known: set[int] = set()
    for batch in batches:
        low_D = np.array(batch, dtype=np.uint64)
        expected = []
        for digest in batch:
            expected.append(digest not in known)
            known.add(digest)
        assert seen.fresh(low_D + np.uint64(7), low_D).tolist() == expected


def test_both_halves_of_a_digest_count() -> None:
    seen = Seen()
    one, two = np.array([1], dtype=np.uint64), np.array([2], dtype=np.uint64)
    assert [seen.fresh(*halves).tolist() for halves in ((one, one), (two, one), (one, two), (one, one))] == [
        [True],
        [True],
        [True],
        [False],
    ]


def test_duplicates_are_left_out_and_told(tmp_path: Path, tokenizer_path: Path) -> None:
    documents = make_documents(30)
    corpus = write_jsonl(tmp_path / "in.jsonl", documents + documents[5:15])
    listener = Listener()
    facts = extract([corpus], tmp_path / "out", tokenizer=tokenizer_path, progress=listener).manifest.facts
    assert (facts["documents"] + facts["held_out_documents"], facts["duplicates"]) == (30, 10)
    assert any("left out: 10" in warning for warning in listener.warnings)
    kept = extract([corpus], tmp_path / "kept", tokenizer=tokenizer_path, keep_duplicates=True).manifest.facts
    assert (kept["documents"] + kept["held_out_documents"], kept["duplicates"]) == (40, 0)
