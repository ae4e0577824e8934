"""The summary of what was counted."""

from collections import Counter
from pathlib import Path

from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.corpus.extract import extract
from engram_cli.report.ngrams_summary import summarise
from engram_cli.report.report import Measure
from tests.corpora import make_documents, write_jsonl, write_ngrams


def test_top_grams_are_the_most_frequent(ngrams: NGrams) -> None:
    top = summarise(ngrams).tables["top"].to_pylist()
    tokens = ngrams.artifact.manifest.facts["tokens"]
    for order in ngrams.orders:
        shown = [record["count"] for record in top if record["order"] == order]
        assert shown == sorted(ngrams.counts(order)[1].tolist(), reverse=True)[:10]
    assert all(record["share"] == record["count"] / tokens for record in top)
    assert any(record["gram"] == "the capital of" for record in top)


def test_fewer_grams_than_are_shown_are_all_shown(tmp_path: Path) -> None:
    ngrams = open_ngrams(write_ngrams(tmp_path / "one", documents=1, vocab=257, held_out=0))
    shown = Counter(record["order"] for record in summarise(ngrams).tables["top"].to_pylist())
    assert shown == {order: min(10, len(ngrams.counts(order)[0])) for order in ngrams.orders}


def test_curves_are_those_of_the_counts(ngrams: NGrams) -> None:
    tables = {name: table.to_pylist() for name, table in summarise(ngrams).tables.items()}
    for order in ngrams.orders:
        falling = sorted(ngrams.counts(order)[1].tolist(), reverse=True)
        zipf = {record["rank"]: record["count"] for record in tables["zipf"] if record["order"] == order}
        assert {1, 2, 4, 8, len(falling)} <= set(zipf)
        assert all(count == falling[rank - 1] for rank, count in zipf.items())
        coverage = {record["top_grams"]: record["share"] for record in tables["coverage"] if record["order"] == order}
        assert coverage[4] == sum(falling[:4]) / sum(falling)
        growth = [record for record in tables["growth"] if record["order"] == order]
        assert growth[-1] == {"order": order, "tokens": sum(falling), "distinct": len(falling)}


def test_nothing_held_out_is_noted(ngrams: NGrams, tmp_path: Path) -> None:
    assert not summarise(ngrams).notes
    report = summarise(open_ngrams(write_ngrams(tmp_path / "one", documents=3, held_out=0)))
    assert report.facts["held-out documents"] == Measure(0, "documents")
    assert "nothing can be evaluated" in report.notes[0]


def test_what_was_pruned_is_told(ngrams: NGrams, tmp_path: Path) -> None:
    assert "pruned" not in summarise(ngrams).tables
    corpus = write_jsonl(tmp_path / "in.jsonl", make_documents(40))
    whole, pruned = (NGrams(extract([corpus], tmp_path / f"{n}", train_vocab=300, min_count=n)) for n in (1, 2))
    told = summarise(pruned).tables["pruned"].to_pylist()[2]
    once = int((whole.counts(3)[1] == 1).sum())
    assert told == {"order": 3, "pruned": once, "occurrences": once, "share": once / whole.artifact.manifest.facts["tokens"]}
    assert once
