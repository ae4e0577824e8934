"""Checkpoints that must be refused by `engram inspect`, each with one line on stderr and exit code 2.

README.md says what each tries, and what stops it.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engram_cli.__main__ import run
from engram_cli.corpus.canonical import token_map
from engram_cli.errors import ArtifactError
from engram_cli.store.shards import INDEX, open_shards
from engram_cli.table.formats import TOKEN_MAP_DIGEST, open_stored_table
from tests.checkpoints import fill, write_deepseek, write_demo, write_qwen
from tests.hostile.test_artifacts import refusal

Output = pytest.CaptureFixture[str]
Damage = Callable[[Path], object]
FIRST, SECOND, THIRD = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


@pytest.fixture
def deepseek(tmp_path: Path, tokenizer_path: Path) -> Path:
    folded = token_map(Tokenizer.from_file(str(tokenizer_path)))
    return write_deepseek(tmp_path / "deepseek", folded.canonical_vocab, tokenizer_path, **{TOKEN_MAP_DIGEST: folded.digest})


@pytest.fixture
def qwen(tmp_path: Path, tokenizer_path: Path) -> Path:
    return write_qwen(tmp_path / "qwen", tokenizer_path)


@pytest.fixture
def demo(tmp_path: Path, tokenizer_path: Path) -> Path:
    return write_demo(tmp_path / "demo", tokenizer_path)


def other_map(path: Path) -> None:
    """Exchange two tokens that fold to themselves: as many canonical ids, of other tokens."""
    document = json.loads(path.read_text(encoding="utf-8"))
    vocab = document["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    path.write_text(json.dumps(document), encoding="utf-8")


def config(**changes: Any) -> Damage:
    """Other numbers in the config; None leaves a key out."""

    def damage(path: Path) -> None:
        document = json.loads((path / "config.json").read_text())
        text = document.get("text_config", document)
        text.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del text[key]
        (path / "config.json").write_text(json.dumps(document))

    return damage


def content(name: str, data: bytes) -> Damage:
    return lambda path: (path / name).write_bytes(data)


def header(change: Callable[[dict[str, Any]], object], name: str = FIRST) -> Damage:
    """Change the header of a shard and leave its length as it is."""

    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        document = json.loads(data[8 : 8 + length])
        change(document)
        text = json.dumps(document).encode()
        assert len(text) <= length
        (path / name).write_bytes(data[:8] + text.ljust(length) + data[8 + length :])

    return damage


def entry(tensor: str, **changes: Any) -> Damage:
    return header(lambda document: document[tensor].update(changes))


def twice(path: Path) -> None:
    """Give the scales the name of the rows, in a header one letter longer."""
    data = (path / FIRST).read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip().replace(b"embed.scale", b"embed.weight", 1)
    (path / FIRST).write_bytes(data[:8] + text.ljust(length) + data[8 + length :])


def cut(name: str) -> Damage:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size - 1)


def index(change: Callable[[dict[str, str]], object]) -> Damage:
    def damage(path: Path) -> None:
        document = json.loads((path / INDEX).read_text())
        change(document["weight_map"])
        (path / INDEX).write_text(json.dumps(document))

    return damage


def unlist(name: str) -> Damage:
    """Take a shard out of the index and leave it on disk."""
    return index(lambda places: [places.pop(tensor) for tensor, shard in list(places.items()) if shard == name])


def number(tensor: str, values: list[int]) -> Damage:
    def damage(path: Path) -> None:
        shards = open_shards(path)
        name = next(each for each in shards if each.endswith(tensor))
        fill(shards[name], np.array(values))

    return damage


ROWS, SCALE = "layers.1.engram.embed.weight", "layers.1.engram.embed.scale"
DEEPSEEK: dict[str, tuple[Damage, str]] = {
    "no config": (lambda path: (path / "config.json").unlink(), "a checkpoint has a config.json"),
    "a config that is no JSON": (content("config.json", b"{"), "cannot be read so"),
    "a config that is a list": (content("config.json", b"[]"), "cannot be read so"),
    "a config too deep": (content("config.json", b"[" * 200_000), "cannot be read so"),
    "a config of bytes": (content("config.json", bytes(range(256))), "cannot be read so"),
    "a config with one key twice": (content("config.json", b'{"a": 1, "a": 2}'), "'a' comes twice"),
    "a config without such layers": (config(engram_layer_ids=None), "names none"),
    "a config of another model": (content("config.json", b'{"hidden_size": 4096}'), "this model has no table"),
    "half of the keys": (config(engram_n_heads=None), "`engram_n_heads` of"),
    "no pad": (config(engram_pad_token_id=None), "`engram_pad_token_id` of"),
    "two pads": (config(engram_pad_id=3), "two names of one number, but they are 2 and 3"),
    "a pad that is no token": (config(engram_pad_token_id=320), "names 320 and the tokenizer has 320"),
    "10^9 heads": (config(engram_n_heads=10**9), "at most 1024, but it is 1000000000"),
    "-8 heads": (config(engram_n_heads=-8), "but it is -8"),
    "heads in words": (config(engram_n_heads="eight"), "but it is 'eight'"),
    "an order of 10^9": (config(engram_max_ngram_size=10**9), "at most 6"),
    "rows of 10^12 numbers": (config(engram_head_dim=10**12), "at most 1048576"),
    "10^18 rows a head": (config(engram_vocab_size=10**18), "hash.size"),
    "as many layers as tokens": (
        config(engram_layer_ids=[*range(10**5)], engram_num_embeddings=[240] * 10**5),
        "there are rows of 1, 14",
    ),
    "other primes": (config(engram_vocab_size=40), "its primes add up to"),
    "one head less": (config(engram_n_heads=1), "its primes add up to"),
    "rows declared that are not there": (
        config(engram_num_embeddings=[1, 2]),
        "declares 1 rows for layer 1, but its primes add up to",
    ),
    "a layer that has no rows": (
        config(engram_layer_ids=[1, 13]),
        "names layers 1, 13 as those with a table, but there are rows of 1, 14",
    ),
    "a layer that is not named": (
        lambda path: config(engram_layer_ids=[1], engram_num_embeddings=open_rows(path)[:1])(path),
        "names layers 1 as those with a table",
    ),
    "narrower rows": (config(engram_head_dim=32), "F8_E4M3 or BF16 or F16 or F32"),
    "another count of canonical ids": (config(engram_compressed_vocab_size=321), "hashes 321 canonical ids, but its tokenizer has"),
    "another map of as many ids": (lambda path: other_map(path / "tokenizer.json"), "of as many canonical ids"),
    "a digest that is none": (config(**{TOKEN_MAP_DIGEST: 7}), "must be a digest in hex"),
    "a tokenizer that is none": (content("tokenizer.json", b"{}"), "tokenizer"),
    "no index": (lambda path: (path / INDEX).unlink(), "has 3 of them"),
    "an index that is none": (content(INDEX, b"[]"), "is not an index of shards"),
    "a shard that is not there": (lambda path: (path / FIRST).unlink(), f"lies in {FIRST} by the index"),
    "a shard that is not in the index": (unlist(FIRST), f"there are rows of 14 ({FIRST} is not in the index)"),
    "a shard outside": (index(lambda places: places.update({ROWS: "../other.safetensors"})), "beside their index"),
    "a tensor in the wrong shard": (index(lambda places: places.update({ROWS: SECOND})), "do not belong together"),
    "a truncated shard": (cut(FIRST), "it is truncated"),
    "an empty shard": (content(FIRST, b""), "header length"),
    "a header of 2^63 bytes": (content(FIRST, (1 << 63).to_bytes(8, "little") + b"{}"), "header length"),
    "a header too deep": (content(FIRST, (200_000).to_bytes(8, "little") + b"[" * 200_000), "not a safetensors"),
    "one name in two shards": (
        lambda path: (path / SECOND).write_bytes((path / FIRST).read_bytes()),
        f"is in {FIRST} and in {SECOND}",
    ),
    "one name twice in a header": (twice, "comes twice"),
    "offsets past the end": (entry(ROWS, data_offsets=[1 << 40, (1 << 40) + 64]), "it is truncated"),
    "offsets that overlap": (
        header(lambda d: d[SCALE].update(data_offsets=[place - 1 for place in d[SCALE]["data_offsets"]])),
        "tensors overlap",
    ),
    "offsets before the beginning": (entry(ROWS, data_offsets=[-64, 0]), "not a safetensors"),
    "numbers of another type": (entry(ROWS, dtype="I8"), "must be F8_E4M3 or BF16 or F16 or F32"),
    "numbers of an unknown type": (entry(ROWS, dtype="F7"), "but it is F7"),
    "scales of another type": (entry(SCALE, dtype="I8"), "numbers without their scales"),
    "rows of another shape": (
        header(lambda d: d[ROWS].update(shape=d[ROWS]["shape"][::-1])),
        "every row would be read for the wrong gram",
    ),
    "scales under another name": (header(lambda d: d.update({"scales": d.pop(SCALE)})), "index and shards do not belong together"),
    "weights of another width": (config(hidden_size=48), "layers.1.engram.wkv.weight of"),
}
QWEN: dict[str, tuple[Damage, str]] = {
    "another seed": (config(seed=0), "layer_multipliers must be"),
    "other multipliers": (
        number("layer_multipliers", [1, 3, 5]),
        "number 0 of model.language_model.layers.1.ple.ple_embedding.layer_mul",
    ),
    "other primes in the checkpoint": (number("ngram_heads_vocab_sizes", [53, 59, 61, 71]), "must be 67 by the config"),
    "other primes in the config": (config(ngram_vocab_size_base=90), "every row would be read for the wrong gram"),
    "parts that are not there": (config(split_ngram_parts=6), "into 6 parts, but there are 5"),
    "10^9 parts": (config(split_ngram_parts=10**9), "into 1000000000 parts"),
    "another padding": (config(make_ngram_vocab_size_divisible_by=1), "every row would be read for the wrong gram"),
    "no padding": (config(make_ngram_vocab_size_divisible_by=0), "hash.multiple"),
    "another layer": (config(ple_layer_ids=[3]), "names layers 2 as those with a table, but there are rows of 1"),
    "a scale of zero": (number("weight_scale", [0]), "must be a positive number, but it is 0"),
    "a scale that is no number": (number("weight_scale", [0x7FC0]), "must be a positive number, but it is nan"),
    "fewer ids than the tokenizer has": (config(vocab_size=300, seed=1234), "layer_multipliers"),
    "an end that is no id": (config(eos_token_id=320), "`eos_token_id` of"),
}
DEMO: dict[str, tuple[Damage, str]] = {
    "other primes": (config(engram_vocab_size=[50, 70]), "every row would be read for the wrong gram"),
    "other offsets": (
        number("layers.1.engram.multi_head_embedding.offsets", [0, 1, 2, 3]),
        "every row would be read for the wrong gram",
    ),
    "another layer": (config(layer_ids=[1, 14]), "names layers 1, 14"),
}


def open_rows(path: Path) -> list[int]:
    return [layer.rows.count for layer in open_stored_table(path).layers]


@pytest.mark.parametrize("attack", DEEPSEEK)
def test_a_deepseek_checkpoint_that_cannot_be_trusted(deepseek: Path, attack: str, capsys: Output) -> None:
    damage, message = DEEPSEEK[attack]
    damage(deepseek)
    assert message in refusal(["inspect", str(deepseek)], capsys)


@pytest.mark.parametrize("attack", QWEN)
def test_a_qwen_checkpoint_that_cannot_be_trusted(qwen: Path, attack: str, capsys: Output) -> None:
    damage, message = QWEN[attack]
    damage(qwen)
    assert message in refusal(["inspect", str(qwen)], capsys)


@pytest.mark.parametrize("attack", DEMO)
def test_a_state_of_the_demo_that_cannot_be_trusted(demo: Path, attack: str, capsys: Output) -> None:
    damage, message = DEMO[attack]
    damage(demo)
    assert message in refusal(["inspect", str(demo)], capsys)


def test_the_checkpoints_are_accepted_before_they_are_damaged(deepseek: Path, qwen: Path, demo: Path) -> None:
    for path in (deepseek, qwen, demo):
        assert run(["inspect", str(path)]) == 0


@pytest.mark.parametrize("size", [0, 4096, 5000, -1])
@pytest.mark.parametrize("name", ["deepseek", "qwen"])
def test_shards_that_are_cut_while_they_are_open(name: str, size: int, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    layer = open_stored_table(path).layers[0]
    shards = {stored.path for stored in layer.tensors.values()}
    for shard in shards:
        os.truncate(shard, size if size >= 0 else shard.stat().st_size - 1)
    with pytest.raises(ArtifactError, match="something cut it while it was read"):
        layer.rows.take(np.arange(layer.rows.count))
    if size >= 0:
        with pytest.raises(ArtifactError, match="something cut it while it was read"):
            layer.rows.read(0, layer.rows.count)


@pytest.mark.parametrize("name", ["deepseek", "qwen", "demo"])
def test_rows_that_are_not_there_are_no_zeros(name: str, request: pytest.FixtureRequest) -> None:
    for layer in open_stored_table(request.getfixturevalue(name)).layers:
        for bad in (-1, layer.rows.count, 1 << 62, -(1 << 62)):
            with pytest.raises(IndexError):
                layer.rows.take(np.array([0, bad]))


@pytest.mark.parametrize("name", ["deepseek", "qwen", "demo"])
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_is_refused_or_survived(name: str, request: pytest.FixtureRequest, capsys: Output, data: st.DataObject) -> None:
    path = request.getfixturevalue(name)
    files = sorted(each.name for each in path.iterdir() if each.name != "tokenizer.json")
    file = path / data.draw(st.sampled_from(files))
    before = file.read_bytes()
    changed = bytearray(before)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(changed), 3000) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    try:
        file.write_bytes(changed)
        assert run(["inspect", str(path)]) in (0, 2)
        assert "Traceback" not in capsys.readouterr().err
    finally:
        file.write_bytes(before)
