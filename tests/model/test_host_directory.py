"""A host's directory: what it says of itself, and one line for everything that is wrong with it."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from tokenizers import Tokenizer

from engram_cli.corpus.tokenizer import train_tokenizer, vocab_size
from engram_cli.errors import HostError, TokenizerError
from engram_cli.model import host_directory
from engram_cli.model.host_directory import HostDirectory, open_host
from engram_cli.recipe import HashRecipe, HostRecipe, Recipe
from tests.corpora import make_documents
from tests.hosts import KINDS, LAYERS, WIDTH, write_gguf, write_host


@pytest.fixture
def path(tmp_path: Path, tokenizer_path: Path) -> Path:
    """A tiny Llama, to be damaged."""
    return write_host(tmp_path / "host", tokenizer_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_says_what_its_host_is(tmp_path: Path, tokenizer_path: Path, kind: str) -> None:
    host = open_host(write_host(tmp_path / kind, tokenizer_path, kind))
    assert (host.layers, host.width) == (LAYERS, WIDTH)
    assert host.vocab == vocab_size(Tokenizer.from_file(str(tokenizer_path)))
    assert not host.model.training


def test_the_recipe_takes_name_and_sizes_of_the_host(path: Path) -> None:
    host = open_host(path).complete(Recipe(host=HostRecipe(context=32))).host
    assert host == HostRecipe(name="host", width=WIDTH, layers=LAYERS, context=32)
    assert host.foreign


def test_the_digest_is_of_the_weights_and_not_of_the_place(tmp_path: Path, tokenizer_path: Path, path: Path) -> None:
    moved = shutil.copytree(path, tmp_path / "elsewhere")
    other = write_host(tmp_path / "other", tokenizer_path, seed=1)
    assert open_host(moved).digest == open_host(path).digest != open_host(other).digest


def damaged(path: Path, name: str, text: str) -> Path:
    (path / name).write_text(text, encoding="utf-8")
    return path


def refused(path: Path, complaint: str) -> None:
    """Opening it and reading its weights is one line that says `complaint`."""
    with pytest.raises((HostError, TokenizerError), match=complaint) as caught:
        _ = open_host(path).model
    assert "\n" not in str(caught.value)


def test_a_place_without_a_host_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere is no directory")
    refused(tmp_path, "has no config.json and 0 of those")
    for name in ("a.gguf", "b.gguf"):
        damaged(tmp_path, name, "")
    refused(tmp_path, "has no config.json and 2 of those")


def test_files_that_are_not_what_they_seem_are_refused(path: Path) -> None:
    config = (path / "config.json").read_text(encoding="utf-8")
    refused(damaged(path, "config.json", "{"), "its config cannot be")
    refused(damaged(path, "config.json", '{"model_type": "no-such-model"}'), "its config cannot be")
    damaged(path, "config.json", config)
    refused(damaged(path, "tokenizer.json", "[]"), "tokenizer.json is not one")
    (path / "tokenizer.json").unlink()
    refused(path, "tokenizer.json cannot be read")


def test_truncated_weights_are_refused(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(path, "its weights cannot be")
    file.unlink()
    refused(path, "its weights cannot be")


def test_a_host_that_lacks_weights_is_refused(path: Path) -> None:
    """transformers would give it random ones, and say so in a warning."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    refused(damaged(path, "config.json", json.dumps(config | {"num_hidden_layers": LAYERS + 1})), "lacks 9 of them")


def test_a_gguf_file_is_the_same_host(path: Path, tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    file = write_gguf(tmp_path / "gguf/tiny.gguf", path)
    one, other = open_host(path), open_host(file)
    assert (other.layers, other.width, other.vocab, other.context) == (one.layers, one.width, one.vocab, one.context)
    assert open_host(file.parent) == replace(other, config=ANY, tokenizer=ANY)
    other.check_tokenizer(one.tokenizer, tmp_path)
    tokens_BT = torch.arange(20)[None]
    torch.testing.assert_close(other.model(input_ids=tokens_BT).logits, one.model(input_ids=tokens_BT).logits)


def test_a_gguf_says_how_to_get_its_tokenizer(path: Path, tmp_path: Path) -> None:
    host = open_host(write_gguf(tmp_path / "tiny.gguf", path))
    with pytest.raises(HostError, match=r"the host's tokenizer.json, which transformers writes"):
        host.check_tokenizer(train_tokenizer([make_documents(40, seed=5)], 320), tmp_path)


def test_a_truncated_gguf_is_refused(path: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", path)
    file.write_bytes(file.read_bytes()[:-3000])
    refused(file, "cannot be")


def test_a_gguf_that_is_none_is_refused(tmp_path: Path) -> None:
    refused(damaged(tmp_path, "x.gguf", "GGUF?"), "its config cannot be")


@pytest.mark.parametrize(("kind", "complaint"), [("bert", "is a BertForMaskedLM"), ("mamba", "keeps one state")])
def test_other_models_are_refused(tmp_path: Path, tokenizer_path: Path, kind: str, complaint: str) -> None:
    refused(write_host(tmp_path / kind, tokenizer_path, kind), complaint)


def test_ids_that_the_host_does_not_predict_are_refused(tmp_path: Path, tokenizer_path: Path) -> None:
    refused(write_host(tmp_path / "host", tokenizer_path, vocab_size=300), "has 320 and predicts 300")


def test_another_tokenizer_is_refused_with_both_digests(path: Path, tmp_path: Path, tokenizer_path: Path) -> None:
    host = open_host(path)
    host.check_tokenizer(Tokenizer.from_file(str(tokenizer_path)), tmp_path)
    with pytest.raises(HostError, match=r"vocabulary [0-9a-f]{32}\), but .* has another's \([0-9a-f]{32}\)"):
        host.check_tokenizer(train_tokenizer([make_documents(40, seed=5)], 320), tmp_path)


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (Recipe(hash=HashRecipe(layers=(1, 4))), r"has 3 \(0 to 2, and 3, its output\) and the recipe names 4"),
        (Recipe(host=HostRecipe(name="other", width=64)), "with width 64, but .* has 16"),
        (Recipe(host=HostRecipe(name="other", layers=30)), "with layers 30, but .* has 3"),
    ],
)
def test_a_recipe_for_another_host_is_refused(path: Path, recipe: Recipe, complaint: str) -> None:
    with pytest.raises(HostError, match=complaint):
        open_host(path).complete(recipe)


def test_a_host_called_like_ours_is_refused(path: Path) -> None:
    with pytest.raises(HostError, match="engram is the name of the host that is trained here"):
        replace(open_host(path), path=path.with_name("engram")).complete(Recipe())


def test_what_must_be_installed_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host_directory, "find_spec", lambda name: None if name == "transformers" else importlib.util.find_spec(name)
    )
    refused(path, r'not installed; pip install "engram-tables\[hf\]"')


def test_a_loaded_host_is_read_once(path: Path) -> None:
    host: HostDirectory = open_host(path)
    assert host.model is host.model
