"""Arrow files written stretch by stretch."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.store.schema import ngrams_schema, tokens_schema
from engram_cli.store.stream import ColumnFile, ColumnReader, ColumnWriter

NUMBERS = st.one_of(st.integers(0, 3), st.integers(250, 260), st.integers(0, 2**64 - 1))


@given(stretches=st.lists(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=40), max_size=4))
def test_columns_are_those_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, stretches: list[list[tuple[int, int, int]]]
) -> None:
    path = tmp_path_factory.mktemp("columns") / "columns"
    schema = ngrams_schema(5, 20)
    with ColumnWriter(path, schema) as writer:
        for rows in stretches:
            writer.write(np.array(rows, np.uint64).reshape(len(rows), 3).T)
    table = pa.ipc.open_file(path).read_all()
    assert table.schema.equals(schema, check_metadata=True)
    assert [tuple(row.values()) for row in table.to_pylist()] == [row for rows in stretches for row in rows]
    assert [entry.name for entry in path.parent.iterdir()] == ["columns"]


def test_more_rows_than_31_bits_count(tmp_path: Path) -> None:
    """4 GB of nothing, which a file system keeps as a hole."""
    schema, rows = tokens_schema(300), 2**31 + 5
    with ColumnFile(tmp_path / "columns", schema, rows) as file:
        file.write(rows - 2, [np.array([7, 9], np.uint16)])
    column = pa.ipc.open_file(pa.memory_map(str(tmp_path / "columns"))).read_all()["token"]
    assert (len(column), column[0].as_py(), column[rows - 1].as_py()) == (rows, 0, 9)
    last = np.empty(2, np.uint16)
    with ColumnReader(tmp_path / "columns", schema, rows) as reader:
        reader.read(0, rows - 2, last)
    assert last.tolist() == [7, 9]
