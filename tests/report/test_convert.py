"""Converting: rows that come back as they were, errors that are measured, what is kept beside, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.canonical import token_map
from engram_cli.corpus.tokenizer import load_tokenizer
from engram_cli.errors import ArtifactError, HostError, LossError, ResourceError
from engram_cli.model.build import build
from engram_cli.model.host_directory import open_host
from engram_cli.model.table import open_table
from engram_cli.model.train import Budget, token_losses
from engram_cli.progress import Amounts, Silent
from engram_cli.recipe import HostRecipe
from engram_cli.report import convert as converting
from engram_cli.report.convert import convert
from engram_cli.report.diff import diff, differs
from engram_cli.store.artifact import open_artifact, verify_files
from engram_cli.store.manifest import file_digest
from engram_cli.store.matrix import Matrix
from engram_cli.store.shards import open_shards
from engram_cli.table import convert as streaming
from engram_cli.table.formats import open_stored_table
from engram_cli.table.row_types import ROW_TYPES
from tests.checkpoints import fill, write_deepseek, write_demo, write_qwen
from tests.hosts import write_host
from tests.tables import RECIPE, whole, write_table
from tests.training import TINY, held_out_of

V41_RECIPE = RECIPE.replace("[hash]", '[hash]\nfamily = "deepseek-v4.1"').replace("dim = 4", "dim = 32")


@pytest.fixture
def deepseek(tokenizer_path: Path, tmp_path: Path) -> Path:
    canonical = token_map(load_tokenizer(tokenizer_path)).canonical_vocab
    return write_deepseek(tmp_path / "v41", canonical, tokenizer_path)


@pytest.fixture
def qwen(tokenizer_path: Path, tmp_path: Path) -> Path:
    return write_qwen(tmp_path / "qwen", tokenizer_path)


def files(path: Path) -> dict[str, bytes]:
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


class Stop(Silent):
    """Stops the work when so much of it is done."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("form", ["deepseek-v4.1", "qwen-ple"])
def test_a_checkpoint_comes_back_from_an_artifact(form: str, deepseek: Path, qwen: Path, tmp_path: Path) -> None:
    path = deepseek if form == "deepseek-v4.1" else qwen
    report = convert(path, "engram", tmp_path / "artifact")
    assert report.facts["relative RMS error"] == 0
    assert open_artifact(tmp_path / "artifact").manifest.inputs == {"config": file_digest(path / "config.json")}
    convert(tmp_path / "artifact", form, tmp_path / "back")
    before, after = open_stored_table(path), open_stored_table(tmp_path / "back")
    for ours, theirs in zip(before.layers, after.layers, strict=True):
        for a, b in zip(ours.rows.read_stored(0, ours.rows.count), theirs.rows.read_stored(0, ours.rows.count), strict=True):
            np.testing.assert_array_equal(a, b)
        assert theirs.tensors.keys() == ours.tensors.keys()
        assert theirs.layout == ours.layout
    digest = token_map(load_tokenizer(path / "tokenizer.json")).digest
    assert after.token_map_digest == (digest if form == "deepseek-v4.1" else None)
    assert not differs(diff(path, tmp_path / "back"))


def test_other_tensors_of_the_memory_go_along(deepseek: Path, tmp_path: Path) -> None:
    name = "layers.1.engram.q_weight"
    stored = open_shards(deepseek)[name]
    fill(stored, np.arange(np.prod(stored.spec.shape)).reshape(stored.spec.shape).astype(np.uint16))
    convert(deepseek, "engram", tmp_path / "artifact")
    convert(tmp_path / "artifact", "deepseek-v4.1", tmp_path / "back")
    after = open_shards(tmp_path / "back")[name]
    old, new = (each.path.read_bytes()[each.spec.offset : each.spec.end] for each in (stored, after))
    assert new == old


@pytest.mark.parametrize("dtype", list(ROW_TYPES))
def test_every_type_holds_what_it_says(dtype: str, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", V41_RECIPE)
    report = convert(table, "engram", tmp_path / "out", dtype=dtype)
    before, after = open_stored_table(table), open_stored_table(tmp_path / "out")
    assert {layer.rows.type.name for layer in after.layers} == {dtype}
    a, b = (np.concatenate([whole(layer.rows) for layer in one.layers]).astype(np.float64) for one in (before, after))
    relative = np.sqrt(((a - b) ** 2).sum() / (a**2).sum())
    assert report.facts["relative RMS error"] == pytest.approx(relative, rel=1e-4, abs=1e-12)
    assert relative < 0.05
    assert differs(diff(table, tmp_path / "out")) == bool(relative)
    convert(tmp_path / "out", "engram", tmp_path / "again", dtype=dtype)
    assert open_artifact(tmp_path / "again").digest == open_artifact(tmp_path / "out").digest
    assert open_artifact(tmp_path / "again").manifest.inputs["table"] == open_artifact(tmp_path / "out").digest
    assert all(old == new for _, old, new in verify_files(open_artifact(tmp_path / "out")))


def test_what_is_no_number_or_too_large_is_told(tokenizer_path: Path, tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "demo", tokenizer_path)
    matrix = Matrix([open_shards(demo)["layers.1.engram.multi_head_embedding.embedding.weight"]], "r+")
    matrix.write(3, np.array([[np.nan, np.inf, 70000, 1, 1, 1, 1, 1]], np.float32))
    report = convert(demo, "engram", tmp_path / "half", dtype="f16")
    layer = report.tables["layers"].to_pylist()[0]
    assert (layer["saturated"], layer["not_finite"]) == (1, 2)
    assert layer["relative_rms_error"] < 0.001
    assert any("NaN" in note for note in report.notes)


@pytest.mark.parametrize("dtype", ["bf16", "fp8-scalar"])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    dtype: str, deepseek: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_NUMBERS", 64 * 16)
    monkeypatch.setattr(converting, "_RECORD_SECONDS", 0.0)
    whole_report = convert(deepseek, "engram", tmp_path / "whole", dtype=dtype)
    with pytest.raises(KeyboardInterrupt):
        convert(deepseek, "engram", tmp_path / "out", dtype=dtype, progress=Stop(45))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ArtifactError, match="unfinished run"):
        convert(deepseek, "engram", tmp_path / "out", dtype=dtype)
    with pytest.raises(ArtifactError, match="same options"):
        convert(deepseek, "engram", tmp_path / "out", dtype="f16", resume=True)
    note = tmp_path / ".out.partial" / "scratch" / "convert.json"
    whole_note = note.read_bytes()
    note.write_bytes(whole_note[:-9])
    with pytest.raises(ArtifactError, match="start anew with --force"):
        convert(deepseek, "engram", tmp_path / "out", dtype=dtype, resume=True)
    note.write_bytes(whole_note)
    report = convert(deepseek, "engram", tmp_path / "out", dtype=dtype, resume=True)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert report.tables["layers"] == whole_report.tables["layers"]
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize(
    ("form", "dtype", "reason"),
    [
        ("deepseek-v4.1", None, "has demo"),
        ("qwen-ple", "fp8-scalar", "has demo"),
        ("engram", "fp8-block", "a scale for every 32 numbers"),
        ("gguf", None, "choose one"),
    ],
)
def test_what_a_layout_cannot_tell_is_refused(form: str, dtype: str | None, reason: str, table_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=reason):
        convert(table_path, form, tmp_path / "out", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_a_type_the_layout_has_not_is_refused(deepseek: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds rows of fp8-block, bf16, f16, f32, but these are int8-row"):
        convert(deepseek, "deepseek-v4.1", tmp_path / "out", dtype="int8-row")


def test_the_demo_becomes_an_artifact(tokenizer_path: Path, tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "demo", tokenizer_path)
    convert(demo, "engram", tmp_path / "out")
    assert open_stored_table(tmp_path / "out").family.name == "demo"
    assert not differs(diff(demo, tmp_path / "out"))


def test_out_lies_apart_from_the_source(table_path: Path) -> None:
    for out in (table_path, table_path / "inside"):
        with pytest.raises(ArtifactError, match="must lie apart"):
            convert(table_path, "engram", out, force=True)


def test_an_artifact_needs_a_tokenizer(deepseek: Path, tmp_path: Path) -> None:
    (deepseek / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        convert(deepseek, "engram", tmp_path / "out")
    convert(deepseek, "deepseek-v4.1", tmp_path / "half", dtype="bf16")
    assert not (tmp_path / "half/tokenizer.json").exists()
    assert open_stored_table(tmp_path / "half").layers[0].rows.type.name == "bf16"


def test_a_missing_shard_is_refused(deepseek: Path, tmp_path: Path) -> None:
    open_shards(deepseek)["layers.14.engram.embed.weight"].path.unlink()
    with pytest.raises(ArtifactError, match="not there; fetch it"):
        convert(deepseek, "engram", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_refused_before_work(deepseek: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match="are free"):
        convert(deepseek, "engram", tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()


def test_what_is_kept_beside_is_held_to_its_digests(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", V41_RECIPE)
    convert(table, "deepseek-v4.1", tmp_path / "v41", dtype="fp8-block")
    origin = tmp_path / "v41/engram/origin.json"
    document = json.loads(origin.read_text())
    document["files"]["host.safetensors"]["bytes"] += 1
    origin.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"host\.safetensors is not as it was written"):
        convert(tmp_path / "v41", "engram", tmp_path / "back")


# the loss -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def built(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a host that was built from `ngrams`."""
    return build(ngrams, TINY, tmp_path_factory.mktemp("built") / "table", Budget(tokens=64), device="cpu").path


def test_a_loss_of_other_rows_is_not_carried_over(built: Path, tmp_path: Path) -> None:
    def measured(path: Path) -> bool:
        return bool(open_artifact(path).manifest.facts.keys() & {"held_out_loss", "bits_per_byte"})

    convert(built, "engram", tmp_path / "same")
    convert(built, "engram", tmp_path / "half", dtype="bf16")
    convert(tmp_path / "half", "engram", tmp_path / "full", dtype="f32")
    assert [measured(tmp_path / name) for name in ("same", "half", "full")] == [True, False, False]


def test_a_loss_of_other_rows_is_not_kept_beside_a_checkpoint(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", V41_RECIPE)
    kept = {}
    for dtype in ("f32", "bf16"):
        convert(table, "deepseek-v4.1", tmp_path / dtype, dtype=dtype)
        convert(tmp_path / dtype, "engram", tmp_path / f"{dtype}-back")
        kept[dtype] = "held_out_loss" in open_artifact(tmp_path / f"{dtype}-back").manifest.facts
    assert kept == {"f32": True, "bf16": False}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "fp8-scalar", "int8-row"])
def test_the_loss_is_told_before_and_after(built: Path, ngrams: NGrams, tmp_path: Path, dtype: str) -> None:
    report = convert(built, "engram", tmp_path / "out", dtype=dtype, ngrams=ngrams, max_loss=0.5)
    before, after = (report.facts[f"held-out loss {when}"].value for when in ("before", "after"))  # type: ignore[union-attr]
    old, new = (open_artifact(path).manifest.facts for path in (built, tmp_path / "out"))
    assert round(before, 6) == old["held_out_loss"] == new["held_out_loss_before_rounding"]
    assert round(after, 6) == new["held_out_loss"]
    assert new["bits_per_byte"] == pytest.approx(old["bits_per_byte"] * after / before, abs=2e-6)
    assert (after == before) == (dtype == "f32")
    assert str(report.facts["measured on"]).endswith("of which the table was built")
    table = open_table(tmp_path / "out", "cpu")
    assert after == float(
        token_losses(table.host, table.rows, table.layout.layers, held_out_of(ngrams, table.layout, 1 << 18)).mean()
    )


def test_a_table_that_got_worse_than_allowed_is_not_written(built: Path, ngrams: NGrams, tmp_path: Path) -> None:
    with pytest.raises(LossError, match=r"may rise by -1 \(--max-loss\), but rows of bf16 take it from .* give another --dtype"):
        convert(built, "engram", tmp_path / "out", dtype="bf16", ngrams=ngrams, max_loss=-1)
    assert not list(tmp_path.iterdir())
    convert(built, "engram", tmp_path / "out", dtype="bf16", ngrams=ngrams, max_loss=1)


def test_a_foreign_host_that_moved_is_measured_with_where_it_is_now(ngrams: NGrams, tmp_path: Path) -> None:
    recipe = replace(TINY, host=HostRecipe(context=16), hash=replace(TINY.hash, layers=(1,)))
    host = write_host(tmp_path / "host", ngrams.artifact.file("tokenizer.json"))
    table = build(ngrams, recipe, tmp_path / "table", Budget(tokens=64), host=open_host(host)).path
    moved = host.rename(tmp_path / "moved")
    with pytest.raises(HostError, match="say with --host where it is now"):
        convert(table, "engram", tmp_path / "out", dtype="bf16", ngrams=ngrams)
    report = convert(table, "engram", tmp_path / "out", dtype="bf16", ngrams=ngrams, host=moved)
    assert report.facts["held-out loss before"].value == pytest.approx(  # type: ignore[union-attr]
        open_artifact(table).manifest.facts["held_out_loss"], abs=1e-6
    )


def test_a_loss_without_text_or_host_is_refused(
    built: Path, ngrams: NGrams, raw_ngrams: NGrams, deepseek: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="name the n-gram artifact that holds it with --ngrams"):
        convert(built, "engram", tmp_path / "out", dtype="bf16", max_loss=1)
    with pytest.raises(ArtifactError, match="--host is about the loss on held-out text"):
        convert(built, "engram", tmp_path / "out", dtype="bf16", host=tmp_path)
    with pytest.raises(ArtifactError, match="has no host; leave out --ngrams"):
        convert(deepseek, "engram", tmp_path / "out", ngrams=ngrams)
    with pytest.raises(ArtifactError, match="their tokenizers differ"):
        convert(built, "engram", tmp_path / "out", dtype="bf16", ngrams=raw_ngrams)
    assert {path.name for path in tmp_path.iterdir()} <= {"v41"}
