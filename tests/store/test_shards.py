"""Tensors over several files: each is found where the index says, and what index and shards do not agree on is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engram_cli.errors import ArtifactError
from engram_cli.store.shards import INDEX, open_shards
from engram_cli.store.tensors import map_tensor, write_tensors


def shard(path: Path, **tensors: int) -> None:
    write_tensors(path, {name: ("I64", np.array([value])) for name, value in tensors.items()})


def index(folder: Path, places: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tensors in two shards, and a file that is no shard."""
    shard(tmp_path / "one.safetensors", a=1, b=2)
    shard(tmp_path / "two.safetensors", c=3)
    (tmp_path / "config.json").write_text("{}")
    index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    return tmp_path


def test_tensors_are_found_in_their_shards(folder: Path) -> None:
    shards = open_shards(folder)
    assert sorted(shards) == ["a", "b", "c"]
    assert (shards.missing, shards.unlisted) == ((), ())
    assert [int(map_tensor(shards[name].path, shards[name].spec)[0]) for name in "abc"] == [1, 2, 3]


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    shard(tmp_path / "model.safetensors", a=1)
    assert list(open_shards(tmp_path)) == ["a"]


def test_a_shard_that_is_a_link_is_read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As the cache of Hugging Face keeps them."""
    elsewhere = tmp_path_factory.mktemp("blobs") / "1234"
    (folder / "two.safetensors").rename(elsewhere)
    (folder / "two.safetensors").symlink_to(elsewhere)
    assert "c" in open_shards(folder).headers


def test_a_shard_that_is_not_there_is_an_error_for_whoever_needs_it(folder: Path) -> None:
    (folder / "two.safetensors").unlink()
    shards = open_shards(folder)
    assert shards.missing == ("two.safetensors",)
    assert shards["a"].spec.shape == (1,)
    with pytest.raises(ArtifactError, match=r"c lies in two\.safetensors by the index .* that shard is not there"):
        shards["c"]


def test_a_shard_that_the_index_lacks_is_named(folder: Path) -> None:
    shard(folder / "three.safetensors", d=4)
    with pytest.raises(ArtifactError, match=r"no shard has it \(not in the index: three\.safetensors\)"):
        open_shards(folder)["d"]


def places(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: index(folder, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"} | changes)


def text(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / INDEX).write_text(content) and None


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "one name in two shards": (
        lambda folder: shard(folder / "two.safetensors", c=3, a=9),
        "a is in one.safetensors and in two.saf",
    ),
    "in another shard": (places(a="two.safetensors"), "says that a is in two.safetensors, but it is in one.safetensors"),
    "in no shard": (places(d="two.safetensors"), "says that d is in two.safetensors, but it is in none"),
    "above": (places(c="../two.safetensors"), "beside their index, but .* names '../two.safetensors'"),
    "elsewhere": (places(c="/etc/two.safetensors"), "beside their index"),
    "in a folder": (places(c="x/two.safetensors"), "beside their index"),
    "no name": (places(c=""), "beside their index"),
    "a zero byte": (places(c="two\0.safetensors"), "beside their index"),
    "not safetensors": (places(c="config.json"), "beside their index"),
    "a number": (places(c=7), "not an index"),
    "no map": (text('{"metadata": {}}'), "not an index"),
    "a list": (text('{"weight_map": ["a"]}'), "not an index"),
    "too deep": (text("[" * 100_000), "not an index"),
    "not JSON": (text("{"), "not an index"),
    "one name twice": (text('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}'), "'a' comes twice"),
    "no index": (lambda folder: (folder / INDEX).unlink(), "has 2 of them"),
    "a shard that is none": (lambda folder: (folder / "one.safetensors").write_text("no") and None, "header length"),
}


@pytest.mark.parametrize("attack", REFUSED)
def test_what_does_not_belong_together_is_refused(folder: Path, attack: str) -> None:
    change, message = REFUSED[attack]
    change(folder)
    with pytest.raises(ArtifactError, match=message):
        open_shards(folder)


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has none"):
        open_shards(tmp_path)
