"""`bench`: engram against the same host without memory, and both against counting alone, on the same data in the same order.

Which arms there are says report/bench_arms.py; how long the control needs to reach engram's loss, report/bench_reach.py.
A budget in minutes is wall clock with preparation included: what an arm spends on counting and filling rows before its first step
is taken off its training time. Encoding text into tokens and reading a foreign host are common to all and left out. Measuring the
loss counts for nobody.
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
from engram_cli.errors import TrainingError
from engram_cli.model.build import count_parameters, train
from engram_cli.model.data import Batches, HeldOut, layout_for
from engram_cli.model.generate import decode_speed
from engram_cli.model.host_directory import HostDirectory
from engram_cli.model.placement import check_resources, place_rows
from engram_cli.model.start import Start, streams
from engram_cli.model.table import pick_device
from engram_cli.model.train import Budget, Trainer
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.recipe import Recipe
from engram_cli.report.bench_arms import COUNTS, WIDE, arms_of, choose, too_wide, widen
from engram_cli.report.bench_reach import Reach, control_among, lengths, reach
from engram_cli.report.bench_tables import Run, bench_tables, equal_tokens, verdicts
from engram_cli.report.peak_memory import peak_memory, reset_peak_memory
from engram_cli.report.report import Measure, Report, Scalar
from engram_cli.table.layout import Layout

_COUNT_ORDER = 4  # of the count-only model at least; it knows what the table's longest grams are followed by
_CURVE_TOKENS, _FINAL_TOKENS = 16_384, 131_072  # of each evaluation on the way, and of the one that counts
_FOREIGN_TOKENS = 2_048, 16_384  # the same with a foreign host, which reads far more slowly
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
    host: HostDirectory | None
    counts_T: npt.NDArray[np.float64]
    starts: dict[str, tuple[Start, float]] = dataclasses.field(default_factory=dict)


def bench(
    ngrams: NGrams,
    recipe: Recipe,
    budget: Budget,
    *,
    seeds: int = 1,
    arms: Sequence[str] | None = None,
    host: HostDirectory | None = None,
    reach_within: float | None = None,
    device: str = "auto",
    progress: ProgressLike = SILENT,
) -> Report:
    """Train and measure the arms (None: all that are sensible) with `seeds` seeds each.

    host: a foreign host that gets the memory, None for ours; reach_within: how many times the budget the control may train to reach
    engram's loss, None not to ask.
    Raises RecipeError for an arm that does not exist or that `reach_within` needs, HostError where the host does not suit the
    n-grams or the recipe, TrainingError where preparation alone uses up the budget or there is too little text, ResourceError where
    the rows do not fit.
    """
    computing = pick_device(device)
    if host is not None:
        host.check_tokenizer(ngrams.tokenizer, ngrams.artifact.path)
        recipe = host.complete(recipe)
    recipe.check_buildable(host_given=host is not None)
    layout = layout_for(recipe.hash, ngrams)
    chosen, left_out = _choose(arms, recipe, ngrams.vocab, layout, host)
    trained = [arm for arm in chosen if arm != COUNTS and arms_of(host)[arm].trained]
    times = [] if reach_within is None else lengths(reach_within)
    control = control_among(trained) if times else ""
    first = recipe.training.seed
    seeded = [(arm, first + n) for arm in chosen if arm != COUNTS for n in range(seeds if arm in trained else 1)]
    stages = 1 + len(seeded) + len(times)
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as directory:
        check_resources(layout, recipe, Path(directory))
        place_rows("ram", layout, recipe, torch.device("cpu"))
        progress.stage(1, stages, "counts: estimating the count-only model")
        curve_text, final_text = _held_out(ngrams, layout, recipe, host)
        counted, counts_T = _count(ngrams, max(_COUNT_ORDER, layout.max_order + 1), curve_text, final_text)
        setting = _Setting(ngrams, recipe, budget, layout, computing, Path(directory), curve_text, final_text, host, counts_T)
        runs = [counted] if COUNTS in chosen else []
        for number, (arm, seed) in enumerate(seeded, 2):
            progress.stage(number, stages, f"{arm}, seed {seed}")
            runs.append(_train(setting, arm, seed, budget, progress))

        def longer(number: int, factor: float) -> Run:
            progress.stage(1 + len(seeded) + number, stages, f"{control}, {factor:g} times the budget")
            return _train(setting, control, first, budget.times(factor), progress)

        reached = reach(runs, control, times, longer) if times else None
    return _report(setting, runs, reached, left_out)


def _choose(
    asked: Sequence[str] | None, recipe: Recipe, vocab: int, layout: Layout, host: HostDirectory | None
) -> tuple[list[str], str]:
    """The arms to run and a note on what was left out ("" where nothing was)."""
    chosen = choose(asked, arms_of(host))
    if asked is not None or host is not None:
        return chosen, ""
    note = too_wide(recipe, vocab, layout)
    return [arm for arm in chosen if not (note and arm == WIDE)], note


def _held_out(ngrams: NGrams, layout: Layout, recipe: Recipe, host: HostDirectory | None) -> tuple[HeldOut, HeldOut]:
    """The text of the curves and that of the losses that count."""
    limits = (_CURVE_TOKENS, _FINAL_TOKENS) if host is None else _FOREIGN_TOKENS
    _, source = streams(ngrams, layout)
    curve_text, final_text = (HeldOut(source, recipe.host.context, limit) for limit in limits)
    return curve_text, final_text


def _count(ngrams: NGrams, order: int, curve_text: HeldOut, final_text: HeldOut) -> tuple[Run, npt.NDArray[np.float64]]:
    """The count-only arm, of that order, and the probability it gives to every target of `final_text`, f64 [targets]."""
    reset_peak_memory()
    training = ngrams.stream(held_out=False)
    started = time.perf_counter()
    model = count_model.estimate(training, ngrams.vocab, order)
    seconds = time.perf_counter() - started
    probability_T = model.probability(final_text.source.stream)
    counts_T = probability_T[final_text.targets - 1]
    loss, on_curve = (float(-np.log(part_T).mean()) for part_T in (counts_T, probability_T[curve_text.targets - 1]))
    tokens = len(training.tokens_T)
    costs = {"parameters_stored": model.parameters, "read_per_token": 3 * order, "peak_memory": peak_memory()}
    curve = [(tokens, seconds, on_curve)]
    return Run(COUNTS, 0, loss, loss, tokens, seconds, seconds, curve, costs | {"training_speed": tokens / seconds}), counts_T


def _train(setting: _Setting, name: str, seed: int, budget: Budget, progress: ProgressLike) -> Run:
    arm = arms_of(setting.host)[name]
    recipe = widen(setting.recipe, setting.ngrams.vocab, setting.layout) if name == WIDE else setting.recipe
    recipe = arm.of(dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, seed=seed)))
    reset_peak_memory()
    start, preparation = _start(setting, name, recipe, progress)
    if budget.seconds is not None and arm.trained:
        if preparation >= budget.seconds:
            raise TrainingError(
                f"an arm's minutes include its preparation, but {name} prepared for {preparation:.1f} of {budget.seconds:.1f} "
                "seconds; give more --minutes, or compare by --tokens"
            )
        budget = Budget(seconds=budget.seconds - preparation)
    training, _ = streams(setting.ngrams, start.layout)
    batches = Batches(training, recipe.training.stretches, recipe.host.context, seed)
    trainer = start.trainer(batches, recipe, setting.device)
    if arm.trained:
        train(trainer, budget, setting.curve_text, progress)
    last = (trainer.tokens, preparation + trainer.seconds, trainer.evaluate(setting.curve_text))
    losses_T = trainer.token_losses(setting.final_text)
    mixed_T = -np.log(0.5 * np.exp(-losses_T) + 0.5 * setting.counts_T)
    on_the_way = [(r.tokens, preparation + r.seconds, r.held_out_loss) for r in trainer.log[:-1] if r.held_out_loss is not None]
    return Run(
        arm=name,
        seed=seed,
        loss=float(losses_T.mean()),
        mixed=float(mixed_T.mean()),
        tokens=trainer.tokens,
        seconds=preparation + trainer.seconds,
        preparation=preparation,
        curve=[*on_the_way, last],
        costs=_costs(setting, start, trainer, recipe),
    )


def _start(setting: _Setting, name: str, recipe: Recipe, progress: ProgressLike) -> tuple[Start, float]:
    """Where an arm starts and the seconds that took; made once and shared by its seeds."""
    if name not in setting.starts:
        if setting.host is not None:
            _ = setting.host.model  # read once for all arms
        started = time.perf_counter()
        layout = setting.layout if arms_of(setting.host)[name].memory else None
        training, _ = streams(setting.ngrams, layout)
        vocab, directory = setting.ngrams.vocab, setting.directory
        start = Start.make(training, vocab, recipe, layout, directory, host=setting.host, progress=progress)
        setting.starts[name] = (start, time.perf_counter() - started)
    return setting.starts[name]


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
        "training_speed": trainer.tokens / trainer.seconds if trainer.tokens else None,
        "decode_speed": speeds.get(True, speeds[False]),
        "decode_memory_off": speeds[False] if layout else None,
    }


def _report(setting: _Setting, runs: Sequence[Run], reached: Reach | None, left_out: str) -> Report:
    final, budget = setting.final_text, setting.budget
    tables = bench_tables(runs, bits_per_nat=final.tokens_per_byte / math.log(2))
    losses = {f"loss of {row['arm']}": Measure(row["loss"], "nats") for row in tables["losses"].to_pylist()}
    facts: dict[str, Scalar | Measure] = {
        **losses,
        "training tokens": Measure(len(setting.ngrams.stream(held_out=False).tokens_T), "tokens"),
        "held-out tokens measured": Measure(len(final.targets), "tokens"),
        "of them for curves, and at equal tokens": Measure(len(setting.curve_text.targets), "tokens"),
        "budget of a run": Measure(budget.seconds or budget.tokens, "seconds" if budget.seconds else "tokens"),
        "equal tokens at": Measure(equal_tokens(runs), "tokens"),
        "recipe": setting.recipe.name,
        "host": setting.recipe.host.name,
        "rows": Measure(setting.layout.rows, "rows"),
        "device": setting.device.type,
        "threads": torch.get_num_threads(),
    }
    notes = verdicts(runs)
    if reached is not None:
        tables |= {"reach": reached.table()}
        notes.append(reached.note())
    title = f"Bench of {setting.recipe.name} on {setting.ngrams.artifact.path.name}"
    return Report("bench", title, facts, tables, [*notes, *([left_out] if left_out else [])])
