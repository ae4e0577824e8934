"""Recipes: defaults, every rule with its way out, and no key that is not known."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engram_cli.errors import RecipeError
from engram_cli.recipe import BUILT_IN, HashRecipe, Recipe, RowsRecipe, TrainingRecipe, load_recipe, parse_recipe


def test_an_empty_recipe_has_the_defaults() -> None:
    assert parse_recipe("") == Recipe()


def test_what_is_built_in_is_the_demo() -> None:
    demo = load_recipe(Path(__file__).parents[1] / "tables" / "demo.toml")
    assert replace(BUILT_IN, name=demo.name, description=demo.description) == demo


def test_every_key_can_be_set() -> None:
    recipe = parse_recipe(
        'name = "n"\ndescription = "d"\n[hash]\norders = [2, 4]\nheads = 2\nsize = [10, 20]\nlayers = [0, 1]\nseed = 5\n'
        '[rows]\ndim = 8\ndtype = "bf16"\ninit = "zero"\n[host]\nwidth = 8\nlayers = 2\nheads = 2\n[training]\nminutes = 1'
    )
    assert (recipe.name, recipe.description, recipe.hash.sizes, recipe.rows.dtype) == ("n", "d", (10, 20), "bf16")
    assert recipe.training.minutes == 1.0  # a whole number is a number


@pytest.mark.parametrize(("init", "rate"), [("counts", 0.0), ("random", 0.02), ("zero", 0.02)])
def test_rows_that_say_nothing_are_trained(init: str, rate: float) -> None:
    assert BUILT_IN.training.row_learning_rate == 0
    started = BUILT_IN.starting_from(init)
    assert (started.rows.init, started.training.row_learning_rate) == (init, rate)
    assert replace(started, rows=BUILT_IN.rows, training=BUILT_IN.training) == BUILT_IN
    coarse = replace(BUILT_IN, rows=replace(BUILT_IN.rows, dtype="int8-row")).starting_from(init)
    coarse.check_buildable()
    assert coarse.rows.dtype == ("f32" if rate else "int8-row")  # rows that are trained take small steps
    kept = replace(BUILT_IN, training=TrainingRecipe(row_learning_rate=0.5)).starting_from(init)
    assert kept.training.row_learning_rate == 0.5


RECIPES = st.builds(
    Recipe,
    name=st.text(max_size=10),
    description=st.text(max_size=10),
    hash=st.builds(HashRecipe, heads=st.integers(1, 9), seed=st.integers(0, 2**62)),
    training=st.builds(TrainingRecipe, learning_rate=st.floats(1e-300, 1e300), minutes=st.floats(1e-9, 1e9)),
)


@given(recipe=RECIPES)
@example(recipe=Recipe(name='\x7f \x00 " \\ \u2028'))
def test_what_an_artifact_records_is_the_recipe(recipe: Recipe) -> None:
    assert parse_recipe(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("dtype", "row_bytes"), [("f32", 256), ("bf16", 128), ("fp8-block", 66), ("fp8-scalar", 64), ("int8-row", 68)]
)
def test_a_row_has_its_scales_with_it(dtype: str, row_bytes: int) -> None:
    assert RowsRecipe(dim=64, dtype=dtype).row_bytes == row_bytes


def test_what_is_someone_elses_is_not_built() -> None:
    foreign = parse_recipe('[host]\nname = "theirs"\nwidth = 5120\nbranches = 4')
    assert parse_recipe(foreign.to_toml()) == foreign
    assert "feed_forward" not in foreign.to_toml()
    with pytest.raises(RecipeError, match="the one host that is made here is engram, but the recipe is for theirs"):
        foreign.check_buildable()
    with pytest.raises(RecipeError, match=r"`rows.dtype` must be one of f32, f16, bf16 with .* but it is fp8-scalar"):
        parse_recipe('[rows]\ndtype = "fp8-scalar"').check_buildable()
    parse_recipe("").check_buildable()


def test_rows_that_stay_as_they_are_may_be_stored_in_fewer_bits() -> None:
    coarse = '[rows]\ndtype = "int8-row"\n[training]\nrow_learning_rate = '
    parse_recipe(coarse + "0").check_buildable()
    message = r"`rows.dtype` must be one of f32, f16, bf16 with row_learning_rate = 0.01, but it is int8-row"
    with pytest.raises(RecipeError, match=message):
        parse_recipe(coarse + "0.01").check_buildable()
    with pytest.raises(
        RecipeError, match="one of f32, f16, bf16, fp8-block, int8-row with row_learning_rate = 0, but it is fp8-scalar"
    ):
        parse_recipe('[rows]\ndtype = "fp8-scalar"\n[training]\nrow_learning_rate = 0').check_buildable()


def test_one_number_stands_for_a_list_of_one() -> None:
    assert parse_recipe("[hash]\nsize = 7\nlayers = 0").hash == HashRecipe(size=(7,), layers=(0,))
    assert HashRecipe(orders=(2, 3, 4), size=(7,)).sizes == (7, 7, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[hash]\nhaeds = 3", "`hash.haeds` is not one; did you mean `hash.heads`"),
        ("[hsah]\nheads = 3", "`hsah` is not one; did you mean `hash`"),
        ("[rows]\nqqq = 3", "`rows.qqq` is not one; known are dim, dtype, init"),
        ('text = "x"', "`text` is not one"),
        ("hash = 3", r"`hash` is a section, but it is 3; write \[hash\]"),
        ("[rows]\ndim = 4.5", "`rows.dim` is a whole number, but the recipe says 4.5"),
        ("[rows]\ndim = true", "`rows.dim` is a whole number, but the recipe says True"),
        ('[hash]\norders = [2, "3"]', "`hash.orders` is a whole number, but the recipe says '3'"),
        ("[memory]\nsigned_sqrt = 1", "`memory.signed_sqrt` is true or false, but the recipe says 1"),
        ("name = 3", "`name` is a text"),
        ("name = ", "is TOML, but"),
    ],
    ids=str,
)
def test_what_is_no_recipe_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text)


@pytest.mark.parametrize(
    ("section", "setting", "message"),
    [
        ("hash", "orders = []", "from 1 up, but it is empty"),
        ("hash", "orders = [0, 2]", "from 1 up, but it is 0, 2"),
        ("hash", "orders = [3, 2]", "ascending"),
        ("hash", "orders = [2, 2]", "distinct"),
        ("hash", "orders = [2, 7]", "at most 6"),
        ("hash", "heads = 0", "1 or more, but it is 0"),
        ("hash", "size = [5, 5, 5]", "one number, or 2"),
        ("hash", "size = 1", "from 2 to 2"),
        ("hash", "size = 1099511627776", "from 2 to 2"),
        ("hash", "layers = []", "layer numbers from 0"),
        ("hash", "layers = [-1]", "layer numbers from 0"),
        ("hash", "layers = [1, 1]", "distinct"),
        ("hash", 'family = "demo2"', "one of demo, deepseek-v4.1, qwen-ple"),
        ("hash", "multiple = 0", "from 1 to"),
        ("hash", 'layers = [0]\nfamily = "qwen-ple"', "layer numbers from 1"),
        ("hash", 'layers = [6]\nfamily = "qwen-ple"', "at most 5, the output, in a host of 4 layers"),
        ("hash", 'orders = [2, 4]\nfamily = "qwen-ple"', "2, 3 ... in qwen-ple"),
        ("hash", 'size = [5, 7]\nfamily = "deepseek-v4.1"', "one number in deepseek-v4.1"),
        ("hash", 'seed = 1\nfamily = "deepseek-v4.1"', "0 in deepseek-v4.1"),
        ("hash", "layers = [5]", "at most 4, the output, in a host of 4 layers"),
        ("rows", "dim = 0", "from 1 to 4096"),
        ("rows", 'dtype = "f64"', "one of f32, f16, bf16"),
        ("rows", 'dim = 48\ndtype = "fp8-block"', "a multiple of 32 in fp8-block"),
        ("rows", 'init = "ones"', "one of counts, random, zero"),
        ("host", "width = 10", "an even multiple of host.heads = 6"),
        ("host", "width = 18", "an even multiple of host.heads = 6"),
        ("host", "layers = 0", "1 or more"),
        ("host", "branches = 0", "1 or more"),
        ("host", 'heads = 2\nname = "theirs"', "left out for a host called theirs"),
        ("host", "context = 1", "2 or more"),
        ("training", "batch = 0", "1 or more"),
        ("training", "learning_rate = 0", "above 0"),
        ("training", "weight_decay = -1", "0 or more"),
        ("training", "row_learning_rate = -0.1", "0 or more"),
        ("training", "minutes = 0", "above 0"),
    ],
)
def test_every_rule_names_the_key_and_what_was_found(section: str, setting: str, message: str) -> None:
    key = setting.split(" ")[0]
    with pytest.raises(RecipeError, match=rf"^mine\.toml: `{section}\.{key}` must be .*{message}"):
        parse_recipe(f"[{section}]\n{setting}", "mine.toml")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    for setting in ("learning_rate", "weight_decay", "row_learning_rate", "minutes"):
        with pytest.raises(RecipeError, match=f"`training.{setting}`"):
            parse_recipe(f"[training]\n{setting} = {number}")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.toml", "binary.toml", "."):
        with pytest.raises(RecipeError, match="cannot be read"):
            load_recipe(tmp_path / name)


def test_a_recipe_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('name = "née"', encoding="utf-8")
    assert load_recipe(tmp_path / "one.toml").name == "née"


@given(text=st.text(max_size=60))
@example(text="x = " + "[" * 100_000)
@example(text="x = " + "9" * 5_000)
@example(text="[training]\nminutes = 1" + "0" * 400)
@example(text='"\n" = 1')
def test_any_text_is_a_recipe_or_refused(text: str) -> None:
    try:
        found = parse_recipe(text)
    except RecipeError:
        found = None
    assert found in (None, Recipe())
