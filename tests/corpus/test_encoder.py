"""The fast encoder: the ids of the tokenizers library, always, whatever the text and the tokenizer."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from engram_cli.corpus import encoder as encoders
from engram_cli.corpus.encoder import Encoder, TiktokenEncoder, TokenizersEncoder, choose_encoder
from engram_cli.corpus.tokenizer import END, load_tokenizer, train_tokenizer
from tests.corpora import make_documents
from tests.corpus.test_canonical import deepseek_tokenizer

DOCUMENTS = make_documents(60)
# as Llama 3 and tiktoken's own cl100k split
_LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split_by(pattern: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        DOCUMENTS, trainers.BpeTrainer(vocab_size=600, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.encode_special_tokens = True
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "trained": lambda: train_tokenizer([DOCUMENTS], 600),
    "llama": lambda: split_by(_LLAMA),
    "with gaps": lambda: split_by(r"\p{L}+|\d\d"),
    "deepseek": lambda: load_tokenizer(deepseek_tokenizer()),
}


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def both(request: pytest.FixtureRequest) -> tuple[Encoder, Encoder]:
    tokenizer = TOKENIZERS[request.param]()
    return TiktokenEncoder(tokenizer, np.uint32, 7, threads=2), TokenizersEncoder(tokenizer, np.uint32, 7)


def agree(both: tuple[Encoder, Encoder], texts: list[str]) -> bool:
    fast, library = (encoder.encode(texts) for encoder in both)
    closing_D = fast.ids_T[np.cumsum(fast.lengths_D) - 1]
    return all(map(np.array_equal, fast, library)) and len(closing_D) == len(texts) and bool((closing_D == 7).all())


@given(
    texts=st.lists(
        st.text(
            st.one_of(st.sampled_from(" \t\r\n'sStTlL1½a.é́漢か\u3097\0\x85\ue000—<｜>"), st.characters(codec="utf-8")), max_size=40
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_gets_the_same_ids(both: tuple[Encoder, Encoder], texts: list[str]) -> None:
    assert agree(both, texts)


def test_every_character_is_split_alike(both: tuple[Encoder, Encoder]) -> None:
    often = [range(0x3400), range(0xA000, 0xAC00), range(0xF900, 0x1FC00)]  # elsewhere neighbours are of one kind
    codes = [code for code in range(0x110000) if not code % 64 or any(code in where for where in often)]
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    lines = ["a" + "a 1".join(characters[begin : begin + 512]) for begin in range(0, len(characters), 512)]
    assert agree(both, lines)


@pytest.mark.parametrize(
    "text", [" " * 5000 + "a", "\n" * 3000, "^" * 3000, "aA" * 2000, "\u0301" * 999, "<|endoftext|>", END * 3, ""]
)
def test_repetitive_and_special_texts(both: tuple[Encoder, Encoder], text: str) -> None:
    assert agree(both, [text])


def test_the_fast_encoder_is_chosen_where_it_is_right() -> None:
    trained = train_tokenizer([DOCUMENTS], 400)
    assert choose_encoder(trained, DOCUMENTS, np.uint16, 0).name == "tiktoken"
    assert choose_encoder(trained, DOCUMENTS[:1], np.uint16, 0).name == "tokenizers"  # not worth while
    encoded = choose_encoder(trained, DOCUMENTS, np.uint16, None).encode(["a river", "", "a hill"])
    assert encoded.ids_T.dtype == np.uint16
    texts_D = np.split(encoded.ids_T, np.cumsum(encoded.lengths_D)[:-1])
    assert [trained.decode(ids_T.tolist()) for ids_T in texts_D] == ["a river", "", "a hill"]


def changed(**changes: object) -> Tokenizer:
    document = json.loads(train_tokenizer([DOCUMENTS], 400).to_str())
    for path, value in changes.items():
        where, _, key = path.rpartition("__")
        (document[where] if where else document)[key] = value
    return Tokenizer.from_str(json.dumps(document))


def test_other_tokenizers_are_left_to_the_library() -> None:
    document = json.loads(changed().to_str())
    merges = document["model"]["merges"]
    digits = {"type": "Digits", "individual_digits": True}
    others = {
        "normaliser": changed(normalizer={"type": "Lowercase"}),
        "prefix space": changed(pre_tokenizer__add_prefix_space=True),
        "dropout": changed(model__dropout=0.5),
        "no splits": changed(pre_tokenizer=None),
        "merges in another order": changed(model__merges=merges[::-1]),
        "digits": changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [digits, document["pre_tokenizer"]]}),
        "word level": Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")),
    }
    assert {name: choose_encoder(other, DOCUMENTS, np.uint32, None).name for name, other in others.items()} == dict.fromkeys(
        others, "tokenizers"
    )


def test_other_ids_on_the_sample_mean_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "SPLITS", {(encoders._GPT2,): r"\p{L}+| |[^\p{L} ]+"})
    assert choose_encoder(train_tokenizer([DOCUMENTS], 400), DOCUMENTS, np.uint32, None).name == "tokenizers"


def test_added_tokens_in_a_text_are_found() -> None:
    tokenizer = train_tokenizer([DOCUMENTS], 400)
    tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken("of the", special=False, lstrip=True)])
    both = TiktokenEncoder(tokenizer, np.uint32, 7, 1), TokenizersEncoder(tokenizer, np.uint32, 7)
    assert agree(both, ["a <tool> b", "most   of the rivers", "plain", "<tool", "<tool>", "a\0river", "> <tool"])
    assert tokenizer.token_to_id("<tool>") in both[0].encode(["a <tool> b"]).ids_T


class Refusing:
    """tiktoken's code, which gives up on texts that hold a word. given: the texts it was given."""

    def __init__(self, core: Any, word: str, error: BaseException) -> None:
        self.core, self.word, self.error = core, word, error
        self.given: list[str] = []

    def encode_to_tiktoken_buffer(self, text: str, special: set[str]) -> Any:
        self.given.append(text)
        if self.word in text:
            raise self.error
        return self.core.encode_to_tiktoken_buffer(text, special)


def test_what_tiktoken_gives_up_on_is_encoded_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    tokenizer = train_tokenizer([DOCUMENTS], 400)
    fast = TiktokenEncoder(tokenizer, np.uint32, 7, 1)
    for error in (ValueError("went back too often"), PanicException()):

        core = Refusing(fast.core, "hill", error)
        monkeypatch.setattr(fast, "core", core)
        assert agree((fast, TokenizersEncoder(tokenizer, np.uint32, 7)), ["a river", "a hill", "a valley"])
        assert core.given == ["a river\0a hill\0a valley\0", "a river", "a hill", "a valley"]
    monkeypatch.setattr(fast, "core", Refusing(fast.core, "river", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fast.encode(["a river"])


def test_a_normaliser_that_does_nothing_is_none() -> None:
    tokenizer = train_tokenizer([DOCUMENTS], 400)
    tokenizer.normalizer = normalizers.Sequence([])
    assert choose_encoder(tokenizer, DOCUMENTS, np.uint32, None).name == "tiktoken"
