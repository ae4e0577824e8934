"""The arms of `bench`: what is compared, and which of it unasked.

With our host:
    plain              the host without memory
    plain+statistics   the same, its embedding started from the corpus's bigram statistics, as engram's is: the fair control
    engram             host and memory, as the recipe says
    engram-random      the same with random rows, trained (only where it is asked for)
    plain-wide         plain, widened until it holds as many parameters as engram
With a foreign host:
    plain              the host as it is, nothing trained
    plain+last         its last block trained, no memory: the fair control
    engram             the host with a memory, as the recipe says: frozen, unless it says otherwise
    engram+last        memory and last block trained together
With both:
    counts             no host: interpolated modified Kneser-Ney (corpus/count_model.py)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from engram_cli.errors import RecipeError
from engram_cli.model.build import count_parameters
from engram_cli.model.host_directory import HostDirectory
from engram_cli.model.table import make_host
from engram_cli.recipe import Recipe
from engram_cli.table.layout import Layout

COUNTS, WIDE = "counts", "plain-wide"
_SENSIBLE = 8  # plain-wide is left out where engram holds more than so many times plain's parameters


@dataclass(frozen=True)
class Arm:
    """What sets an arm apart from the recipe. memory: whether it has one; init: of rows, and of the embedding with them; parts:
    what is trained (None: both as the recipe says); trained: whether anything is; unasked: whether it runs where none are named."""

    memory: bool
    init: str | None = None
    parts: str | None = None
    trained: bool = True
    unasked: bool = True

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe of this arm."""
        started = recipe if self.init is None else recipe.starting_from(self.init)
        return replace(started, training=replace(started.training, parts=self.parts or recipe.training.parts))


OURS: Mapping[str, Arm] = {
    "plain": Arm(memory=False, init="zero"),
    "plain+statistics": Arm(memory=False, init="counts"),
    "engram": Arm(memory=True),
    "engram-random": Arm(memory=True, init="random", unasked=False),
    WIDE: Arm(memory=False, init="zero"),
}
FOREIGN: Mapping[str, Arm] = {
    "plain": Arm(memory=False, init="zero", parts="memory", trained=False),
    "plain+last": Arm(memory=False, init="zero", parts="memory+last"),
    "engram": Arm(memory=True),
    "engram+last": Arm(memory=True, parts="memory+last"),
}


def arms_of(host: HostDirectory | None) -> Mapping[str, Arm]:
    """The arms with a foreign host, or (None) with ours."""
    return OURS if host is None else FOREIGN


def choose(asked: Sequence[str] | None, arms: Mapping[str, Arm]) -> list[str]:
    """The arms to run: those asked for, in the order of `arms` with counts last. Raises RecipeError for one that does not exist."""
    names = [*arms, COUNTS]
    if asked is None:
        return [name for name in names if name == COUNTS or arms[name].unasked]
    if unknown := [name for name in asked if name not in names]:
        raise RecipeError(f"--arms names arms among {', '.join(names)}, but {unknown[0]!r} is not one; leave it out")
    return [name for name in names if name in asked]


def too_wide(recipe: Recipe, vocab: int, layout: Layout) -> str:
    """Why plain-wide is not run unasked, "" where it is: as large as a big table, it would see next to nothing in its minutes."""
    plain, engram = _stored(recipe, vocab, None), _stored(recipe, vocab, layout)
    if engram <= _SENSIBLE * plain:
        return ""
    width = widen(recipe, vocab, layout).host.width
    return (
        f"plain-wide was left out: a plain host with engram's {engram:,} parameters would be {width} wide and compute "
        f"{engram / plain:.0f} times as much per token as this one; --arms plain-wide runs it all the same"
    )


def widen(recipe: Recipe, vocab: int, layout: Layout) -> Recipe:
    """The recipe with its host widened, feed-forward in proportion, to the first width that holds engram's parameters."""
    target = _stored(recipe, vocab, layout)
    step = 2 * recipe.host.heads
    ratio = recipe.host.feed_forward / recipe.host.width

    def widened(width: int) -> Recipe:
        return replace(recipe, host=replace(recipe.host, width=width, feed_forward=max(1, round(width * ratio))))

    def parameters(width: int) -> int:
        return _stored(widened(width), vocab, None)

    low, high = 0, 1  # in steps; the number of parameters grows with the width
    while parameters(high * step) < target:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle * step) < target else (low, middle)
    return widened(high * step)


def _stored(recipe: Recipe, vocab: int, layout: Layout | None) -> int:
    with torch.device("meta"):
        host = make_host(recipe, vocab, layout)
    return sum(count_parameters(host, layout.rows * recipe.rows.dim if layout else 0).values())
