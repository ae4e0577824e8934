"""`convert`: a table from one layout of files into another, and from one row type into another.

    report = convert("demo/table", "deepseek-v4.1", "demo/v41", dtype="fp8-block")

Everything is planned, and refused where it cannot be, before the first byte is written. Then files are made sparse in the partial
directory and filled in blocks. How far that is, with the sums of the error up to there, is noted now and then, once what was
written is on the disk; `--resume` goes on from there, and gives the bytes and the report of a run that nobody stopped.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError, LossError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.report.convert_loss import Losses, open_measure
from engram_cli.report.convert_plan import TARGETS, LayerPlan, Plan, plan_conversion
from engram_cli.report.convert_source import KEPT, KEPT_CONFIG, ORIGIN, TOKEN_MAP, Source, open_source
from engram_cli.report.converted import conversion_report
from engram_cli.report.report import Report
from engram_cli.store.artifact import (
    Draft,
    check_out,
    check_unfinished,
    partial_path,
    scratch_path,
    write_artifact,
    write_directory,
)
from engram_cli.store.digests import write_digests
from engram_cli.store.manifest import DIGESTS, RunningDigest, file_digest
from engram_cli.store.matrix import Matrix
from engram_cli.store.resources import need_disk
from engram_cli.store.shards import INDEX
from engram_cli.store.tensors import Stored, TensorSpec, create_tensors
from engram_cli.table.convert import RoundingError, largest_number, stream
from engram_cli.table.formats import CONFIG, TOKENIZER
from engram_cli.table.formats.engram import LAYOUT_FILE
from engram_cli.table.row_types import matrix_scale
from engram_cli.table.rows import Rows

_RECORD_SECONDS = 10.0  # between notes of how far it is
_COPIED = 1 << 22  # bytes of a tensor that is copied as it is, in one step
_LOSSES = ("held_out_loss", "held_out_loss_before_rounding", "bits_per_byte")  # facts that are measured


def convert(
    path: str | Path,
    form: str,
    out: str | Path,
    *,
    dtype: str | None = None,
    ngrams: NGrams | None = None,
    max_loss: float | None = None,
    host: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: ProgressLike = SILENT,
) -> Report:
    """Write the table at `path` (an artifact or a checkpoint) in the layout `form` with rows of the type `dtype` at `out`.

    form: "engram", "deepseek-v4.1" or "qwen-ple"; dtype: a name of ROW_TYPES, None to leave rows as they are; ngrams: on whose
    held-out text the loss is measured before and after; max_loss: by how many nats a token it may rise; host: where a foreign one
    that is measured with lies (None: where it was).
    Raises ArtifactError where the layout cannot tell what the table is, where `out` exists (without `force`) or an unfinished run
    lies there (without `resume` or `force`), ResourceError where the disk is too small, LossError where the loss rises too much.
    """
    for option, given in (("--max-loss", max_loss), ("--host", host)):
        if given is not None and ngrams is None:
            raise ArtifactError(
                f"{option} is about the loss on held-out text; name the n-gram artifact that holds it with --ngrams"
            )
    if form not in TARGETS:
        raise ArtifactError(f"a table is converted to {', '.join(TARGETS)}, but --to is {form}; choose one")
    source_path, final = Path(path).absolute(), Path(out).absolute()
    if source_path.resolve() in (final.resolve(), *final.resolve().parents):
        raise ArtifactError(f"--out must lie apart from what is converted, but {final} is {source_path} or in it; choose another")
    check_out(final, force)
    journal = scratch_path(partial_path(final)) / "convert.json"
    check_unfinished(final, journal.exists(), resume, force)
    if resume and not journal.exists():
        raise ArtifactError(f"--resume needs an unfinished run, but {partial_path(final)} has none; run without --resume")
    source = open_source(Path(path))
    plan = plan_conversion(source, form, dtype)
    measure = open_measure(source, ngrams, max_loss, host) if ngrams is not None else None
    state = _State(plan, source, journal)
    if resume:
        state.read()
    else:
        need_disk(final.parent, plan.bytes, f"a table of {form}", "make room, or choose another --out or --dtype")
        shutil.rmtree(partial_path(final), ignore_errors=True)
    try:
        with _writing(final, plan, force) as draft:
            if not resume:
                _create(draft.path, plan)
                state.write()
            _fill(draft, plan, state, progress)
            losses = measure.losses(draft.path, plan) if measure else None
            _finish(draft, source, plan, losses)
    except LossError:
        journal.unlink()  # there is nothing to go on with
        raise
    finally:
        if not journal.exists():
            shutil.rmtree(partial_path(final), ignore_errors=True)
    return conversion_report(source, plan, final, state.errors, losses)


@contextmanager
def _writing(final: Path, plan: Plan, force: bool) -> Iterator[Draft]:
    """The new directory: an artifact, or a checkpoint with the digests of its files."""
    if plan.config is None:
        with write_artifact(final, "table", force=force, keep_partial=True) as draft:
            yield draft
        return
    with write_directory(final, force=force, keep_partial=True) as draft:
        yield draft
        write_digests(draft.path / DIGESTS, draft.records())


class _State:
    """How far a run is: rows written of each layer, the error up to there, scales of whole matrices; and of which run it is."""

    def __init__(self, plan: Plan, source: Source, path: Path) -> None:
        self.path = path
        told = [source.digest, plan.form, [layer.type.name for layer in plan.layers], sorted(plan.files), plan.config]
        self.fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        self.done = {layer.number: 0 for layer in plan.layers}
        self.errors = {layer.number: RoundingError() for layer in plan.layers}
        self.scales: dict[int, float] = {}

    def text(self) -> str:
        errors = {number: asdict(error) for number, error in self.errors.items()}
        return json.dumps({"fingerprint": self.fingerprint, "done": self.done, "errors": errors, "scales": self.scales})

    def write(self, text: str | None = None) -> None:
        """Note how far it is, or was when `text` was taken."""
        self.path.parent.mkdir(exist_ok=True)
        draft = self.path.with_suffix(".new")
        draft.write_text(text or self.text(), encoding="utf-8")
        draft.replace(self.path)

    def read(self) -> None:
        """Raises ArtifactError where the run is another's, or its note is damaged."""
        try:
            document = json.loads(self.path.read_bytes())
            if document["fingerprint"] != self.fingerprint:
                raise ArtifactError(
                    f"--resume goes on with the same table and the same options, but {self.path.parent.parent} is of others; give "
                    "those, or start anew with --force"
                )
            self.done = {int(number): done for number, done in document["done"].items()}
            self.errors = {int(number): RoundingError(**error) for number, error in document["errors"].items()}
            self.scales = {int(number): scale for number, scale in document["scales"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"a stopped conversion notes how far it is in {self.path}, but it cannot be read ({error}); start anew with --force"
            ) from None


class _Notes:
    """Writes the state now and then, each time after what it tells of is on the disk, while more is written."""

    def __init__(self, state: _State, flush: Callable[[], None]) -> None:
        self.state, self.flush = state, flush
        self.pool = ThreadPoolExecutor(1)
        self.going: Future[None] | None = None
        self.spoke = time.monotonic()

    def maybe(self) -> None:
        """Begin a note where the last is done and some time has passed."""
        if time.monotonic() - self.spoke >= _RECORD_SECONDS and (self.going is None or self.going.done()):
            self.spoke = time.monotonic()
            self.going = self.pool.submit(self._note, self.state.text())

    def _note(self, text: str) -> None:
        self.flush()
        self.state.write(text)

    def end(self) -> None:
        """Note how far it is now, and wait for it."""
        self.pool.submit(self._note, self.state.text()).result()
        self.leave()

    def leave(self) -> None:
        """Wait for a note that is being written, and write no more: a finished layer goes to the disk when its file is sealed."""
        self.pool.shutdown()


def _create(directory: Path, plan: Plan) -> None:
    """The files, sparse: as large as they will be."""
    for name, specs in plan.files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        create_tensors(directory / name, specs)


def _fill(draft: Draft, plan: Plan, state: _State, progress: ProgressLike) -> None:
    """The rows of all layers. A file is sealed as soon as nothing more goes into it."""
    stages = len(plan.layers)
    for number, layer in enumerate(plan.layers, 1):
        source = layer.source.rows
        change = layer.type.name if layer.type is source.type else f"{source.type.name} to {layer.type.name}"
        progress.stage(number, stages, f"writing {source.count:,} rows of layer {layer.number}, {change}")
        rows = _target(draft.path, plan, layer, state, progress)
        notes = _Notes(state, rows.flush)
        stored = rows.numbers.tensors[0]
        digest = RunningDigest(stored.path, stored.spec.offset)
        try:
            for done, numbers in stream(source, rows, state.errors[layer.number], state.done[layer.number]):
                digest.add(stored.spec.offset + done * rows.numbers.row_bytes - numbers.nbytes, numbers)
                state.done[layer.number] = done
                progress.advance(done * rows.bytes_per_row, layer.bytes, "bytes")
                notes.maybe()
        except BaseException as error:
            notes.end()
            if isinstance(error, KeyboardInterrupt):
                progress.warn("stopped; go on with --resume")
            raise
        notes.leave()
        if len(rows.numbers.tensors) == 1:
            draft.seal(stored.path.name, digest)


def _target(directory: Path, plan: Plan, layer: LayerPlan, state: _State, progress: ProgressLike) -> Rows:
    """The rows of a layer to write into, with the constants beside them written."""
    places = plan.located(directory, layer)
    for name, values in layer.tensors.constants.items():
        Matrix([places[name]], "r+").write(0, values)
    if layer.type.share == "matrix":
        if layer.number not in state.scales:
            state.scales[layer.number] = _scale(layer, progress)
            state.write()
        (name,) = layer.tensors.scales
        Matrix([places[name]], "r+").write(0, np.array([state.scales[layer.number]], np.float32))
    return plan.rows(directory, layer, "r+")


def _scale(layer: LayerPlan, progress: ProgressLike) -> float:
    """The one scale of a matrix: what it has, or what its largest number asks for, for which it is read once."""
    source = layer.source.rows
    if source.type is layer.type:
        assert isinstance(source.scales, np.ndarray)
        return float(source.scales[0])
    largest = 0.0
    for seen, size in largest_number(source):
        largest = max(largest, size)
        progress.advance(seen * source.bytes_per_row, layer.source.bytes, "bytes", "the largest number")
    return float(matrix_scale(largest)[0])


def _finish(draft: Draft, source: Source, plan: Plan, losses: Losses | None) -> None:
    """All but the rows: other tensors, config, tokenizer, and what is kept beside."""
    everything = plan.located(draft.path)
    for name, tensor in source.rest.items():
        _copy(tensor, everything[name])
    if plan.config is not None:
        (draft.path / CONFIG).write_text(json.dumps(plan.config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (draft.path / INDEX).write_text(plan.index(), encoding="utf-8")
        if source.stored.tokenizer is not None:
            shutil.copyfile(source.stored.tokenizer, draft.path / TOKENIZER)
        _keep(draft.path / KEPT, source, plan)
        return
    assert source.layout is not None
    assert source.token_map is not None
    assert source.stored.tokenizer is not None
    for name, file in source.files.items():
        shutil.copyfile(file, draft.path / name)
    if not source.files:
        draft.table(LAYOUT_FILE, source.layout.to_arrow())
        draft.table(TOKEN_MAP, source.token_map.to_arrow())
    shutil.copyfile(source.stored.tokenizer, draft.path / TOKENIZER)
    if source.keeps_config:
        (draft.path / KEPT_CONFIG).parent.mkdir(exist_ok=True)
        (draft.path / KEPT_CONFIG).write_text(json.dumps(source.config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.recipe = source.origin.get("recipe", "")
    draft.inputs = {**source.origin.get("inputs", {}), **source.known_by}
    draft.facts = {**(_kept_facts(source, plan) or _facts(source)), "dtype": plan.layers[0].type.name}
    if losses is not None:
        draft.facts |= losses.facts
    if source.keeps_config:
        draft.facts["prefixes"] = {str(layer): prefix for layer, prefix in source.prefixes.items()}


def _kept_facts(source: Source, plan: Plan) -> dict[str, Any]:
    """What the manifest of an artifact said that is still true: not the loss, where its rows are of another type now."""
    changed = any(layer.type is not layer.source.rows.type for layer in plan.layers)
    return {key: fact for key, fact in source.origin.get("facts", {}).items() if not (changed and key in _LOSSES)}


def _keep(folder: Path, source: Source, plan: Plan) -> None:
    """What an artifact had beside its rows, file by file, with their digests and what its manifest said."""
    if not source.files:
        return
    folder.mkdir(exist_ok=True)
    records = {}
    for name, file in source.files.items():
        shutil.copyfile(file, folder / name)
        records[name] = {"bytes": file.stat().st_size, "xxh3_128": file_digest(file)}
    origin = {**source.origin, "facts": _kept_facts(source, plan), "files": records}
    text = json.dumps(origin, indent=2, ensure_ascii=False) + "\n"
    (folder / ORIGIN).write_text(text, encoding="utf-8")


def _facts(source: Source) -> dict[str, Any]:
    """The facts of an artifact made from a checkpoint."""
    stored, folded = source.stored, source.token_map
    assert folded is not None
    rows = sum(layer.rows.count for layer in stored.layers)
    return {
        "name": stored.path.name,
        "parameters": {"rows": sum(layer.rows.count * layer.rows.dim for layer in stored.layers)},
        "layers": [layer.layout.layer for layer in stored.layers],
        "rows": rows,
        "dim": stored.layers[0].rows.dim,
        "hash": stored.family.name,
        "token_map_digest": folded.digest,
        "vocab": len(folded.canonical_V),
        "canonical_vocab": folded.canonical_vocab if stored.family.canonical else stored.vocab,
        "pad": stored.pad,
    }


def _copy(source: Stored, target: Stored) -> None:
    """The bytes of a tensor, as they are."""
    size = source.spec.bytes
    old, new = (Stored(each.path, TensorSpec("U8", (size,), each.spec.offset)) for each in (source, target))
    read, written = Matrix([old]), Matrix([new], "r+")
    for first in range(0, size, _COPIED):
        written.write(first, read.read(first, min(_COPIED, size - first)))
