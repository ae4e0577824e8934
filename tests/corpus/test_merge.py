"""Merging: the sum of two artifacts is the artifact of both corpora, byte for byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engram_cli.corpus import merge as merging
from engram_cli.corpus import merge_counts, tokens
from engram_cli.corpus.extract import extract
from engram_cli.corpus.merge import add, merge
from engram_cli.corpus.tokenizer import train_tokenizer
from engram_cli.errors import ArtifactError, CorpusError
from tests.corpora import make_documents, write_jsonl
from tests.corpus.test_extract import Listener, bytes_of

DOCUMENTS = make_documents(60)


@pytest.fixture
def made(tmp_path: Path, tokenizer_path: Path) -> Callable[..., Path]:
    """Extract corpora by name: the first 40 documents, the other 20, and what a test wants else."""
    write_jsonl(tmp_path / "one.jsonl", DOCUMENTS[:40])
    write_jsonl(tmp_path / "two.jsonl", DOCUMENTS[40:])

    def make(*names: str, **settings: Any) -> Path:
        out = tmp_path / ("-".join(names) + "-ngrams")
        settings.setdefault("tokenizer", tokenizer_path)
        settings.setdefault("held_out", 0.2)
        return extract([tmp_path / f"{name}.jsonl" for name in names], out, force=True, **settings).path

    return make


@pytest.mark.parametrize("settings", [{}, {"orders": 1}, {"orders": 6}, {"orders": 6, "canonical": False}])
def test_the_sum_is_the_artifact_of_both(
    settings: dict[str, Any], made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_counts, "ROWS", 37)
    monkeypatch.setattr(merging, "_BLOCK", 101)
    monkeypatch.setattr(tokens, "_RECORDS", 7)
    merged = merge(made("one", **settings), made("two", **settings), tmp_path / "sum")
    assert bytes_of(merged.path) == bytes_of(made("one", "two", **settings))


def test_wide_grams_are_added(made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_counts, "ROWS", 19)
    monkeypatch.setattr("engram_cli.corpus.ngrams.gram_bits", lambda vocab, order: 21)
    merged = merge(made("one", orders=5), made("two", orders=5), tmp_path / "sum")
    assert merged.manifest.facts["bits"] == 21
    assert bytes_of(merged.path) == bytes_of(made("one", "two", orders=5))


def test_adding_counts_only_what_is_new(made: Callable[..., Path], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "more.jsonl", DOCUMENTS[30:])
    added = add([tmp_path / "more.jsonl"], made("one"), tmp_path / "sum")
    both = made("one", "two")
    assert added.manifest.facts["duplicates"] == 10
    counts = {name: data for name, data in bytes_of(both).items() if name.startswith(("ngrams", "tokens.", "spectrum"))}
    assert counts.items() <= bytes_of(added.path).items()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(CorpusError, match="all 40 were seen before"):
        add([tmp_path / "one.jsonl"], both, tmp_path / "other")


def test_documents_of_both_are_told(made: Callable[..., Path], tmp_path: Path) -> None:
    listener = Listener()
    merge(made("one"), made("one", "two"), tmp_path / "sum", progress=listener)
    assert ["twice: 40 of" in warning for warning in listener.warnings] == [True]


def test_only_what_was_made_alike_is_added(made: Callable[..., Path], tmp_path: Path) -> None:
    other = tmp_path / "tokenizer.json"
    train_tokenizer([DOCUMENTS], 300).save(str(other))
    one = made("one")
    for settings, message in (
        ({"tokenizer": other}, "one tokenizer, but .* has the digest [0-9a-f]{32} and .* [0-9a-f]{32}"),
        ({"orders": 2}, "orders is"),
        ({"canonical": False}, "token_map_digest is"),
        ({"held_out": 0.1}, "held_out is 0.2 in"),
        ({"min_count": 2}, "pruned by --min-count 2"),
    ):
        with pytest.raises(ArtifactError, match=message):
            merge(one, made("two", **settings), tmp_path / "sum")
    with pytest.raises(ArtifactError, match=r"[0-9a-f]{32} and .* has [0-9a-f]{32}"):
        add([tmp_path / "two.jsonl"], one, tmp_path / "sum", tokenizer=other)
    with pytest.raises(ArtifactError, match="must not exist"):
        merge(one, one, made("two"))
