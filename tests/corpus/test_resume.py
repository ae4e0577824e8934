"""An extraction that is killed goes on, and nobody can tell."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engram_cli.corpus import extract as extracting
from engram_cli.corpus import tokens
from engram_cli.corpus.extract import extract
from engram_cli.errors import ArtifactError, ResourceError
from engram_cli.progress import Silent
from tests.corpora import make_documents, write_jsonl

KILLED = """
import os, signal, sys
from engram_cli.corpus import budget, tokens
from engram_cli.corpus.extract import extract
tokens.SAMPLE, tokens.COMMIT = 3000, 10000
budget._BATCH = 3000
def die(*arguments, **settings):
    os.kill(os.getpid(), signal.SIGKILL)
class Listener:
    stages = commits = 0
    def stage(self, number, of, text):
        self.stages = number
        if sys.argv[3] == f"stage {number}":
            die()
    def advance(self, *arguments, **more):
        pass
    def warn(self, text):
        pass
if sys.argv[3].startswith("commit"):
    commit, left = tokens.TokenFiles.commit, [int(sys.argv[3].split()[1])]
    def committed(self):
        commit(self)
        left[0] -= 1
        if not left[0]:
            die()
    tokens.TokenFiles.commit = committed
if sys.argv[3] == "finish":
    from engram_cli.store import artifact
    artifact.manifests.file_digest = die
extract([sys.argv[1]], sys.argv[2], train_vocab=300, held_out=0.1, threads=2, progress=Listener(), resume="resume" in sys.argv)
"""


def bytes_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def killed(corpus: Path, out: Path, moment: str, *more: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(corpus), str(out), moment, *more], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "notes.jsonl", make_documents(150))


@pytest.fixture(scope="module")
def whole(corpus: Path) -> dict[str, bytes]:
    return bytes_of(extract([corpus], corpus.parent / "whole", train_vocab=300, held_out=0.1).path)


@pytest.mark.parametrize("moment", ["stage 1", "stage 2", "commit 1", "commit 3", "stage 3", "stage 4", "finish"])
def test_killed_at_any_moment_the_artifact_is_the_same(corpus: Path, whole: dict[str, bytes], tmp_path: Path, moment: str) -> None:
    killed(corpus, tmp_path / "out", moment)
    artifact = extract([corpus], tmp_path / "out", train_vocab=300, held_out=0.1, threads=1, resume=True)
    assert bytes_of(artifact.path) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_again_while_it_goes_on(corpus: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    for moment in ("commit 1", "commit 2", "stage 4"):
        killed(corpus, tmp_path / "out", moment, "resume")
    assert bytes_of(extract([corpus], tmp_path / "out", train_vocab=300, held_out=0.1, resume=True).path) == whole


def test_nothing_to_go_on_from_is_told(corpus: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    warnings: list[str] = []

    class Listener(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    artifact = extract([corpus], tmp_path / "out", train_vocab=300, held_out=0.1, resume=True, progress=Listener())
    assert any("--resume found no unfinished run" in warning for warning in warnings)
    assert bytes_of(artifact.path) == whole


def test_what_was_encoded_is_not_encoded_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(corpus, tmp_path / "out", "stage 3")
    added: list[Any] = []
    add = tokens.Part.add
    monkeypatch.setattr(tokens.Part, "add", lambda self, *document: (added.append(document), add(self, *document)))
    extract([corpus], tmp_path / "out", train_vocab=300, held_out=0.1, resume=True)
    assert not added


def test_other_settings_or_another_corpus_are_refused(corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "notes.jsonl"
    copy.write_bytes(corpus.read_bytes())
    killed(copy, tmp_path / "out", "stage 3")
    with pytest.raises(ArtifactError, match="orders changed; start anew with --force"):
        extract([copy], tmp_path / "out", train_vocab=300, held_out=0.1, orders=2, resume=True)
    os.utime(copy, (time.time(), time.time() + 10))
    with pytest.raises(ArtifactError, match="corpus changed; start anew with --force"):
        extract([copy], tmp_path / "out", train_vocab=300, held_out=0.1, resume=True)
    assert (tmp_path / ".out.partial").is_dir()
    with pytest.raises(ArtifactError, match="unfinished run of out; go on with --resume, or start anew with --force"):
        extract([copy], tmp_path / "out", train_vocab=300, held_out=0.1, orders=2)
    assert (tmp_path / ".out.partial").is_dir()
    extract([copy], tmp_path / "out", train_vocab=300, held_out=0.1, orders=2, force=True)
    assert not (tmp_path / ".out.partial").exists()


def test_a_full_disk_keeps_what_was_encoded(
    corpus: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **settings: Any) -> None:
        raise ResourceError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(extracting.engine, "count_tokens", full)
        with pytest.raises(ResourceError):
            extract([corpus], tmp_path / "out", train_vocab=300, held_out=0.1)
    assert (tmp_path / ".out.partial").is_dir()
    assert bytes_of(extract([corpus], tmp_path / "out", train_vocab=300, held_out=0.1, resume=True).path) == whole
