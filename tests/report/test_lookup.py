"""Looking into a table by text, gram and row: the same rows and grams as the hash gives when asked by hand."""

from pathlib import Path

import numpy as np
import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.canonical import token_map
from engram_cli.errors import ArtifactError, RecipeError, TokenizerError
from engram_cli.report.lookup import Lookup, look_up_gram, look_up_text, open_lookup
from engram_cli.report.report import Measure
from engram_cli.report.row import look_at_row
from engram_cli.table.formats import open_stored_table
from engram_cli.table.hashing import row_ids
from engram_cli.table.stored import StoredTable
from tests.checkpoints import write_deepseek, write_qwen
from tests.corpora import write_ngrams


@pytest.fixture(scope="module")
def stored(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> StoredTable:
    """A checkpoint of orders 2 and 3 whose tokenizer and pad are those of the small n-grams."""
    path = tmp_path_factory.mktemp("lookup") / "checkpoint"
    tokenizer = ngrams.artifact.file("tokenizer.json")
    return open_stored_table(
        write_deepseek(path, ngrams.canonical_vocab, tokenizer, engram_max_ngram_size=3, engram_pad_token_id=ngrams.pad)
    )


@pytest.fixture(scope="module")
def lookup(stored: StoredTable, ngrams: NGrams) -> Lookup:
    return open_lookup(stored, ngrams)


def _counted(lookup: Lookup, ngrams: NGrams, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(canonical ids, counts, rows of the first layer's heads of that order) of all grams, by the definition of the hash."""
    grams_G, counts_G = ngrams.counts(order)
    windows_GN, layer = ngrams.unpack(grams_G, order), lookup.layout.layers[0]
    heads = layer.heads_of(order)
    parts = layer.multipliers_NH[:order, heads], np.array(layer.primes_H[heads]), np.array(layer.offsets_H[heads])
    return windows_GN, np.asarray(counts_G), row_ids(windows_GN, *parts)
