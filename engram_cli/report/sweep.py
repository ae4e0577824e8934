"""`sweep`: what rows are worth, and what share of all parameters they should have: one training run a point, drawn as curves.

Rows: the recipe's table at several sizes, its rows from counts and, for comparison, random; the host alone is the level to fall
below. (The paper finds the loss log-linear in rows, over 2.6e5 to 1.0e7 of them: arXiv 2601.07372.)
Shares: of one total of parameters, so many in rows and the rest in the host, which is made as wide as that allows. (There, with a
sparse host of equal compute, 20 to 25 % is best. Our host is dense: a wider one computes more for each token, which --minutes
counts and --tokens does not.)
"""

import bisect
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import RecipeError, TrainingError
from engram_cli.model.build import count_parameters, train
from engram_cli.model.data import Batches, HeldOut, Windowed, layout_for
from engram_cli.model.placement import check_resources
from engram_cli.model.start import Start, streams
from engram_cli.model.table import make_host, pick_device
from engram_cli.model.train import Budget
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.recipe import Recipe
from engram_cli.report.report import Measure, Report, Scalar
from engram_cli.report.sweep_tables import Outcome, sweep_notes, sweep_tables
from engram_cli.table.layout import Layout

_CURVE_TOKENS, _FINAL_TOKENS = 4_096, 131_072  # of an evaluation on the way, and of the one that counts
_INITS = ("counts", "random")
_WIDEST = 1 << 12  # steps of width


@dataclass(frozen=True)
class _Point:
    """A run to make. layout: None for plain; line: counts, random or plain; share: of the parameters in rows, asked for."""

    line: str
    recipe: Recipe
    layout: Layout | None
    seed: int
    share: float | None = None


def sweep(
    ngrams: NGrams,
    recipe: Recipe,
    budget: Budget,
    *,
    rows: Sequence[int] = (),
    shares: Sequence[float] = (),
    parameters: int | None = None,
    seeds: int = 1,
    device: str = "auto",
    progress: ProgressLike = SILENT,
) -> tuple[Report, bool]:
    """Train a point for each of `rows` (of the whole table), from counts and random, and for each of `shares`; plain once.

    shares: of `parameters` in all (None: twice those of host and memory), 0 to below 1. Returns the report, and whether every point
    is in it: Ctrl-C ends with those that are finished.
    Raises RecipeError for rows or shares that give no table or no host, ResourceError where the largest does not fit, TrainingError
    where there is too little text or a point's minutes are used up before its first step.
    """
    computing = pick_device(device)
    recipe.check_buildable()
    points = [*_by_rows(ngrams, recipe, rows, seeds), *_by_share(ngrams, recipe, shares, parameters, seeds)]
    if not points:
        raise RecipeError("a sweep is over sizes or over shares, but neither is given; give --rows or --shares")
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="engram-sweep-") as directory:
        for point in points:
            if point.layout is not None:
                check_resources(point.layout, point.recipe, Path(directory))
        try:
            for number, point in enumerate(points, 1):
                progress.stage(number, len(points), _label(point))
                outcomes.append(_run(ngrams, point, budget, computing, Path(directory), progress))
        except KeyboardInterrupt:
            if not outcomes:
                raise
    finished = len(outcomes) == len(points)
    stopped = [] if finished else [f"stopped after {len(outcomes)} of {len(points)} runs; the others are missing"]
    training, held_out = streams(ngrams, None)
    facts: dict[str, Scalar | Measure] = {
        "recipe": recipe.name,
        "training tokens": Measure(len(training.stream.tokens_T), "tokens"),
        "held-out tokens measured": Measure(len(_held_out(held_out, recipe).targets), "tokens"),
        "budget of a run": Measure(budget.seconds or budget.tokens, "seconds" if budget.seconds else "tokens"),
        "seeds": seeds,
        "device": computing.type,
        "threads": torch.get_num_threads(),
    }
    title = f"Sweep of {recipe.name} on {ngrams.artifact.path.name}"
    return Report("sweep", title, facts, sweep_tables(outcomes), [*sweep_notes(outcomes), *stopped]), finished


def _by_rows(ngrams: NGrams, recipe: Recipe, rows: Sequence[int], seeds: int) -> Iterator[_Point]:
    """The host alone, started both ways, then every size, started both ways; small tables first, so that early ones are many."""
    if not rows:
        return
    runs = range(recipe.training.seed, recipe.training.seed + seeds)
    for init, seed in itertools.product(_INITS, runs):
        yield _Point("plain+statistics" if init == "counts" else "plain", _started(recipe, init, seed), None, seed)
    for size, init, seed in itertools.product(sorted(set(rows)), _INITS, runs):
        sized = _started(_sized(recipe, size), init, seed)
        yield _Point(init, sized, layout_for(sized.hash, ngrams), seed)


def _by_share(ngrams: NGrams, recipe: Recipe, shares: Sequence[float], parameters: int | None, seeds: int) -> Iterator[_Point]:
    """Every share of one total: the widest host that leaves the rows their share, and as many rows as are left then."""
    whole = layout_for(recipe.hash, ngrams)
    total = 2 * _weights(recipe, ngrams.vocab, whole) if parameters is None else parameters
    for share in sorted(set(shares)):
        if not 0 <= share < 1:
            raise RecipeError(f"--shares are from 0 to below 1, but one is {share:g}; leave it out")
        layout = whole if share else None
        widened = _widest(recipe, ngrams.vocab, layout, int((1 - share) * total), share)
        if share:
            left = total - _weights(widened, ngrams.vocab, layout)
            widened = _sized(widened, left // recipe.rows.dim)
            layout = layout_for(widened.hash, ngrams)
        for seed in range(recipe.training.seed, recipe.training.seed + seeds):
            yield _Point("shares", _started(widened, recipe.rows.init, seed), layout, seed, share)


def _started(recipe: Recipe, init: str, seed: int) -> Recipe:
    started = recipe.starting_from(init)
    return dataclasses.replace(started, training=dataclasses.replace(started.training, seed=seed))


def _sized(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with so many rows in the whole table, dealt to the orders as its own are; only single ids, which are few, keep the
    rows that they have up to half of all. Raises RecipeError for too few."""
    sizes, copies = recipe.hash.sizes, recipe.hash.heads * len(recipe.hash.layers)
    single = sizes[:1] if recipe.hash.orders[0] == 1 and len(sizes) > 1 else ()
    kept = tuple(min(size, rows // (2 * copies)) for size in single)
    left, longer = rows // copies - sum(kept), sizes[len(single) :]
    size = kept + tuple(left * size // sum(longer) for size in longer)
    if min(size) < 2:
        raise RecipeError(
            f"a head has at least 2 rows, but {rows:,} rows over {len(sizes)} orders and {copies} heads of each leave {min(size)}; "
            "sweep over more rows, or a recipe with fewer heads"
        )
    sized = dataclasses.replace(recipe, hash=dataclasses.replace(recipe.hash, size=size[:1] if len(set(size)) == 1 else size))
    sized.check()
    return sized


def _weights(recipe: Recipe, vocab: int, layout: Layout | None) -> int:
    """Parameters of the host and of the memories at the layers of `layout`, rows not counted."""
    with torch.device("meta"):
        return sum(count_parameters(make_host(recipe, vocab, layout), 0).values())


def _widest(recipe: Recipe, vocab: int, layout: Layout | None, parameters: int, share: float) -> Recipe:
    """The recipe with the widest host of at most so many parameters, memories included; what a step of width leaves over goes to
    its feed-forward."""
    step, ratio = 2 * recipe.host.heads, recipe.host.feed_forward / recipe.host.width

    def sized(steps: int, more: int = 0) -> Recipe:
        feed_forward = max(1, round(steps * step * ratio)) + more
        return dataclasses.replace(recipe, host=dataclasses.replace(recipe.host, width=steps * step, feed_forward=feed_forward))

    def weights(steps: int, more: int = 0) -> int:
        return _weights(sized(steps, more), vocab, layout)

    steps = bisect.bisect_right(range(1, _WIDEST), parameters, key=weights)
    if not steps:
        raise RecipeError(
            f"a share of {share:g} leaves {parameters:,} parameters to the host, but the narrowest takes {weights(1):,}; leave "
            "that share out, or give more --parameters"
        )
    return sized(steps, bisect.bisect_right(range(1, _WIDEST), parameters, key=lambda more: weights(steps, more)))


def _run(ngrams: NGrams, point: _Point, budget: Budget, device: torch.device, directory: Path, progress: ProgressLike) -> Outcome:
    recipe, layout = point.recipe, point.layout
    training, held_out = streams(ngrams, layout)
    started = time.perf_counter()
    start = Start.make(training, ngrams.vocab, recipe, layout, directory, progress=progress)
    preparation = time.perf_counter() - started
    if budget.seconds is not None:
        if preparation >= budget.seconds:
            raise TrainingError(
                f"a run's minutes include its preparation, but {_label(point)} prepared for {preparation:.1f} of "
                f"{budget.seconds:.1f} seconds; give more --minutes, or compare by --tokens"
            )
        budget = Budget(seconds=budget.seconds - preparation)
    trainer = start.trainer(Batches(training, recipe.training.stretches, recipe.host.context, point.seed), recipe, device)
    train(trainer, budget, HeldOut(held_out, recipe.host.context, _CURVE_TOKENS), progress)
    weights, rows = _weights(recipe, ngrams.vocab, layout), layout.rows if layout else 0
    return Outcome(
        line=point.line,
        rows=rows,
        share=None if point.share is None else rows * recipe.rows.dim / (weights + rows * recipe.rows.dim),
        width=recipe.host.width,
        parameters=weights + rows * recipe.rows.dim,
        seed=point.seed,
        loss=float(trainer.token_losses(_held_out(held_out, recipe)).mean()),
        tokens=trainer.tokens,
        seconds=preparation + trainer.seconds,
    )


def _held_out(source: Windowed, recipe: Recipe) -> HeldOut:
    return HeldOut(source, recipe.host.context, _FINAL_TOKENS)


def _label(point: _Point) -> str:
    rows = point.layout.rows if point.layout else 0
    share = "" if point.share is None else f" of {100 * point.share:.0f} %"
    return f"{point.line}{share}, {rows:,} rows, seed {point.seed}"
