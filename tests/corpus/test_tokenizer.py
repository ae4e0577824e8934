"""Tokenizers: found tokens, trained ones, and text that is only text."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from engram_cli.corpus.tokenizer import END, find_end, find_pad, load_tokenizer, train_tokenizer, vocab_size
from engram_cli.errors import TokenizerError
from tests.corpora import make_documents


def trained(vocab: int = 320) -> Tokenizer:
    return train_tokenizer([make_documents(40)], vocab)


def words(*special: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    return tokenizer


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert trained().to_str() == trained().to_str()


def test_trained_ids_are_the_end_token_the_bytes_then_merges_in_their_order() -> None:
    document = json.loads(trained().to_str())
    ids = document["model"]["vocab"]
    assert ids[END] == 0
    assert sorted(ids[letter] for letter in pre_tokenizers.ByteLevel.alphabet()) == list(range(1, 257))
    assert [ids["".join(pair)] for pair in document["model"]["merges"]] == list(range(257, 320))


def test_trained_tokenizer_gives_back_any_text() -> None:
    tokenizer = trained()
    text = " Ünïcödé 東京 🙂\r\n\x01 <|endoftext|>  "
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_a_text_too_small_for_the_vocabulary_gives_fewer_ids() -> None:
    assert vocab_size(train_tokenizer([["ab ab"]], 1000)) < 1000


@pytest.mark.parametrize("vocab", [-1, 0, 256])
def test_too_few_ids_are_refused(vocab: int) -> None:
    with pytest.raises(TokenizerError, match=f"at least 257 ids .* says {vocab}"):
        train_tokenizer([["text"]], vocab)


def test_special_tokens_in_text_are_only_text(tmp_path: Path) -> None:
    trained().save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (trained(), load_tokenizer(tmp_path / "tokenizer.json")):
        assert 0 not in tokenizer.encode(f"a{END}b").ids


def test_nothing_is_truncated_padded_or_added(tmp_path: Path) -> None:
    tokenizer = words("<s>")
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path / "tokenizer.json").encode("b a b", add_special_tokens=False).ids == [1, 0, 1]


def test_a_tokenizer_without_tokens_is_refused(tmp_path: Path) -> None:
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="has none; name another"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_pad_and_end_are_known_by_name() -> None:
    tokenizer = words("</s>", "<pad>")
    assert (find_pad(tokenizer), find_end(tokenizer)) == (3, 2)
    assert find_pad(tokenizer, "b") == 1


def test_the_end_token_pads_where_no_pad_token_is_known() -> None:
    assert find_pad(words("<eos>")) == find_end(words("<eos>")) == 2
    assert find_pad(words()) is find_end(words()) is None


def test_a_pad_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no '<none>'"):
        find_pad(words(), "<none>")


def test_ids_are_counted_to_the_highest() -> None:
    assert vocab_size(Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))) == 8
