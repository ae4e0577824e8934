"""The fastest encoder that gives a tokenizer's ids: tiktoken's where it gives the same, else the `tokenizers` library.

Nearly all the time of an extraction from text is spent here. A byte-level BPE means one thing whoever computes it, so tiktoken is
fed the merges of the tokenizer.json and is 4 to 7 times faster. It is used only where nothing else in the tokenizer can change an
id (no normaliser, a known way to split, bytes and merges alone), where every merge is shown to be reached, and where both gave the
same ids on a sample of the corpus at hand; a text in which an added token occurs is left to the library.

Texts are encoded many at a time, end to end with a mark after each: one call that lets go of the interpreter serves them all.
Shapes: T tokens, D documents, R ranks, that is, tiktoken's ids.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Ids = npt.NDArray[Any]  # uint16 or uint32
_SAMPLE = 1 << 18  # characters of the corpus that both encoders are tried on
_WORTH = 8  # characters of text for an id of the vocabulary: with less, making the fast encoder takes longer than it saves
_MARK = "\0"  # tiktoken's special token that comes after each of the texts encoded together
_SPACES = r"|\s+(?!\S)"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CJK = "一-龥぀-ゟ゠-ヿ"
_OTHER = rf"&&[^\p{{N}}{_CJK}]"  # what earlier splits have not cut out
# patterns of successive splits -> one pattern that cuts alike, written for tiktoken's engine: what looks at nothing but itself is one
# group, which is left to an automaton, twice as fast as going from alternative to alternative; and the rest need not go back
SPLITS: Mapping[tuple[str, ...], str] = {
    (_GPT2,): r"(?:'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)|\s++$|\s+(?!\S)|\s",
    (
        r"\p{N}{1,3}",
        f"[{_CJK}]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"""
        "\r\n"
        r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
        "\r\n"
        r"]*|\s*["
        "\r\n"
        r"]+|\s+(?!\S)|\s+",
    ): (  # DeepSeek's: digits and CJK first, then the rest of what they left over
        rf"(?:\p{{N}}{{1,3}}|[{_CJK}]+|"
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
        rf"[^\r\n\p{{L}}\p{{P}}\p{{S}}\p{{N}}{_CJK}]?[\p{{L}}\p{{M}}{_OTHER}]+| ?[\p{{P}}\p{{S}}{_OTHER}]+[\r\n]*|"
        rf"\s*[\r\n]+)|\s++$|\s+(?![^\s\p{{N}}{_CJK}])|\s"
    ),
}
# characters that came with Unicode 13 to 17, and those that engines fold, count or trim each in their way
_PROBE = (
    "a\u08c7 \u0870x \u1c89\u1c8a b\ua7cb \ua7dd 1\U00010d40 \U0001e4f0 \U00010efd\U0001df00 \U00031350 \U0002ebf0 \U000323b0 "
    "\U0001fae8\U0001f6d8 \u0897\u1acf e\u0301 \u2160\u00bd\u0f33\u3007 \ufb01 I\u0130\u017f'\u017f 'S 't'T \u212a\u0085x\u180e "
    "\u200b\u2028\u2029\ufeff\u3000\u00a0\u1680 \x1c\x1f\x0b\x0c \ue000\U000e0001\u0378 \u4e00\u9fa5\u9fa6\u3042\u3097\u30fb "
    "12345 6 \r\n\n  \t x  "
)


class Encoded(NamedTuple):
    """Raw ids of texts end to end, uint16 or uint32 [T], and how many are of each, int64 [D]."""

    ids_T: Ids
    lengths_D: npt.NDArray[np.int64]


class Encoder(Protocol):
    """Encodes texts. name: whose code does it; calls: how many calls of `encode` are worth having under way at a time."""

    name: str
    calls: int

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The ids of texts, the end token appended to each where documents are closed by one. May be called by several threads."""


class TokenizersEncoder:
    """The `tokenizers` library, which spreads a batch over all its threads by itself."""

    name = "tokenizers"
    calls = 1

    def __init__(self, tokenizer: Tokenizer, dtype: npt.DTypeLike, end: int | None) -> None:
        self.tokenizer = tokenizer
        self.dtype = np.dtype(dtype)
        self.closing = [] if end is None else [end]

    def encode(self, texts: Sequence[str]) -> Encoded:
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _end_to_end([np.array(encoding.ids + self.closing, dtype=self.dtype) for encoding in encodings], self.dtype)


class TiktokenEncoder:
    """tiktoken's code on the merges of `tokenizer`; texts that it must not or cannot encode go to the library.

    Raises ValueError where the tokenizer is not of the kind that tiktoken can be fed.
    """

    name = "tiktoken"

    def __init__(self, tokenizer: Tokenizer, dtype: npt.DTypeLike, end: int | None, threads: int) -> None:
        from tiktoken import Encoding

        specification = json.loads(tokenizer.to_str())
        known = splits_of(specification)
        ranks, ids_R = _ranks(specification, tokenizer)
        pattern = SPLITS.get(known) or _grouped(known[0])
        pattern += f"|(?s:(?:(?!{pattern}).)+)"  # what no match covers is a piece too
        added = [token["content"] for token in specification["added_tokens"] if not token["special"]]
        _must(not any(_MARK in token for token in added), "an added token with the mark in it")
        special = {token: rank for rank, token in enumerate([_MARK, *added], len(ranks))}
        self.core = Encoding("engram", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)._core_bpe
        self.marked, self.unmarked = set(special), set(added)
        self.mark = len(ranks)  # added tokens are above
        self.ids_R = np.append(ids_R, end or 0).astype(dtype)
        self.closed = end is not None
        self.calls = threads
        self.library = TokenizersEncoder(tokenizer, dtype, end)

    def encode(self, texts: Sequence[str]) -> Encoded:
        alone = {number for number, text in enumerate(texts) if _MARK in text}
        together = ["" if number in alone else text for number, text in enumerate(texts)]
        ranks_T = self._ranks(_MARK.join([*together, ""]), self.marked)
        if ranks_T is None:
            return _end_to_end([self._alone(text) for text in texts], self.ids_R.dtype)
        encoded = self._encoded(ranks_T)
        marks_D = np.flatnonzero(ranks_T == self.mark)
        alone.update(np.searchsorted(marks_D, np.flatnonzero(ranks_T > self.mark)).tolist())
        if not alone:
            return encoded
        parts = np.split(encoded.ids_T, np.cumsum(encoded.lengths_D)[:-1])
        return _end_to_end([self._alone(texts[n]) if n in alone else part for n, part in enumerate(parts)], self.ids_R.dtype)

    def _encoded(self, ranks_T: npt.NDArray[np.uint32]) -> Encoded:
        """The ids of texts that are marked off in `ranks_T`."""
        ids_T = np.take(self.ids_R, ranks_T, mode="clip")
        marks_D = np.flatnonzero(ranks_T == self.mark)
        lengths_D = np.diff(marks_D, prepend=-1)
        return Encoded(ids_T, lengths_D) if self.closed else Encoded(ids_T[ranks_T != self.mark], lengths_D - 1)

    def _alone(self, text: str) -> Ids:
        """The ids of a text that holds the mark or an added token, or came together with one that tiktoken gave up on."""
        ranks_T = self._ranks(text, self.unmarked)
        if ranks_T is None or (ranks_T > self.mark).any():
            return self.library.encode([text]).ids_T
        return self._encoded(np.append(ranks_T, np.uint32(self.mark))).ids_T

    def _ranks(self, text: str, special: set[str]) -> npt.NDArray[np.uint32] | None:
        """tiktoken's ids, or None where it gives up: its splitting goes back only so often."""
        try:
            return np.frombuffer(self.core.encode_to_tiktoken_buffer(text, special), np.uint32)
        except MemoryError:
            raise
        except Exception:
            return None
        except BaseException as error:  # a panic of its code is no Exception
            if type(error).__name__ != "PanicException":
                raise
            return None


def make_encoder(name: str, tokenizer: Tokenizer, dtype: npt.DTypeLike, end: int | None, threads: int) -> Encoder:
    """The encoder called `name`, one that `choose_encoder` chose."""
    if name == TiktokenEncoder.name:
        return TiktokenEncoder(tokenizer, dtype, end, threads)
    return TokenizersEncoder(tokenizer, dtype, end)


def choose_encoder(tokenizer: Tokenizer, sample: Sequence[str], dtype: npt.DTypeLike, end: int | None, threads: int = 1) -> Encoder:
    """The fastest encoder that gives the ids of `tokenizer` on texts like `sample`.

    sample: documents of the corpus; dtype: of the ids, uint16 or uint32; end: the raw id to append to every document, or None.
    """
    library = TokenizersEncoder(tokenizer, dtype, end)
    if sum(map(len, sample)) < _WORTH * tokenizer.get_vocab_size():
        return library
    try:
        fast = TiktokenEncoder(tokenizer, dtype, end, threads)
    except ValueError:
        return library
    texts = [*_excerpts(sample), _PROBE]
    same = all(map(np.array_equal, fast.encode(texts), library.encode(texts)))
    return fast if same else library


def _end_to_end(parts: Sequence[Ids], dtype: npt.DTypeLike) -> Encoded:
    return Encoded(np.concatenate([np.empty(0, dtype), *parts]), np.array([len(part) for part in parts], dtype=np.int64))


def _excerpts(sample: Sequence[str]) -> list[str]:
    """Some _SAMPLE characters of the texts, a little of each rather than all of a few."""
    step = max(1, len(sample) // 256)
    chosen = sample[::step]
    return [text[: max(64, _SAMPLE // len(chosen))] for text in chosen]


def splits_of(specification: Mapping[str, Any]) -> tuple[str, ...]:
    """The regular expressions that text is split by, one after the other. Raises ValueError where ids depend on more than that."""
    normalizer = specification["normalizer"]
    _must(normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}, "a normaliser")
    steps = specification["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    *splits, last = steps
    _must(last.get("type") == "ByteLevel" and not last["add_prefix_space"], "no bytes")
    patterns = []
    for split in splits:
        _must(split["type"] == "Split" and split["behavior"] == "Isolated" and not split["invert"], "another split")
        _must("Regex" in split["pattern"], "another pattern")
        patterns.append(split["pattern"]["Regex"])
    if last.get("use_regex", True):
        patterns.append(_GPT2)
    _must(len(patterns) == 1 or tuple(patterns) in SPLITS, "several splits")
    return tuple(patterns)


def _grouped(pattern: str) -> str:
    """`pattern`, with what precedes its spaces as a group: well-known ones have nothing that looks ahead in there."""
    head, spaces, rest = pattern.partition(_SPACES)
    return f"(?:{head}){spaces}{rest}" if spaces else pattern


def _ranks(specification: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[dict[bytes, int], npt.NDArray[np.uint32]]:
    """(rank of each token's bytes: bytes first, then merges in their order; raw id of each rank, uint32 [R]).

    tiktoken merges whatever two neighbours make a token, the library only the pairs of its merges. Where each token by itself
    encodes as that token, no other pair can come to lie side by side, and both merge alike.
    """
    model = specification["model"]
    _must(model["type"] == "BPE" and not model.get("dropout") and not model.get("byte_fallback"), "another model")
    _must(not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix"), "marked words")
    vocab: dict[str, int] = model["vocab"]
    bytes_B = _byte_characters()
    _must(vocab.keys() >= set(bytes_B), "not all bytes")
    written = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    tokens = list(dict.fromkeys("".join(pair) for pair in written))
    _must(set(bytes_B) >= set("".join(tokens)), "other letters than bytes")
    byte_of = str.maketrans({character: chr(byte) for byte, character in enumerate(bytes_B)})
    ranks = {token.translate(byte_of).encode("latin-1"): rank for rank, token in enumerate([*bytes_B, *tokens])}
    ids = [vocab[token] for token in (*bytes_B, *tokens)]
    _must(len(ranks) == len(ids), "a token made twice")
    if model.get("ignore_merges"):
        added = {token["content"] for token in specification["added_tokens"]}
        _must(vocab.keys() <= {*bytes_B, *tokens, *added}, "tokens that no merge makes")
    else:
        library = tokenizer.model
        _must(all(len(library.tokenize(token)) == 1 for token in tokens), "merges that are not reached")
    return ranks, np.array(ids, dtype=np.uint32)


def _must(holds: bool, found: str) -> None:
    if not holds:
        raise ValueError(found)


def _byte_characters() -> list[str]:
    """The character that stands for each byte in the tokens of a byte-level BPE: itself where it can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(hidden)) for byte in range(256)]
