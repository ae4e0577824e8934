"""The n-gram artifact as the rest of the tool sees it: counts, tokens and the token map, opened by memory map.

    ngrams = open_ngrams("demo/ngrams")
    grams, counts = ngrams.counts(3)
    training = ngrams.stream(held_out=False)

Shapes: T tokens, D documents, V raw ids, G distinct grams.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from engram_cli.corpus.canonical import map_digest
from engram_cli.corpus.documents import DOCUMENTS, all_digests
from engram_cli.corpus.ngrams import Grams, Keys, WideGrams, column, positions, unpack
from engram_cli.corpus.ready_files import column_reader
from engram_cli.corpus.tokenizer import load_tokenizer
from engram_cli.corpus.tokens import TOKENS
from engram_cli.errors import ArtifactError
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact, open_artifact
from engram_cli.store.schema import ngrams_schema, tokens_schema

TOKENIZER = "tokenizer.json"
TOKEN_MAP = "token_map.arrow"
_BEGIN, _END = "⊢", "⊣"
_SAMPLE = 1 << 22  # tokens
_BLOCK = 1 << 18  # grams
_VISIBLE = str.maketrans({"\n": "⏎", "\r": "␍", "\t": "⇥"})


def ngrams_file(order: int) -> str:
    """Name of the file that holds the counts of one order."""
    return f"ngrams-{order}.arrow"


@dataclass(frozen=True)
class Stream:
    """Documents laid end to end.

    tokens_T: raw token ids, uint16 or uint32; starts_D: first token of each document within tokens_T, int64; bytes_D: UTF-8 bytes
    of each, uint64; digests_D: the low 64 bits of each document's digest.
    """

    tokens_T: npt.NDArray[Any]
    starts_D: npt.NDArray[np.int64]
    bytes_D: Keys
    digests_D: Keys

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.bytes_D.sum())

    @cached_property
    def position_T(self) -> npt.NDArray[np.int64]:
        """How many tokens precede each token within its document."""
        return positions(self.starts_D, 0, len(self.tokens_T))

    def split(self, share: float) -> tuple["Stream", "Stream"]:
        """(the rest, about `share` of the documents): chosen by the documents' digests, so by nothing but their text.

        Held-out documents are chosen by the high half of the digest, these by the low half: the two choices are independent.
        """
        chosen_D = self.digests_D < np.uint64(min(int(share * 2**64), 2**64 - 1))
        return self._select(~chosen_D), self._select(chosen_D)

    def _select(self, keep_D: npt.NDArray[np.bool_]) -> "Stream":
        lengths_D = np.diff(self.starts_D, append=len(self.tokens_T))
        kept_D = lengths_D[keep_D]
        return Stream(
            self.tokens_T[np.repeat(keep_D, lengths_D)], np.cumsum(kept_D) - kept_D, self.bytes_D[keep_D], self.digests_D[keep_D]
        )


class NGrams:
    """An opened n-gram artifact. The attributes that are figures come from the manifest's facts."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        facts = artifact.manifest.facts
        try:
            self.vocab: int = facts["vocab"]
            self.canonical_vocab: int = facts["canonical_vocab"]
            self.pad: int = facts["pad"]
            self.end: int | None = facts["end"]
            self.bits: int = facts["bits"]
            self.orders: tuple[int, ...] = tuple(facts["orders"])
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"the manifest of {artifact.path} lacks the fact {error}; make it again with engram extract"
            ) from None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.artifact.file(TOKENIZER))

    @cached_property
    def canonical_V(self) -> npt.NDArray[np.uint32]:
        """The canonical id of each raw id: uint32 [V]. Raises ArtifactError where the map is not the one that was counted with."""
        canonical_V = column(self._token_map, "canonical")
        if map_digest(canonical_V) != self.artifact.manifest.facts.get("token_map_digest"):
            raise ArtifactError(
                f"{self.artifact.path / TOKEN_MAP} is not the map the grams were counted with; run engram extract again"
            )
        return canonical_V

    @cached_property
    def raw_C(self) -> npt.NDArray[np.uint32]:
        """For each canonical id the raw id that stands for it where text is shown, uint32 [C]: the one that is most frequent in the
        first few million tokens, so that a folded word is shown as it is mostly written."""
        tokens_T = column(self.artifact.table(TOKENS, tokens_schema(self.vocab)), "token")[:_SAMPLE]
        frequency_V = np.bincount(tokens_T, minlength=self.vocab)
        if len(frequency_V) > self.vocab:
            raise ArtifactError(
                f"{self.artifact.path / TOKENS} holds token ids beyond {self.vocab - 1}: it is damaged; make it again"
            )
        by_canonical_V = np.lexsort((np.arange(self.vocab), -frequency_V, self.canonical_V))
        first_C = np.searchsorted(self.canonical_V[by_canonical_V], np.arange(self.canonical_vocab))
        return by_canonical_V[first_C].astype(np.uint32)

    @cached_property
    def _token_map(self) -> Any:
        return self.artifact.table(TOKEN_MAP, schema.TOKEN_MAP)

    @property
    def canonical_pad(self) -> int:
        """The canonical id in window slots before a document's first token."""
        return int(self.canonical_V[self.pad])

    def counts(self, order: int) -> tuple[Grams, Keys]:
        """(grams, counts) of one order: uint64 [G] each, memory-mapped, sorted by gram; grams of more than 64 bits are WideGrams.

        Raises ArtifactError where the order was not counted.
        """
        if order not in self.orders:
            counted = ", ".join(map(str, self.orders))
            raise ArtifactError(
                f"order {order} must have been counted, but {self.artifact.path} has orders {counted}; "
                f"run engram extract with --orders {order}"
            )
        table = self.artifact.table(ngrams_file(order), ngrams_schema(order, self.bits))
        grams_G = column(table, "gram")
        if "gram_low" in table.column_names:
            return WideGrams(grams_G, column(table, "gram_low")), column(table, "count")
        return grams_G, column(table, "count")

    def blocks(self, order: int) -> Iterator[tuple[npt.NDArray[np.int64], Keys]]:
        """All that was counted of one order, in stretches: (canonical ids as `unpack` has them; counts), read past the map, so that a
        pass leaves nothing in the process.

        Raises ArtifactError where the order was not counted, or where ids are not of the token map.
        """
        _, counted = self.counts(order)
        names = ngrams_schema(order, self.bits).names
        *grams, counts = (column_reader(self.artifact.file(ngrams_file(order)), name) for name in names)
        for first in range(0, len(counted), _BLOCK):
            stretch = first, min(first + _BLOCK, len(counted))
            parts = [read(*stretch) for read in grams]
            windows_GN = self.unpack(WideGrams(*parts) if len(parts) > 1 else parts[0], order)
            self._check_ids(int(windows_GN.max()))
            yield windows_GN, counts(*stretch)

    def count(self, gram_ids_oldest_first: Sequence[int]) -> int:
        """Occurrences of a gram of canonical ids; 0 where it is not among the counts. Raises ArtifactError as `counts`."""
        packed = 0
        for id in gram_ids_oldest_first:
            packed = packed << self.bits | int(id)
        grams_G, counts_G = self.counts(len(gram_ids_oldest_first))
        low, first, last = np.uint64(packed & (2**64 - 1)), 0, len(grams_G)
        if isinstance(grams_G, WideGrams):
            high = np.uint64(packed >> 64)
            first, last = int(np.searchsorted(grams_G.high, high)), int(np.searchsorted(grams_G.high, high, "right"))
        low_G = grams_G.low if isinstance(grams_G, WideGrams) else grams_G
        at = first + int(np.searchsorted(low_G[first:last], low))
        return int(counts_G[at]) if at < last and low_G[at] == low else 0

    def unpack(self, grams_G: Grams, order: int) -> npt.NDArray[np.int64]:
        """Canonical ids of grams, newest first as `table.hashing.windows` has them: int64 [G, order]."""
        return unpack(grams_G, order, self.bits)

    def text(self, gram_ids_oldest_first: Iterable[int]) -> str:
        """A gram of canonical ids as readable text: ⊢ before the document's first token, ⊣ for its end, ⏎ for a line break, ␣ for
        nothing but spaces. Raises ArtifactError for ids that the token map does not have."""
        ids = [int(id) for id in gram_ids_oldest_first]
        self._check_ids(max(ids))
        leading = next((at for at, id in enumerate(ids[:-1]) if id != self.canonical_pad), len(ids) - 1)
        last = len(ids) - 1 if self.end is not None and ids[-1] == self.canonical_V[self.end] else len(ids)
        text: str = self.tokenizer.decode(self.raw_C[ids[leading:last]].tolist(), skip_special_tokens=False)
        shown = text.translate(_VISIBLE).strip(" ") or ("␣" if text else "")
        return _BEGIN * leading + shown + (_END if last < len(ids) else "")

    def _check_ids(self, largest: int) -> None:
        if largest >= self.canonical_vocab:
            raise ArtifactError(
                f"canonical ids end at {self.canonical_vocab - 1}, but a gram in {self.artifact.path} has {largest}: the counts are "
                "damaged; run engram extract again"
            )

    def stream(self, held_out: bool) -> Stream:
        """The training documents or the held-out ones, memory-mapped."""
        documents = self.artifact.table(DOCUMENTS, schema.DOCUMENTS)
        training = documents.num_rows - int(documents["held_out"].to_numpy().sum())
        chosen = slice(training, None) if held_out else slice(training)  # training documents come first
        offset_D, length_D = (documents[name].to_numpy()[chosen].astype(np.int64) for name in ("offset", "length"))
        begin = int(offset_D[0]) if len(offset_D) else 0
        tokens_T = column(self.artifact.table(TOKENS, tokens_schema(self.vocab)), "token")[begin : begin + int(length_D.sum())]
        low_D = all_digests(documents["digest"]).low_D
        return Stream(tokens_T, offset_D - begin, documents["bytes"].to_numpy()[chosen], low_D[chosen])


def open_ngrams(path: str | Path) -> NGrams:
    """Open the n-gram artifact at `path`. Raises ArtifactError where there is none, or where it is of another kind."""
    return NGrams(open_artifact(path, "ngrams"))
