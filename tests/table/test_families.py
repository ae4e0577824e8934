"""Hash families: the rows of the published code (tests/golden), and one token at a time as well as the whole sequence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.recipe import FAMILIES as KNOWN
from engram_cli.recipe import HashRecipe
from engram_cli.table.hashing import DEAD, FAMILIES
from engram_cli.table.layout import Layout, plan_layout

CASES = json.loads((Path(__file__).parent.parent / "golden/hashes.json").read_text(encoding="utf-8"))
PAD, END = 2, 2
FAMILY = st.sampled_from(sorted(FAMILIES))
IDS = st.lists(st.integers(0, 5), min_size=1, max_size=20)


def of_case(case: dict[str, Any]) -> Layout:
    keys = ("orders", "size", "layers")
    lists = {key: tuple(case[key]) for key in keys}
    recipe = HashRecipe(**lists, **{key: case[key] for key in ("heads", "seed", "family", "multiple") if key in case})
    recipe.check()
    return plan_layout(recipe, case["vocab"], case["pad"])


def small(family: str) -> Layout:
    return plan_layout(HashRecipe((2, 3, 4), 2, (50,), (1, 3), 0, family), vocab=6, pad=PAD)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['family']}-{case['vocab']}")
def test_rows_are_those_of_the_published_code(case: dict[str, Any]) -> None:
    layout, ids_T = of_case(case), np.array(case["ids"])
    assert [layer.rows for layer in layout.layers] == case["total_rows"]
    assert [list(layer.multipliers_N) for layer in layout.layers] == case["multipliers"]
    windows_TN = layout.windows(ids_T, np.arange(len(ids_T)))
    assert [layer.row_ids(windows_TN).tolist() for layer in layout.layers] == case["rows"]
    windows_TN = layout.windows(torch.tensor(case["ids"]), torch.arange(len(ids_T)))
    assert [layer.row_ids(windows_TN).tolist() for layer in layout.layers] == case["rows"]


def test_every_family_is_a_recipes_and_has_its_golden_rows() -> None:
    assert set(FAMILIES) == set(KNOWN) == {case["family"] for case in CASES}


def as_written_down(family: str, ids: list[int], order: int) -> list[list[int]]:
    """The windows as the families' sources describe them, token by token."""
    windows = []
    for at in range(len(ids)):
        window: list[int] = []
        blocked = False
        for back in range(order):
            before = at - back < 0
            dead = not before and family == "deepseek-v4.1" and ids[at - back] == DEAD
            ended = not before and family == "qwen-ple" and back > 0 and ids[at - back] == END
            blocked = blocked or before or dead or ended
            window.append(PAD if blocked else ids[at - back])
        windows.append(window)
    return windows


@given(family=FAMILY, ids=IDS, dead=st.sets(st.integers(0, 19)))
def test_windows_stop_at_the_familys_wall(family: str, ids: list[int], dead: set[int]) -> None:
    if family == "deepseek-v4.1":
        ids = [DEAD if at in dead else id for at, id in enumerate(ids)]
    position_T = np.arange(len(ids))
    assert small(family).windows(np.array(ids), position_T).tolist() == as_written_down(family, ids, 4)


@given(family=FAMILY, ids=IDS, dead=st.sets(st.integers(0, 19)))
def test_one_token_at_a_time_equals_the_whole(family: str, ids: list[int], dead: set[int]) -> None:
    layout = small(family)
    ids_T = np.array([DEAD if at in dead and family == "deepseek-v4.1" else id for at, id in enumerate(ids)])
    whole_TN = layout.windows(ids_T, np.arange(len(ids)))
    carried = layout.max_order - 1
    for at in range(len(ids)):
        seen = slice(max(0, at - carried), at + 1)
        assert np.array_equal(layout.windows(ids_T[seen], np.arange(len(ids))[seen])[-1], whole_TN[at])


@given(family=FAMILY, ids=IDS)
def test_settled_windows_stay_as_they_are(family: str, ids: list[int]) -> None:
    layout = small(family)
    windows_TN = layout.windows(np.array(ids), np.arange(len(ids)))
    assert np.array_equal(layout.family.settle(windows_TN.copy(), PAD), windows_TN)


def test_qwen_multipliers_follow_the_layers_place_not_its_number() -> None:
    near, far = (plan_layout(HashRecipe(layers=layers, family="qwen-ple"), 100, PAD) for layers in ((1, 2), (5, 9)))
    assert [layer.multipliers_N for layer in near.layers] == [layer.multipliers_N for layer in far.layers]
    assert [layer.layer for layer in far.layers] == [4, 8]  # 0-based
