"""A memory for a foreign host: it starts as the host, learns, is stored beside it, resumes exactly, and refuses any other."""

import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import HostError
from engram_cli.model import build as module
from engram_cli.model.beams import beam_search
from engram_cli.model.build import build
from engram_cli.model.foreign import ForeignHost
from engram_cli.model.generate import Decoder, Sampling, generate
from engram_cli.model.host_directory import HostDirectory, open_host
from engram_cli.model.start import Start, streams
from engram_cli.model.table import Table, look_up, open_table
from engram_cli.model.train import Budget
from engram_cli.recipe import HostRecipe, MemoryRecipe, Recipe
from engram_cli.store.artifact import Artifact
from tests.hosts import KINDS, LAYERS, WIDTH, write_gguf, write_host
from tests.training import TINY, held_out_of, layout_of, trainer_of

RECIPE = replace(TINY, host=HostRecipe(context=16), memory=MemoryRecipe(convolution="zero"))
STEP = RECIPE.training.stretches * RECIPE.host.context
BUDGET = Budget(tokens=30 * STEP)


@pytest.fixture(scope="module", params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ngrams: NGrams) -> HostDirectory:
    """A tiny host of each kind with the tokenizer of the n-grams."""
    path = tmp_path_factory.mktemp("host") / request.param
    return open_host(write_host(path, ngrams.artifact.file("tokenizer.json"), request.param))


@pytest.fixture(scope="module")
def built(ngrams: NGrams, host: HostDirectory, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build(ngrams, RECIPE, tmp_path_factory.mktemp("built") / "table", BUDGET, host=host)


def start_at(ngrams: NGrams, host: HostDirectory, directory: Path, recipe: Recipe = RECIPE) -> tuple[Start, Recipe]:
    recipe = host.complete(recipe)
    layout = layout_of(ngrams, recipe)
    return Start.make(streams(ngrams, layout)[0], ngrams.vocab, recipe, layout, directory, host=host), recipe


def document(ngrams: NGrams, tokens: int = 20) -> list[int]:
    found: list[int] = ngrams.stream(held_out=True).tokens_T[:tokens].tolist()
    return found


def test_a_memory_just_added_changes_nothing_at_all(ngrams: NGrams, host: HostDirectory, tmp_path: Path) -> None:
    start, recipe = start_at(ngrams, host, tmp_path)
    trainer = trainer_of(ngrams, start, recipe)
    batch = trainer.batches[0]
    looked_up = look_up(layout_of(ngrams, recipe).layers, trainer.rows, batch.windows_BTN, trainer.host.device)
    with torch.no_grad():
        tokens_BT = torch.from_numpy(batch.tokens_BT)
        plain = host.model(input_ids=tokens_BT).logits[..., : host.vocab]
        assert torch.equal(trainer.host(tokens_BT, looked_up), plain)
    assert all(looked.abs().sum() > 0 for looked in looked_up.values())


def test_at_the_output_rows_from_counts_speak_at_once(ngrams: NGrams, host: HostDirectory, tmp_path: Path) -> None:
    recipe = replace(RECIPE, hash=replace(RECIPE.hash, layers=(LAYERS,)), rows=replace(RECIPE.rows, dim=WIDTH // 2))
    start, recipe = start_at(ngrams, host, tmp_path, recipe)
    trainer, held_out = trainer_of(ngrams, start, recipe), held_out_of(ngrams, start.layout)
    loss = trainer.evaluate(held_out)
    torch.nn.init.zeros_(trainer.host.memories[str(LAYERS)].value.weight)  # type: ignore[union-attr, arg-type]
    assert loss < trainer.evaluate(held_out) - 0.01


def test_a_memory_learns_and_the_host_stays_as_it_is(ngrams: NGrams, host: HostDirectory, tmp_path: Path) -> None:
    start, recipe = start_at(ngrams, host, tmp_path)
    trainer, held_out = trainer_of(ngrams, start, recipe), held_out_of(ngrams, start.layout)
    weights = {name: parameter.detach().clone() for name, parameter in trainer.host.host_parameters()}
    before = trainer.evaluate(held_out)
    for _ in range(30):
        trainer.step(0.1)
    assert trainer.evaluate(held_out) < before - 0.02
    assert all(torch.equal(parameter, weights[name]) for name, parameter in trainer.host.host_parameters())


def test_the_artifact_holds_the_memory_and_where_the_host_is(built: Artifact, host: HostDirectory) -> None:
    assert built.manifest.inputs["host"] == host.digest
    assert built.manifest.facts["host"] == {"path": str(host.path), "digest": host.digest}
    assert not built.tensors("host.safetensors")
    alone = built.manifest.facts["held_out_loss_of_host_alone"]
    assert built.manifest.facts["held_out_loss"] < alone
    table = open_table(built.path, "cpu")
    assert (table.recipe.host.name, table.recipe.host.width, table.recipe.host.layers) == (host.path.name, WIDTH, LAYERS)
    assert table.host.stored().keys() == built.tensors("memory.safetensors").keys()


@pytest.mark.parametrize("memory", [True, False])
def test_decoding_with_a_cache_is_the_whole_pass(built: Artifact, ngrams: NGrams, memory: bool) -> None:
    """Token by token, after a cut, and with what a full context forgets."""
    table, ids = open_table(built.path, "cpu"), document(ngrams)
    decoder = Decoder(table, memory)
    for at in range(len(ids)):
        decoder.extend(ids[at : at + 1])
        torch.testing.assert_close(decoder.logits(), whole_pass(table, ids[: at + 1], memory), rtol=1e-4, atol=1e-5)
    decoder.cut(7)
    decoder.extend(ids[9:14])
    torch.testing.assert_close(decoder.logits(), whole_pass(table, ids[:7] + ids[9:14], memory), rtol=1e-4, atol=1e-5)
    assert all(len(gates) == 12 for gates in decoder.gates.values())


def test_a_context_that_is_full_goes_on(built: Artifact, ngrams: NGrams) -> None:
    table = open_table(built.path, "cpu")
    decoder = Decoder(table)
    decoder.extend(document(ngrams, table.host.context - 2))
    assert len(list(generate(decoder, Sampling(temperature=0, max_tokens=6)))) <= 6
    decoder.extend(document(ngrams, 5))
    assert decoder.logits().isfinite().all()
    assert decoder.first > 0


def whole_pass(table: Table, ids: list[int], memory: bool) -> torch.Tensor:
    decoder = Decoder(table)
    decoder.ids = ids
    looked_up = table.look_up(decoder.windows(0, len(ids))[None]) if memory else None
    with torch.no_grad():
        return table.host(torch.tensor([ids]), looked_up)[0, -1]


def test_beams_over_a_foreign_host_are_as_likely_as_the_whole_pass_says(built: Artifact, ngrams: NGrams) -> None:
    """Ids, keys, values and convolutions of a text move together when it goes on from another's."""
    table, ids = open_table(built.path, "cpu"), document(ngrams, 6)
    found = beam_search(table, ids, 4, 5)
    assert len(found) == 4
    for beam in found:
        text = [*ids, *beam.ids, *([table.end] if beam.ended else [])]
        steps = [whole_pass(table, text[:at], True).log_softmax(-1)[text[at]] for at in range(len(ids), len(text))]
        assert beam.log_probability == pytest.approx(float(sum(steps)), abs=1e-3)


@pytest.mark.parametrize("trained", ["memory+last", "memory+all"])
def test_what_was_trained_of_a_host_is_stored(ngrams: NGrams, host: HostDirectory, tmp_path: Path, trained: str) -> None:
    kept: list[ForeignHost] = []
    recipe = replace(RECIPE, training=replace(RECIPE.training, parts=trained, host_learning_rate=5e-3))
    with pytest.MonkeyPatch.context() as patch:
        save = module.save_weights
        patch.setattr(module, "save_weights", lambda made, directory: (kept.append(made), save(made, directory)))
        built = build(ngrams, recipe, tmp_path / "table", Budget(tokens=5 * STEP), host=host)
    table = open_table(built.path, "cpu")
    for (name, parameter), trained_parameter in zip(table.host.named_parameters(), kept[0].parameters(), strict=True):
        assert torch.equal(parameter, trained_parameter), name
    changed = [name for name, p in host.model.named_parameters() if not torch.equal(p, table.host.get_parameter(f"model.{name}"))]
    assert changed
    assert {f"model.{name}" for name in changed} <= built.tensors("host.safetensors").keys()


def test_the_hosts_own_loss_is_of_what_it_was_before_it_trained(
    ngrams: NGrams, host: HostDirectory, built: Artifact, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, training=replace(RECIPE.training, parts="memory+all", host_learning_rate=5e-3))
    trained = build(ngrams, recipe, tmp_path / "table", Budget(tokens=5 * STEP), host=host)
    losses = [table.manifest.facts["held_out_loss_of_host_alone"] for table in (built, trained)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    ngrams: NGrams, host: HostDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, training=replace(RECIPE.training, parts="memory+last"))
    budget = Budget(tokens=12 * STEP)
    whole = build(ngrams, recipe, tmp_path / "whole", budget, host=host)
    step = module.Trainer.step

    def interrupted(trainer: module.Trainer, fraction: float) -> object:
        if trainer.step_number == 5:
            raise KeyboardInterrupt
        return step(trainer, fraction)

    monkeypatch.setattr(module.Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(ngrams, recipe, tmp_path / "stopped", budget, host=host)
    monkeypatch.undo()
    resumed = build(ngrams, recipe, tmp_path / "stopped", budget, host=host, resume=True)
    assert resumed.digest == whole.digest


def test_another_host_is_refused_with_both_digests(built: Artifact, host: HostDirectory, ngrams: NGrams, tmp_path: Path) -> None:
    tokenizer = ngrams.artifact.file("tokenizer.json")
    other = open_host(write_host(tmp_path / "other", tokenizer, host.config.model_type, seed=1))
    with pytest.raises(HostError, match=f"built for a host with digest {host.digest}, but .* has {other.digest}"):
        open_table(built.path, "cpu", host=other.path)
    moved = shutil.copytree(host.path, tmp_path / "moved")
    assert open_table(built.path, "cpu", host=moved).directory == replace(host, path=moved, tokenizer=ANY, config=ANY)


def test_a_memory_for_a_gguf_file_is_that_of_the_same_model(ngrams: NGrams, tmp_path: Path) -> None:
    path = write_host(tmp_path / "host", ngrams.artifact.file("tokenizer.json"))
    hosts = {"one": path, "other": write_gguf(tmp_path / "tiny.gguf", path)}
    for name, host in hosts.items():
        build(ngrams, RECIPE, tmp_path / name, Budget(tokens=3 * STEP), host=open_host(host))
    one, other = (open_table(tmp_path / name, "cpu") for name in hosts)
    ids = document(ngrams)
    torch.testing.assert_close(whole_pass(one, ids, True), whole_pass(other, ids, True))


def test_a_host_that_is_gone_is_told(ngrams: NGrams, tmp_path: Path) -> None:
    path = write_host(tmp_path / "host", ngrams.artifact.file("tokenizer.json"))
    built = build(ngrams, RECIPE, tmp_path / "table", Budget(tokens=STEP), host=open_host(path))
    shutil.rmtree(path)
    with pytest.raises(HostError, match="nothing is there; say with --host where it is now"):
        open_table(built.path, "cpu")


def test_a_table_of_ours_takes_no_other_host(table_path: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="--host is for tables of foreign hosts"):
        open_table(table_path, "cpu", host=tmp_path)


def test_n_grams_of_another_tokenizer_are_refused(ngrams: NGrams, tmp_path: Path, tokenizer_path: Path) -> None:
    other = open_host(write_host(tmp_path / "host", tokenizer_path))
    with pytest.raises(HostError, match=r"\(vocabulary [0-9a-f]{32}\), but .* has another's \([0-9a-f]{32}\)"):
        build(ngrams, RECIPE, tmp_path / "table", BUDGET, host=other)
    assert not (tmp_path / "table").exists()
