"""`engram merge`: two n-gram artifacts added up, as if both corpora had been extracted together.

Counts only ever add, so nothing is counted again: tokens and documents are laid end to end, and the sorted grams of each order are
merged a range at a time. Where the artifacts share no document, the result is byte for byte that of one extraction of both.
"""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.corpus import curves, windows
from engram_cli.corpus.artifact import TOKEN_MAP, TOKENIZER, NGrams, ngrams_file, open_ngrams
from engram_cli.corpus.documents import BATCH, DOCUMENTS, read_digests, write_documents
from engram_cli.corpus.duplicates import seen_in
from engram_cli.corpus.engine import cores
from engram_cli.corpus.extract import extract
from engram_cli.corpus.merge_counts import Counts, Sum
from engram_cli.corpus.parts import Records
from engram_cli.corpus.tokens import TOKENS
from engram_cli.errors import ArtifactError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact, Draft, check_out, open_artifact, write_artifact
from engram_cli.store.manifest import file_digest
from engram_cli.store.resources import need_disk
from engram_cli.store.stream import ColumnFile, ColumnReader

_BLOCK = 1 << 20  # tokens copied at once
_SAME = {  # fact -> what it is called
    "token_map_digest": "the token map (--no-canonical)",
    "pad": "the pad token (--pad-token)",
    "end": "the end token",
    "bits": "the bits of an id",
    "orders": "--orders",
    "held_out": "--held-out",
}
_SUMS = ("documents", "tokens", "bytes", "held_out_documents", "held_out_tokens", "held_out_bytes")


def merge(
    first: str | Path, second: str | Path, out: str | Path, *, force: bool = False, progress: ProgressLike = SILENT
) -> Artifact:
    """Add the n-gram artifacts `first` and `second` up and write the sum as the artifact `out`.

    Raises ArtifactError where they were not made alike (tokenizer, token map, orders, what is held out), or one of them is pruned
    or damaged, and ResourceError where the disk has no room for the sum; then nothing was written.
    """
    check_out(Path(out).absolute(), force)
    pair = open_ngrams(first), open_ngrams(second)
    _check(*pair)
    orders = pair[0].orders
    with write_artifact(out, "ngrams", force=force) as draft, ExitStack() as files:
        progress.stage(1, len(orders) + 1, "documents, tokens, and how many grams there are")
        _need_room(pair, _least_room(pair), draft)
        pool = files.enter_context(ThreadPoolExecutor(cores()))
        copied = pool.submit(_tokens, pair, draft)  # first: compiled code is loaded meanwhile
        sums = {order: _sum(pair, order, files, pool) for order in orders}
        for name in (TOKENIZER, TOKEN_MAP):
            shutil.copyfile(pair[0].artifact.file(name), draft.path / name)
        widths = {order: 8 * len(schema.ngrams_schema(order, pair[0].bits)) for order in orders}
        _need_room(pair, sum(widths[order] * summed.rows for order, summed in sums.items()), draft)
        documents = pool.submit(_documents, pair, draft)  # now that grams are merged without the interpreter
        shared, sample = pool.submit(_shared, pair), pool.submit(_sample, pair)
        spectra = {}
        for number, order in enumerate(reversed(orders), 2):  # the largest first: it is flushed while the others are written
            progress.stage(number, len(orders) + 1, f"{order}-grams")
            spectra[order] = _counts(sums[order], order, pair[0].bits, draft, progress)
        draft.table(curves.FILE, curves.to_arrow(spectra))
        copied.result()
        draft.inputs = dict(pair[0].artifact.manifest.inputs) | {"corpus": documents.result()}
        _warn_of_shared(shared.result(), pair, progress)
        shares = {} if (sampled := sample.result()) is None else windows.write(draft, sampled, progress)
        draft.facts = _facts(pair) | shares | {
            "distinct": {str(order): spectra[order].distinct for order in orders},
            "singletons": {str(order): spectra[order].singletons for order in orders},
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
    for key, name in _SAME.items():
        if facts.get(key) != others.get(key):
            raise ArtifactError(
                f"artifacts that are added up were made alike, but {name} is {facts.get(key)} in {first.artifact.path} and "
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
    for key in windows.FACTS:  # of a sample
        facts.pop(key, None)
    if facts.get("encoder") != others.get("encoder"):
        summed["encoder"] = f"{facts.get('encoder')}, {others.get('encoder')}"
    return facts | summed


def _sample(pair: tuple[NGrams, NGrams]) -> pa.Table | None:
    """The sample of both, where both have one."""
    samples = [sample for ngrams in pair if (sample := windows.stored(ngrams.artifact)) is not None]
    return windows.combine(samples) if len(samples) == len(pair) else None


def _need_room(pair: tuple[NGrams, NGrams], wanted: int, draft: Draft) -> None:
    """Raises ResourceError where the disk has no room for so many bytes."""
    names = " and ".join(str(ngrams.artifact.path) for ngrams in pair)
    need_disk(draft.path, wanted, f"the sum of {names}", "make room, or choose another --out")


def _least_room(pair: tuple[NGrams, NGrams]) -> int:
    """Bytes that the sum takes if all grams of one artifact are also in the other."""
    files = [ngrams.artifact.manifest.files for ngrams in pair]
    sizes = [[records[name].bytes for records in files if name in records] for name in files[0]]
    added = (TOKENS, DOCUMENTS)
    return sum(sum(size) if name in added else max(size) for name, size in zip(files[0], sizes, strict=True))


def _halves(ngrams: NGrams) -> tuple[pa.Table, pa.Table]:
    """(records of the training documents, of the held-out ones)."""
    documents = ngrams.artifact.table(DOCUMENTS)
    training = ngrams.artifact.manifest.facts["documents"]
    return documents.slice(0, training), documents.slice(training)


def _documents(pair: tuple[NGrams, NGrams], draft: Draft) -> str:
    """Write documents.arrow: training documents of both, then held-out ones. Returns the digest of their digests."""
    halves = [_halves(ngrams) for ngrams in pair]
    names = list(dict.fromkeys(name for half, _ in halves for name in _source_names(half)))
    return write_documents(draft, pa.array(names, pa.string()), _batches(halves, {name: at for at, name in enumerate(names)}))


def _batches(halves: Sequence[tuple[pa.Table, pa.Table]], number: dict[str, int]) -> Iterator[tuple[bool, Records]]:
    """The documents of both artifacts as `write_documents` takes them; number: that of each source, by its name."""
    for held_out in (False, True):
        documents = pa.concat_tables([half[held_out] for half in halves])
        for begin in range(0, len(documents), BATCH):
            part = documents.slice(begin, BATCH)
            high_D, low_D = map(np.concatenate, zip(*read_digests(part["digest"]), strict=True))
            known = part["length"].to_numpy(), part["bytes"].to_numpy(), high_D, low_D, _numbers(part["source"], number)
            yield held_out, Records(*known, first_D=np.ones(len(part), dtype=np.bool_))


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


def _shared(pair: tuple[NGrams, NGrams]) -> int:
    """Documents of the second that the first has too."""
    seen = seen_in(pair[0].artifact.path)
    return sum(int(seen.has(*digests).sum()) for digests in read_digests(pair[1].artifact.table(DOCUMENTS)["digest"]))


def _warn_of_shared(shared: int, pair: tuple[NGrams, NGrams], progress: ProgressLike) -> None:
    if shared:
        progress.warn(
            f"documents that both artifacts have are counted twice: {shared:,} of {pair[1].artifact.path}; "
            "engram extract --add-to leaves them out"
        )


def _tokens(pair: tuple[NGrams, NGrams], draft: Draft) -> None:
    """Write tokens.arrow in the order of the documents."""
    form = schema.tokens_schema(pair[0].vocab)
    facts = [ngrams.artifact.manifest.facts for ngrams in pair]
    sizes = [fact["tokens"] + fact["held_out_tokens"] for fact in facts]
    block_T = np.empty(_BLOCK, form.field("token").type.to_pandas_dtype())
    done = 0
    with ExitStack() as files:
        readers = [
            files.enter_context(ColumnReader(_checked(ngrams, TOKENS, form), form, size))
            for ngrams, size in zip(pair, sizes, strict=True)
        ]
        file = files.enter_context(ColumnFile(draft.path / TOKENS, form, sum(sizes)))
        parts = [(reader, 0, fact["tokens"]) for reader, fact in zip(readers, facts, strict=True)]
        parts += [(reader, fact["tokens"], size) for reader, fact, size in zip(readers, facts, sizes, strict=True)]
        for reader, first, last in parts:
            for begin in range(first, last, _BLOCK):
                ids_T = block_T[: last - begin]
                reader.read(0, begin, ids_T)
                file.write(done, [ids_T])
                done += len(ids_T)
    draft.seal(TOKENS)


def _counts(summed: Sum, order: int, bits: int, draft: Draft, progress: ProgressLike) -> curves.Curve:
    """Write the sum of the counts of one order."""
    name = ngrams_file(order)
    with ColumnFile(draft.path / name, schema.ngrams_schema(order, bits), summed.rows) as file:

        def written(done: int) -> None:
            draft.flush(name)
            progress.advance(done, summed.rows, "grams")

        spectrum = summed.write(file, written)
    draft.seal(name)
    return spectrum


def _sum(pair: tuple[NGrams, NGrams], order: int, files: ExitStack, pool: ThreadPoolExecutor) -> Sum:
    """The sum of the counts of one order, whose files are open while `files` is."""
    form = schema.ngrams_schema(order, pair[0].bits)
    one, other = (
        files.enter_context(
            Counts(_checked(ngrams, ngrams_file(order), form), form, ngrams.artifact.manifest.facts["distinct"][str(order)])
        )
        for ngrams in pair
    )
    return Sum(one, other, pool)


def _checked(ngrams: NGrams, name: str, form: pa.Schema) -> Path:
    """Path of an Arrow file of the artifact that has columns of `form`. Raises ArtifactError where it does not."""
    ngrams.artifact.table(name, form)
    return ngrams.artifact.file(name)
