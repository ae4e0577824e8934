"""Arrow files written stretch by stretch."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.store.schema import ngrams_schema
from engram_cli.store.stream import ColumnWriter

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
