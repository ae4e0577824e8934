"""Tokenizers: any Hugging Face `tokenizer.json`, or a byte-level BPE trained on the corpus.

Text is text here: what looks like a special token inside a document is encoded as the characters it consists of, nothing is
truncated or padded, and no special tokens are added; the end token is appended by `extract`.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from engram_cli.errors import TokenizerError

END = "<|endoftext|>"  # of a trained tokenizer, which uses it for padding too
SMALLEST_VOCAB = 257  # 256 bytes and END
_END_TOKENS = (
    END, "<｜end▁of▁sentence｜>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>", "<|return|>", "[SEP]",
)  # fmt: skip
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
_PAD_TOKENS = ("<｜▁pad▁｜>", "<pad>", "<|pad|>", "[PAD]", "<PAD>", "<|padding|>", "<|finetune_right_pad_id|>", "<unused0>")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a `tokenizer.json`. Raises TokenizerError where it cannot be read or is not one."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"a tokenizer is a Hugging Face tokenizer.json, but {path} cannot be read ({error.strerror}); name such a file, "
            "or train one with --train-tokenizer"
        ) from None
    try:
        tokenizer = Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(
            f"a tokenizer is a Hugging Face tokenizer.json, but {path} is not one ({error}); name such a file, "
            "or train one with --train-tokenizer"
        ) from None
    if not tokenizer.get_vocab_size():
        raise TokenizerError(f"a tokenizer has tokens, but {path} has none; name another")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def train_tokenizer(texts: Iterable[Sequence[str]], vocab: int) -> Tokenizer:
    """Train a byte-level BPE of `vocab` ids (fewer where the text does not give so many) on batches of documents.

    Id 0 is END, then the 256 bytes, then merges in the order they were made. The same documents give the same tokenizer.
    Raises TokenizerError where `vocab` is too small.
    """
    check_vocab(vocab)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def check_vocab(vocab: int) -> None:
    """Raises TokenizerError where a byte-level BPE cannot have so few ids."""
    if vocab < SMALLEST_VOCAB:
        raise TokenizerError(
            f"a trained tokenizer has at least {SMALLEST_VOCAB} ids (256 bytes and {END}), but --train-tokenizer says {vocab}; "
            "8192 suits a few megabytes of text"
        )


def vocab_size(tokenizer: Tokenizer) -> int:
    """Raw ids: the highest id and one, added tokens included."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """xxh3_128 (hex) over tokens and their raw ids, added tokens included: equal digests, equal meaning of every id."""
    tokens = sorted((raw, token) for token, raw in tokenizer.get_vocab(with_added_tokens=True).items())
    return xxhash.xxh3_128_hexdigest(repr(tokens).encode(errors="surrogatepass"))


def byte_lengths(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Bytes of text that each raw id stands for, int64 [V]: exact where tokens are written as bytes, else as they are decoded."""
    bytewise = "ByteLevel" in repr(tokenizer.decoder)  # it may be one of a sequence
    added = tokenizer.get_added_tokens_decoder()
    lengths_V = np.zeros(vocab_size(tokenizer), dtype=np.int64)
    for token, raw in tokenizer.get_vocab(with_added_tokens=True).items():
        if raw in added:
            lengths_V[raw] = len(token.encode())
        elif bytewise:
            lengths_V[raw] = len(token)
        elif _BYTE_TOKEN.fullmatch(token):
            lengths_V[raw] = 1
        else:
            lengths_V[raw] = len(token.replace("▁", " ").encode())
    return lengths_V


def find_end(tokenizer: Tokenizer) -> int | None:
    """The raw id of the token that closes a document, known by name, or None."""
    return _find(tokenizer, _END_TOKENS)


def find_pad(tokenizer: Tokenizer, name: str | None = None) -> int | None:
    """The raw id that stands before a document's first token: the token called `name`, else one known by name, else the end token,
    else None. Raises TokenizerError where there is no token `name`."""
    if name is None:
        found = _find(tokenizer, _PAD_TOKENS)
        return find_end(tokenizer) if found is None else found
    found = tokenizer.token_to_id(name)
    if found is None:
        raise TokenizerError(f"--pad-token must be a token of the tokenizer, but it has no {name!r}; look into its tokenizer.json")
    return found


def _find(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    return next((found for name in names if (found := tokenizer.token_to_id(name)) is not None), None)
