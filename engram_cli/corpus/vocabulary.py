"""The vocabulary that a corpus is counted in: a tokenizer, given or trained on the corpus, and its token map."""

from dataclasses import dataclass
from pathlib import Path

import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus import ngrams
from engram_cli.corpus.artifact import TOKEN_MAP, TOKENIZER
from engram_cli.corpus.canonical import TokenMap, identity_map, token_map
from engram_cli.corpus.settings import Settings
from engram_cli.corpus.tokenizer import find_end, find_pad
from engram_cli.progress import ProgressLike
from engram_cli.store.artifact import Draft


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with what the artifact must know of it. file: as it was given, or trained; trained_on: bytes of text, None where it
    was given."""

    tokenizer: Tokenizer
    file: Path
    token_map: TokenMap
    vocab: int
    pad: int
    end: int | None
    bits: int
    trained_on: int | None = None

    def write(self, draft: Draft) -> None:
        """tokenizer.json (as it was given, byte for byte) and token_map.arrow."""
        text = self.file.read_bytes()
        (draft.path / TOKENIZER).write_bytes(text)
        draft.inputs["tokenizer"] = xxhash.xxh3_128_hexdigest(text)
        draft.table(TOKEN_MAP, self.token_map.to_arrow())


def make_vocabulary(
    file: Path, tokenizer: Tokenizer, settings: Settings, progress: ProgressLike, trained_on: int | None = None
) -> Vocabulary:
    """The vocabulary of the tokenizer that was read from `file`. Raises TokenizerError or RecipeError where it does not suit the settings."""
    pad = find_pad(tokenizer, settings.pad_token)
    if pad is None:
        pad = 0
        progress.warn(
            f"the tokenizer has no pad or end token known by name: id 0 ({tokenizer.id_to_token(0)!r}) stands before a document's "
            "first token; choose another with --pad-token"
        )
    folded = token_map(tokenizer) if settings.canonical else identity_map(tokenizer)
    bits = ngrams.gram_bits(folded.canonical_vocab, settings.orders)
    return Vocabulary(tokenizer, file, folded, len(folded.canonical_V), pad, find_end(tokenizer), bits, trained_on)
