"""The sample of windows, against all windows, counted here by dictionaries."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus import windows
from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.corpus.engine import Tokens
from engram_cli.corpus.extract import extract
from engram_cli.corpus.merge import add, merge
from engram_cli.corpus.windows import WINDOW, by_length, combine, sample
from engram_cli.progress import Silent
from engram_cli.store import schema
from tests.corpora import make_documents, write_jsonl

FOLDED = np.array([0, 1, 1, 2, 2, 2], np.uint32)  # canonical ids of six raw ones
DOCUMENTS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=40), max_size=8)


def stored(path: Path, documents: Sequence[Sequence[int]]) -> Tokens:
    lengths_D = np.array([len(document) for document in documents], np.int64)
    ids_T = np.array([id for document in documents for id in document], np.uint16)
    ids_T.tofile(path)
    return Tokens(path, 0, np.uint16, len(ids_T), np.cumsum(lengths_D) - lengths_D, FOLDED)


def windows_of(documents: Sequence[Sequence[int]], length: int) -> list[tuple[int, ...]]:
    return [tuple(ids[at : at + length]) for ids in documents for at in range(len(ids) - length + 1)]


def of_windows(records: pa.Table, length: int) -> list[tuple[int, int]]:
    """Occurrences in training and held-out documents of each raw window, however it is hashed."""
    return sorted((r["count"], r["held_out"]) for r in records.to_pylist() if r["length"] == length)


@given(training=DOCUMENTS, held_out=DOCUMENTS, stretch=st.integers(1, 50), threads=st.integers(1, 2))
def test_a_sample_of_everything_is_exact(
    tmp_path_factory: pytest.TempPathFactory, training: list[list[int]], held_out: list[list[int]], stretch: int, threads: int
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    training = [*training, [0]]
    parts = stored(folder / "training", training), stored(folder / "held_out", held_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_STRETCH", stretch)
        records = sample(*parts, 3, threads)
    said = by_length(records)
    for length in (2, 3, WINDOW):
        raw, held = Counter(windows_of(training, length)), Counter(windows_of(held_out, length))
        assert of_windows(records, length) == sorted((raw[window], held[window]) for window in raw.keys() | held.keys())
        canonical = Counter(tuple(FOLDED[list(window)].tolist()) for window in raw.elements())
        seen = sum(count for window, count in held.items() if tuple(FOLDED[list(window)].tolist()) in canonical)
        if raw:
            assert said[length].repeated == pytest.approx((1 - len(canonical) / raw.total(), 0))
            assert said[length].merged == pytest.approx((1 - len(canonical) / len(raw), 0))
        if held:
            assert said[length].held_out_seen == pytest.approx((seen / held.total(), 0))


def test_a_sample_is_near_what_everything_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also, neither threads nor where stretches begin can be seen in it, and samples of parts add up to that of the whole."""
    chance = np.random.default_rng(0)
    text = chance.integers(0, 6, 40_000).tolist()
    documents = [text[begin : begin + 500] for begin in [*range(0, 40_000, 500), *range(0, 10_000, 500)]]  # a fifth comes again
    none = stored(tmp_path / "none", [])
    exact = by_length(sample(stored(tmp_path / "all", documents), none, 3, 1))[WINDOW]
    assert exact.repeated is not None
    monkeypatch.setattr(windows, "MOST", 1024)
    monkeypatch.setattr(windows, "_STRETCH", 9_999)
    whole = sample(stored(tmp_path / "all", documents), none, 3, 1)
    found = by_length(whole)[WINDOW].repeated
    assert found is not None
    assert 512 < len(whole.filter(pa.array(whole["length"].to_numpy() == WINDOW))) <= 1024
    assert 0 < found.within < 0.1
    assert found.share == pytest.approx(exact.repeated.share, abs=1.5 * found.within)
    monkeypatch.setattr(windows, "_STRETCH", 777)
    assert sample(stored(tmp_path / "all", documents), none, 3, 2).equals(whole)
    parts = [sample(stored(tmp_path / "part", part), none, 3, 1) for part in (documents[:17], documents[17:])]
    assert combine(parts).equals(whole)


def test_sampled_are_all_windows_whose_hash_is_small_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of window_kernels.py, one window at a time."""
    monkeypatch.setattr(windows, "MOST", 64)
    documents = [np.random.default_rng(seed).integers(0, 6, 3_000).tolist() for seed in range(7)]
    records = sample(stored(tmp_path / "a", documents), stored(tmp_path / "b", []), 6, 1)
    codes_C = np.random.Generator(np.random.PCG64(windows._SEED)).integers(1 << 64, size=3, dtype=np.uint64).tolist()

    def hashed(window: tuple[int, ...]) -> int:
        value = 0
        for raw in window:
            value = ((value << 1 | value >> 63) & (2**64 - 1)) ^ codes_C[FOLDED[raw]]
        return value

    for length in (5, 6, WINDOW):
        some = records.filter(pa.array(records["length"].to_numpy() == length))
        small = 2**64 // some["one_in"][0].as_py()
        all_windows = [hashed(window) for window in windows_of(documents, length)]
        found = Counter(dict.fromkeys(some["canonical"].to_pylist(), 0))
        for record in some.to_pylist():
            found[record["canonical"]] += record["count"]
        assert found == Counter(value for value in all_windows if value < small)


def test_what_was_not_met_may_still_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(windows, "MOST", 128)
    documents = [np.random.default_rng(seed).integers(0, 6, 5_000).tolist() for seed in (1, 2)]
    found = by_length(sample(stored(tmp_path / "a", documents[:1]), stored(tmp_path / "b", documents[1:]), 2, 1))[WINDOW]
    assert found.held_out_seen is not None
    assert found.held_out_seen.share == 0
    assert 0 < found.held_out_seen.within < 0.1


def test_sums_have_the_sample_of_one_extraction(ngrams: NGrams, tokenizer_path: Path, tmp_path: Path) -> None:
    texts = make_documents(90)
    one, other = write_jsonl(tmp_path / "one.jsonl", texts[:40]), write_jsonl(tmp_path / "other.jsonl", texts[40:])
    for paths, name in (([one, other], "both"), ([one], "a"), ([other], "b")):
        extract(paths, tmp_path / name, tokenizer=tokenizer_path)
    merge(tmp_path / "a", tmp_path / "b", tmp_path / "merged")
    add([other], tmp_path / "a", tmp_path / "added")
    both, *sums = (open_ngrams(tmp_path / name).artifact for name in ("both", "merged", "added"))
    for artifact in sums:
        assert artifact.table(windows.FILE, schema.WINDOWS).equals(both.table(windows.FILE))
        for name in ("merged", "repeated", "held_out_seen"):
            assert artifact.manifest.facts[name] == both.manifest.facts[name]


class Warned(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_repeated_text_is_warned_of(tokenizer_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "REPEATED", 0.1)
    for number, texts in enumerate((make_documents(60), ["".join(map(chr, range(97, 123))), "Nothing here is said twice."])):
        warned = Warned()
        corpus = write_jsonl(tmp_path / f"{number}.jsonl", texts)
        extract([corpus], tmp_path / str(number), tokenizer=tokenizer_path, held_out=0, progress=warned)
        assert [text[:21] for text in warned.warnings] == (["much text is repeated"] if number == 0 else [])


def test_documents_shorter_than_a_window_have_none(tokenizer_path: Path, tmp_path: Path) -> None:
    facts = extract([write_jsonl(tmp_path / "a.jsonl", ["a"])], tmp_path / "a", tokenizer=tokenizer_path, held_out=0).manifest.facts
    assert (facts["repeated"], facts["held_out_seen"]) == (None, None)
