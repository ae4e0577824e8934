"""The hash that a checkpoint's config asks for, and configs that are refused."""

from typing import Any

import numpy as np
import pytest

from engram_cli.errors import ArtifactError
from engram_cli.recipe import HashRecipe
from engram_cli.table.config import hash_of_config
from engram_cli.table.hashing import multipliers

DEEPSEEK = {
    "engram_layer_ids": [1, 14],
    "engram_num_embeddings": [384006168, 384016682],
    "engram_max_ngram_size": 4,
    "engram_vocab_size": 16000000,
    "engram_n_heads": 8,
    "engram_head_dim": 256,
    "engram_compressed_vocab_size": 99092,
    "engram_pad_token_id": 2,
}
DEMO = {
    "engram_vocab_size": [646400, 646400],
    "max_ngram_size": 3,
    "n_embed_per_ngram": 512,
    "n_head_per_ngram": 8,
    "layer_ids": [1, 15],
    "pad_id": 2,
    "seed": 0,
}
QWEN = {"ple_layer_ids": [2], "ple_embed_dim": 2560, "vocab_size": 248320, "eos_token_id": [248046, 248044], "hidden_size": 2048}
IDENTITY = np.arange(300_000)


def test_deepseek_is_found_with_its_rows() -> None:
    found = hash_of_config({"hidden_size": 1, "text_config": DEEPSEEK}, "config.json")
    assert found is not None
    assert found.hash == HashRecipe((2, 3, 4), 8, (16_000_000,), (1, 14), 0, "deepseek-v4.1")
    assert (found.dim, found.vocab, found.pad) == (256, 99092, 2)
    layout = found.layout(np.arange(10) * 5)
    assert tuple(layer.rows for layer in layout.layers) == found.rows == (384006168, 384016682)
    assert layout.pad == 10  # canonical


def test_qwen_is_found_with_the_defaults_of_its_config() -> None:
    found = hash_of_config(QWEN, "config.json")
    assert found is not None
    assert found.hash == HashRecipe((2, 3), 8, (20_000_000,), (2,), 1234, "qwen-ple", 128)
    assert (found.dim, found.vocab, found.pad, found.rows) == (160, 248320, 248046, None)
    layout = found.layout(IDENTITY)
    assert (layout.rows, layout.pad, layout.layers[0].layer) == (320_001_536, 248046, 1)


def test_both_names_of_the_pad_are_known() -> None:
    other = {key: value for key, value in DEEPSEEK.items() if key != "engram_pad_token_id"} | {"engram_pad_id": 3}
    found = hash_of_config(other, "config.json")
    assert found is not None
    assert found.pad == 3


def test_the_width_stands_in_for_the_embedding_where_it_is_not_told() -> None:
    found = hash_of_config({key: value for key, value in QWEN.items() if key != "ple_embed_dim"}, "config.json")
    assert found is not None
    assert found.dim == 128


def test_a_tokenizer_without_the_pad_is_refused() -> None:
    found = hash_of_config(DEEPSEEK | {"engram_pad_token_id": 50}, "config.json")
    assert found is not None
    with pytest.raises(ArtifactError, match="names 50 and the tokenizer has 50"):
        found.layout(IDENTITY[:50])


@pytest.mark.parametrize("config", [{}, {"text_config": {}}, {"engram_layer_ids": []}, {"ple_layer_ids": None}])
def test_a_model_without_such_layers_has_none(config: dict[str, Any]) -> None:
    assert hash_of_config(config, "config.json") is None


@pytest.mark.parametrize("key", [key for key in DEEPSEEK if key != "engram_layer_ids"])
def test_half_of_the_keys_is_not_enough(key: str) -> None:
    config = {other: value for other, value in DEEPSEEK.items() if other != key}
    with pytest.raises(ArtifactError, match=rf"^`{key}` of c[.]json must be .*, but there is none; get"):
        hash_of_config(config, "c.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"engram_n_heads": "8"}, r"`engram_n_heads` of c[.]json must be a whole number, .* but it is '8'"),
        ({"engram_n_heads": 0}, r"asks for a hash that cannot be .*`hash.heads` must be 1 or more"),
        ({"engram_layer_ids": [1, True]}, "a list of whole numbers"),
        ({"engram_layer_ids": 3}, "a list of whole numbers"),
        ({"engram_num_embeddings": [5]}, "there are 1 for 2"),
        ({"engram_max_ngram_size": 1}, "hash.orders"),
        ({"engram_pad_token_id": -1}, "engram_pad_token_id"),
        ({"engram_compressed_vocab_size": 1.5}, "but it is 1.5"),
        ({"engram_compressed_vocab_size": 0}, "2 or more, at most 4294967296, but it is 0"),
        ({"engram_head_dim": 0}, "1 or more, .* but it is 0"),
        ({"engram_n_heads": 10**9}, "at most 1024, but it is 1000000000"),
        ({"engram_max_ngram_size": 10**12}, "at most 6, but it is 1000000000000"),
        ({"engram_vocab_size": 10**18}, "hash.size"),
        ({"engram_vocab_size": float("inf")}, "but it is inf"),
        ({"engram_pad_id": 3}, "two names of one number, but they are 2 and 3"),
        ({"engram_pad_id": "2"}, "`engram_pad_id` .* but it is '2'"),
    ],
)
def test_a_deepseek_config_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        hash_of_config(DEEPSEEK | changed, "c.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eos_token_id": None}, "`eos_token_id` of c[.]json"),
        ({"eos_token_id": []}, "`eos_token_id` of c[.]json"),
        ({"eos_token_id": ["x"]}, "`eos_token_id` of c[.]json .* but it is 'x'"),
        ({"vocab_size": "many"}, "`vocab_size` of c[.]json"),
        ({"ple_embed_dim": 100}, "a multiple of its 16 heads, but it is 100"),
        ({"ngram_size": 1}, "a multiple of its 0 heads"),
        ({"ple_layer_ids": [0]}, "layer numbers from 1"),
        ({"heads_per_ngram": -8}, "0 or more, at most 1024, but it is -8"),
        ({"eos_token_id": QWEN["vocab_size"]}, "`eos_token_id` of c[.]json .* but it is"),
    ],
)
def test_a_qwen_config_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        hash_of_config(QWEN | changed, "c.json")


def test_both_names_of_the_pad_may_agree() -> None:
    found = hash_of_config(DEEPSEEK | {"engram_pad_id": DEEPSEEK["engram_pad_token_id"]}, "c.json")
    assert found is not None
    assert found.pad == DEEPSEEK["engram_pad_token_id"]


def test_the_config_of_the_demo_leaves_the_number_of_ids_to_the_tokenizer() -> None:
    found = hash_of_config(DEMO, "config.json")
    assert found is not None
    assert (found.hash.family, found.hash.layers, found.hash.sizes, found.dim, found.vocab) == (
        "demo",
        (1, 15),
        (646400,) * 2,
        64,
        None,
    )
    layout = found.layout(np.arange(99092, dtype=np.uint32))
    assert [layer.rows for layer in layout.layers] == [10_344_164, 10_348_242]
    assert layout.layers[0].multipliers_N == tuple(multipliers(0, 1, 3, 99092).tolist())
    for changes in (
        {"n_embed_per_ngram": 500},
        {"n_head_per_ngram": "8"},
        {"max_ngram_size": 10**9},
        {"engram_vocab_size": [5, 5, 5]},
    ):
        with pytest.raises(ArtifactError):
            hash_of_config(DEMO | changes, "config.json")
