"""What was counted: the figures of an n-gram artifact and its most frequent grams as text."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from engram_cli.corpus.artifact import NGrams
from engram_cli.report.report import Measure, Report, Scalar, column, table

_TOP = 10  # grams of each order

ORDERS = [
    column("order", pa.int32()),
    column("distinct", pa.int64(), "grams"),
    column("singletons", pa.int64(), "grams"),  # grams that occur once
    column("singleton_share", pa.float64(), "share"),  # of the distinct grams
]
TOP = [
    column("order", pa.int32()),
    column("gram", pa.string(), "text"),
    column("count", pa.uint64(), "tokens"),
    column("share", pa.float64(), "share"),  # of the tokens
]


def summarise(ngrams: NGrams) -> Report:
    """What `ngrams` counted. Raises ArtifactError where a file is missing or damaged."""
    facts = ngrams.artifact.manifest.facts
    notes = [] if facts["held_out_documents"] else ["No document is held out: nothing can be evaluated on this corpus."]
    tables = {
        "orders": table(ORDERS, _orders(facts), title="Grams"),
        "top": table(TOP, (record for order in ngrams.orders for record in _top(ngrams, order)), title="Most frequent grams"),
    }
    return Report("inspect", f"{ngrams.artifact.path}: n-grams of {facts['tokens']:,} tokens", dict(_facts(ngrams)), tables, notes)


def _facts(ngrams: NGrams) -> Iterator[tuple[str, Scalar | Measure]]:
    facts = ngrams.artifact.manifest.facts
    yield "documents", Measure(facts["documents"], "documents")
    yield "tokens", Measure(facts["tokens"], "tokens")
    yield "text", Measure(facts["bytes"], "bytes")
    yield "bytes per token", facts["bytes"] / facts["tokens"]
    yield "held-out documents", Measure(facts["held_out_documents"], "documents")
    yield "held-out tokens", Measure(facts["held_out_tokens"], "tokens")
    yield "token ids", facts["vocab"]
    yield "canonical ids", facts["canonical_vocab"]
    yield "ids folded", Measure(1 - facts["canonical_vocab"] / facts["vocab"], "share")
    yield "pad token", ngrams.tokenizer.id_to_token(ngrams.pad)
    yield "end token", "none" if ngrams.end is None else ngrams.tokenizer.id_to_token(ngrams.end)


def _orders(facts: Any) -> Iterator[dict[str, Any]]:
    for order in map(str, facts["orders"]):
        distinct, singletons = facts["distinct"][order], facts["singletons"][order]
        yield {"order": int(order), "distinct": distinct, "singletons": singletons, "singleton_share": singletons / distinct}


def _top(ngrams: NGrams, order: int) -> Iterator[dict[str, Any]]:
    """The most frequent grams, most frequent first; of equal counts, the one that sorts first."""
    grams_G, counts_G = ngrams.counts(order)
    tokens = ngrams.artifact.manifest.facts["tokens"]
    least = np.partition(counts_G, -_TOP)[-_TOP] if len(counts_G) > _TOP else 0
    frequent = np.flatnonzero(counts_G >= least)
    top = frequent[np.argsort(-counts_G[frequent].astype(np.int64), kind="stable")][:_TOP]
    for ids, count in zip(ngrams.unpack(grams_G[top], order), counts_G[top].tolist(), strict=True):
        yield {"order": order, "gram": ngrams.text(ids[::-1]), "count": count, "share": count / tokens}
