"""Merging: the sum of two artifacts is the artifact of both corpora, byte for byte."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engram_cli.corpus import merge as merging
from engram_cli.corpus import merge_counts, tokens, windows
from engram_cli.corpus.artifact import open_ngrams
from engram_cli.corpus.extract import extract
from engram_cli.corpus.merge import add, merge
from engram_cli.corpus.tokenizer import load_tokenizer, train_tokenizer
from engram_cli.errors import ArtifactError, CorpusError, ResourceError
from engram_cli.report.ngrams_summary import summarise
from engram_cli.store import resources
from engram_cli.store.artifact import open_artifact, write_artifact
from tests.corpora import make_documents, write_jsonl
from tests.corpus.test_extract import Listener, bytes_of

DOCUMENTS = make_documents(60)
PEAK = """
import sys
from engram_cli.corpus.merge import merge
from engram_cli.report.peak_memory import peak_memory
merge(*sys.argv[1:])
print(peak_memory())
"""  # not ru_maxrss, which begins with that of the process that started this one


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".jsonl")


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
    monkeypatch.setattr(merging, "BATCH", 7)
    monkeypatch.setattr(tokens, "BATCH", 7)
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
        ({"orders": 2}, r"--orders is \[1, 2, 3\] in"),
        ({"canonical": False}, r"the token map \(--no-canonical\) is"),
        ({"held_out": 0.1}, "--held-out is 0.2 in"),
        ({"min_count": 2}, "pruned by --min-count 2"),
    ):
        with pytest.raises(ArtifactError, match=message):
            merge(one, made("two", **settings), tmp_path / "sum")
    with pytest.raises(ArtifactError, match=r"[0-9a-f]{32} and .* has [0-9a-f]{32}"):
        add([tmp_path / "two.jsonl"], one, tmp_path / "sum", tokenizer=other)
    with pytest.raises(ArtifactError, match="must not exist"):
        merge(one, one, made("two"))


def test_an_artifact_is_added_to_itself(made: Callable[..., Path], tmp_path: Path) -> None:
    listener = Listener()
    one = made("one")
    doubled = merge(one, one, tmp_path / "sum", progress=listener)
    assert "twice: 40 of" in listener.warnings[0]
    assert doubled.manifest.facts["documents"] == 2 * open_artifact(one).manifest.facts["documents"]
    for order in (1, 2, 3):
        (grams, counts), (once, counts_once) = (open_ngrams(path).counts(order) for path in (doubled.path, one))
        assert (grams == once).all()
        assert (counts == 2 * counts_once).all()


def test_counts_that_are_cut_short_are_refused(made: Callable[..., Path], tmp_path: Path) -> None:
    one, two = made("one"), made("two")
    with (two / "ngrams-3.arrow").open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(ArtifactError, match=r"ngrams-3\.arrow must have \d+ bytes but has 4096 bytes"):
        merge(one, two, tmp_path / "sum")
    assert left_in(tmp_path) == ["one-ngrams", "two-ngrams"]


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda table: table.slice(1), "must hold [0-9,]+ rows, as the manifest says, but holds"),
        (lambda table: pa.concat_tables([table.slice(0, 9), table.slice(9)]), "as one record batch, but holds 2"),
        (lambda table: table.take(np.arange(len(table))[::-1]).combine_chunks(), "must be sorted by gram, but"),
        (lambda table: table.select(["count", "gram"]), "must have the columns gram uint64, count uint64"),
    ],
)
def test_counts_that_are_not_what_they_should_be_are_refused(
    lie: Callable[[pa.Table], pa.Table], message: str, made: Callable[..., Path], tmp_path: Path
) -> None:
    """Files and digests fit each other, what they hold does not."""
    one, two = open_artifact(made("one")), made("two")
    with write_artifact(tmp_path / "forged-ngrams", "ngrams") as draft:
        for name in one.manifest.files:
            shutil.copy(one.file(name), draft.path / name)
        draft.table("ngrams-3.arrow", lie(one.table("ngrams-3.arrow")))
        draft.facts, draft.inputs = dict(one.manifest.facts), dict(one.manifest.inputs)
    with pytest.raises(ArtifactError, match=message):
        merge(tmp_path / "forged-ngrams", two, tmp_path / "sum")
    assert left_in(tmp_path) == ["forged-ngrams", "one-ngrams", "two-ngrams"]


def test_an_artifact_of_before_samples_is_read_and_added(made: Callable[..., Path], tmp_path: Path) -> None:
    one, two = open_artifact(made("one")), made("two")
    with write_artifact(tmp_path / "older-ngrams", "ngrams") as draft:
        for name in one.manifest.files.keys() - {windows.FILE}:
            shutil.copy(one.file(name), draft.path / name)
        draft.facts = {name: fact for name, fact in one.manifest.facts.items() if name not in windows.FACTS}
        draft.inputs = dict(one.manifest.inputs)
    for pair in ((tmp_path / "older-ngrams", two), (two, tmp_path / "older-ngrams")):
        merged = merge(*pair, tmp_path / "sum", force=True)
        assert windows.FILE not in merged.manifest.files
        assert not merged.manifest.facts.keys() & set(windows.FACTS)
        report = summarise(open_ngrams(merged.path))
        assert not report.tables["repetition"].num_rows
        assert report.tables["top"].num_rows


def test_a_disk_without_room_is_told_before_anything_is_written(
    made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = made("one"), made("two")
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 10))
    with pytest.raises(ResourceError, match=r"the sum of .*one-ngrams and .*two-ngrams takes .* of disk, but 1\.0 KiB are free; make room"):
        merge(one, two, tmp_path / "sum")
    assert left_in(tmp_path) == ["one-ngrams", "two-ngrams"]


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    call: str, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    one, two = made("one"), made("two")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(ArtifactError, match="No space left.*make room, or choose another --out"):
        merge(one, two, tmp_path / "sum")
    assert left_in(tmp_path) == ["one-ngrams", "two-ngrams"]


def test_memory_does_not_grow_with_the_artifacts(tmp_path: Path, tokenizer_path: Path) -> None:
    """Two artifacts of 100 MB each, of random tokens, in processes that merge and tell their peak."""
    random = np.random.default_rng(0)
    vocab = load_tokenizer(tokenizer_path).get_vocab_size()
    peaks = []
    for size in (1 << 12, 1 << 21):
        paths = [tmp_path / f"{name}-{size}" for name in ("one", "two")]
        for path in paths:
            np.save(path.with_suffix(".npy"), random.integers(0, vocab, size, dtype=np.uint16))
            extract([path.with_suffix(".npy")], path, tokenizer=tokenizer_path, orders=5, held_out=0.0)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, paths), str(tmp_path / f"sum-{size}")], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert sum(file.stat().st_size for file in (tmp_path / f"sum-{1 << 21}").iterdir()) > 180 << 20
    assert peaks[1] - peaks[0] < 80 << 20
