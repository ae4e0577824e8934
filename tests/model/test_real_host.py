"""A real small model as the host. Run where ENGRAM_TEST_HOST names its directory; made by docs/benchmarks/host_memory.py unpack.

It takes two minutes and needs a model of some hundred megabytes, which is why the other tests do with random ones. What only this
one can show: that numbers of a real model's size stay within tolerance, and that a memory teaches one that can read already.
"""

import os
from pathlib import Path

import pytest
import torch
import zstandard
from torch.nn.functional import cross_entropy

from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.corpus.extract import extract
from engram_cli.model.beams import beam_search
from engram_cli.model.build import build
from engram_cli.model.generate import Decoder, Sampling
from engram_cli.model.host_directory import HostDirectory, open_host
from engram_cli.model.session import open_session
from engram_cli.model.table import Table, open_table
from engram_cli.model.train import Budget
from engram_cli.recipe import HashRecipe, HostRecipe, MemoryRecipe, Recipe, RowsRecipe, TrainingRecipe

HOST = os.environ.get("ENGRAM_TEST_HOST")
BIBLE = Path(__file__).parents[2] / "docs/corpus/bible.jsonl.zst"
CHAPTERS, STEPS = 150, 40
SENTENCE = "In the beginning, God created the heavens and the earth."

pytestmark = pytest.mark.skipif(HOST is None, reason="ENGRAM_TEST_HOST names no directory of a real model")


@pytest.fixture(scope="module")
def host() -> HostDirectory:
    assert HOST is not None
    return open_host(HOST)


@pytest.fixture(scope="module")
def ngrams(host: HostDirectory, tmp_path_factory: pytest.TempPathFactory) -> NGrams:
    """The Bible's first chapters, cut by the tokenizer of the host."""
    folder = tmp_path_factory.mktemp("bible")
    with zstandard.open(BIBLE, "rt", encoding="utf-8") as lines:
        texts = [next(lines) for _ in range(CHAPTERS)]
    (folder / "bible.jsonl").write_text("".join(texts), encoding="utf-8")
    extract([folder / "bible.jsonl"], folder / "ngrams", tokenizer=host.path / "tokenizer.json", orders=3, held_out=0.05)
    return open_ngrams(folder / "ngrams")


@pytest.fixture(scope="module")
def table(ngrams: NGrams, host: HostDirectory, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A memory with a convolution before the last block, trained for a moment."""
    recipe = Recipe(
        hash=HashRecipe(size=(16384, 32768), layers=(host.layers - 1,)),
        rows=RowsRecipe(dim=host.width // 4),
        memory=MemoryRecipe(convolution="zero"),
        host=HostRecipe(context=64),
        training=TrainingRecipe(batch=2, learning_rate=0.03, row_learning_rate=0.01),
    )
    built = build(ngrams, recipe, tmp_path_factory.mktemp("real") / "table", Budget(tokens=STEPS * 128), host=host)
    return open_table(built.path, "cpu")


def whole_pass(table: Table, ids: list[int], memory: bool = True) -> torch.Tensor:
    decoder = Decoder(table)
    decoder.extend(ids)
    looked_up = table.look_up(decoder.windows(0, len(ids))[None]) if memory else None
    with torch.no_grad():
        return table.host(torch.tensor([ids]), looked_up)[0]


def test_decoding_with_a_cache_is_the_whole_pass(table: Table) -> None:
    ids = table.tokenizer.encode(SENTENCE).ids
    decoder = Decoder(table)
    for id, expected_V in zip(ids, whole_pass(table, ids), strict=True):
        decoder.extend([id])
        torch.testing.assert_close(decoder.logits(), expected_V, rtol=1e-3, atol=1e-3)


def test_beams_are_as_likely_as_the_whole_pass_says(table: Table) -> None:
    ids = table.tokenizer.encode(SENTENCE).ids
    for beam in beam_search(table, ids, 3, 4):
        text = [*ids, *beam.ids, *([table.end] if beam.ended else [])]
        shares_TV = whole_pass(table, text).log_softmax(-1)
        steps = [float(shares_TV[at - 1, text[at]]) for at in range(len(ids), len(text))]
        assert beam.log_probability == pytest.approx(sum(steps), abs=1e-2)


def test_a_memory_lowers_the_loss_on_held_out_text(table: Table, ngrams: NGrams) -> None:
    """The host stayed as it was, so what it says without its memory is where it began."""
    ids = ngrams.stream(held_out=True).tokens_T[:1025].tolist()
    loss, before = (float(cross_entropy(whole_pass(table, ids, memory)[:-1], torch.tensor(ids[1:]))) for memory in (True, False))
    assert loss < before - 0.01


def test_it_answers_by_its_template(table: Table) -> None:
    session = open_session(table, Sampling(max_tokens=8))
    session.feed("What is 1 + 1?")
    assert "".join(session.generate()).strip()
