"""`engram extract` as its user meets it."""

import json
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.corpus.artifact import open_ngrams
from tests.corpora import make_documents, write_jsonl


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "notes.jsonl", make_documents(60))


def test_the_summary_is_shown_and_stages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["extract", "notes.jsonl", "--train-tokenizer", "320", "-o", "out", "--held-out", "0.1"]) == 0
    captured = capsys.readouterr()
    facts = open_ngrams("out").artifact.manifest.facts
    assert captured.out.startswith(f"out: n-grams of {facts['tokens']:,} tokens\n")
    for shown in ("bytes per token", "ids folded", "held-out documents", "Most frequent grams", "<|endoftext|>"):
        assert shown in captured.out
    assert [line.split(" (")[0] for line in captured.err.splitlines()] == [
        "[1/5] training a tokenizer of 320 ids", "[2/5] encoding", "[3/5] looking for repeated text", "[4/5] counting 3-grams",
        "[5/5] writing orders 1 to 3",
    ]  # fmt: skip
    assert "of disk needed" in captured.err


def test_json_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["extract", "notes.jsonl", "--train-tokenizer", "320", "-o", "out", "--held-out", "0.1", "--quiet", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(captured.out)
    ngrams = open_ngrams("out")
    assert document["facts"]["tokens"] == ngrams.artifact.manifest.facts["tokens"]
    assert [record["distinct"] for record in document["tables"]["orders"]] == [len(ngrams.counts(order)[0]) for order in (1, 2, 3)]


def test_a_separator_may_be_written_with_escapes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\t\tthree\n\nfour")
    for separator, documents in ((r"\n\n", 3), (r"\t\t", 2), ("two", 2)):
        options = ["--held-out", "0", "--quiet", "--force", "--document-separator", separator]
        assert run(["extract", "a.txt", "--train-tokenizer", "257", "-o", "out", *options]) == 0
        assert open_ngrams("out").artifact.manifest.facts["documents"] == documents


def test_other_orders_and_raw_ids() -> None:
    assert (
        run(["extract", "notes.jsonl", "--train-tokenizer", "300", "-o", "out", "--orders", "5", "--no-canonical", "--quiet"]) == 0
    )
    ngrams = open_ngrams("out")
    assert ngrams.orders == (1, 2, 3, 4, 5)
    assert ngrams.canonical_vocab == ngrams.vocab == 300


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engram_cli.corpus.engine.count_tokens", interrupt)
    assert run(["extract", "notes.jsonl", "--train-tokenizer", "300", "-o", "out", "--quiet"]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["notes.jsonl"]
