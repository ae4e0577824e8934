"""What is wanted of an extraction, and what it may take."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from engram_cli.corpus.engine import Engine
from engram_cli.corpus.tokenizer import check_vocab
from engram_cli.errors import RecipeError

ENCODING_ERRORS = ("strict", "replace", "ignore")


@dataclass(frozen=True)
class Settings:
    """What is wanted of an extraction.

    tokenizer: a tokenizer.json, or train_vocab: ids of a byte-level BPE trained on the corpus (one of the two); pad_token: the
    token before a document's first (default: known by name); canonical: fold ids by the token map; orders: count grams of 1 to so
    many; held_out: share of documents, chosen by the digests of their texts, that is not counted; min_count: grams seen less often
    are not kept; text_field: of JSONL and Parquet, "text" where it is None, and naming it makes stdin JSONL; encoding_errors:
    strict, replace or ignore; document_separator: splits text files; token_dtype, token_field: of corpora that are tokenised
    already (ready.py); keep_duplicates: count documents that come again, which are left out else; besides: an n-gram artifact whose
    documents count as seen.
    """

    tokenizer: str | Path | None = None
    train_vocab: int | None = None
    pad_token: str | None = None
    canonical: bool = True
    orders: int = 3
    held_out: float = 0.02
    min_count: int = 1
    text_field: str | None = None
    encoding_errors: str = "strict"
    document_separator: str | None = None
    token_dtype: str | None = None
    token_field: str | None = None
    keep_duplicates: bool = False
    besides: str | None = None

    def check(self) -> None:
        """Raises RecipeError or TokenizerError where a setting breaks a rule."""
        if (self.tokenizer is None) == (self.train_vocab is None):
            given = "neither is given" if self.tokenizer is None else "both are given"
            raise RecipeError(f"a corpus is encoded by one tokenizer, --tokenizer FILE or --train-tokenizer VOCAB, but {given}")
        if self.train_vocab is not None:
            check_vocab(self.train_vocab)
        if not 1 <= self.orders <= 6:
            raise RecipeError(f"--orders must be from 1 to 6, but it is {self.orders}; change it")
        if not 0 <= self.held_out < 1:
            raise RecipeError(f"--held-out is a share, from 0 to below 1, but it is {self.held_out}; change it")
        if self.min_count < 1:
            raise RecipeError(f"--min-count must be 1 or more, but it is {self.min_count}; change it")
        if self.encoding_errors not in ENCODING_ERRORS:
            errors = ", ".join(ENCODING_ERRORS)
            raise RecipeError(f"--encoding-errors is one of {errors}, but it is {self.encoding_errors!r}; change it")
        if self.document_separator == "":
            raise RecipeError("--document-separator must be a text, but it is empty; leave it out to keep files whole")

    @property
    def identity(self) -> dict[str, Any]:
        """What the result follows from beside the corpus."""
        files = {} if self.tokenizer is None else {"tokenizer": xxhash.xxh3_128_hexdigest(Path(self.tokenizer).read_bytes())}
        return {name: value for name, value in asdict(self).items() if name != "tokenizer"} | files


@dataclass(frozen=True)
class Means:
    """What an extraction may take, none of which can be seen in the artifact. engine: where it is done; memory: bytes of a process;
    tmp: folder for what does not fit in it, None for one beside the artifact."""

    engine: Engine
    memory: int
    tmp: Path | None
