"""Training a tokenizer on a sample."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus import training
from engram_cli.corpus.extract import extract
from engram_cli.corpus.training import Sample
from engram_cli.errors import ResourceError
from engram_cli.store.resources import resident_memory
from tests.corpora import make_documents, write_jsonl


@given(texts=st.lists(st.text(max_size=12), max_size=30), order=st.randoms(use_true_random=False))
def test_the_sample_does_not_depend_on_the_order(texts: list[str], order: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SAMPLE", 60)
        patch.setattr(training, "WORDS", 40)
        samples = []
        for _ in range(2):
            sample = Sample()
            for text in texts:
                sample.add(text)
            assert sample.bytes == sum(len(data) for _, data in sample.kept) <= 60
            samples.append(sample.texts())
            order.shuffle(texts)
    assert samples[0] == samples[1]


def test_a_corpus_that_is_smaller_is_taken_whole() -> None:
    sample, texts = Sample(), make_documents(20)
    for text in texts:
        sample.add(text)
    assert sorted(sample.texts()) == sorted(text.encode() for text in texts)


def test_different_words_are_limited_and_a_text_that_may_be_one_word_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "WORDS", 30)
    sample = Sample()
    for text in ("x" * 31, *(f"{word} {word} {word}" for word in "abcdefghijklmnop")):  # two words each, of 1 and 2 bytes
        sample.add(text)
    assert len(sample.kept) == 16
    assert len(sample.texts()) == 10


def test_the_tokenizer_depends_neither_on_memory_nor_on_threads_nor_on_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAMPLE", 2000)
    documents = make_documents(80)
    one, other = write_jsonl(tmp_path / "one.jsonl", documents), write_jsonl(tmp_path / "other.jsonl", documents[::-1])
    first = extract([one], tmp_path / "first", train_vocab=300, threads=1, memory=resident_memory() + (400 << 20))
    second = extract([other], tmp_path / "second", train_vocab=300, threads=2, memory=resident_memory() + (3 << 30))
    assert first.file("tokenizer.json").read_bytes() == second.file("tokenizer.json").read_bytes()
    assert 1000 < first.manifest.facts["trained_on"] == second.manifest.facts["trained_on"] <= 2000


def test_memory_that_does_not_suffice_is_told_before_anything_is_read(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "one.jsonl", make_documents(3))
    memory = resident_memory() + (1 << 30)
    with pytest.raises(ResourceError, match=r"training a tokenizer of 2,000,000 ids takes, but it is .* GiB; give [0-9.]+ GiB or more"):
        extract([corpus], tmp_path / "out", train_vocab=2_000_000, memory=memory)
    assert [path.name for path in tmp_path.iterdir()] == ["one.jsonl"]
