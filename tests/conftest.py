"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: for matrices as small as these, threads cost more than they give


@pytest.fixture(scope="session")
def table_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny table artifact; do not write into it."""
    from tests.tables import write_table

    return write_table(tmp_path_factory.mktemp("tables") / "tiny")
