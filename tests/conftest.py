"""Fixtures of all tests: small artifacts made once, and an environment that does not leak in or out."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from engram_cli.corpus import windows
from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.corpus.tokenizer import train_tokenizer
from tests.corpora import make_documents, write_ngrams

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: for matrices as small as these, threads cost more than they give
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore Ctrl-C
settings.register_profile("house", deadline=None)  # machines are shared: a slow example is not a failure
settings.load_profile("house")

_SPOKEN_TO = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "RAYON_NUM_THREADS")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that changes what is printed comes from the shell, and what a test sets does not stay."""
    for name in _SPOKEN_TO:
        monkeypatch.setenv(name, "")  # so that it is put back even where it is not set now
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpora of tests are templates: what warns of repeated text would speak in each of them."""
    monkeypatch.setattr(windows, "REPEATED", 1.0)


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of 320 ids."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([make_documents(30)], 320).save(str(path))
    return path


@pytest.fixture(scope="session")
def ngrams_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small n-gram artifact with held-out documents; do not write into it."""
    return write_ngrams(tmp_path_factory.mktemp("ngrams") / "small")


@pytest.fixture(scope="session")
def ngrams(ngrams_path: Path) -> NGrams:
    """The small n-gram artifact, opened."""
    return open_ngrams(ngrams_path)


@pytest.fixture(scope="session")
def raw_ngrams(tmp_path_factory: pytest.TempPathFactory) -> NGrams:
    """A small n-gram artifact of raw ids; its pad is the token that ends documents."""
    return open_ngrams(write_ngrams(tmp_path_factory.mktemp("raw") / "ngrams", documents=80, canonical=False))


@pytest.fixture(scope="session")
def table_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny table artifact; do not write into it."""
    from tests.tables import write_table

    return write_table(tmp_path_factory.mktemp("tables") / "tiny")
