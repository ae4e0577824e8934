"""`bench`: engram against a plain transformer, and both against counting alone, on the same data in the same order.

Arms:  plain              the host without memory
       plain+statistics   the same, its embedding started from the corpus's bigram statistics, as engram's is: the fair control
       engram             host and memory, as the recipe says
       plain-wide         plain, widened until it holds as many parameters as engram
       counts             no host: interpolated modified Kneser-Ney (corpus/count_model.py)

A budget in minutes is wall clock with preparation included: what an arm spends on counting and filling rows before its first step
is taken off its training time. Encoding text into tokens is common to all and left out. Measuring the loss counts for nobody.
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engram_cli.corpus import count_model
from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import RecipeError, TrainingError
from engram_cli.model.build import count_parameters, train
from engram_cli.model.data import Batches, HeldOut, layout_for
from engram_cli.model.generate import decode_speed
from engram_cli.model.placement import check_resources, place_rows
from engram_cli.model.start import Start, streams
from engram_cli.model.table import make_host, pick_device
from engram_cli.model.train import Budget, Trainer
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.recipe import Recipe
from engram_cli.report.bench_tables import Run, bench_tables, equal_tokens, verdicts
from engram_cli.report.peak_memory import peak_memory, reset_peak_memory
from engram_cli.report.report import Measure, Report, Scalar
from engram_cli.table.layout import Layout

ARMS = ("plain", "plain+statistics", "engram", "plain-wide", "counts")
_SENSIBLE = 8  # plain-wide is left out where engram holds more than so many times plain's parameters
_COUNT_ORDER = 4
_CURVE_TOKENS = 16_384  # of each evaluation on the way
_FINAL_TOKENS = 131_072
_PROMPT, _DECODED = 32, 64  # tokens for the speed of decoding


@dataclass
class _Setting:
    """What all arms share: data, recipe, budget, the held-out text and what counting alone says about it."""

    ngrams: NGrams
    recipe: Recipe
    budget: Budget
    layout: Layout
    device: torch.device
    directory: Path
    curve_text: HeldOut
    final_text: HeldOut
    counts_T: npt.NDArray[np.float64]
    starts: dict[str, tuple[Start, float]] = dataclasses.field(default_factory=dict)


def bench(
    ngrams: NGrams,
    recipe: Recipe,
    budget: Budget,
    *,
    seeds: int = 1,
    arms: Sequence[str] | None = None,
    device: str = "auto",
    progress: ProgressLike = SILENT,
) -> Report:
    """Train and measure the arms (None: all that are sensible) with `seeds` seeds each.

    Raises RecipeError for an arm that does not exist, TrainingError where preparation alone uses up the budget or there is too
    little text, ResourceError where the rows do not fit.
    """
    computing = pick_device(device)
    recipe.check_buildable()
    layout = layout_for(recipe.hash, ngrams)
    wide = widen(recipe, ngrams.vocab, layout)
    chosen, left_out = _choose(arms, recipe, wide, ngrams.vocab, layout)
    stages = 1 + seeds * len([arm for arm in chosen if arm != "counts"])
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as directory:
        check_resources(layout, recipe, Path(directory))
        place_rows("ram", layout, recipe, torch.device("cpu"))
        progress.stage(1, stages, "counts: estimating the count-only model")
        _, held_out = streams(ngrams, layout)
        context = recipe.host.context
        curve_text, final_text = (HeldOut(held_out, context, tokens) for tokens in (_CURVE_TOKENS, _FINAL_TOKENS))
        counted, counts_T = _count(ngrams, final_text)
        setting = _Setting(ngrams, recipe, budget, layout, computing, Path(directory), curve_text, final_text, counts_T)
        runs = [counted] if "counts" in chosen else []
        for arm in (arm for arm in chosen if arm != "counts"):
            for seed in range(recipe.training.seed, recipe.training.seed + seeds):
                progress.stage(len(runs) + 1 + ("counts" not in chosen), stages, f"{arm}, seed {seed}")
                runs.append(_train(setting, arm, wide if arm == "plain-wide" else recipe, seed, progress))
    return _report(setting, runs, left_out)


def widen(recipe: Recipe, vocab: int, layout: Layout) -> Recipe:
    """The recipe with its host widened, feed-forward in proportion, to the first width that holds engram's parameters."""
    target = _stored(recipe, vocab, layout)
    step = 2 * recipe.host.heads
    ratio = recipe.host.feed_forward / recipe.host.width

    def widened(width: int) -> Recipe:
        return dataclasses.replace(
            recipe, host=dataclasses.replace(recipe.host, width=width, feed_forward=max(1, round(width * ratio)))
        )

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


def _choose(arms: Sequence[str] | None, recipe: Recipe, wide: Recipe, vocab: int, layout: Layout) -> tuple[list[str], str]:
    """The arms to run, in the order of ARMS, and a note on what was left out ("" where nothing was)."""
    if arms is not None:
        if unknown := [arm for arm in arms if arm not in ARMS]:
            raise RecipeError(f"--arms names arms among {', '.join(ARMS)}, but {unknown[0]!r} is not one; leave it out")
        return [arm for arm in ARMS if arm in arms], ""
    plain, engram = _stored(recipe, vocab, None), _stored(recipe, vocab, layout)
    if engram <= _SENSIBLE * plain:
        return list(ARMS), ""
    note = (
        f"plain-wide was left out: a plain host with engram's {engram:,} parameters would be {wide.host.width} wide and compute "
        f"{engram / plain:.0f} times as much per token as this one; --arms plain-wide runs it all the same"
    )
    return [arm for arm in ARMS if arm != "plain-wide"], note


def _count(ngrams: NGrams, text: HeldOut) -> tuple[Run, npt.NDArray[np.float64]]:
    """The count-only arm, and the probability it gives to every target of `text`, f64 [targets]."""
    reset_peak_memory()
    training = ngrams.stream(held_out=False)
    started = time.perf_counter()
    model = count_model.estimate(training, ngrams.vocab, _COUNT_ORDER)
    seconds = time.perf_counter() - started
    counts_T = model.probability(text.source.stream)[text.targets - 1]
    loss = float(-np.log(counts_T).mean())
    tokens = len(training.tokens_T)
    costs = {"parameters_stored": model.parameters, "read_per_token": 3 * _COUNT_ORDER, "peak_memory": peak_memory()}
    curve = [(tokens, seconds, loss)]
    return Run("counts", 0, loss, loss, tokens, seconds, seconds, curve, costs | {"training_speed": tokens / seconds}), counts_T


def _train(setting: _Setting, arm: str, recipe: Recipe, seed: int, progress: ProgressLike) -> Run:
    recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, seed=seed))
    reset_peak_memory()
    start, preparation = _start(setting, arm, recipe)
    budget = setting.budget
    if budget.seconds is not None:
        if preparation >= budget.seconds:
            raise TrainingError(
                f"an arm's minutes include its preparation, but {arm} prepared for {preparation:.1f} of {budget.seconds:.1f} "
                "seconds; give more --minutes, or compare by --tokens"
            )
        budget = Budget(seconds=budget.seconds - preparation)
    training, _ = streams(setting.ngrams, start.layout)
    batches = Batches(training, recipe.training.stretches, recipe.host.context, seed)
    trainer = start.trainer(batches, recipe, setting.device)
    train(trainer, budget, setting.curve_text, progress)
    trainer.evaluate(setting.curve_text)
    losses_T = trainer.token_losses(setting.final_text)
    mixed_T = -np.log(0.5 * np.exp(-losses_T) + 0.5 * setting.counts_T)
    curve = [(r.tokens, preparation + r.seconds, r.held_out_loss) for r in trainer.log if r.held_out_loss is not None]
    return Run(
        arm=arm,
        seed=seed,
        loss=float(losses_T.mean()),
        mixed=float(mixed_T.mean()),
        tokens=trainer.tokens,
        seconds=preparation + trainer.seconds,
        preparation=preparation,
        curve=curve,
        costs=_costs(setting, start, trainer, recipe),
    )


def _start(setting: _Setting, arm: str, recipe: Recipe) -> tuple[Start, float]:
    """Where an arm starts and the seconds that took; made once and shared by its seeds."""
    if arm not in setting.starts:
        started = time.perf_counter()
        layout = setting.layout if arm == "engram" else None
        training, _ = streams(setting.ngrams, layout)
        init = recipe.rows.init if arm == "engram" else "counts" if arm == "plain+statistics" else "zero"
        wanted = dataclasses.replace(recipe, rows=dataclasses.replace(recipe.rows, init=init))
        start = Start.make(training, setting.ngrams.vocab, wanted, layout, setting.directory)
        setting.starts[arm] = (start, time.perf_counter() - started)
    return setting.starts[arm]


@dataclass(frozen=True)
class _Unsaved:
    """A trained table as decoding needs it (model/generate.py TableLike), never written to disk."""

    host: Any
    layout: Layout
    rows: Mapping[int, Any]
    canonical_V: npt.NDArray[np.uint32]
    end: int | None


def _costs(setting: _Setting, start: Start, trainer: Trainer, recipe: Recipe) -> dict[str, Any]:
    peak = peak_memory()
    layout = start.layout
    heads = sum(layer.heads for layer in layout.layers) if layout else 0
    parts = count_parameters(trainer.host, layout.rows * recipe.rows.dim if layout else 0)
    ngrams = setting.ngrams
    unsaved = _Unsaved(trainer.host.eval(), layout or setting.layout, trainer.rows, ngrams.canonical_V, ngrams.end)
    prompt = setting.final_text.source.stream.tokens_T[: min(_PROMPT, recipe.host.context // 2)].tolist()
    decoded = min(_DECODED, recipe.host.context - len(prompt))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as serve-local does: a token at a time leaves nothing for a second thread
    speeds = {memory: decode_speed(unsaved, prompt, decoded, memory) for memory in ((True, False) if layout else (False,))}
    torch.set_num_threads(threads)
    return {
        "parameters_stored": sum(parts.values()),
        "read_per_token": parts["host"] + parts["memory"] + heads * recipe.rows.dim,
        "peak_memory": peak,
        "training_speed": trainer.tokens / trainer.seconds,
        "decode_speed": speeds.get(True, speeds[False]),
        "decode_memory_off": speeds[False] if layout else None,
    }


def _report(setting: _Setting, runs: Sequence[Run], left_out: str) -> Report:
    final, budget = setting.final_text, setting.budget
    tables = bench_tables(runs, bits_per_nat=final.tokens_per_byte / math.log(2))
    losses = {f"loss of {row['arm']}": Measure(row["loss"], "nats") for row in tables["losses"].to_pylist()}
    facts: dict[str, Scalar | Measure] = {
        **losses,
        "training tokens": Measure(len(setting.ngrams.stream(held_out=False).tokens_T), "tokens"),
        "held-out tokens measured": Measure(len(final.stretches_S) * final.context, "tokens"),
        "budget of a run": Measure(budget.seconds or budget.tokens, "seconds" if budget.seconds else "tokens"),
        "equal tokens at": Measure(equal_tokens(runs), "tokens"),
        "recipe": setting.recipe.name,
        "rows": Measure(setting.layout.rows, "rows"),
        "device": setting.device.type,
        "threads": torch.get_num_threads(),
    }
    title = f"Bench of {setting.recipe.name} on {setting.ngrams.artifact.path.name}"
    return Report("bench", title, facts, tables, [*verdicts(runs), *([left_out] if left_out else [])])
