"""`build`: recipe -> layout -> rows -> training -> a table artifact.

Everything is written in the artifact's partial directory: rows first; a checkpoint every minute, which brings trained rows into
their files; the rest at the end. A run that was killed is continued from there; one that left no checkpoint leaves nothing.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import torch

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError, ResourceError, TrainingError
from engram_cli.model.carrier import Carrier
from engram_cli.model.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    read_state,
    restore_rows,
    save_checkpoint,
    saved_step,
    whole_step,
)
from engram_cli.model.data import Batches, HeldOut, layout_for
from engram_cli.model.host_directory import HostDirectory
from engram_cli.model.placement import WHERE, check_resources, place_rows
from engram_cli.model.quantise import LossGate, loss_facts, measured_text, put_back, quantise
from engram_cli.model.row_store import count_trained
from engram_cli.model.start import Start, streams
from engram_cli.model.table import make_foreign_host, pick_device, save_weights
from engram_cli.model.train import Budget, Trainer, token_losses
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.recipe import Recipe
from engram_cli.store import schema
from engram_cli.store.artifact import (
    Artifact,
    Draft,
    check_out,
    check_unfinished,
    open_artifact,
    partial_path,
    scratch_path,
    write_artifact,
)
from engram_cli.store.resources import free_memory
from engram_cli.table.formats.engram import LAYOUT_FILE
from engram_cli.table.layout import Layout

_CHECKPOINT_SECONDS = 60.0
_EVALUATIONS = 8  # over a run, the last at its end
_EVALUATION_TOKENS = 16_384  # of each but the last
_FOREIGN_TOKENS = 2_048  # the same with a foreign host, which reads so much more slowly that measuring would outlast training
_STAGES = 3
_FORM = 2  # of what a run keeps and how it trains; to be raised where one begun by older code could not go on to the same end


def build(
    ngrams: NGrams,
    recipe: Recipe,
    out: str | Path,
    budget: Budget,
    *,
    rows_dtype: str | None = None,
    max_loss: float | None = None,
    device: str = "auto",
    rows: str = "auto",
    host: HostDirectory | None = None,
    resume: bool = False,
    force: bool = False,
    progress: ProgressLike = SILENT,
) -> Artifact:
    """Build a table from an n-gram artifact and write it as a table artifact at `out`.

    rows_dtype: the row type to write, None for that of training; max_loss: by how many nats a token it may raise the loss; rows:
    where they live while they are trained, ram, mmap or cuda (row_store.py); auto: in memory where they fit, else mapped; host: a
    foreign host that gets the memory, None for ours.
    Raises RecipeError where the recipe cannot be built or the n-grams do not suit its hash, HostError where the host suits neither,
    ArtifactError where `out` exists (without `force`) or an unfinished run lies there (without `resume` or `force`), ResourceError
    where the rows fit neither disk nor memory, TrainingError where there is too little text or the loss is lost, LossError where
    `rows_dtype` costs too much.
    On Ctrl-C a checkpoint is written before KeyboardInterrupt goes on.
    """
    final = Path(out).absolute()
    check_out(final, force)
    partial = partial_path(final)
    checkpoint = find_checkpoint(scratch_path(partial))
    check_unfinished(final, checkpoint is not None, resume, force)
    if resume and not partial.exists():
        raise ArtifactError(f"--resume needs an unfinished run, but there is no {partial}; run without --resume")
    resume = resume and checkpoint is not None  # killed before the first: there is nothing to lose in beginning anew
    if host is not None:
        host.check_tokenizer(ngrams.tokenizer, ngrams.artifact.path)
        recipe = host.complete(recipe)
    recipe.check_buildable(host_given=host is not None)
    written = dataclasses.replace(recipe.rows, dtype=rows_dtype or recipe.rows.dtype)
    written.check()
    computing = pick_device(device)
    layout = layout_for(recipe.hash, ngrams)
    where = place_rows(rows, layout, recipe, computing)
    fingerprint = _fingerprint(ngrams, recipe, budget, host)
    if checkpoint and resume:
        read_state(checkpoint, fingerprint)
    else:  # what is resumed has its rows on disk already
        check_resources(layout, recipe, final.parent, written)
        shutil.rmtree(partial, ignore_errors=True)
    try:
        with write_artifact(final, "table", force=force, keep_partial=True) as draft:
            if checkpoint and resume:
                put_back(draft.path)
                restore_rows(checkpoint, draft.path)
            trainer, held_out = _prepare(ngrams, recipe, layout, draft.path, host, computing, where, resume, progress)
            if checkpoint and resume:
                load_checkpoint(checkpoint, trainer, fingerprint)
                _tell_other_rates(trainer, progress)
            progress.stage(2, _STAGES, f"training host and memory together, {WHERE[where]}")
            with _told_with_the_way_on(draft):
                train(trainer, budget, held_out, progress, lambda: save_checkpoint(draft.path, trainer, fingerprint))
            progress.stage(3, _STAGES, "measuring on held-out text and writing the table")
            measured = measured_text(held_out.source, recipe)
            loss = trainer.evaluate(measured)
            _write(draft, ngrams, recipe, layout, trainer, budget, loss, held_out.tokens_per_byte)
            if host is not None:
                draft.inputs = {**draft.inputs, "host": host.digest}
                draft.facts = {**draft.facts, **_host_facts(host, recipe, computing, measured)}
            if written != recipe.rows:
                gate = LossGate(trainer.host, layout.layers, measured, max_loss)
                draft.facts |= quantise(draft.path, gate, loss, written.dtype)
    finally:
        if not find_checkpoint(scratch_path(partial)):  # nothing to go on from
            shutil.rmtree(partial, ignore_errors=True)
    return open_artifact(final, "table")


@contextmanager
def _told_with_the_way_on(draft: Draft) -> Iterator[None]:
    """Add to what stops a training run what can be done with the part that is saved."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{error}, and {_way_on(draft)}") from None
    except OSError as error:
        raise ResourceError(
            f"a checkpoint takes room in {draft.scratch}, but it could not be written ({error.strerror or error}); make room, and "
            f"{_way_on(draft)}"
        ) from error


def _way_on(draft: Draft) -> str:
    checkpoint = find_checkpoint(draft.scratch)
    return f"go on from step {saved_step(checkpoint)} with --resume" if checkpoint else "start anew"


def _tell_other_rates(trainer: Trainer, progress: ProgressLike) -> None:
    *_, (step, *now) = trainer.rates
    if step == trainer.step_number and len(trainer.rates) > 1:
        before = trainer.rates[-2][1:]
        progress.warn(
            f"going on from step {step} with learning rates {now[0]:g} of the host and {now[1]:g} of the rows, before "
            f"{before[0]:g} and {before[1]:g}"
        )


def _prepare(
    ngrams: NGrams,
    recipe: Recipe,
    layout: Layout,
    directory: Path,
    host: HostDirectory | None,
    device: torch.device,
    where: str,
    resume: bool,
    progress: ProgressLike,
) -> tuple[Trainer, HeldOut]:
    training, held_out = streams(ngrams, layout)
    context = recipe.host.context
    batches = Batches(training, recipe.training.stretches, context, recipe.training.seed)
    evaluation = HeldOut(held_out, context, _EVALUATION_TOKENS if host is None else _FOREIGN_TOKENS)
    progress.stage(1, _STAGES, f"initialising {layout.rows:,} rows: {recipe.rows.init}")
    start = Start.make(training, ngrams.vocab, recipe, layout, directory, host=host, fill=not resume, progress=progress)
    return start.trainer(batches, recipe, device, where), evaluation


def train(
    trainer: Trainer,
    budget: Budget,
    held_out: HeldOut,
    progress: ProgressLike = SILENT,
    checkpoint: Callable[[], None] | None = None,
) -> None:
    """Train until the budget is used up, evaluating on the way and calling `checkpoint` every minute, on Ctrl-C, at the end, and
    where changed rows take a sixth of the memory at hand (growing, they take three times as much for a moment)."""
    total, unit = (budget.seconds, "seconds") if budget.seconds is not None else (budget.tokens, "tokens")
    saved, room = time.monotonic(), free_memory() // 6
    try:
        while (fraction := budget.fraction(trainer.seconds, trainer.tokens)) < 1:
            with whole_step():
                record = trainer.step(fraction)
            after = budget.fraction(trainer.seconds, trainer.tokens)
            if after < 1 and int(after * _EVALUATIONS) > int(fraction * _EVALUATIONS):
                trainer.evaluate(held_out)
            note = f"loss {record.loss:.3f}  {trainer.tokens / trainer.seconds:,.0f} tokens/s"
            progress.advance(trainer.seconds if unit == "seconds" else trainer.tokens, total, unit, note)
            if checkpoint and (time.monotonic() - saved > _CHECKPOINT_SECONDS or trainer.pending_bytes > room):
                checkpoint()
                saved = time.monotonic()
        if checkpoint:
            checkpoint()
    except KeyboardInterrupt:
        if checkpoint:
            checkpoint()
            progress.warn("stopped; a checkpoint was written, go on with --resume")
        raise


def _write(
    draft: Draft,
    ngrams: NGrams,
    recipe: Recipe,
    layout: Layout,
    trainer: Trainer,
    budget: Budget,
    loss: float,
    tokens_per_byte: float,
) -> None:
    """Write everything but the rows, which the last checkpoint put where they belong.

    Of a run by tokens no seconds are told: they alone would make it another artifact each time.
    """
    timeless = {"seconds": None} if budget.tokens is not None else {}
    save_weights(trainer.host, draft.path)
    draft.table(LAYOUT_FILE, layout.to_arrow())
    draft.table("training.arrow", pa.Table.from_pylist([vars(record) | timeless for record in trainer.log], schema.TRAINING))
    for name in ("tokenizer.json", "token_map.arrow"):
        shutil.copyfile(ngrams.artifact.file(name), draft.path / name)
    draft.recipe = recipe.to_toml()
    draft.inputs = {"ngrams": ngrams.artifact.digest}
    rows_trained = sum(count_trained(draft.path, layer) for layer in trainer.rows)
    draft.facts = _facts(ngrams, recipe, layout, trainer, loss, tokens_per_byte) | {"rows_trained": rows_trained}
    if len(trainer.rates) > 1:
        draft.facts["learning_rates"] = trainer.rates


def _facts(
    ngrams: NGrams, recipe: Recipe, layout: Layout, trainer: Trainer, loss: float, tokens_per_byte: float
) -> dict[str, object]:
    facts = ngrams.artifact.manifest.facts
    return {
        "name": recipe.name,
        "parameters": count_parameters(trainer.host, layout.rows * recipe.rows.dim),
        "layers": [layer.layer for layer in layout.layers],
        "rows": layout.rows,
        "dim": recipe.rows.dim,
        "dtype": recipe.rows.dtype,
        "init": recipe.rows.init,
        "hash": recipe.hash.family,
        "tokens": trainer.tokens,
        **loss_facts(loss, tokens_per_byte),
        **{key: facts[key] for key in ("token_map_digest", "vocab", "canonical_vocab", "pad", "end")},
    }


def _host_facts(host: HostDirectory, recipe: Recipe, device: torch.device, held_out: HeldOut) -> dict[str, object]:
    """Where the host is, and its loss as it is, untrained and without memory, on the text that the table's is stated for."""
    frozen = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, parts="memory"))
    alone = make_foreign_host(host, frozen, None).to(device)
    loss = float(token_losses(alone, {}, (), held_out).mean())
    return {"host": {"path": str(host.path), "digest": host.digest}, "held_out_loss_of_host_alone": round(loss, 6)}


def count_parameters(host: Carrier, rows: int) -> dict[str, int]:
    """Numbers: in the host, in the memories' projections, in the rows."""
    in_host = sum(parameter.numel() for _, parameter in host.host_parameters())
    return {"host": in_host, "memory": sum(p.numel() for p in host.parameters()) - in_host, "rows": rows}


def _fingerprint(ngrams: NGrams, recipe: Recipe, budget: Budget, host: HostDirectory | None) -> str:
    """What run a checkpoint belongs to: form, n-grams, budget, host and recipe, but no learning rates: a lost loss needs others."""
    training = dataclasses.replace(recipe.training, learning_rate=1.0, host_learning_rate=1.0, row_learning_rate=1.0)
    rateless = dataclasses.replace(recipe, training=training).to_toml()
    parts = [_FORM, ngrams.artifact.digest, rateless, dataclasses.asdict(budget), host and host.digest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
