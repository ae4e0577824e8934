"""The layout: what follows from a recipe, and what is read back from disk."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.errors import ArtifactError
from engram_cli.recipe import HashRecipe
from engram_cli.store.schema import LAYOUT
from engram_cli.table.hashing import FAMILIES
from engram_cli.table.layout import Layout, plan_layout

RECIPE = HashRecipe(orders=(2, 4), heads=3, size=(50, 100), layers=(1, 7), seed=3)
HASHES = st.builds(
    HashRecipe,
    orders=st.sets(st.integers(2, 6), min_size=1).map(lambda orders: tuple(sorted(orders))),
    heads=st.integers(1, 4),
    size=st.integers(2, 3000).map(lambda size: (size,)),
    layers=st.sets(st.integers(0, 30), min_size=1, max_size=3).map(lambda layers: tuple(sorted(layers))),
    seed=st.integers(0, 1000),
    multiple=st.integers(1, 200),
)


@given(recipe=HASHES, vocab=st.integers(2, 200_000))
def test_heads_lie_end_to_end_without_gaps(recipe: HashRecipe, vocab: int) -> None:
    for layer in plan_layout(recipe, vocab, pad=0).layers:
        ends = np.cumsum(layer.primes_H)
        assert layer.offsets_H == (0, *ends[:-1].tolist())
        assert layer.rows % recipe.multiple == 0
        assert 0 <= layer.rows - ends[-1] < recipe.multiple
        assert layer.heads == len(recipe.orders) * recipe.heads
        assert layer.orders == recipe.orders


@given(recipe=HASHES, vocab=st.integers(2, 200_000), pad=st.integers(0, 1), family=st.sampled_from(sorted(FAMILIES)))
def test_what_is_read_back_is_what_was_planned(recipe: HashRecipe, vocab: int, pad: int, family: str) -> None:
    layout = plan_layout(replace(recipe, family=family), vocab, pad)
    assert Layout.from_arrow(layout.to_arrow()) == layout


def test_a_layout_from_before_families_is_the_demos() -> None:
    layout = plan_layout(RECIPE, 100, pad=5)
    older = layout.to_arrow()
    metadata = {key: value for key, value in older.schema.metadata.items() if key not in (b"family", b"multiple")}
    assert Layout.from_arrow(older.replace_schema_metadata(metadata)) == layout


@pytest.mark.parametrize(("key", "value"), [("family", "next year's"), ("multiple", "0"), ("multiple", "x")])
def test_a_layout_of_an_unknown_family_or_multiple_is_refused(key: str, value: str) -> None:
    table = plan_layout(RECIPE, 100, pad=0).to_arrow()
    with pytest.raises(ArtifactError, match=r"layout[.]arrow"):
        Layout.from_arrow(table.replace_schema_metadata(table.schema.metadata | {key.encode(): value.encode()}))


def test_layout_table_has_the_columns_of_the_schema() -> None:
    table = plan_layout(RECIPE, 100, pad=5).to_arrow()
    assert table.schema.names == LAYOUT.names
    assert table.num_rows == 2 * 2 * 3
    assert table.slice(3, 1).to_pylist() == [{"layer": 1, "order": 4, "head": 0, "prime": 101, "offset": 53 + 59 + 61}]
    assert table.schema.metadata[b"pad"] == b"5"


def test_heads_of_one_order_are_hashed_as_among_all() -> None:
    layer = plan_layout(RECIPE, 100, pad=0).layers[1]
    windows_TN = np.random.default_rng(0).integers(0, 100, (50, 4))
    rows_TH = layer.row_ids(windows_TN)
    assert np.array_equal(layer.row_ids(windows_TN[:, :2], layer.heads_of(2)), rows_TH[:, :3])
    assert np.array_equal(layer.row_ids(windows_TN, layer.heads_of(4)), rows_TH[:, 3:])
    assert rows_TH.min() >= 0
    assert rows_TH.max() < layer.rows


def test_rows_of_a_layout_are_those_of_its_layers() -> None:
    layout = plan_layout(RECIPE, 100, pad=0)
    assert layout.rows == sum(layer.rows for layer in layout.layers)


@pytest.mark.parametrize("column", LAYOUT.names[:4])
def test_a_layout_without_a_column_is_refused(column: str) -> None:
    table = plan_layout(RECIPE, 100, pad=0).to_arrow()
    with pytest.raises(ArtifactError, match=f"layout[.]arrow lacks .*{column}"):
        Layout.from_arrow(table.drop_columns([column]))


@pytest.mark.parametrize("metadata", [None, {"pad": "0"}, {"pad": "x", "multipliers-1": "1 3", "multipliers-7": "1 3"}])
def test_a_layout_without_its_metadata_is_refused(metadata: dict[str, str] | None) -> None:
    table: pa.Table = plan_layout(RECIPE, 100, pad=0).to_arrow().replace_schema_metadata(metadata)
    with pytest.raises(ArtifactError, match=r"layout\.arrow lacks"):
        Layout.from_arrow(table)


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("offset", 1, 52), ("prime", 0, 1), ("prime", 2, -61), ("head", 3, 1), ("order", 5, 2), ("layer", 0, 7)],
)
def test_a_layout_whose_heads_do_not_lie_end_to_end_is_refused(column: str, row: int, value: int) -> None:
    table = plan_layout(RECIPE, 100, pad=0).to_arrow()
    records = table.to_pylist()
    records[row][column] = value
    with pytest.raises(ArtifactError, match="the wrong gram"):
        Layout.from_arrow(pa.Table.from_pylist(records, table.schema))


def test_a_layout_without_heads_or_with_gaps_in_its_columns_is_refused() -> None:
    table = plan_layout(RECIPE, 100, pad=0).to_arrow()
    records = table.to_pylist()
    records[0]["prime"] = None
    for wrong in (table.slice(0, 0), pa.Table.from_pylist(records, table.schema)):
        with pytest.raises(ArtifactError, match=r"layout\.arrow"):
            Layout.from_arrow(wrong)


def test_a_layout_with_too_few_multipliers_is_refused() -> None:
    table = plan_layout(RECIPE, 100, pad=0).to_arrow()
    short = table.schema.metadata | {b"multipliers-7": b"3 5"}
    with pytest.raises(ArtifactError, match="the wrong gram"):
        Layout.from_arrow(table.replace_schema_metadata(short))
