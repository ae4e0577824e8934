"""A sample of the corpus's windows, from which it is told how many grams folding merged, and how much text is repeated.

Kept are windows of each order from 2 and of WINDOW tokens whose hash is small, with all their occurrences: equal windows are in the
sample together or not at all, so that the shares of merged and of repeated ones are those of the corpus, but for chance. At most MOST of
each length are kept, by halving the hashes that are small; what is kept follows from the windows alone, not from their order, so that
samples add up as counts do. WINDOW is about the 13 words by which Brown et al. 2020 ("Language models are few-shot learners") found text
that training and test share; with the 50 tokens of Lee et al. 2022 templates hardly show (docs/log.md).

Shapes: R records, C different canonical windows, L lengths, S slots.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.corpus.engine import Stretch, Tokens, in_order
from engram_cli.corpus.ngrams import Buffers
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.store.artifact import Artifact, Draft
from engram_cli.store.schema import WINDOWS

FILE = "windows.arrow"
FACTS = ("merged", "repeated", "held_out_seen")
WINDOW = 16  # tokens
MOST = 1 << 14  # windows of one length in a sample; a power of 2
REPEATED = 0.1  # share above which repetition is warned of
_STRETCH = 1 << 20  # tokens
_SEED = 0x656E6772616D  # of the codes: two artifacts must choose alike
_WHOLE = 1 << 64
_U64 = npt.NDArray[np.uint64]


class Estimate(NamedTuple):
    """A share of the corpus as the sample has it; within: twice its standard error, 0 where the sample is everything."""

    share: float
    within: float


class _Tables:
    """The windows that were sampled on one thread so far."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths_L = np.array(lengths)
        self.highest_L = np.full(len(lengths), _WHOLE - 1, np.uint64)
        self.used_L = np.zeros(len(lengths), np.int64)
        self.table_LS4 = np.zeros((len(lengths), 2 * MOST, 4), np.uint64)  # hashes, counts
        self.buffers = Buffers()

    def sample(self, stretch: Stretch, codes_V: _U64, uppers_V: npt.NDArray[np.uint32], held_out: bool) -> int:
        """Take a stretch in; returns its tokens."""
        from engram_cli.corpus import window_kernels

        tables = (self.highest_L, self.used_L, self.table_LS4)
        ids_T = stretch.read(self.buffers)
        windows = (stretch.starts_D, stretch.context, self.lengths_L)
        window_kernels.sample(ids_T, codes_V, uppers_V, *windows, int(held_out), MOST, *tables)
        return stretch.end - stretch.begin

    def to_arrow(self) -> pa.Table:
        parts = []
        for at, length in enumerate(self.lengths_L.tolist()):
            table_S4 = self.table_LS4[at]
            records_R4 = table_S4[table_S4[:, 2:].any(axis=1)]
            one_in_R = np.full(len(records_R4), _WHOLE // (int(self.highest_L[at]) + 1), np.uint64)
            parts.append(pa.table([np.full(len(records_R4), length, np.int32), one_in_R, *records_R4.T], schema=WINDOWS))
        return pa.concat_tables(parts)


def sample(training: Tokens, held_out: Tokens, order: int, threads: int, progress: ProgressLike = SILENT) -> pa.Table:
    """The sample of a corpus, of schema WINDOWS: windows within a document, of 2 to `order` tokens and of WINDOW."""
    lengths = [*range(2, order + 1), WINDOW]
    codes_C = np.random.Generator(np.random.PCG64(_SEED)).integers(
        _WHOLE, size=int(training.canonical_V.max()) + 1, dtype=np.uint64
    )
    codes_V = codes_C[training.canonical_V]
    uppers_V = (codes_V >> np.uint64(32)).astype(np.uint32)
    pool: SimpleQueue[_Tables] = SimpleQueue()
    tables = [_Tables(lengths) for _ in range(threads)]
    for free in tables:
        pool.put(free)

    def take(stretch: Stretch, held_out: bool) -> int:
        free = pool.get()
        try:
            return free.sample(stretch, codes_V, uppers_V, held_out)
        finally:
            pool.put(free)

    parts = ((training, False), (held_out, True))
    work = (partial(take, stretch, is_held) for part, is_held in parts for stretch in part.stretches(_STRETCH, WINDOW))
    done, total = 0, training.tokens + held_out.tokens
    for tokens in in_order(work, threads):
        done += tokens
        progress.advance(done, total, "tokens")
    return combine([part.to_arrow() for part in tables])


def compile_sampling(dtype: npt.DTypeLike, folder: Path) -> None:
    """Have the kernel for ids of a type ready: it takes seconds where it was not compiled before."""
    path = folder / "two_ids"
    np.zeros(2, dtype).tofile(path)
    tokens = Tokens(path, 0, dtype, 2, np.array([0]), np.zeros(1, np.uint32))
    sample(tokens, tokens, 2, 1)


def combine(samples: Iterable[pa.Table]) -> pa.Table:
    """The sample of all that was sampled in parts, sorted by length and hashes."""
    records = pa.concat_tables(samples)
    parts = []
    for length in sorted(set(records["length"].to_pylist())):
        one_in_R, *columns = (records[name].to_numpy()[records["length"].to_numpy() == length] for name in WINDOWS.names[1:])
        parts.append(_summed(length, int(one_in_R.max()), columns))
    return pa.concat_tables(parts).combine_chunks() if parts else WINDOWS.empty_table()


def _summed(length: int, one_in: int, columns: Sequence[_U64]) -> pa.Table:
    """Records of one length, equal ones added up, and as many as may be kept."""
    canonical_R, raw_R, *counts = columns
    by_hash_R = np.lexsort((raw_R, canonical_R))
    keys_R2 = np.stack([canonical_R, raw_R], axis=1)[by_hash_R]
    first_R = np.flatnonzero(np.append(True, (keys_R2[1:] != keys_R2[:-1]).any(axis=1)))
    found = [*keys_R2[first_R].T, *(np.add.reduceat(count_R[by_hash_R], first_R) for count_R in counts)]
    while (kept := int(np.searchsorted(found[0], np.uint64((_WHOLE - 1) // one_in), "right"))) > MOST:
        one_in *= 2
    lengths_R, one_in_R = np.full(kept, length, np.int32), np.full(kept, one_in, np.uint64)
    return pa.table([lengths_R, one_in_R, *(column_R[:kept] for column_R in found)], schema=WINDOWS)


class Sampled:
    """The sampled windows of one length. variants_C: different raw windows that are one canonical window, in the training documents;
    count_C, held_out_C: occurrences."""

    def __init__(self, records: pa.Table) -> None:
        canonical_R, count_R, held_out_R = (records[name].to_numpy() for name in ("canonical", "count", "held_out"))
        first_C = np.flatnonzero(np.append(True, canonical_R[1:] != canonical_R[:-1])[: len(canonical_R)])
        sums = [np.add.reduceat(values_R, first_C) if len(first_C) else values_R for values_R in (count_R, held_out_R, count_R > 0)]
        self.count_C, self.held_out_C, self.variants_C = (values.astype(np.float64) for values in sums)
        self.unsampled = 1 - 1 / max(1, records["one_in"][0].as_py()) if len(first_C) else 0.0  # 0 where a file was forged

    @property
    def repeated(self) -> Estimate | None:
        """Of the occurrences, those of windows that had occurred before."""
        return self._share(self.count_C - self.seen_C, self.count_C)

    @property
    def merged(self) -> Estimate | None:
        """Of the different raw windows, those that folding made one with another."""
        return self._share(self.variants_C - self.seen_C, self.variants_C)

    @property
    def held_out_seen(self) -> Estimate | None:
        """Of the held-out occurrences, those of windows that the training documents have too."""
        return self._share(self.held_out_C * self.seen_C, self.held_out_C)

    @property
    def seen_C(self) -> npt.NDArray[np.float64]:
        return (self.count_C > 0).astype(np.float64)

    def _share(self, part_C: npt.NDArray[np.float64], whole_C: npt.NDArray[np.float64]) -> Estimate | None:
        """A ratio of sums over windows that each were sampled with one chance, and twice the standard error of such (Cochran 1977,
        section 6.4); of a part that was not met, three in as many as were looked at (Hanley and Lippman-Hand 1983)."""
        whole = float(whole_C.sum())
        if not whole:
            return None
        share = float(part_C.sum()) / whole
        if not share:
            return Estimate(0.0, self.unsampled * min(1.0, 3 / int((whole_C > 0).sum())))
        error = float(np.sqrt(self.unsampled * ((part_C - share * whole_C) ** 2).sum())) / whole
        return Estimate(share, 2 * error)


def stored(artifact: Artifact) -> pa.Table | None:
    """The sample of an n-gram artifact; None of one that was made before there were such."""
    return artifact.table(FILE, WINDOWS) if FILE in artifact.manifest.files else None


def by_length(windows: pa.Table) -> dict[int, Sampled]:
    """What a sample says of each length that it has windows of."""
    length_R = windows["length"].to_numpy()
    return {int(length): Sampled(windows.filter(pa.array(length_R == length))) for length in np.unique(length_R)}


def write(draft: Draft, windows: pa.Table, progress: ProgressLike) -> dict[str, Any]:
    """Write a sample, and warn where much is repeated; returns the shares it tells, for the manifest."""
    draft.table(FILE, windows)
    sampled = by_length(windows)
    merged = {str(length): one.merged.share for length, one in sampled.items() if length != WINDOW and one.merged}
    longest = sampled.get(WINDOW)
    repeated, seen = (longest.repeated, longest.held_out_seen) if longest else (None, None)
    facts = dict(zip(FACTS, (merged, repeated and repeated.share, seen and seen.share), strict=True))
    if text := warning(facts):
        progress.warn(text)
    return facts


def warning(facts: Mapping[str, Any]) -> str | None:
    """What a user must know where much of the text is repeated; facts: those of a manifest."""
    repeated, seen = facts.get("repeated") or 0.0, facts.get("held_out_seen") or 0.0
    if max(repeated, seen) <= REPEATED:
        return None
    return (
        f"much text is repeated: {repeated:.0%} of the windows of {WINDOW} tokens had occurred before, and {seen:.0%} of the held-out "
        "ones were counted; that flatters every n-gram method: look for copies and templates before you trust a comparison"
    )
