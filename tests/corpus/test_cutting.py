"""Long texts are cut where no token reaches across, for every tokenizer that may be cut and for any text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from engram_cli.corpus import cutting
from engram_cli.corpus.cutting import cut, may_cut
from engram_cli.corpus.tokenizer import load_tokenizer, train_tokenizer
from tests.corpora import make_documents
from tests.corpus.test_canonical import deepseek_tokenizer
from tests.corpus.test_encoder import split_by

DOCUMENTS = make_documents(60)
MADE = {
    "trained": lambda: train_tokenizer([DOCUMENTS], 600),
    "llama": lambda: split_by(cutting._LLAMA),
    "gpt-4o": lambda: split_by(cutting._GPT4O),
    "deepseek": lambda: load_tokenizer(deepseek_tokenizer()),
}
NEAR = " \n\n  \r\t'.,!。，、saS1½é ÀñЖяשبкक\u093fก\u0e31ḁ東京かカ한\u0301\u3000_-<|"  # what is cut beside, and what comes near


@pytest.fixture(scope="module", params=list(MADE))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made: Tokenizer = MADE[request.param]()
    return made


@given(text=st.text(st.one_of(st.sampled_from(NEAR), st.characters(codec="utf-8")), max_size=60), size=st.integers(1, 4))
@example(text="It's a b\nc  d \n e, 東京。京都、Wien 'tis x 's", size=1)
def test_pieces_give_the_ids_of_the_whole(tokenizer: Tokenizer, text: str, size: int) -> None:
    pieces = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in cut([text], size)]
    assert sum(pieces, []) == tokenizer.encode(text, add_special_tokens=False).ids


@given(parts=st.lists(st.text(st.sampled_from("ab \n東。"), max_size=9), max_size=9), size=st.integers(1, 6))
def test_pieces_do_not_tell_how_the_text_came(parts: list[str], size: int) -> None:
    whole = "".join(parts)
    pieces = list(cut(parts, size))
    assert pieces == list(cut([whole], size))
    assert "".join(pieces) == whole
    assert all(len(piece) >= size for piece in pieces[:-1])


def test_prose_of_many_scripts_is_cut() -> None:
    for text in ("of the rivers", "и в реках", "στα ποτάμια", "한국어 문장", "東京。京都", "line\nline"):
        assert len(list(cut([text * 9], 1))) > 9


def test_a_text_without_a_place_to_cut_is_not_held_for_ever() -> None:
    for texts in (["x" * 50], ["x"] * 50, ["x" * 50 + " y" * 9]):
        with pytest.raises(OverflowError):
            list(cut(texts, 5, most=40))
    assert list(cut(["x" * 40], 5, most=40)) == ["x" * 40]


def test_tokenizers_that_see_more_than_a_match_may_not_be_cut(tokenizer: Tokenizer) -> None:
    assert may_cut(tokenizer)
    changed = Tokenizer.from_str(tokenizer.to_str())
    changed.add_tokens([AddedToken("<tool>", special=False)])
    assert may_cut(changed)
    changed.normalizer = normalizers.Lowercase()
    assert not may_cut(changed)
    for token in (AddedToken("of the", special=False), AddedToken("<end>", special=False, rstrip=True)):
        changed = Tokenizer.from_str(tokenizer.to_str())
        changed.add_tokens([token])
        assert not may_cut(changed)
    assert not may_cut(split_by(r"\w+|.+"))
