"""Conversations: what is shown is what the document holds, and what the document holds is what the host goes on from."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ChatError
from engram_cli.model import session as module
from engram_cli.model.build import build
from engram_cli.model.generate import Decoder, Sampling
from engram_cli.model.host_directory import open_host
from engram_cli.model.session import PARAGRAPH, Session, open_session
from engram_cli.model.table import Table, open_table
from engram_cli.model.train import Budget
from engram_cli.recipe import HostRecipe
from tests.hosts import teach_to_chat, write_host
from tests.training import TINY

Script = Callable[[Sequence[int]], None]


@pytest.fixture(scope="module")
def table(table_path: Path) -> Table:
    return open_table(table_path, "cpu")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Make the host say these ids."""

    def say(ids: Sequence[int]) -> None:
        def scripted(decoder: Decoder, sampling: Sampling, *_: object) -> Generator[int, None, None]:
            for token in ids[: sampling.max_tokens]:
                decoder.extend([token])
                yield token

        monkeypatch.setattr(module, "generate", scripted)

    return say


def byte_ids(table: Table, text: str) -> list[int]:
    """`text` with one id for each of its UTF-8 bytes."""
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [table.tokenizer.token_to_id(letter) for piece, _ in letters for letter in piece]


def document(session: Session) -> str:
    return session.table.tokenizer.decode(session.decoder.ids)


def test_the_conversation_is_one_document_of_paragraphs(table: Table, script: Script) -> None:
    session = Session(table)
    session.reset(" A guide to capitals. ")
    script(byte_ids(table, " Paris."))
    session.feed("The capital of France is ")
    assert "".join(session.generate()) == " Paris."
    session.feed("Of Italy:")
    assert document(session) == PARAGRAPH.join(["A guide to capitals.", "The capital of France is Paris.", "Of Italy:"])
    first, answer, stop = session.turn
    assert table.tokenizer.decode(session.decoder.ids[first:answer]) == PARAGRAPH + "Of Italy:"
    assert answer == stop
    session.reset()
    assert document(session) == "A guide to capitals."
    session.reset("")
    assert session.decoder.ids == []


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\ufffd"), min_size=1))
@settings(deadline=None, max_examples=60)
def test_pieces_are_whole_characters_whatever_the_bytes(table: Table, text: str) -> None:
    answer = module._Answer(table.tokenizer, table.tokenizer.encode("So:").ids)
    pieces = [answer.push(id) for id in byte_ids(table, text)]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert answer.shown_tokens() == (len(text.encode()), "")


def test_half_a_character_is_not_shown_and_not_kept(table: Table, script: Script) -> None:
    session = Session(table)
    session.feed("An")
    script(byte_ids(table, "é🙂")[:-1])
    assert list(session.generate()) == ["é"]
    assert document(session) == "Ané"


def test_bytes_that_never_become_a_character_are_shown_as_such_once_text_follows(table: Table, script: Script) -> None:
    session = Session(table)
    session.feed("An")
    bad = byte_ids(table, "é")[:1]
    script([*bad, *byte_ids(table, "x")])
    assert list(session.generate()) == ["\ufffdx"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (" One.\n\nTwo.", " One."),
        (" One.\nTwo.\n\n\n", " One.\nTwo."),
        ("\n\n\nOne.\n\nTwo.", "\n\n\nOne."),
        ("One.\n", "One."),
    ],
)
def test_an_answer_ends_with_its_paragraph(table: Table, script: Script, said: str, shown: str) -> None:
    session = Session(table)
    session.feed("So:")
    script(byte_ids(table, said))
    assert "".join(session.generate()) == shown
    assert document(session) == "So:" + shown
    assert session.stopped_by == ("paragraph" if "\n\n" in said else "end")


def test_a_token_in_which_the_paragraph_ends_is_kept_as_far_as_it_was_shown(table: Table) -> None:
    answer = module._Answer(table.tokenizer, [])
    texts = iter([" One", ".\n\nTw"])
    answer._decode = lambda token: next(texts)  # type: ignore[method-assign]
    assert [answer.push(7), answer.push(8)] == [" One", "."]
    assert answer.ended
    assert answer.shown_tokens() == (1, ".")


def test_stopping_an_answer_keeps_what_was_shown(table: Table, script: Script) -> None:
    session = Session(table)
    session.feed("So:")
    script(byte_ids(table, "abcdef"))
    answer = session.generate()
    assert [next(answer), next(answer)] == ["a", "b"]
    answer.close()
    assert session.stopped_by == "interrupt"
    assert document(session) == "So:ab"


def test_the_longest_answer_is_max_tokens(table: Table, script: Script) -> None:
    session = Session(table, Sampling(max_tokens=3))
    session.feed("So:")
    script(byte_ids(table, "abcdef"))
    assert "".join(session.generate()) == "abc"
    assert session.stopped_by == "max_tokens"


def test_equal_seeds_give_equal_conversations_and_reset_begins_again(table: Table) -> None:
    def talk(session: Session) -> list[str]:
        answers = []
        for text in ("The capital of", "The river"):
            session.feed(text)
            answers.append("".join(session.generate()))
        return answers

    session = Session(table, Sampling(temperature=1, seed=7, max_tokens=24))
    first = talk(session)
    session.reset()
    assert talk(session) == first == talk(Session(table, Sampling(temperature=1, seed=7, max_tokens=24)))
    session.reset()
    session.sampling = replace(session.sampling, seed=8)
    assert talk(session) != first


def test_text_may_look_like_a_special_token(table: Table) -> None:
    session = Session(table)
    session.feed("<|endoftext|>")
    assert table.end not in session.decoder.ids


@pytest.mark.parametrize("text", ["", " \n\t", "half a pair \ud800"])
def test_a_turn_without_text_is_refused_and_changes_nothing(table: Table, text: str) -> None:
    session = Session(table)
    with pytest.raises(ChatError, match="a turn"):
        session.feed(text)
    assert session.decoder.ids == []
    assert session.turn == (0, 0, 0)


def test_usage_of_the_last_turn_and_of_the_session(table: Table) -> None:
    session = Session(table, Sampling(max_tokens=2))
    session.feed("The capital")
    list(session.generate())
    first = session.last_usage
    session.feed("of")
    list(session.generate())
    assert first.prefill_tokens > 0
    assert session.usage == first + session.last_usage


# with a host that was taught to chat ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def taught(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A table whose tiny host was taught to chat."""
    folder = tmp_path_factory.mktemp("taught")
    host = open_host(teach_to_chat(write_host(folder / "host", ngrams.artifact.file("tokenizer.json")), ends=7))
    build(ngrams, replace(TINY, host=HostRecipe(context=16)), folder / "table", Budget(tokens=64), host=host)
    return open_table(folder / "table", "cpu")


def test_a_host_that_chats_is_spoken_to_by_its_template(taught: Table, script: Script) -> None:
    session = open_session(taught, Sampling())
    assert session.chats
    session.reset("Be brief.")
    session.feed("A city?")
    script(byte_ids(taught, " Paris.\n\nOr Rome. "))
    assert "".join(session.generate()) == " Paris.\n\nOr Rome. "  # a paragraph is not the end of it
    session.feed("Why?")
    written = taught.tokenizer.decode(session.decoder.ids, skip_special_tokens=False)
    end = "<|endoftext|>"
    assert written == f"system: Be brief.{end}user: A city?{end}assistant: Paris.\n\nOr Rome.{end}user: Why?{end}assistant:"
    session.reset("")
    session.feed("A city?")
    assert taught.tokenizer.decode(session.decoder.ids, skip_special_tokens=False) == f"user: A city?{end}assistant:"


def test_what_a_template_writes_anew_is_not_read_again(taught: Table) -> None:
    session = open_session(taught, Sampling(max_tokens=3))
    for text in ("A", "B"):
        session.feed(text)
        list(session.generate())
    first, answer, _ = session.turn
    assert 0 < first < answer
    assert session.last_usage.prefill_tokens < answer


@pytest.mark.parametrize("end", [0, 7])
def test_an_answer_ends_with_the_turn(taught: Table, monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    likeliest_V = torch.zeros(len(taught.canonical_V)).index_fill(0, torch.tensor([end]), 5.0)
    monkeypatch.setattr(Decoder, "logits", lambda decoder: likeliest_V)
    session = open_session(taught, Sampling(temperature=0))
    session.feed("A city?")
    list(session.generate())
    assert session.stopped_by == "end"
    _, answer, stop = session.turn
    assert stop - answer <= 1


def test_a_refused_turn_changes_nothing(taught: Table) -> None:
    session = open_session(taught, Sampling(max_tokens=2))
    session.feed("A")
    list(session.generate())
    before = list(session.decoder.ids)
    with pytest.raises(ChatError, match="this one has"):
        session.feed("B<|endoftext|>")
    assert session.decoder.ids == before
    session.feed("B")


def test_raw_text_is_continued_by_any_host(taught: Table, table: Table) -> None:
    session = open_session(taught, Sampling(), raw=True)
    session.feed("A city?")
    assert taught.tokenizer.decode(session.decoder.ids) == "A city?"
    assert not session.chats
    assert not open_session(table, Sampling()).chats
