"""Recipes: `tables/*.toml` -> frozen dataclasses. Every check on a setting is here, with the way out in its message.

How TOML is read into them is in recipe_toml.py; missing keys take the defaults written below.
"""

import dataclasses
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engram_cli.errors import RecipeError
from engram_cli.recipe_toml import as_toml, read_section

FAMILIES = {"demo": 0, "deepseek-v4.1": 0, "qwen-ple": 1}  # hash families (table/hashing.py) -> number of a host's first layer
ROW_TYPES = {"f32": 4, "f16": 2, "bf16": 2, "fp8-block": 1, "fp8-scalar": 1, "int8-row": 1}  # name -> bytes per number
TRAINED_TYPES = ("f32", "f16", "bf16")  # that take small steps
STILL_TYPES = (*TRAINED_TYPES, "fp8-block", "int8-row")  # that rows can be written in one by one
BLOCK = 32  # numbers that share a scale in fp8-block
OUR_HOST = "engram"
PARTS = {"auto": "", "memory": "none", "memory+last": "last", "memory+all": "all"}  # -> what is trained of the host
INITS, CONVOLUTIONS = ("counts", "random", "zero"), ("none", "zero", "random")
ROW_OPTIMIZERS = ("adagrad", "adam", "adam-full")
_SEEDS = 1 << 63


@dataclass(frozen=True)
class HashRecipe:
    """Which grams are looked up, and in how many rows.

    orders: the n of the n-grams, ascending; heads: per order; size: rows per head before the step to the next prime, one for each
    order or one for all; layers: of the host, each with its own matrix, numbered as the family numbers them (qwen-ple from 1, the
    others from 0); seed: of the multipliers; family: whose hash it is, demo, deepseek-v4.1 or qwen-ple; multiple: unused rows at
    its end make a layer's matrix a multiple of so many.
    """

    orders: tuple[int, ...] = (2, 3)
    heads: int = 4
    size: tuple[int, ...] = (65536,)
    layers: tuple[int, ...] = (1,)
    seed: int = 0
    family: str = "demo"
    multiple: int = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows per head, one for each order."""
        return self.size if len(self.size) == len(self.orders) else self.size * len(self.orders)

    @property
    def host_layers(self) -> tuple[int, ...]:
        """The layers, 0-based in every family."""
        return tuple(layer - FAMILIES[self.family] for layer in self.layers)

    def check(self) -> None:
        _among(self.family, FAMILIES, "hash.family")
        _rule(self.orders and min(self.orders) >= 1, "hash.orders", "numbers from 1 up", self.orders)
        _rule(list(self.orders) == sorted(set(self.orders)), "hash.orders", "distinct and ascending", self.orders)
        _rule(max(self.orders) <= 6, "hash.orders", "at most 6", self.orders)
        _rule(self.heads >= 1, "hash.heads", "1 or more", self.heads)
        _rule(len(self.size) in (1, len(self.orders)), "hash.size", f"one number, or {len(self.orders)}", self.size)
        _rule(all(2 <= size < 1 << 40 for size in self.size), "hash.size", "from 2 to 2^40", self.size)
        first = FAMILIES[self.family]
        _rule(self.layers and min(self.layers) >= first, "hash.layers", f"layer numbers from {first} up", self.layers)
        _rule(list(self.layers) == sorted(set(self.layers)), "hash.layers", "distinct and ascending", self.layers)
        _rule(0 <= self.seed < _SEEDS, "hash.seed", "from 0 to 2^63 - 1", self.seed)
        _rule(1 <= self.multiple <= 1 << 20, "hash.multiple", "from 1 to 2^20", self.multiple)
        if self.family != "demo":  # whose configs have one size and a highest order
            _rule(self.orders == tuple(range(2, max(self.orders) + 1)), "hash.orders", f"2, 3 ... in {self.family}", self.orders)
            _rule(len(set(self.size)) == 1, "hash.size", f"one number in {self.family}", self.size)
        _rule(self.family != "deepseek-v4.1" or self.seed == 0, "hash.seed", "0 in deepseek-v4.1", self.seed)


@dataclass(frozen=True)
class RowsRecipe:
    """What a row is.

    dim: numbers per row; dtype: f32, f16, bf16, fp8-block (E4M3 with an E8M0 scale for every 32 numbers), fp8-scalar (E4M3 with one
    scale for the whole matrix) or int8-row (with an f32 scale for every row); init: counts, random or zero.
    """

    dim: int = 48
    dtype: str = "f32"
    init: str = "counts"

    def check(self) -> None:
        _rule(1 <= self.dim <= 4096, "rows.dim", "from 1 to 4096", self.dim)
        _among(self.dtype, ROW_TYPES, "rows.dtype")
        _among(self.init, INITS, "rows.init")
        _rule(self.dtype != "fp8-block" or self.dim % BLOCK == 0, "rows.dim", f"a multiple of {BLOCK} in fp8-block", self.dim)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row with its own scales."""
        scales = {"fp8-block": self.dim // BLOCK, "int8-row": 4}
        return self.dim * ROW_TYPES[self.dtype] + scales.get(self.dtype, 0)


@dataclass(frozen=True)
class MemoryRecipe:
    """The module that looks up, gates and adds.

    signed_sqrt: the demo's square root on the gate's score; convolution: the short one over what the gates let through, none, or
    starting from zero (the paper) or random weights (the demo); biases: of keys and value (the demo has them, DeepSeek-V4.1 not);
    norm_eps: added to the mean square by the norms of the gate (the demo: 1.1920929e-07); mixture: in place of this module, rows at
    the host's output that are from counts speak for themselves (model/mixture.py); heard: layers of the host, from 0, before which
    it hears them besides. Its branches are the host's.
    """

    signed_sqrt: bool = True
    convolution: str = "none"
    biases: bool = False
    norm_eps: float = 1e-6
    mixture: bool = False
    heard: tuple[int, ...] = ()

    def check(self) -> None:
        _among(self.convolution, CONVOLUTIONS, "memory.convolution")
        _rule(0 < self.norm_eps < 1, "memory.norm_eps", "above 0 and below 1", self.norm_eps)
        _rule(self.mixture or not self.heard, "memory.heard", "empty without memory.mixture", self.heard)
        _rule(list(self.heard) == sorted(set(self.heard)), "memory.heard", "distinct and ascending", self.heard)


@dataclass(frozen=True)
class HostRecipe:
    """The transformer that carries the memory.

    width: hidden size; feed_forward: inner size of SwiGLU; context: tokens that it sees, of a foreign host those of a stretch of
    training; name: engram is the small one that is trained here, any other is foreign and has its own heads and feed_forward;
    branches: of its residual stream, joined by hyper-connections (model/connections.py); 1 in a foreign host with a memory of ours.
    """

    width: int = 192
    layers: int = 4
    heads: int = 6
    feed_forward: int = 512
    context: int = 128
    name: str = OUR_HOST
    branches: int = 1

    @property
    def foreign(self) -> bool:
        """Whether it is a host of someone else's."""
        return self.name != OUR_HOST

    def told(self) -> dict[str, Any]:
        """The settings that mean something; of a foreign host layers and context where they are known."""
        if not self.foreign:
            return dict(vars(self))
        always, known = ("name", "width", "branches"), ("layers", "context")
        return {k: v for k, v in vars(self).items() if k in always or (k in known and v != getattr(HostRecipe, k))}

    def check(self) -> None:
        for key in ("width", "layers", "heads", "feed_forward"):
            _rule(getattr(self, key) >= 1, f"host.{key}", "1 or more", getattr(self, key))
        _rule(self.context >= 2, "host.context", "2 or more", self.context)
        _rule(self.branches >= 1, "host.branches", "1 or more", self.branches)
        if self.foreign:
            known = HostRecipe(**self.told())
            others = [key for key, value in vars(self).items() if value != getattr(known, key)]
            _rule(not others, f"host.{others[0] if others else ''}", f"left out for a host called {self.name}", "set")
            return
        even = self.width % self.heads == 0 and (self.width // self.heads) % 2 == 0
        _rule(even, "host.width", f"an even multiple of host.heads = {self.heads} (rotary pairs)", self.width)


@dataclass(frozen=True)
class TrainingRecipe:
    """How host and memory train together.

    batch: stretches of host.context tokens that are computed at once; accumulate: batches per step, as good as one so many times as
    large in the memory of one; learning_rate: of our host and of memories (AdamW); host_learning_rate: of a foreign host;
    row_learning_rate: of the rows (no weight decay), 0 leaves them as they were initialised; row_optimizer: adagrad, adam (both
    keep 4 bytes a row) or adam-full (8 bytes a number); compile: let torch.compile make kernels of our host first; minutes: when
    the command line gives neither minutes nor tokens; seed: of weights and batch order; parts: what is trained, memory, memory+last
    (with the last block of the host) or memory+all; auto is memory with a foreign host and all with ours.
    """

    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    row_learning_rate: float = 0.02
    row_optimizer: str = "adagrad"
    compile: bool = False
    minutes: float = 3.0
    seed: int = 0
    parts: str = "auto"
    host_learning_rate: float = 2e-4

    @property
    def stretches(self) -> int:
        """Stretches per step."""
        return self.batch * self.accumulate

    def check(self) -> None:
        _among(self.parts, PARTS, "training.parts")
        for key, least in (("batch", 1), ("accumulate", 1), ("weight_decay", 0), ("row_learning_rate", 0)):
            _rule(getattr(self, key) >= least, f"training.{key}", f"{least} or more", getattr(self, key))
        for key in ("learning_rate", "host_learning_rate", "minutes"):
            _rule(getattr(self, key) > 0, f"training.{key}", "above 0", getattr(self, key))
        _among(self.row_optimizer, ROW_OPTIMIZERS, "training.row_optimizer")
        _rule(0 <= self.seed < _SEEDS, "training.seed", "from 0 to 2^63 - 1", self.seed)


@dataclass(frozen=True)
class Recipe:
    """Everything that is wanted of a table."""

    name: str = "unnamed"
    description: str = ""
    hash: HashRecipe = field(default_factory=HashRecipe)
    rows: RowsRecipe = field(default_factory=RowsRecipe)
    memory: MemoryRecipe = field(default_factory=MemoryRecipe)
    host: HostRecipe = field(default_factory=HostRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)

    def check(self) -> None:
        for section in (self.hash, self.rows, self.memory, self.host, self.training):
            section.check()
        whole = self.host.foreign or self.trained_host == "all"
        _rule(whole, "training.parts", f"auto or memory+all with a host called {OUR_HOST}", self.training.parts)
        mute = self.memory.mixture and (self.host.foreign or self.host.layers not in self.hash.host_layers)
        _rule(not mute, "memory.mixture", f"false without a layer of the table at the output of a host called {OUR_HOST}", True)
        within = all(0 <= layer < self.host.layers for layer in self.memory.heard)
        _rule(within, "memory.heard", f"from 0 to {self.host.layers - 1}, the layers of the host", self.memory.heard)
        fits = self.host.foreign or max(self.hash.host_layers) <= self.host.layers
        last = FAMILIES[self.hash.family] + self.host.layers
        _rule(fits, "hash.layers", f"at most {last}, the output, in a host of {self.host.layers} layers", self.hash.layers)

    @property
    def mixes(self) -> bool:
        return self.memory.mixture and self.rows.init == "counts"  # no others have anything to say

    @property
    def trained_host(self) -> str:
        """What is trained of the host: none, last (its last block) or all."""
        return PARTS[self.training.parts] or ("none" if self.host.foreign else "all")

    @property
    def buildable(self) -> bool:
        """Whether it can be built without a host of someone else's: our host, and a row type that does for how rows train."""
        return not self.host.foreign and self.rows.dtype in self.built_types

    @property
    def built_types(self) -> tuple[str, ...]:
        return TRAINED_TYPES if self.training.row_learning_rate else STILL_TYPES

    def check_buildable(self, *, host_given: bool = False) -> None:
        """Refuse what is told of someone else's table and cannot be trained here. Raises RecipeError."""
        if self.host.foreign and not host_given:
            raise RecipeError(
                f"the one host that is made here is {OUR_HOST}, but the recipe is for {self.host.name}; "
                "give its directory to engram build with --host"
            )
        _among(self.rows.dtype, self.built_types, "rows.dtype", f" with row_learning_rate = {self.training.row_learning_rate:g}")

    def starting_from(self, init: str) -> "Recipe":
        """The recipe with rows that start as `init`: those that are not from counts say nothing until they are trained."""
        rate = self.training.row_learning_rate or (0.0 if init == "counts" else TrainingRecipe.row_learning_rate)
        dtype = self.rows.dtype if self.rows.dtype in TRAINED_TYPES or not rate else "f32"
        rows = replace(self.rows, init=init, dtype=dtype)
        return replace(self, rows=rows, training=replace(self.training, row_learning_rate=rate))

    def to_toml(self) -> str:
        """The recipe as TOML with every default written out: what an artifact records, and what `parse_recipe` reads back."""
        values, sections = [], []
        for name, value in vars(self).items():
            if dataclasses.is_dataclass(value):
                told = value.told() if isinstance(value, HostRecipe) else vars(value)
                sections.append(f"\n[{name}]\n" + "".join(f"{key} = {as_toml(item)}\n" for key, item in told.items()))
            else:
                values.append(f"{name} = {as_toml(value)}\n")
        return "".join(values + sections)


# What is built where no recipe is given: that of tables/demo.toml, the best found for minutes on two cores (docs/log.md).
BUILT_IN = Recipe(
    name="built-in",
    hash=HashRecipe(orders=(1, 2, 3), heads=2, size=(8192, 1048576, 2097152), layers=(4,)),
    rows=RowsRecipe(dim=96, dtype="int8-row"),
    memory=MemoryRecipe(signed_sqrt=False, mixture=True, heard=(1,)),
    training=TrainingRecipe(row_learning_rate=0.0),
)


def load_recipe(path: str | Path) -> Recipe:
    """Read a TOML recipe. Raises RecipeError where it cannot be read, has an unknown key, a wrong type, or breaks a rule."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"a recipe is a TOML file in UTF-8, but {path} cannot be read ({error}); see tables/demo.toml") from None
    return parse_recipe(text, str(path))


def parse_recipe(text: str, source: str = "the recipe") -> Recipe:
    """Parse recipe text; `source` names it in messages. Raises RecipeError as `load_recipe` does."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also for a number of thousands of digits
        raise RecipeError(f"a recipe is TOML, but {source} is not ({error}); see tables/demo.toml") from None
    try:
        recipe: Recipe = read_section(Recipe, document)
        recipe.check()
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from None
    return recipe


def _rule(holds: Any, key: str, rule: str, found: Any) -> None:
    if not holds:
        shown = ", ".join(map(str, found)) or "empty" if isinstance(found, tuple) else found
        raise RecipeError(f"`{key}` must be {rule}, but it is {shown}; change it")


def _among(found: str, known: Collection[str], key: str, where: str = "") -> None:
    _rule(found in known, key, f"one of {', '.join(known)}{where}", found)
