"""`engram merge`: two n-gram artifacts added up, as if both corpora had been extracted together.

Counts only ever add, so nothing is counted again: tokens and documents are laid end to end, and the sorted grams of each order are
merged a stretch at a time. Where the artifacts share no document, the result is byte for byte that of one extraction of both.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from engram_cli.corpus import curves, tokens
from engram_cli.corpus.artifact import TOKEN_MAP, TOKENIZER, NGrams, ngrams_file, open_ngrams
from engram_cli.corpus.extract import extract
from engram_cli.corpus.ngrams import Rows, merge_rows
from engram_cli.corpus.ready_files import column_reader
from engram_cli.corpus.tokens import DOCUMENTS, TOKENS
from engram_cli.errors import ArtifactError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact, Draft, check_out, open_artifact, write_artifact
from engram_cli.store.manifest import file_digest

_ROWS = 1 << 19  # of each artifact that are merged at a time
_SAME = ("token_map_digest", "pad", "end", "bits", "orders", "held_out")
_SUMS = ("documents", "tokens", "bytes", "held_out_documents", "held_out_tokens", "held_out_bytes")


def merge(
    first: str | Path, second: str | Path, out: str | Path, *, force: bool = False, progress: ProgressLike = SILENT
) -> Artifact:
    """Add the n-gram artifacts `first` and `second` up and write the sum as the artifact `out`.

    Raises ArtifactError where they were not made alike (tokenizer, token map, orders, what is held out), or one of them is pruned;
    then nothing was written.
    """
    check_out(Path(out).absolute(), force)
    pair = open_ngrams(first), open_ngrams(second)
    _check(*pair)
    orders = pair[0].orders
    with write_artifact(out, "ngrams", force=force) as draft:
        for name in (TOKENIZER, TOKEN_MAP):
            shutil.copyfile(pair[0].artifact.file(name), draft.path / name)
        progress.stage(1, len(orders) + 1, "documents and tokens")
        draft.inputs = dict(pair[0].artifact.manifest.inputs)
        draft.inputs["corpus"] = _documents(pair, draft, progress)
        _tokens(pair, draft, progress)
        spectra = {}
        for number, order in enumerate(orders, 2):
            progress.stage(number, len(orders) + 1, f"{order}-grams")
            spectra[order] = _counts(pair, order, draft, progress)
        draft.table(curves.FILE, curves.to_arrow(spectra))
        draft.facts = _facts(pair) | {
            "distinct": {str(order): curve.distinct for order, curve in spectra.items()},
            "singletons": {str(order): curve.singletons for order, curve in spectra.items()},
        }
    return open_artifact(out, "ngrams")


def add(
    paths: Sequence[str | Path],
    ngrams: str | Path,
    out: str | Path,
    *,
    force: bool = False,
    progress: ProgressLike = SILENT,
    **options: Any,
) -> Artifact:
    """Extract what is new in the corpus `paths`, as the n-gram artifact `ngrams` was extracted, and write their sum as `out`.

    options: those of `extract` that do not follow from the artifact. Raises what `extract` and `merge` raise; then nothing was
    written.
    """
    final = Path(out).absolute()
    check_out(final, force)
    old = open_ngrams(ngrams)
    _refuse_pruned(old)
    facts = old.artifact.manifest.facts
    given = options.pop("tokenizer", None)
    one, other = old.artifact.manifest.inputs["tokenizer"], given and file_digest(Path(given))
    if other not in (None, one):
        raise ArtifactError(
            f"a corpus is added with the tokenizer of the artifact, but that of {old.artifact.path} has the digest {one} and "
            f"{given} has {other}; leave --tokenizer out"
        )
    more = final.parent / f".{final.name}.more"
    options |= {"held_out": facts["held_out"], "orders": max(old.orders), "canonical": _is_folded(old)}
    options |= {"pad_token": old.tokenizer.id_to_token(old.pad), "besides": str(ngrams)}
    try:
        extract(paths, more, tokenizer=old.artifact.file(TOKENIZER), force=True, progress=progress, **options)
        return merge(ngrams, more, out, force=force, progress=progress)
    finally:
        shutil.rmtree(more, ignore_errors=True)


def _is_folded(ngrams: NGrams) -> bool:
    return bool((ngrams.canonical_V != np.arange(ngrams.vocab)).any())


def _check(first: NGrams, second: NGrams) -> None:
    """Raises ArtifactError where counts of the two do not count the same things."""
    one, other = (ngrams.artifact.manifest.inputs.get("tokenizer") for ngrams in (first, second))
    if one != other:
        raise ArtifactError(
            f"artifacts that are added up have one tokenizer, but that of {first.artifact.path} has the digest {one} and that of "
            f"{second.artifact.path} {other}; extract one of them again with the tokenizer.json of the other"
        )
    facts, others = first.artifact.manifest.facts, second.artifact.manifest.facts
    for key in _SAME:
        if facts.get(key) != others.get(key):
            raise ArtifactError(
                f"artifacts that are added up were made alike, but {key} is {facts.get(key)} in {first.artifact.path} and "
                f"{others.get(key)} in {second.artifact.path}; extract one of them again"
            )
    for ngrams in (first, second):
        _refuse_pruned(ngrams)


def _refuse_pruned(ngrams: NGrams) -> None:
    least = ngrams.artifact.manifest.facts.get("min_count", 1)
    if least > 1:
        raise ArtifactError(
            f"counts that are added up are complete, but {ngrams.artifact.path} was pruned by --min-count {least}; "
            "extract it again without it"
        )


def _facts(pair: tuple[NGrams, NGrams]) -> dict[str, Any]:
    facts, others = (dict(ngrams.artifact.manifest.facts) for ngrams in pair)
    summed = {key: facts[key] + others[key] for key in (*_SUMS, "duplicates") if key in facts and key in others}
    if facts.get("encoder") != others.get("encoder"):
        summed["encoder"] = f"{facts.get('encoder')}, {others.get('encoder')}"
    return facts | summed


def _halves(ngrams: NGrams) -> tuple[pa.Table, pa.Table]:
    """(records of the training documents, of the held-out ones)."""
    documents = ngrams.artifact.table(DOCUMENTS)
    training = ngrams.artifact.manifest.facts["documents"]
    return documents.slice(0, training), documents.slice(training)


def _documents(pair: tuple[NGrams, NGrams], draft: Draft, progress: ProgressLike) -> str:
    """Write documents.arrow: training documents of both, then held-out ones. Returns the digest of their digests."""
    halves = [_halves(ngrams) for ngrams in pair]
    names = list(dict.fromkeys(name for half, _ in halves for name in _source_names(half)))
    state, offset = xxhash.xxh3_128(), 0
    number = {name: at for at, name in enumerate(names)}
    _warn_of_shared([pa.concat_tables(half) for half in halves], pair, progress)
    with draft.columns(DOCUMENTS, schema.DOCUMENTS) as writer:
        for held_out in (False, True):
            records = pa.concat_tables([half[held_out] for half in halves])
            state.update("".join(records["digest"].to_pylist()).encode())
            lengths_D = records["length"].to_numpy().astype(np.uint64)
            offsets_D = np.cumsum(lengths_D) - lengths_D + np.uint64(offset)
            offset += int(lengths_D.sum())
            columns = {
                "offset": pa.array(offsets_D),
                "length": pa.array(lengths_D),
                "bytes": pa.array(records["bytes"].to_numpy()),
                "held_out": pa.array(np.full(len(lengths_D), held_out)),
                "source": pa.DictionaryArray.from_arrays(_numbers(records["source"], number), pa.array(names, pa.string())),
                "digest": pa.array(records["digest"].to_pylist(), pa.string()),
            }
            writer.write_table(pa.table(columns, schema=schema.DOCUMENTS), max_chunksize=tokens._RECORDS)
    return state.hexdigest()


def _source_names(records: pa.Table) -> list[str]:
    """Names of sources in the order of their numbers; every record batch has all of them."""
    chunks = records["source"].chunks
    return chunks[0].dictionary.to_pylist() if chunks else []


def _numbers(sources: pa.ChunkedArray, number: dict[str, int]) -> npt.NDArray[np.int32]:
    """The number of each record's source by its name."""
    found = [np.empty(0, dtype=np.int32)]
    for chunk in sources.chunks:
        to = np.array([number[name] for name in chunk.dictionary.to_pylist()], dtype=np.int32)
        found.append(to[chunk.indices.to_numpy()])
    return np.concatenate(found)


def _warn_of_shared(records: Sequence[pa.Table], pair: tuple[NGrams, NGrams], progress: ProgressLike) -> None:
    shared = int(pc.sum(pc.is_in(records[1]["digest"], value_set=records[0]["digest"])).as_py() or 0)
    if shared:
        progress.warn(
            f"documents that both artifacts have are counted twice: {shared:,} of {pair[1].artifact.path}; "
            "engram extract --add-to leaves them out"
        )


def _tokens(pair: tuple[NGrams, NGrams], draft: Draft, progress: ProgressLike) -> None:
    """Write tokens.arrow in the order of the documents."""
    readers = [column_reader(ngrams.artifact.file(TOKENS), "token") for ngrams in pair]
    training = [ngrams.artifact.manifest.facts["tokens"] for ngrams in pair]
    parts = [(readers[i], 0, training[i]) for i in (0, 1)]
    parts += [(readers[i], training[i], training[i] + pair[i].artifact.manifest.facts["held_out_tokens"]) for i in (0, 1)]
    total = sum(end - begin for _, begin, end in parts)
    with draft.numbers(TOKENS, schema.tokens_schema(pair[0].vocab)) as writer:
        for read, first, last in parts:
            for begin in range(first, last, 1 << 22):
                writer.write([read(begin, min(begin + (1 << 22), last))])
                progress.advance(writer.rows, total, "tokens")


def _counts(pair: tuple[NGrams, NGrams], order: int, draft: Draft, progress: ProgressLike) -> curves.Curve:
    """Write the sum of the counts of one order; one stretch is merged while another is written."""
    name = ngrams_file(order)
    form = schema.ngrams_schema(order, pair[0].bits)
    runs = [_Run(ngrams.artifact.file(name), form, ngrams.artifact.manifest.facts["distinct"][str(order)]) for ngrams in pair]
    total = sum(run.left for run in runs)
    spectrum = curves.Spectrum()

    def write(rows: Rows) -> None:
        writer.write(rows.columns())
        spectrum.add(rows.counts)

    with draft.numbers(name, form) as writer, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(lambda: None)
        for rows in _merged(*runs):
            pending.result()
            pending = pool.submit(write, rows)
            progress.advance(total - sum(run.left for run in runs), total, "grams")
        pending.result()
    return spectrum.curve()


class _Run:
    """The counts of one artifact, read a stretch at a time. left: rows not yet merged."""

    def __init__(self, path: Path, form: pa.Schema, rows: int) -> None:
        self.readers: list[Callable[[int, int], npt.NDArray[Any]]] = [column_reader(path, name) for name in form.names]
        self.rows = self.left = rows
        self.at = 0
        self.window = self._read(0, 0)

    def _read(self, begin: int, end: int) -> Rows:
        *grams, counts = (read(begin, end) for read in self.readers)
        return Rows(grams[-1], grams[0] if len(grams) > 1 else None, counts)

    def fill(self) -> bool:
        """See that the window holds rows, if any are left; whether it does."""
        if not len(self.window.key) and self.at < self.rows:
            end = min(self.at + _ROWS, self.rows)
            self.window, self.at = self._read(self.at, end), end
        return len(self.window.key) > 0

    @property
    def last(self) -> tuple[int, int]:
        """The last gram in the window."""
        top = self.window.top
        return 0 if top is None else int(top[-1]), int(self.window.key[-1])

    def take(self, upto: tuple[int, int]) -> Rows:
        """The rows of the window up to a gram, that gram included; the window keeps the others."""
        key, top = self.window.key, self.window.top
        begin, end = 0, len(key)
        if top is not None:
            begin, end = (int(np.searchsorted(top, np.uint64(upto[0]), side)) for side in ("left", "right"))
        cut = begin + int(np.searchsorted(key[begin:end], np.uint64(upto[1]), "right"))
        taken, self.window = self.window.part(0, cut), self.window.part(cut, len(key))
        self.left -= cut
        return taken


def _merged(one: _Run, other: _Run) -> Iterator[Rows]:
    """The sum of two sorted runs, a stretch at a time, sorted."""
    while True:
        live = [run for run in (one, other) if run.fill()]
        if not live:
            return
        upto = min(run.last for run in live)
        parts = [rows for rows in (run.take(upto) for run in live) if len(rows.key)]
        if len(parts) == 1:
            yield parts[0]
            continue
        end_K = np.cumsum([len(part.key) for part in parts])
        key, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("key", "counts"))
        top = None if parts[0].top is None else np.concatenate([part.top for part in parts])
        yield merge_rows(Rows(key, top, counts), end_K - [len(part.key) for part in parts], end_K)
