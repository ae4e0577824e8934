"""`engram merge` and `engram extract --add-to` as a user meets them."""

from pathlib import Path

import pytest

from engram_cli.__main__ import run
from tests.corpora import make_documents, write_jsonl


def test_merge_and_add(tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = make_documents(40)
    names = [str(write_jsonl(tmp_path / f"{n}.jsonl", part)) for n, part in enumerate((documents[:20], documents[20:]))]
    one, two, merged, added = (str(tmp_path / name) for name in ("one", "two", "merged", "added"))
    for name, out in zip(names, (one, two), strict=True):
        assert run(["extract", name, "--tokenizer", str(tokenizer_path), "-o", out, "--quiet"]) == 0
    assert run(["merge", one, two, "-o", merged, "--quiet"]) == 0
    assert run(["extract", *names, "--add-to", one, "-o", added, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert "duplicates left out" in shown.out
    assert "left out: 20" in shown.err
    assert (tmp_path / "added/ngrams-3.arrow").read_bytes() == (tmp_path / "merged/ngrams-3.arrow").read_bytes()
    assert run(["extract", *names, "--add-to", one, "-o", added, "--orders", "2"]) == 2
    assert "so --orders cannot be given; leave it out" in capsys.readouterr().err
