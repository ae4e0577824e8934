"""Building: a table artifact holds what was trained; stopped anywhere and resumed, it is the table of a run never stopped."""

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.errors import ArtifactError, DeviceError, RecipeError, ResourceError, TrainingError
from engram_cli.model import build as module
from engram_cli.model import checkpoint, placement
from engram_cli.model.build import build
from engram_cli.model.checkpoint import find_checkpoint
from engram_cli.model.data import HeldOut, layout_for
from engram_cli.model.generate import Decoder
from engram_cli.model.host import initialise
from engram_cli.model.layer_rows import LayerRows, Updated
from engram_cli.model.placement import check_resources, place_rows, rows_bytes
from engram_cli.model.start import streams
from engram_cli.model.table import make_host, open_table
from engram_cli.model.train import Budget, Trainer, token_losses
from engram_cli.progress import Amounts, Silent
from engram_cli.recipe import INITS, ROW_OPTIMIZERS, HashRecipe, Recipe, RowsRecipe, parse_recipe
from engram_cli.store import artifact as store
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact, open_artifact, verify_files
from engram_cli.table.layout import Layout
from engram_cli.table.rows import Rows
from tests.corpora import write_ngrams
from tests.tables import whole
from tests.training import BRANCHED, SPEAKING, STILL, TINY, layout_of, seen_rows, start_of, tiny, trainer_of

BUDGET = Budget(tokens=64 * 12)  # steps of 64 tokens
FILES = {
    "layout.arrow", "rows-00.safetensors", "rows-01.safetensors", "memory.safetensors", "host.safetensors", "training.arrow",
    "token_map.arrow", "tokenizer.json",
}  # fmt: skip
Built = Callable[..., Artifact]


class Killed(BaseException):
    """What nothing in the tool catches."""


class StopAt(Silent):
    """Stops the run with `stop` when it tells of so many tokens, or at a stage."""

    def __init__(self, stop: BaseException, tokens: int = -1, stage: int = 0) -> None:
        self.stop, self.tokens, self.stage_number = stop, tokens, stage
        self.warnings: list[str] = []

    def stage(self, number: int, of: int, text: str) -> None:
        if number == self.stage_number:
            raise self.stop

    def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
        if unit == "tokens" and done == self.tokens:
            raise self.stop

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class At(Silent):
    """Calls `act` when the run tells of so many tokens."""

    def __init__(self, tokens: int, act: Callable[[], object]) -> None:
        self.tokens, self.act = tokens, act

    def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
        if (done, unit) == (self.tokens, "tokens"):
            self.act()


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """The system allows this process no more than `most` of one of its resources."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@contextmanager
def keep_trainers() -> Iterator[list[Trainer]]:
    """The trainers that builds write, as they are just before."""
    kept: list[Trainer] = []
    original = module._write

    def spy(draft: Any, ngrams: NGrams, recipe: Recipe, layout: Layout, trainer: Trainer, *rest: Any) -> None:
        kept.append(trainer)
        original(draft, ngrams, recipe, layout, trainer, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_write", spy)
        yield kept


@pytest.fixture
def built(ngrams: NGrams, tmp_path: Path) -> Built:
    """Build TINY, or with what is given instead, at `made` in the test's folder."""

    def make(recipe: Recipe = TINY, budget: Budget = BUDGET, out: str = "made", **options: Any) -> Artifact:
        return build(options.pop("of", ngrams), recipe, tmp_path / out, budget, device="cpu", **options)

    return make


@pytest.fixture(scope="module")
def uninterrupted(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build(ngrams, TINY, tmp_path_factory.mktemp("whole") / "made", BUDGET, device="cpu")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_table(one: Artifact, other: Artifact) -> None:
    """Byte for byte, manifest and training log included."""
    assert set(one.manifest.files) == set(other.manifest.files) == FILES
    for name in {"manifest.json"} | FILES:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name


# a table --------------------------------------------------------------------------------------------------------------
RECIPES = (tiny("counts", "f32"), tiny("counts", "bf16"), tiny("random", "f16"), tiny("zero", "f32"), SPEAKING, BRANCHED, STILL)


@pytest.mark.parametrize("recipe", RECIPES, ids=["counts", "bf16", "random", "zero", "mixture", "branches", "still"])
def test_a_reopened_table_is_the_trained_one_bit_for_bit(ngrams: NGrams, built: Built, recipe: Recipe) -> None:
    with keep_trainers() as kept:
        artifact = built(recipe)
    table, trainer = open_table(artifact.path, "cpu"), kept[0]
    batch = trainer.batches[3]
    tokens_BT = torch.from_numpy(batch.tokens_BT)
    looked_up = {
        layer: torch.from_numpy(item.take(item.layout.row_ids(batch.windows_BTN))).flatten(-2)
        for layer, item in trainer.rows.items()
    }
    with torch.no_grad():
        logits, without = trainer.host(tokens_BT, looked_up), trainer.host(tokens_BT)
        assert torch.equal(table.host(tokens_BT, table.look_up(batch.windows_BTN)), logits)
        assert torch.equal(table.host(tokens_BT), without)
    assert not torch.equal(logits, without)
    assert all(np.array_equal(whole(rows), trainer.rows[layer].take(np.arange(rows.count))) for layer, rows in table.rows.items())
    assert {rows.type.name for rows in table.rows.values()} == {recipe.rows.dtype}
    held_out = HeldOut(streams(ngrams, table.layout)[1], TINY.host.context, 1 << 18)
    loss = float(token_losses(table.host, table.rows, table.layout.layers, held_out).mean())
    assert artifact.manifest.facts["held_out_loss"] == round(loss, 6)
    assert artifact.manifest.facts["bits_per_byte"] == pytest.approx(loss / np.log(2) * held_out.tokens_per_byte, abs=1e-6)


def test_all_connections_of_branches_are_trained(ngrams: NGrams, built: Built) -> None:
    table = open_table(built(BRANCHED, Budget(tokens=64)).path, "cpu")
    untrained = make_host(BRANCHED, ngrams.vocab, table.layout)
    initialise(untrained, torch.Generator())
    trained = dict(table.host.named_parameters())
    connections = {name: begun for name, begun in untrained.named_parameters() if "_connections." in name}
    assert len(connections) == 3 * 2 * BRANCHED.host.layers
    for name, begun in connections.items():
        assert (trained[name] != begun).all(), name
    decoder = Decoder(table)
    decoder.extend([5, 6, 7])
    decoder.logits()
    assert all(0 < gate < 1 for gates in decoder.gates.values() for gate in gates if gate is not None)


@pytest.mark.parametrize(("family", "layers"), [("deepseek-v4.1", (0, 1)), ("qwen-ple", (1, 2))])
def test_a_table_of_any_family_is_built_opened_and_spoken_with(
    family: str, layers: tuple[int, ...], raw_ngrams: NGrams, tmp_path: Path
) -> None:
    recipe = replace(TINY, hash=replace(TINY.hash, family=family, layers=layers, multiple=128))
    artifact = build(raw_ngrams, recipe, tmp_path / "made", Budget(tokens=64))
    table = open_table(artifact.path, "cpu")
    assert [layer.layer for layer in table.layout.layers] == [0, 1]
    assert {len(whole(rows)) % 128 for rows in table.rows.values()} == {0}
    assert table.layout == layout_for(recipe.hash, raw_ngrams)
    ids = [9, 8, raw_ngrams.end or 0, 7]  # where a text ends, qwen's windows begin anew, and pad and end are one here
    decoder = Decoder(table)
    decoder.extend(ids)
    seen = [7, ids[2], ids[2] if family == "qwen-ple" else 8, ids[2] if family == "qwen-ple" else 9]
    assert decoder.windows(3, 4).tolist() == [seen]
    assert decoder.logits().isfinite().all()


def test_the_artifact_holds_what_was_asked_for_and_where_it_came_from(ngrams: NGrams, uninterrupted: Artifact) -> None:
    artifact, layout = uninterrupted, layout_of(ngrams)
    assert set(artifact.manifest.files) == FILES
    assert names(artifact.path.parent) == ["made"]
    assert all(said == found for _, said, found in verify_files(artifact))
    assert artifact.manifest.inputs == {"ngrams": ngrams.artifact.digest}
    assert parse_recipe(artifact.manifest.recipe) == TINY
    assert Layout.from_arrow(artifact.table("layout.arrow")) == layout
    for name in ("tokenizer.json", "token_map.arrow"):
        assert artifact.file(name).read_bytes() == ngrams.artifact.file(name).read_bytes()
    log = artifact.table("training.arrow")
    assert log.schema == schema.TRAINING
    assert log["tokens"].to_pylist() == [64 * step for step in range(1, 13)]
    measured = [step for step, loss in enumerate(log["held_out_loss"].to_pylist(), start=1) if loss is not None]
    assert measured == [2, 3, 5, 6, 8, 9, 11, 12]


def test_the_facts_are_true(ngrams: NGrams, uninterrupted: Artifact, tmp_path: Path) -> None:
    facts, table = uninterrupted.manifest.facts, open_table(uninterrupted.path, "cpu")
    width, vocab, ff = TINY.host.width, ngrams.vocab, TINY.host.feed_forward
    assert facts["parameters"] == {
        "host": vocab * width + 2 * (4 * width * width + 3 * width * ff + 2 * width) + width + vocab,
        "memory": 2 * (2 * width * 6 * 4 + 2 * width),
        "rows": sum(rows.count * rows.dim for rows in table.rows.values()),
    }
    stated = (facts["name"], facts["layers"], facts["dim"], facts["dtype"], facts["init"], facts["hash"])
    assert stated == ("tiny", [0, 1], 4, "f32", "counts", "demo")
    assert (facts["tokens"], facts["rows"]) == (64 * 12, table.layout.rows)
    for key in ("token_map_digest", "vocab", "canonical_vocab", "pad", "end"):
        assert facts[key] == ngrams.artifact.manifest.facts[key]
    trainer = trainer_of(ngrams, start_of(ngrams, tmp_path))
    seen = sum(len(seen_rows(trainer, layer, 12)) for layer in trainer.rows)
    assert facts["rows_trained"] == seen < table.layout.rows


@pytest.mark.parametrize("init", INITS)
def test_rows_that_no_position_saw_are_as_they_were_initialised(ngrams: NGrams, built: Built, tmp_path: Path, init: str) -> None:
    artifact = built(tiny(init), Budget(tokens=64))
    start = start_of(ngrams, tmp_path, tiny(init))
    for layer in layout_of(ngrams).layers:
        seen = seen_rows(trainer_of(ngrams, start, tiny(init)), layer.layer, 1)
        initial, trained = (Rows.open(folder / f"rows-{layer.layer:02}.safetensors") for folder in (tmp_path, artifact.path))
        assert np.array_equal(np.flatnonzero((whole(initial) != whole(trained)).any(axis=1)), seen)


def test_rows_start_as_the_recipe_says(ngrams: NGrams, tmp_path: Path) -> None:
    matrices = {}
    for init, seed in (("zero", 0), ("random", 0), ("random", 1), ("counts", 0)):
        folder = tmp_path / f"{init}{seed}"
        folder.mkdir()
        start_of(ngrams, folder, tiny(init, seed=seed))
        matrices[init, seed] = np.concatenate([whole(Rows.open(folder / f"rows-0{n}.safetensors")) for n in (0, 1)])
    assert not matrices["zero", 0].any()
    assert matrices["random", 0].std() == pytest.approx(0.02, rel=0.05)
    assert abs(matrices["random", 0].mean()) < 0.001
    assert not np.array_equal(matrices["random", 0], matrices["random", 1])
    assert matrices["counts", 0].any(axis=1).mean() > 0.5


def test_a_budget_in_seconds(built: Built) -> None:
    artifact = built(budget=Budget(seconds=0.05))
    seconds = artifact.table("training.arrow")["seconds"].to_pylist()
    assert seconds[-1] >= 0.05
    assert all(before < 0.05 for before in seconds[:-1])


# stopped and resumed --------------------------------------------------------------------------------------------------
def test_ctrl_c_and_resume_equal_a_run_never_stopped(built: Built, tmp_path: Path, uninterrupted: Artifact) -> None:
    progress = StopAt(KeyboardInterrupt(), tokens=64 * 5)
    with pytest.raises(KeyboardInterrupt):
        built(progress=progress)
    assert progress.warnings == ["stopped; a checkpoint was written, go on with --resume"]
    assert names(tmp_path) == [".made.partial"]
    again = StopAt(KeyboardInterrupt(), tokens=64 * 9)
    with pytest.raises(KeyboardInterrupt):
        built(resume=True, progress=again)
    assert_same_table(built(resume=True), uninterrupted)
    assert names(tmp_path) == ["made"]


def test_ctrl_c_in_the_middle_of_a_step_takes_no_step_twice(
    built: Built, monkeypatch: pytest.MonkeyPatch, uninterrupted: Artifact
) -> None:
    update, calls = LayerRows.update, []

    def interrupted(rows: LayerRows, *arguments: Any) -> Updated:
        calls.append(rows.layout.layer)
        if len(calls) == 7:  # the first of two layers in the fourth step
            os.kill(os.getpid(), signal.SIGINT)
        return update(rows, *arguments)

    monkeypatch.setattr(LayerRows, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        built()
    assert calls == [0, 1] * 4
    assert_same_table(built(resume=True), uninterrupted)


def test_a_kill_loses_only_what_came_after_the_checkpoint(
    built: Built, monkeypatch: pytest.MonkeyPatch, uninterrupted: Artifact
) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)  # after every step
    with pytest.raises(Killed):
        built(progress=StopAt(Killed(), tokens=64 * 7))
    seen = []

    class Resumed(Silent):
        def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
            seen.append((done, unit))

    assert_same_table(built(resume=True, progress=Resumed()), uninterrupted)
    assert [done for done, unit in seen if unit == "tokens"] == [64 * step for step in range(7, 13)]


@pytest.mark.parametrize("step", [3, 7])  # before and after rows that speak beside the host are heard
@pytest.mark.parametrize("recipe", [SPEAKING, BRANCHED, STILL], ids=["mixture", "branches", "still"])
def test_a_killed_run_of_another_form_ends_like_any_other(
    built: Built, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, step: int
) -> None:
    whole = built(recipe, out="whole")
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Killed):
        built(recipe, progress=StopAt(Killed(), tokens=64 * step))
    assert_same_table(built(recipe, resume=True), whole)


@pytest.mark.parametrize("where", ["measuring", "writing", "digesting", "renaming"])
def test_a_kill_after_training_loses_nothing(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Artifact, where: str
) -> None:
    def killed(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if where == "writing":  # rows are in their files, the rest is not
            patch.setattr(module, "save_weights", killed)
        elif where != "measuring":
            patch.setattr(store, "_finish" if where == "digesting" else "_flush", killed)
        with pytest.raises(Killed):
            built(progress=StopAt(Killed(), stage=3) if where == "measuring" else Silent())
    assert names(tmp_path) == [".made.partial"]
    assert_same_table(built(resume=True, progress=StopAt(Killed(), tokens=64 * 12)), uninterrupted)
    assert names(tmp_path) == ["made"]


def test_an_unfinished_run_is_in_the_way_until_resumed_or_forced(built: Built, tmp_path: Path, uninterrupted: Artifact) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(progress=StopAt(KeyboardInterrupt(), tokens=64 * 5))
    with pytest.raises(ArtifactError, match=r"unfinished run of made; go on with --resume, or start anew with --force"):
        built()
    other_layers = replace(TINY, hash=replace(TINY.hash, layers=(1,)))
    others = [(recipe, BUDGET) for recipe in (tiny(seed=1), tiny("zero"), other_layers)]
    for recipe, budget in [*others, (TINY, Budget(tokens=64 * 13)), (TINY, Budget(seconds=1))]:
        with pytest.raises(ArtifactError, match="--resume continues the same run"):
            built(recipe, budget, resume=True)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / ".made.partial", kept / ".made.partial")
    assert_same_table(built(force=True), uninterrupted)
    shutil.rmtree(tmp_path / "made")
    shutil.move(kept / ".made.partial", tmp_path)
    assert_same_table(built(resume=True), uninterrupted)


def test_other_ngrams_do_not_resume_a_run(built: Built, tmp_path: Path, ngrams: NGrams) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(progress=StopAt(KeyboardInterrupt(), tokens=64))
    fewer = open_ngrams(write_ngrams(tmp_path / "fewer", documents=60))
    with pytest.raises(ArtifactError, match="made from other n-grams"):
        built(of=fewer, resume=True)
    assert find_checkpoint(tmp_path / ".made.partial/scratch")


def test_a_run_of_older_code_is_not_resumed(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(progress=StopAt(KeyboardInterrupt(), tokens=64))
    monkeypatch.setattr(module, "_FORM", module._FORM + 1)
    with pytest.raises(ArtifactError, match=r"or by another version of engram; give those again, or start anew with --force"):
        built(resume=True)
    assert find_checkpoint(tmp_path / ".made.partial/scratch")


def test_a_damaged_checkpoint_says_so(built: Built, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(progress=StopAt(KeyboardInterrupt(), tokens=64))
    (tmp_path / ".made.partial/scratch/checkpoint/host.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"checkpoint .* is damaged .*; start anew with --force"):
        built(resume=True)


def test_nothing_to_resume(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"--resume needs an unfinished run, but there is no .*; run without --resume"):
        built(resume=True)
    assert not names(tmp_path)


def test_resuming_needs_no_room_for_the_rows_again(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(progress=StopAt(KeyboardInterrupt(), tokens=64))
    monkeypatch.setattr(placement, "need_disk", pytest.fail)
    assert built(resume=True).manifest.facts["tokens"] == 64 * 12


def test_forcing_replaces_the_table_that_is_there(built: Built, tmp_path: Path) -> None:
    first = built(tiny("zero"))
    with pytest.raises(ArtifactError, match=r"--out must not exist"):
        built()
    with pytest.raises(KeyboardInterrupt):
        built(force=True, progress=StopAt(KeyboardInterrupt(), tokens=64))
    assert open_artifact(first.path).manifest == first.manifest
    assert built(force=True, resume=True).manifest.facts["init"] == "counts"
    assert names(tmp_path) == ["made"]


# what leaves nothing --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Killed()])
def test_stopped_before_there_is_anything_to_go_on_from(built: Built, tmp_path: Path, stop: BaseException) -> None:
    for stage in (1, 2):
        with pytest.raises(type(stop)):
            built(progress=StopAt(stop, stage=stage))
        assert not names(tmp_path)


def test_too_little_text(built: Built, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    few = open_ngrams(write_ngrams(tmp_path_factory.mktemp("few") / "few", documents=40, held_out=0))
    with pytest.raises(TrainingError, match="a batch is 4096 x 16"):
        built(tiny(batch=4096))
    with pytest.raises(TrainingError, match=r"only 0 tokens were held out; run engram extract with a larger --held-out"):
        built(of=few)
    assert not names(tmp_path)


def test_a_device_that_is_not_there(ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="needs a CUDA GPU"):
        build(ngrams, TINY, tmp_path / "made", BUDGET, device="cuda")
    assert not names(tmp_path)


@pytest.mark.parametrize("size", [1 << 39, (1 << 40) - 1])
def test_rows_that_fit_no_disk(built: Built, tmp_path: Path, size: int) -> None:
    recipe = replace(TINY, hash=HashRecipe(orders=(2,), heads=1, size=(size,), layers=(0,)))
    takes = rf"takes {(size + 15) * 20 / (1 << 40):.1f} TiB of disk, but .* are free; lower hash\.size"
    with pytest.raises(ResourceError, match=r"a table of [\d,]+ rows x 16 bytes " + takes):
        built(recipe)
    assert not names(tmp_path)


def test_what_fits_the_disk_may_not_fit_memory(ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of(ngrams)
    asked: dict[str, int] = {}
    monkeypatch.setattr(placement, "need_disk", lambda directory, wanted, *rest: asked.update(disk=wanted))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    check_resources(layout, TINY, tmp_path)
    assert asked["disk"] == layout.rows * 20
    monkeypatch.setattr("engram_cli.store.resources.free_memory", lambda: 1000)
    check_resources(layout, tiny("zero"), tmp_path)
    with pytest.raises(ResourceError, match=r"filling [\d,]+ rows takes .* KiB of memory, .*; lower hash\.size"):
        check_resources(layout, TINY, tmp_path)


def test_a_loss_that_is_lost_leaves_the_last_checkpoint(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the same recipe loses again, and a lower rate goes on from, as the artifact tells."""
    lost = tiny(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"must stay finite, .*; lower training\.learning_rate or .*rate, and start anew$"):
        built(lost)
    assert not names(tmp_path)
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(TrainingError, match=r"; lower training\.learning_rate or .*rate, and go on from step 1 with --resume$"):
        built(lost)
    assert find_checkpoint(tmp_path / ".made.partial/scratch")
    with pytest.raises(TrainingError, match="must stay finite"):
        built(lost, resume=True)


def test_a_stopped_run_goes_on_with_other_learning_rates_and_says_so(built: Built) -> None:
    with pytest.raises(KeyboardInterrupt):
        built(tiny(), progress=StopAt(KeyboardInterrupt(), tokens=64 * 5))
    progress = StopAt(KeyboardInterrupt())
    artifact = built(tiny(learning_rate=1e-3), resume=True, progress=progress)
    assert progress.warnings == [
        "going on from step 5 with learning rates 0.001 of the host and 0.05 of the rows, before 0.005 and 0.05"
    ]
    assert artifact.manifest.facts["learning_rates"] == [[0, 0.005, 0.05], [5, 0.001, 0.05]]
    assert "learning_rate = 0.001" in artifact.manifest.recipe


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    built: Built, monkeypatch: pytest.MonkeyPatch, uninterrupted: Artifact
) -> None:
    original, writes = checkpoint.write_tensors, []

    def fill_up(path: Path, tensors: Any) -> None:
        writes.append(path)
        original(path, tensors)
        if len(writes) == 8:  # of the third checkpoint
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "write_tensors", fill_up)
    with pytest.raises(ResourceError, match=r"could not be written \(No space left on device\); make room, and go on from step 2"):
        built()
    monkeypatch.undo()
    assert_same_table(built(resume=True), uninterrupted)


def test_a_checkpoint_that_the_system_refuses_to_write_leaves_the_last_one(
    built: Built, monkeypatch: pytest.MonkeyPatch, uninterrupted: Artifact
) -> None:
    """Not as if: each file ends at a size, as on a full disk, and the system says so."""
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    with ExitStack() as stack:
        fills = At(64 * 5, lambda: stack.enter_context(limited(resource.RLIMIT_FSIZE, 6000)))
        with pytest.raises(ResourceError, match=r"\(File too large\); make room, and go on from step 4 with --resume"):
            built(progress=fills)
    assert_same_table(built(resume=True), uninterrupted)


# where rows live ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_mapped_rows_give_the_bytes_of_rows_in_memory_stopped_or_not(
    ngrams: NGrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    recipe = tiny(row_optimizer=optimizer)
    in_memory = build(ngrams, recipe, tmp_path / "ram", BUDGET, rows="ram")
    assert_same_table(build(ngrams, recipe, tmp_path / "mmap", BUDGET, rows="mmap"), in_memory)
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    for tokens in (64 * 4, 64 * 7):
        with pytest.raises(Killed):
            build(
                ngrams, recipe, tmp_path / "again", BUDGET, rows="mmap", resume=tokens > 64 * 4, progress=StopAt(Killed(), tokens)
            )
    assert_same_table(build(ngrams, recipe, tmp_path / "again", BUDGET, rows="mmap", resume=True), in_memory)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a limit on data against anonymous memory")
def test_a_table_three_times_larger_than_the_memory_left_is_trained(built: Built) -> None:
    """What the process may take beyond what it has is a third of the rows with their optimizer state."""
    built(out="small")  # loads what every build loads
    recipe = replace(TINY, hash=replace(TINY.hash, size=(600_000,)), rows=RowsRecipe(dim=8, init="zero"))
    used = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    left = 40 << 20
    with limited(resource.RLIMIT_DATA, used * 1024 + left):
        with pytest.raises(ResourceError, match=r"--rows ram with 7,2.* takes .* of memory, but .* are free; use --rows mmap"):
            built(recipe, rows="ram")
        artifact = built(recipe)
    assert artifact.manifest.facts["rows"] * (8 * 4 + 4) > 3 * left
    assert artifact.manifest.facts["rows_trained"] > 100


def test_many_changed_rows_bring_a_checkpoint_about(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(module, "save_checkpoint", lambda directory, trainer, fingerprint: saved.append(trainer.step_number))
    monkeypatch.setattr(module, "free_memory", lambda: 0)
    built(rows="mmap")
    assert saved == [*range(1, 13), 12]


def test_rows_live_in_memory_where_they_fit(ngrams: NGrams, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, cpu = layout_of(ngrams), torch.device("cpu")
    size = layout.rows * (16 + 4)
    assert rows_bytes(layout, TINY) == size
    assert rows_bytes(layout, tiny(row_optimizer="adam-full")) == layout.rows * (16 + 36)
    monkeypatch.setattr(placement, "free_memory", lambda: size * 2)
    assert place_rows("auto", layout, TINY, cpu) == "ram"
    monkeypatch.setattr(placement, "free_memory", lambda: size)
    assert place_rows("auto", layout, TINY, cpu) == "mmap"
    monkeypatch.setattr("engram_cli.store.resources.free_memory", lambda: size - 1)
    with pytest.raises(ResourceError, match=r"--rows ram with [\d,]+ rows takes .* of memory, but .* are free; use --rows mmap"):
        place_rows("ram", layout, TINY, cpu)
    with pytest.raises(DeviceError, match="--rows cuda needs a host on a CUDA GPU, but it computes on the cpu; use"):
        place_rows("cuda", layout, TINY, cpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size - 1, size))
    with pytest.raises(ResourceError, match=r"--rows cuda with [\d,]+ rows takes .* of GPU memory, but .*; use --rows ram"):
        place_rows("cuda", layout, TINY, torch.device("cuda"))
    with pytest.raises(RecipeError, match="--rows is auto, ram, mmap, cuda, but it is 'disk'"):
        place_rows("disk", layout, TINY, cpu)
    with pytest.raises(RecipeError, match="--rows cuda takes rows of f32, f16, bf16, but they are int8-row; use --rows ram"):
        place_rows("cuda", layout, STILL, torch.device("cuda"))
