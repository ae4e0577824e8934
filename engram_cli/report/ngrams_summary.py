"""What was counted: the figures of an n-gram artifact and its most frequent grams as text."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.corpus import curves, windows
from engram_cli.corpus.artifact import NGrams, ngrams_file
from engram_cli.corpus.engine import cores, in_order
from engram_cli.corpus.ngrams import WideGrams
from engram_cli.corpus.ready_files import column_reader
from engram_cli.errors import ArtifactError
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.store.schema import SPECTRUM, ngrams_schema

_TOP = 10  # grams of each order
_BLOCK = 1 << 17  # rows
_ZIPF = 2**0.5  # ranks of the curve shown grow by this factor

ORDERS = [
    column("order", pa.int32()),
    column("distinct", pa.int64(), "grams"),
    column("singletons", pa.int64(), "grams"),  # grams that occur once
    column("singleton_share", pa.float64(), "share"),  # of the distinct grams
    column("growth", pa.float64()),  # doubling the tokens multiplies the distinct grams by 2 to this power
]
PRUNED = [
    column("order", pa.int32()),
    column("pruned", pa.int64(), "grams"),
    column("occurrences", pa.int64(), "tokens"),
    column("share", pa.float64(), "share"),  # of all occurrences
]
COVERAGE = [
    column("order", pa.int32()),
    column("top_grams", pa.int64(), "grams"),  # the most frequent ones
    column("share", pa.float64(), "share"),  # of all occurrences that they hold
]
GROWTH = [
    column("order", pa.int32()),
    column("tokens", pa.int64(), "tokens"),  # drawn from all
    column("distinct", pa.float64(), "grams"),  # expected among them
]
ZIPF = [
    column("order", pa.int32()),
    column("rank", pa.int64(), "grams"),  # by frequency, the most frequent gram first
    column("count", pa.int64(), "tokens"),  # occurrences of the gram of that rank
]
FOLDING = [
    column("order", pa.int32()),
    column("distinct", pa.int64(), "grams"),
    column("before_folding", pa.int64(), "grams"),  # different grams of raw ids, estimated
    column("merged", pa.float64(), "share"),  # of those
    column("merged_within", pa.float64(), "share"),  # twice the standard error
]
REPETITION = [
    column("windows", pa.string(), "text"),
    column("share", pa.float64(), "share"),
    column("within", pa.float64(), "share"),  # twice the standard error
]
_SCREEN = 12  # rows of a curve shown
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
    if text := windows.warning(facts):
        notes.append(f"{text[0].upper()}{text[1:]}.")
    spectra, sample = read_spectra(ngrams), windows.stored(ngrams.artifact)
    sampled = {} if sample is None else windows.by_length(sample)
    tables = {
        "orders": table(ORDERS, _orders(facts, spectra), title="Grams"),
        **_pruned(facts),
        "folding": table(FOLDING, _folding(sampled, spectra), title="What folding merged, estimated"),
        "repetition": table(
            REPETITION, _repetition(sampled), title=f"Windows of {windows.WINDOW} tokens that are repeated, estimated"
        ),
        "top": table(
            TOP, (record for order in ngrams.orders for record in _top(ngrams, order, spectra[order])), title="Most frequent grams"
        ),
        "coverage": table(COVERAGE, _coverage(spectra), title="What the most frequent grams hold", limit=_SCREEN),
        "growth": table(GROWTH, _growth(spectra), title="Distinct grams among fewer tokens", limit=0),
        "zipf": table(ZIPF, _zipf(spectra), title="Occurrences of a gram by its rank", limit=0),
    }
    return Report("ngrams", f"{ngrams.artifact.path}: n-grams of {facts['tokens']:,} tokens", dict(_facts(ngrams)), tables, notes)


def _facts(ngrams: NGrams) -> Iterator[tuple[str, Scalar | Measure]]:
    facts = ngrams.artifact.manifest.facts
    yield "documents", Measure(facts["documents"], "documents")
    yield "tokens", Measure(facts["tokens"], "tokens")
    yield "text", Measure(facts["bytes"], "bytes")
    yield "tokens per byte", facts["tokens"] / facts["bytes"]
    yield "bytes per token", facts["bytes"] / facts["tokens"]
    yield "held-out documents", Measure(facts["held_out_documents"], "documents")
    yield "held-out tokens", Measure(facts["held_out_tokens"], "tokens")
    if "duplicates" in facts:
        yield "duplicates left out", Measure(facts["duplicates"], "documents")
        yield "encoder", facts["encoder"]
    if "trained_on" in facts:
        yield "tokenizer trained on", Measure(facts["trained_on"], "bytes")
    yield "token ids", facts["vocab"]
    yield "canonical ids", facts["canonical_vocab"]
    yield "ids folded", Measure(1 - facts["canonical_vocab"] / facts["vocab"], "share")
    yield "pad token", ngrams.tokenizer.id_to_token(ngrams.pad)
    yield "end token", "none" if ngrams.end is None else ngrams.tokenizer.id_to_token(ngrams.end)


def read_spectra(ngrams: NGrams) -> dict[int, curves.Curve]:
    """The spectra of the counts. Raises ArtifactError where one does not add up to the tokens, as every order's does."""
    spectra = curves.from_arrow(ngrams.artifact.table(curves.FILE, SPECTRUM))
    tokens = ngrams.artifact.manifest.facts["tokens"]
    for order in ngrams.orders:
        occurrences = spectra[order].occurrences if order in spectra else 0
        if occurrences != tokens:
            raise ArtifactError(
                f"the spectrum of an order adds up to the tokens, {tokens}, but that of order {order} in {ngrams.artifact.path} to "
                f"{occurrences}: the artifact is damaged; run engram extract again"
            )
    return spectra


def _orders(facts: Any, spectra: Mapping[int, curves.Curve]) -> Iterator[dict[str, Any]]:
    for order in facts["orders"]:
        distinct, singletons = facts["distinct"][str(order)], facts["singletons"][str(order)]
        record = {"order": order, "distinct": distinct, "singletons": singletons, "singleton_share": singletons / max(1, distinct)}
        yield record | {"growth": spectra[order].exponent()}


def _pruned(facts: Any) -> dict[str, pa.Table]:
    """What --min-count left out, where it was given."""
    if facts.get("min_count", 1) == 1:
        return {}
    left_out = facts["pruned_occurrences"]
    records = (
        {"order": int(order), "pruned": pruned, "occurrences": left_out[order], "share": left_out[order] / facts["tokens"]}
        for order, pruned in facts["pruned"].items()
    )
    return {"pruned": table(PRUNED, records, title=f"Grams seen less than {facts['min_count']} times, left out")}


def _folding(sampled: Mapping[int, windows.Sampled], spectra: Mapping[int, curves.Curve]) -> Iterator[dict[str, Any]]:
    for order in sorted(sampled.keys() & spectra.keys()):
        merged, distinct = sampled[order].merged, spectra[order].distinct
        if merged is not None:
            before = round(distinct / (1 - merged.share))
            record = {"order": order, "distinct": distinct, "before_folding": before}
            yield record | {"merged": merged.share, "merged_within": merged.within}


def _repetition(sampled: Mapping[int, windows.Sampled]) -> Iterator[dict[str, Any]]:
    longest = sampled.get(windows.WINDOW)
    if longest is not None:
        for label, estimate in (("had occurred before", longest.repeated), ("held out, and counted", longest.held_out_seen)):
            if estimate is not None:
                yield {"windows": label, "share": estimate.share, "within": estimate.within}


def _coverage(spectra: Mapping[int, curves.Curve]) -> Iterator[dict[str, Any]]:
    """By the powers of 2, the highest order first: it is what sizes a table."""
    for order, curve in sorted(spectra.items(), reverse=True):
        for top, share in reversed(list(zip(*map(np.ndarray.tolist, curve.coverage()), strict=True))):
            yield {"order": order, "top_grams": top, "share": share}


def _growth(spectra: Mapping[int, curves.Curve]) -> Iterator[dict[str, Any]]:
    for order, curve in spectra.items():
        for tokens, distinct in zip(*map(np.ndarray.tolist, curve.growth()), strict=True):
            yield {"order": order, "tokens": tokens, "distinct": distinct}


def _zipf(spectra: Mapping[int, curves.Curve]) -> Iterator[dict[str, Any]]:
    """The curve at ranks that grow by a factor, and at the last one."""
    for order, curve in spectra.items():
        rank_C, count_C = curve.zipf()
        ranks = np.append(_ZIPF ** np.arange(2 * int(rank_C[-1]).bit_length() - 1), rank_C[-1]).astype(np.int64)
        rank_P = np.unique(np.minimum(ranks, rank_C[-1]))
        for rank, count in zip(rank_P.tolist(), count_C[np.searchsorted(rank_C, rank_P)].tolist(), strict=True):
            yield {"order": order, "rank": rank, "count": count}


def _top(ngrams: NGrams, order: int, curve: curves.Curve) -> Iterator[dict[str, Any]]:
    """The most frequent grams, most frequent first; of equal counts, the one that sorts first. The spectrum tells how often they
    occur at least; which they are is found in one pass, in blocks."""
    schema = ngrams_schema(order, ngrams.bits)
    rows = ngrams.artifact.table(ngrams_file(order), schema).num_rows  # mapped, so that the file is known to be sound
    *grams, counts = (column_reader(ngrams.artifact.file(ngrams_file(order)), name) for name in schema.names)
    tokens = ngrams.artifact.manifest.facts["tokens"]
    rank_C, count_C = curve.zipf()
    least = count_C[min(int(np.searchsorted(rank_C, _TOP)), len(count_C) - 1)]
    top_K, count_K = np.empty(0, np.int64), np.empty(0, np.uint64)

    def frequent(begin: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        """Rows of a block that may be among them, and their counts."""
        block = counts(begin, min(begin + _BLOCK, rows))
        found_K = np.flatnonzero(block >= least)
        return begin + found_K, block[found_K]

    for found_K, counted_K in in_order((partial(frequent, begin) for begin in range(0, rows, _BLOCK)), cores()):
        top_K, count_K = np.append(top_K, found_K), np.append(count_K, counted_K)
        kept = np.argsort(-count_K.astype(np.int64), kind="stable")[:_TOP]
        top_K, count_K = top_K[kept], count_K[kept]
    parts = [np.array([read(at, at + 1)[0] for at in top_K.tolist()], dtype=np.uint64) for read in grams]
    grams_K = WideGrams(*parts) if len(parts) > 1 else parts[0]
    for ids, count in zip(ngrams.unpack(grams_K, order), count_K.tolist(), strict=True):
        yield {"order": order, "gram": ngrams.text(ids[::-1]), "count": count, "share": count / tokens}
