"""Where a text may be cut so that its pieces, encoded one by one, give the ids of the whole.

A tokenizer that first splits text by a known pattern sees each match by itself. No known pattern has a match across a boundary of
the kinds below, so a document of any size can go through memory in pieces. Tokenizers that look at a text as a whole (a normaliser,
no splits, an unknown pattern) must have it whole.
"""

import json
import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer

from engram_cli.corpus.encoder import SPLITS, splits_of

PIECE = 1 << 18  # characters: longer documents are cut, in pieces of at least that many
_LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN = {*SPLITS, (_LLAMA,), (_LLAMA.replace("{1,3}", ""),), (_GPT4O,)}  # the third is Qwen's
_LETTERS = (  # of scripts whose letters every version of Unicode knows as letters
    "A-Za-zÀ-ÖØ-öø-ʯ\u0391-\u03a1\u03a3-\u03ce\u0400-\u0481\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u0915-\u0939"
    "\u0e01-\u0e2e\u1e00-\u1e95\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
_CUT = re.compile(f"(?<=[{_LETTERS}])(?=[ \n][{_LETTERS}])|(?<=[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5])(?=[。，、])")


def may_cut(tokenizer: Tokenizer) -> bool:
    """Whether texts may be cut by `cut` before `tokenizer` encodes them."""
    added = [token for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    if any(re.search(r"[ \n。，、]", token.content) or token.lstrip or token.rstrip for token in added):
        return False  # it can reach across
    parts = {"normalizer": tokenizer.normalizer, "pre_tokenizer": tokenizer.pre_tokenizer}
    specification = {name: part if part is None else json.loads(part.__getstate__()) for name, part in parts.items()}
    try:
        return splits_of(specification) in _KNOWN
    except ValueError:
        return False


def cut(texts: Iterable[str], size: int = PIECE, most: int = 1 << 60) -> Iterator[str]:
    """What `texts` are laid end to end, in pieces of at least `size` characters (but for the last), however it is spread over texts.

    What is held is little more than a piece and a text. Raises OverflowError where a piece would have more than `most` characters;
    its message is their number so far.
    """
    held, searched = "", 0
    for text in texts:
        held += text
        begin = 0
        while match := _CUT.search(held, max(begin + size, searched)):
            if match.start() - begin > most:
                raise OverflowError(match.start() - begin)
            yield held[begin : match.start()]
            begin = match.start()
        held = held[begin:]
        searched = max(0, len(held) - 2)  # the last two await what follows
        if len(held) > most:
            raise OverflowError(len(held))
    yield held
