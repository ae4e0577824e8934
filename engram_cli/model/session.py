"""A conversation with a table: text in, text out, over the decoder of model/generate.py.

    session = Session(open_table("demo/table"), Sampling(temperature=0))
    session.feed("The capital of France is")
    for piece in session.generate():
        print(piece, end="", flush=True)

Small hosts are taught to continue text, not to chat. So a conversation is one document of paragraphs: the system text, if there is
one, then for each turn its text and the continuation, which is the answer. An answer ends with its paragraph, with the document
(the end token), or at `max_tokens`. With a host that was taught to chat a `ChatSession` writes the document by its template.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import takewhile

import torch
from tokenizers import Tokenizer

from engram_cli.errors import ChatError
from engram_cli.model.chat_template import ChatTemplate, Message
from engram_cli.model.generate import Decoder, Sampling, Usage, generate
from engram_cli.model.table import Table

PARAGRAPH = "\n\n"
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are not a whole character


class Session:
    """A conversation. `decoder.memory` switches its memory; `sampling` can be set at any time, a new seed begins a new series of
    random numbers.

    turn: (first id, first id of the answer, one past the last) of the last turn in `decoder.ids`; stopped_by: why its answer ended:
    "paragraph", "end", "max_tokens", "interrupt", or "" before the first. The host has forgotten the first `decoder.first` ids.
    """

    chats = False  # whether the host is spoken to as it was taught to chat
    _ends: frozenset[int] | None = None  # raw ids that end an answer, None for what ends documents

    def __init__(self, table: Table, sampling: Sampling | None = None, *, memory: bool = True) -> None:
        self.table = table
        self.decoder = Decoder(table, memory)
        self.system = ""
        self._sampling = sampling or Sampling()
        self.reset()

    def reset(self, system: str | None = None) -> None:
        """Begin again: no turns, the seed's first random number. `system`: the text to begin with (None: the same as before)."""
        if system is not None:
            self.system = system.strip()
        opening = self._opening()
        self.decoder.clear()
        self.decoder.extend(opening)
        self.turn = (0, 0, 0)
        self.stopped_by = ""
        self._before = self.decoder.usage
        self._seed()

    @property
    def sampling(self) -> Sampling:
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        reseed = sampling.seed != self._sampling.seed
        self._sampling = sampling
        if reseed:
            self._seed()

    @property
    def usage(self) -> Usage:
        """What the whole session took, `reset` or not."""
        return self.decoder.usage

    @property
    def last_usage(self) -> Usage:
        """What the last turn took."""
        return self.decoder.usage - self._before

    def feed(self, text: str) -> None:
        """Add a turn's text as a new paragraph; `generate` continues it. Raises ChatError where there is no text."""
        text = text.strip()
        if not text:
            raise ChatError("a turn has some text to continue, but this one has none; write a few words")
        self._before = self.decoder.usage
        first = self._write(text)
        self.turn = (first, len(self.decoder.ids), len(self.decoder.ids))

    def generate(self) -> Generator[str, None, None]:
        """The answer, in pieces of whole characters as they come. Close the iterator to stop it: the document then holds just what
        was yielded, as it does after any answer."""
        answer = _Answer(self.table.tokenizer, self.decoder.ids, "" if self.chats else PARAGRAPH)
        first = len(self.decoder.ids)
        self.stopped_by = "interrupt"
        try:
            with closing(generate(self.decoder, self._sampling, self._random, self._ends)) as tokens:
                for token in tokens:
                    piece = answer.push(token)
                    if piece:
                        yield piece
                    if answer.ended:
                        self.stopped_by = "paragraph"
                        return
            self.stopped_by = "max_tokens" if answer.tokens == self._sampling.max_tokens else "end"
        finally:
            kept, rest = answer.shown_tokens()
            self.decoder.cut(first + kept)
            self.decoder.extend(self._encode(rest) if rest else [])
            self.turn = (self.turn[0], first, len(self.decoder.ids))
            self._take_in(answer.shown)

    def _opening(self) -> list[int]:
        """What a document begins with before any turn."""
        return self._encode(self.system)

    def _write(self, text: str) -> int:
        """Add a turn's text to the document; return where it begins."""
        first = len(self.decoder.ids)
        self.decoder.extend(self._encode(PARAGRAPH + text if first else text))
        return first

    def _take_in(self, answer: str) -> None:
        """Note what was answered; the document holds it already."""

    def _seed(self) -> None:
        self._random = torch.Generator().manual_seed(self._sampling.seed)

    def _encode(self, text: str) -> list[int]:
        return self.table.tokenizer.encode(_checked(text), add_special_tokens=False).ids


class ChatSession(Session):
    """A conversation in the host's own chat template. The whole of it is written anew for each turn, as templates may leave out or
    trim what was before; what the host has read of it already is not read again."""

    chats = True

    def __init__(self, table: Table, template: ChatTemplate, sampling: Sampling | None = None, *, memory: bool = True) -> None:
        self._template, self._ends = template, template.ends
        super().__init__(table, sampling, memory=memory)

    def _opening(self) -> list[int]:
        self._messages = [Message("system", _checked(self.system))] if self.system else []
        return []  # some templates need a turn

    def _write(self, text: str) -> int:
        messages = [*self._messages, Message("user", _checked(text))]
        ids = self._template.encode(messages)
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, self.decoder.ids, strict=False)))
        self.decoder.cut(kept)
        self.decoder.extend(ids[kept:])
        self._messages = messages
        return kept

    def _take_in(self, answer: str) -> None:
        self._messages.append(Message("assistant", answer))


def open_session(table: Table, sampling: Sampling, *, memory: bool = True, raw: bool = False) -> Session:
    """A conversation as the table's host was taught it; with `raw` in paragraphs in any case. Raises HostError where the template
    of a host cannot be read."""
    template = None if raw or table.directory is None else table.directory.chat_template(table.tokenizer)
    if template is None:
        return Session(table, sampling, memory=memory)
    return ChatSession(table, template, sampling, memory=memory)


def _checked(text: str) -> str:
    """The text. Raises ChatError where it is not UTF-8: half a surrogate pair, which stands for a byte that is not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ChatError(f"a turn is UTF-8 text, but its character {error.start} is not; convert it to UTF-8 first") from None
    return text


class _Answer:
    """Token ids to text that may be shown: whole characters only, and nothing from `stop` on, which ends it (none: "")."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], stop: str = PARAGRAPH) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._read = list(before[-4:])  # the last ids that are text already; some decoders write an id's space only after another
        self._unread: list[int] = []
        self._text = ""
        self._ends: list[int] = []  # for each token: how long the text was after it
        self._shown = 0
        self.ended = False

    @property
    def tokens(self) -> int:
        return len(self._ends)

    @property
    def shown(self) -> str:
        """What was shown so far."""
        return self._text[: self._shown]

    def push(self, token: int) -> str:
        """Take a token; return what can be shown now. Sets `ended` where the paragraph ended."""
        self._text += self._decode(token)
        self._ends.append(len(self._text))
        begun = len(self._text) - len(self._text.lstrip())  # an answer may begin with a paragraph's end
        end = self._text.find(self._stop, begun) if self._stop and begun < len(self._text) else -1
        self.ended = end >= 0
        if not self.ended:
            end = len(self._text.removesuffix(self._stop[:1]))
        piece, self._shown = self._text[self._shown : end], max(end, self._shown)
        return piece

    def shown_tokens(self) -> tuple[int, str]:
        """How many tokens hold the text that was shown, and the rest of that text where it ends inside a token."""
        whole = max((number for number, end in enumerate(self._ends, 1) if end <= self._shown), default=0)
        while whole and self._ends[whole - 1] == (self._ends[whole - 2] if whole > 1 else 0):
            whole -= 1  # no text came of this one
        return whole, self._text[self._ends[whole - 1] if whole else 0 : self._shown]

    def _decode(self, token: int) -> str:
        self._unread.append(token)
        known: str = self._tokenizer.decode(self._read)
        text: str = self._tokenizer.decode(self._read + self._unread)
        if text.endswith(_UNFINISHED):
            return ""
        self._read, self._unread = self._unread, []
        return text[len(known) :]
