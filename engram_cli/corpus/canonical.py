"""The token map: raw token ids -> canonical ids, in which tokens that normalise alike share one id.

The rule is the Engram demo's, to the letter: a token's text is normalised (NFKC, NFD, accents stripped, lowercase, white space to
one space), and new ids are given in the order in which keys first appear. It takes the 129,280 ids of the DeepSeek tokenizer to
99,092, the figure released checkpoints declare. Equal numbers of canonical ids do not mean equal maps, hence the digest.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from tokenizers import Regex, Tokenizer, normalizers

from engram_cli.corpus.tokenizer import vocab_size
from engram_cli.store.collector import collector_at_rest
from engram_cli.store.schema import TOKEN_MAP

_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are not whole characters
_LONE_SPACE = "\ue000"  # stands for a token that is exactly one space while the rest is stripped
_RULE = normalizers.Sequence(
    [
        normalizers.NFKC(),
        normalizers.NFD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
        normalizers.Replace(Regex(r"^ $"), _LONE_SPACE),
        normalizers.Strip(),
        normalizers.Replace(_LONE_SPACE, " "),
    ]
)
_HAN = re.compile("[\u4e00-\u9fff]+")  # letters without case, accents or another form
_SPACES = re.compile(r"[ \t\r\n]+")
_ASCII_SPACES = " \t\n\v\f\r"  # what Strip takes off


@dataclass(frozen=True)
class TokenMap:
    """canonical_V: uint32 [V], the canonical id of each raw id; keys_V: the text each raw id was folded by."""

    canonical_V: npt.NDArray[np.uint32]
    keys_V: tuple[str, ...]

    @property
    def canonical_vocab(self) -> int:
        """How many canonical ids there are."""
        return int(self.canonical_V.max()) + 1

    @property
    def digest(self) -> str:
        return map_digest(self.canonical_V)

    def to_arrow(self) -> pa.Table:
        """The map as a table of schema TOKEN_MAP."""
        return pa.table([pa.array(self.canonical_V), pa.array(self.keys_V, pa.string())], schema=TOKEN_MAP)


def map_digest(canonical_V: npt.NDArray[np.uint32]) -> str:
    """xxh3_128 (hex) of the canonical ids as little-endian u32: equal digests, equal maps."""
    return xxhash.xxh3_128_hexdigest(canonical_V.astype("<u4").tobytes())


def token_map(tokenizer: Tokenizer) -> TokenMap:
    """The token map of `tokenizer`, added tokens included."""
    keys_V = tuple(
        (tokenizer.id_to_token(raw) or "") if _REPLACEMENT in text else normalised(text) or text
        for raw, text in enumerate(token_texts(tokenizer))
    )
    ids = {key: canonical for canonical, key in enumerate(dict.fromkeys(keys_V))}
    return TokenMap(np.fromiter(map(ids.__getitem__, keys_V), np.uint32, len(keys_V)), keys_V)


def normalised(text: str) -> str:
    """A token's text as the rule has it. For most it comes down to what Python does by itself: for ASCII to three steps, for Chinese
    to nothing."""
    if not text.isascii():
        return text if _HAN.fullmatch(text) else _RULE.normalize_str(text)
    spaced = _SPACES.sub(" ", text.lower())
    return spaced if spaced == " " else spaced.strip(_ASCII_SPACES)


def identity_map(tokenizer: Tokenizer) -> TokenMap:
    """The map of `--no-canonical`: every raw id is its own canonical id, and its key is its text."""
    texts = token_texts(tokenizer)
    return TokenMap(np.arange(len(texts), dtype=np.uint32), tuple(texts))


@collector_at_rest()
def token_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of each raw id by itself, special tokens as they are written."""
    texts = _decoded(tokenizer, tokenizer.get_vocab_size())  # the highest id is not asked for: that takes as long as all texts
    left_out = any(not text and tokenizer.id_to_token(raw) is None for raw, text in enumerate(texts))
    return _decoded(tokenizer, vocab_size(tokenizer)) if left_out else texts


def _decoded(tokenizer: Tokenizer, ids: int) -> list[str]:
    return tokenizer.decode_batch([[raw] for raw in range(ids)], skip_special_tokens=False)
