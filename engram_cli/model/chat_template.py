"""How a host was taught to chat: its own template turns a conversation into token ids, and its end-of-turn tokens end an answer.

The template is a Jinja text beside the tokenizer (chat_template.jinja, tokenizer_config.json, or in a GGUF file); transformers
renders it in a sandbox. What it writes is encoded in one piece, special tokens and all, as it was when the host was taught. So a
turn must not hold what reads as such a token: it would end itself, or speak for another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

from engram_cli.errors import ChatError


@dataclass(frozen=True)
class Message:
    """What one side said, or what the answers are told to be like."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatTemplate:
    """ends: raw ids that end an answer; reader: the tokenizer of transformers that has the template; tokenizer: the host's."""

    def __init__(self, reader: Any, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        self._reader = reader
        self.ends = ends
        self._special = [str(token) for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy, which reads special tokens as such
        self._tokenizer.encode_special_tokens = False

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The conversation up to where its next answer begins, as raw ids. Raises ChatError where the template refuses it, or
        what it is told holds a special token."""
        for message in messages:
            told = "" if message.role == "assistant" else message.content
            if held := next((token for token in self._special if token in told), None):
                raise ChatError(
                    f"a turn holds none of the tokens that part turns, but this one has {held!r}; write it in another way"
                )
        try:
            text = self._reader.apply_chat_template([vars(one) for one in messages], tokenize=False, add_generation_prompt=True)
        except Exception as error:  # what templates raise is theirs to choose
            detail = " ".join(str(error).split())
            raise ChatError(
                f"a conversation has a form that the host's template takes, but it says: {detail[:300]}; use --raw"
            ) from None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
