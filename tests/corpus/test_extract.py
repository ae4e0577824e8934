"""Extraction as a whole: what is counted, what is held out, and that nothing but the corpus decides."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus import budget, engine, reader, tokens
from engram_cli.corpus.artifact import DOCUMENTS, NGrams, open_ngrams
from engram_cli.corpus.extract import extract
from engram_cli.corpus.tokenizer import train_tokenizer
from engram_cli.errors import ArtifactError, CorpusError, ResourceError
from engram_cli.progress import Amounts
from engram_cli.store.artifact import verify_files
from engram_cli.store.resources import resident_memory
from engram_cli.table.hashing import windows
from tests.corpora import make_documents, write_jsonl


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []
        self.shares: list[float] = []

    def stage(self, number: int, of: int, text: str) -> None:
        self.stages.append(f"[{number}/{of}] {text}")

    def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
        self.shares.append(done / (total or 1))

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def counted(tmp_path: Path) -> Callable[..., NGrams]:
    """Extract documents with the settings given, into a new artifact each time."""

    def run(documents: list[str], **settings: Any) -> NGrams:
        number = len(list(tmp_path.iterdir()))
        corpus = write_jsonl(tmp_path / f"{number}.jsonl", documents)
        if "tokenizer" not in settings:
            settings.setdefault("train_vocab", 300)
        return NGrams(extract([corpus], tmp_path / f"{number}", **settings))

    return run


def digest_of(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def bytes_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_the_artifact_is_whole_and_says_what_it_was_made_from(ngrams: NGrams) -> None:
    files = {name for name, said, found in verify_files(ngrams.artifact) if said == found}
    assert files == {path.name for path in ngrams.artifact.path.iterdir()} - {"manifest.json"}
    assert set(ngrams.artifact.manifest.inputs) == {"tokenizer", "corpus"}
    text = (ngrams.artifact.path / "tokenizer.json").read_bytes()
    assert ngrams.artifact.manifest.inputs["tokenizer"] == xxhash.xxh3_128_hexdigest(text)


def test_counts_of_each_order_sum_to_the_training_tokens(ngrams: NGrams) -> None:
    facts = ngrams.artifact.manifest.facts
    for order in ngrams.orders:
        grams, counts = ngrams.counts(order)
        assert int(counts.sum()) == facts["tokens"]
        assert facts["distinct"][str(order)] == len(grams)
        assert facts["singletons"][str(order)] == int((counts == 1).sum())


def test_shards_threads_batches_and_records_do_not_show(counted: Callable[..., NGrams], monkeypatch: pytest.MonkeyPatch) -> None:
    documents = make_documents(60)
    whole = bytes_of(counted(documents, threads=1).artifact.path)
    monkeypatch.setattr(engine, "count_tokens", partial(engine.count_tokens, stretch=97))
    monkeypatch.setattr(budget, "_BATCH", 500)
    cut = bytes_of(counted(documents, threads=3).artifact.path)
    differing = {name for name in whole.keys() | cut.keys() if whole.get(name) != cut.get(name)}
    assert differing <= {"documents.arrow", "manifest.json"}  # which name the corpus file


def test_documents_are_recorded_over_many_batches(counted: Callable[..., NGrams], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "BATCH", 7)
    documents = make_documents(50)
    ngrams = counted(documents, held_out=0.3)
    records = ngrams.artifact.table(DOCUMENTS).to_pylist()
    assert [record["held_out"] for record in records] == sorted(record["held_out"] for record in records)
    assert [record["offset"] for record in records] == np.cumsum([0, *(record["length"] for record in records[:-1])]).tolist()
    by_digest = {digest_of(text): text for text in documents}
    everything = np.concatenate([ngrams.stream(held_out).tokens_T for held_out in (False, True)])
    for record in records:
        text = by_digest.pop(record["digest"])
        assert record["bytes"] == len(text.encode())
        assert record["source"].endswith(".jsonl")
        ids = everything[record["offset"] : record["offset"] + record["length"]]
        assert ngrams.tokenizer.decode(ids.tolist(), skip_special_tokens=True) == text
    assert not by_digest


def held_out_digests(ngrams: NGrams) -> set[str]:
    return {record["digest"] for record in ngrams.artifact.table(DOCUMENTS).to_pylist() if record["held_out"]}


def test_who_is_held_out_does_not_depend_on_the_other_documents(counted: Callable[..., NGrams], tokenizer_path: Path) -> None:
    documents = make_documents(100)
    chosen = held_out_digests(counted(documents, tokenizer=tokenizer_path, held_out=0.2))
    assert 5 < len(chosen) < 40
    assert held_out_digests(counted(documents[::-1], tokenizer=tokenizer_path, held_out=0.2)) == chosen
    fewer = held_out_digests(counted(documents[:50], tokenizer=tokenizer_path, held_out=0.2))
    assert fewer == chosen & {digest_of(text) for text in documents[:50]}
    assert held_out_digests(counted(documents, tokenizer=tokenizer_path, held_out=0.1)) < chosen


def test_held_out_documents_are_not_in_the_trained_tokenizer(counted: Callable[..., NGrams]) -> None:
    documents = make_documents(100)
    full = counted(documents, held_out=0.2, train_vocab=400)
    chosen = held_out_digests(full)
    rest = [text for text in documents if digest_of(text) not in chosen]
    assert counted(rest, held_out=0.2, train_vocab=400).tokenizer.to_str() == full.tokenizer.to_str()


def test_the_order_of_documents_changes_no_count(counted: Callable[..., NGrams], tokenizer_path: Path) -> None:
    documents = make_documents(40)
    one, other = (counted(text, tokenizer=tokenizer_path) for text in (documents, documents[::-1]))
    for order in one.orders:
        assert all(np.array_equal(a, b) for a, b in zip(one.counts(order), other.counts(order), strict=True))


def test_a_given_tokenizer_is_kept_byte_for_byte(counted: Callable[..., NGrams], tokenizer_path: Path) -> None:
    ngrams = counted(make_documents(20), tokenizer=tokenizer_path)
    assert (ngrams.artifact.path / "tokenizer.json").read_bytes() == tokenizer_path.read_bytes()
    assert ngrams.vocab == 320


def test_without_canonical_ids_raw_ones_are_counted(counted: Callable[..., NGrams], tokenizer_path: Path) -> None:
    documents = make_documents(20)
    raw, folded = (counted(documents, tokenizer=tokenizer_path, canonical=canonical) for canonical in (False, True))
    assert raw.canonical_vocab == raw.vocab > folded.canonical_vocab
    tokens, counts = np.unique(raw.stream(held_out=False).tokens_T, return_counts=True)
    assert np.array_equal(raw.counts(1)[0], tokens)
    assert np.array_equal(raw.counts(1)[1], counts)
    assert raw.text(raw.tokenizer.encode("A\n\t\r").ids) == "A⏎⇥␍"


def test_a_tokenizer_without_end_or_pad_is_used_with_a_warning(counted: Callable[..., NGrams], tmp_path: Path) -> None:
    document = json.loads(train_tokenizer([make_documents(30)], 300).to_str().replace("<|endoftext|>", "<nothing known>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    listener = Listener()
    ngrams = counted(make_documents(20), tokenizer=tmp_path / "tokenizer.json", progress=listener)
    assert (ngrams.pad, ngrams.end) == (0, None)
    assert any("id 0 ('<nothing known>')" in warning and "--pad-token" in warning for warning in listener.warnings)
    stream = ngrams.stream(held_out=False)
    assert 0 not in stream.tokens_T
    named = counted(make_documents(20), tokenizer=tmp_path / "tokenizer.json", pad_token="a")
    assert named.pad == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id("a")


def test_progress_tells_stages_and_ends_at_all(counted: Callable[..., NGrams]) -> None:
    listener = Listener()
    counted(make_documents(50), orders=2, held_out=0.1, progress=listener)
    assert [stage.split("] ")[1].split(" (")[0] for stage in listener.stages] == [
        "training a tokenizer of 300 ids", "encoding", "looking for repeated text", "counting 2-grams", "writing orders 1 to 2"
    ]  # fmt: skip
    assert listener.stages[-1].startswith("[5/5]")
    assert listener.shares[-1] == 1
    assert not listener.warnings


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in/a.jsonl", [*make_documents(3), " "])
    (tmp_path / "in/empty.txt").touch()
    (tmp_path / "in/picture.png").touch()
    listener = Listener()
    extract([tmp_path / "in"], tmp_path / "out", train_vocab=5000, progress=listener)
    for part in (
        "extensions were passed over: 1;",
        "without text were passed over: 1,",
        "blank documents were passed over: 1",
        "no document is held out",
        "too small",
    ):
        assert any(part in warning for warning in listener.warnings), part


def test_text_beside_ready_tokens_is_not_passed_over_in_silence(tmp_path: Path, tokenizer_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", np.arange(9, dtype=np.uint16))
    write_jsonl(tmp_path / "in/b.jsonl", make_documents(3))
    listener = Listener()
    extract([tmp_path / "in"], tmp_path / "out", tokenizer=tokenizer_path, progress=listener)
    assert any("without tokens were passed over: 1; extract text apart" in warning for warning in listener.warnings)


def test_no_warning_where_holding_out_was_not_wanted(counted: Callable[..., NGrams]) -> None:
    listener = Listener()
    counted(make_documents(5), held_out=0.0, progress=listener)
    assert not listener.warnings


def test_stdin_is_text_or_jsonl_and_may_be_compressed(tmp_path: Path) -> None:
    def digests(data: bytes, *options: str) -> set[str]:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "engram_cli",
            "extract",
            "-",
            "-o",
            str(out),
            "--train-tokenizer",
            "257",
            "--quiet",
            *options,
        ]
        subprocess.run(command, input=data, check=True, capture_output=True)
        assert not [path for path in tmp_path.iterdir() if path != out]
        return {record["digest"] for record in open_ngrams(out).artifact.table(DOCUMENTS).to_pylist()}

    lines = b'{"text": "one"}\n{"text": "two"}\n'
    assert digests(lines) == {digest_of(lines.decode())}
    assert digests(gzip.compress(lines), "--text-field", "text", "--held-out", "0") == {digest_of("one"), digest_of("two")}


def test_a_pipe_is_read_once_and_used_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"printf 'some text' > {pipe}"]):
        artifact = extract([pipe], tmp_path / "out", train_vocab=257, held_out=0)
    assert artifact.table(DOCUMENTS)["digest"].to_pylist() == [digest_of("some text")]


def test_an_artifact_is_replaced_only_by_force(counted: Callable[..., NGrams], tmp_path: Path) -> None:
    out = counted(make_documents(5)).artifact.path
    before = bytes_of(out)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_documents(9, seed=1))
    with pytest.raises(ArtifactError, match="--force"):
        extract([corpus], out, train_vocab=300)
    with pytest.raises(CorpusError):
        extract([tmp_path / "nothing"], out, train_vocab=300, force=True)
    assert bytes_of(out) == before
    extract([corpus], out, train_vocab=300, force=True)
    assert bytes_of(out) != before


def test_grams_wider_than_64_bits_are_counted_shown_and_found(counted: Callable[..., NGrams]) -> None:
    text = random.Random(0).randbytes(20_000).hex()
    ngrams = counted([text, text[5000:9000]], train_vocab=1200, canonical=False, orders=6, held_out=0.0)
    assert ngrams.bits * 6 > 64 >= ngrams.bits * 5
    grams, counts = ngrams.counts(6)
    stream = ngrams.stream(held_out=False)
    windows_TN = windows(stream.tokens_T, stream.position_T, 6, ngrams.pad)
    expected, expected_counts = np.unique(windows_TN[:, ::-1], axis=0, return_counts=True)
    assert np.array_equal(ngrams.unpack(grams, 6)[:, ::-1], expected)
    assert np.array_equal(counts, expected_counts)
    assert np.array_equal(ngrams.unpack(grams[3:7], 6)[:, ::-1], expected[3:7])


def test_rare_grams_are_left_out_and_the_artifact_says_so(counted: Callable[..., NGrams], tokenizer_path: Path) -> None:
    documents = make_documents(40)
    whole, pruned = (counted(documents, tokenizer=tokenizer_path, min_count=least) for least in (1, 3))
    facts = pruned.artifact.manifest.facts
    assert facts["min_count"] == 3
    for order in whole.orders:
        (grams, counts), (kept, kept_counts) = whole.counts(order), pruned.counts(order)
        assert np.array_equal(kept, grams[counts >= 3])
        assert facts["pruned"][str(order)] == len(grams) - len(kept)
        assert facts["pruned_occurrences"][str(order)] + int(kept_counts.sum()) == facts["tokens"]


def test_memory_cannot_be_seen(counted: Callable[..., NGrams], tmp_path: Path) -> None:
    documents = make_documents(60)
    small, large = (bytes_of(counted(documents, memory=resident_memory() + more).artifact.path) for more in (400 << 20, 8 << 30))
    assert {name for name in small if small[name] != large[name]} <= {"documents.arrow", "manifest.json"}
    with pytest.raises(ResourceError, match=r"--memory must hold .*; give .* or more"):
        counted(documents, memory=1 << 20)


def test_ready_tokens_are_counted_like_their_text(counted: Callable[..., NGrams], tokenizer_path: Path, tmp_path: Path) -> None:
    text = counted(make_documents(60), tokenizer=tokenizer_path, held_out=0.1)
    ready = NGrams(extract([text.artifact.path], tmp_path / "ready", tokenizer=tokenizer_path, held_out=0.1))
    for name in ("tokens.arrow", "ngrams-1.arrow", "ngrams-2.arrow", "ngrams-3.arrow"):
        assert (ready.artifact.path / name).read_bytes() == (text.artifact.path / name).read_bytes()
    assert ready.artifact.manifest.facts["held_out_documents"] == text.artifact.manifest.facts["held_out_documents"]


def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path: Path, tokenizer_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", make_documents(20))

    class Writer(Listener):
        def stage(self, number: int, of: int, text: str) -> None:
            if number == 1:
                os.utime(corpus, ns=(1, 1))

    with pytest.raises(CorpusError, match=r"must not change .* 1 of its files did, such as .*in.jsonl"):
        extract([corpus], tmp_path / "out", tokenizer=tokenizer_path, progress=Writer())
    assert not (tmp_path / "out").exists()


def test_a_document_of_any_length_is_counted_as_a_whole(
    counted: Callable[..., NGrams], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, again = " ".join(make_documents(90)), " ".join(make_documents(70, seed=5))
    documents = [*make_documents(40, seed=2), long, "short", again, long, *make_documents(9, seed=3)]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("--".join(documents))
    for held_out in (0.0, 0.5):
        settings: dict[str, Any] = {"train_vocab": 300, "held_out": held_out, "document_separator": "--"}
        whole = bytes_of(extract([corpus], tmp_path / f"whole-{held_out}", **settings).path)
        with monkeypatch.context() as patch:
            patch.setattr(reader, "PIECE", 300)
            patch.setattr(reader, "_TEXT", 2000)
            patch.setattr(budget, "_BATCH", 1000)
            assert bytes_of(extract([corpus], tmp_path / f"cut-{held_out}", **settings).path) == whole
