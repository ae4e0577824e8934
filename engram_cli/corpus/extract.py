"""`engram extract`: read a corpus, encode it, count its grams, write the n-gram artifact.

Tokens go to disk as they are encoded and are counted from there, so that memory is taken by the grams and not by the text. Encoding
takes nearly all of the time; what it has done is put down every so often, and --resume goes on from there.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus import curves, engine, ngrams, windows
from engram_cli.corpus.artifact import ngrams_file
from engram_cli.corpus.budget import Budget, share_out
from engram_cli.corpus.cascade import Tally
from engram_cli.corpus.checkpoint import Checkpoint, goes_on, keep_or_remove
from engram_cli.corpus.cutting import may_cut
from engram_cli.corpus.disk import expected, spill_folder
from engram_cli.corpus.duplicates import seen_in
from engram_cli.corpus.engine import open_engine
from engram_cli.corpus.reader import Reader
from engram_cli.corpus.ready import ReadyReader, ReadySource, find_ready
from engram_cli.corpus.settings import Means, Settings
from engram_cli.corpus.files import Files, Source
from engram_cli.corpus.sources import find_sources, spool_all
from engram_cli.corpus.tokenizer import load_tokenizer
from engram_cli.corpus.tokens import TokenFiles
from engram_cli.corpus.training import SAMPLE, train
from engram_cli.corpus.vocabulary import Vocabulary, make_vocabulary
from engram_cli.errors import CorpusError, RecipeError
from engram_cli.progress import SILENT, ProgressLike, Stages
from engram_cli.store.artifact import Artifact, Draft, check_out, open_artifact, partial_path, write_artifact
from engram_cli.store.manifest import FILE_NAME as MANIFEST
from engram_cli.store.resources import format_bytes, free_memory, release_memory
from engram_cli.store.schema import ngrams_schema

Sources = Files | tuple[ReadySource, ...]
_BOTH = 1 << 29  # bytes of room with which to compile while text is encoded


def extract(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    threads: int | None = None,
    memory: int | None = None,
    tmp: str | Path | None = None,
    engine: str = "local",
    address: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: ProgressLike = SILENT,
    **settings: Any,
) -> Artifact:
    """Count the grams of orders 1..`orders` over a corpus and write them as the n-gram artifact `out`.

    paths: files, folders, globs, or "-" for stdin; threads: None for all cores; memory: bytes to take of this machine (and of
    each other), None for half of what is free; tmp: folder for what does not fit it, None for one beside the artifact; engine:
    "local" or "ray"; address: of the Ray cluster, None for one started here; resume: go on where an extraction of the same corpus
    was killed; force: replace what `out` names, and what an unfinished run left; settings: those of Settings.
    Raises CorpusError, TokenizerError, RecipeError, ResourceError, ClusterError or ArtifactError; then nothing was written, but
    that what a long run did before lies beside `out` for `resume`.
    """
    final = Path(out).absolute()
    check_out(final, force)
    wanted = Settings(**settings)
    wanted.check()
    corpus = _find(paths, wanted, progress)
    given = None if wanted.tokenizer is None else load_tokenizer(wanted.tokenizer)  # before anything is written
    folder = spill_folder(tmp)
    if threads:
        os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizers library reads it when it first encodes
    partial = partial_path(final)
    resumed = goes_on(final, resume, force, progress)
    try:
        with (
            open_engine(engine, address, threads) as used,
            write_artifact(out, "ngrams", force=force, keep_partial=True) as draft,
        ):
            means = Means(used, (memory or free_memory() // 2) // used.processes, folder)
            _extract(corpus, given, wanted, means, draft, progress)
    except BaseException as error:
        keep_or_remove(partial, error, resumed, progress)
        raise
    return open_artifact(out, "ngrams")


def _find(paths: Sequence[str | Path], settings: Settings, progress: ProgressLike) -> Sources:
    ready = find_ready(paths, settings.token_dtype, settings.token_field)
    if ready.sources:
        if settings.train_vocab is not None:
            raise RecipeError(
                "ready tokens come with the tokenizer that made them, but --train-tokenizer is given; give --tokenizer"
            )
        if ready.passed_over:
            progress.warn(
                f"files without tokens were passed over: {ready.passed_over:,}; extract text apart and join the two with engram merge"
            )
        return ready.sources
    found = find_sources(paths, "jsonl" if settings.text_field else "text")
    if found.passed_over:
        progress.warn(f"files with other extensions were passed over: {found.passed_over:,}; name files to read them as text")
    return found.sources


def _extract(
    corpus: Sources, given: Tokenizer | None, settings: Settings, means: Means, draft: Draft, progress: ProgressLike
) -> None:
    """Fill `draft`, going on from what lies there; given: the tokenizer that the settings name."""
    (draft.path / MANIFEST).unlink(missing_ok=True)
    checkpoint = Checkpoint(draft.scratch, settings.identity | {"corpus": _identity(corpus)})
    stages = Stages(progress, 4 if settings.train_vocab is None else 5)
    if isinstance(corpus, Files):
        spool_all(corpus, draft.scratch / "spools")  # training a tokenizer reads the corpus twice
    file, trained_on = _tokenizer(corpus, settings, means.memory, draft.scratch, stages)
    vocabulary = make_vocabulary(file, given or load_tokenizer(file), settings, progress, trained_on)
    packing = ngrams.Packing(settings.orders, vocabulary.bits, int(vocabulary.token_map.canonical_V[vocabulary.pad]))
    engine.load_kernels()
    release_memory()  # of training a tokenizer
    known = len(corpus) if isinstance(corpus, Files) else 0  # documents, at least
    budget = share_out(means.memory, known, engine.least_memory(known, packing))  # says at once where memory cannot suffice
    seen = None if settings.keep_duplicates else seen_in(settings.besides)
    with (
        TokenFiles(draft, vocabulary.vocab, vocabulary.end, settings.held_out, checkpoint, seen) as tokens,
        ThreadPoolExecutor(1) as meanwhile,
    ):
        compiling = [
            meanwhile.submit(engine.compile_kernels, packing, tokens.dtype, draft.scratch),
            meanwhile.submit(windows.compile_sampling, tokens.dtype, draft.scratch),
        ]
        if budget.room < _BOTH:
            wait(compiling)  # one after the other: both together were above 512 MiB
            release_memory()
        disk = expected(corpus, settings.orders)
        stages.next(f"encoding ({disk})")
        disk.warn(draft.path, progress)
        tokens.watch = lambda documents: budget.watch(documents, engine.least_memory(documents, packing))
        reader = _read(corpus, settings, vocabulary, means, budget, tokens, progress)
        release_memory()
        _refuse_changed(corpus)
        _tell_what_is_missing(reader, tokens, settings.held_out, progress)
        for kernels in compiling:
            kernels.result()
        release_memory()  # of compiling
        training, held_out = (tokens.stored(vocabulary.token_map.canonical_V, held_out) for held_out in (False, True))
        draft.inputs["corpus"] = tokens.finish(_names(corpus))  # to the disk while it is counted
        shares = _sample(training, held_out, settings, means, draft, stages)
        tallies = _count(training, packing, settings, means, draft, stages)
        vocabulary.write(draft)
    draft.facts = _facts(tokens, vocabulary, settings, dict(enumerate(tallies, 1))) | shares


def _identity(corpus: Sources) -> str:
    """What tells a corpus from others, and from itself after a change: the digest of names, sizes and times."""
    if isinstance(corpus, Files):
        return corpus.identity
    state = xxhash.xxh3_128()
    for source in corpus:
        state.update(os.fsencode(f"{source.name}\0{source.bytes}\0{source.changed}\0"))
    return state.hexdigest()


def _refuse_changed(corpus: Sources) -> None:
    """Raises CorpusError where a source is not what it was when it was found."""
    changed = [source.name for source in corpus if _has_changed(source)]
    if changed:
        raise CorpusError(
            f"a corpus must not change while it is read, but {len(changed):,} of its files did, such as {changed[0]}; wait until "
            "it is complete and extract it again"
        )


def _has_changed(source: Source | ReadySource) -> bool:
    try:
        return source.stamp != (source.bytes, source.changed)
    except OSError:
        return True  # it is not there any more


def _names(corpus: Sources) -> pa.StringArray:
    return corpus.names if isinstance(corpus, Files) else pa.array([source.name for source in corpus], pa.string())


def _reader(files: Files, settings: Settings, budget: Budget, cuts: bool = True) -> Reader:
    return Reader(
        files,
        text_field=settings.text_field or "text",
        encoding_errors=settings.encoding_errors,
        document_separator=settings.document_separator,
        budget=budget,
        cuts=cuts,
    )


def _read(
    corpus: Sources, settings: Settings, vocabulary: Vocabulary, means: Means, budget: Budget, tokens: TokenFiles, progress: ProgressLike
) -> Reader | ReadyReader:
    """Bring all of the corpus into `tokens`; returns what it was read by."""
    if isinstance(corpus, Files):
        reader = _reader(corpus, settings, budget, may_cut(vocabulary.tokenizer))
        tokens.encode(reader, vocabulary.tokenizer, means.engine, progress)
        return reader
    options: dict[str, Any] = {"token_dtype": settings.token_dtype, "token_field": settings.token_field, "budget": budget}
    ready_reader = ReadyReader(corpus, vocabulary.tokenizer, tokens.dtype, vocabulary.end, **options)
    tokens.take_ready(ready_reader, progress)
    return ready_reader


def _tokenizer(corpus: Sources, settings: Settings, memory: int, work: Path, stages: Stages) -> tuple[Path, int | None]:
    """The tokenizer.json that was given, or one that is trained (or was, before it was killed); then with the bytes of its text."""
    if settings.train_vocab is None:
        assert settings.tokenizer is not None
        return Path(settings.tokenizer), None
    stages.next(f"training a tokenizer of {settings.train_vocab:,} ids (on {format_bytes(SAMPLE)} of text at most)")
    assert isinstance(corpus, Files)  # else it came with its tokenizer
    reader = _reader(corpus, settings, share_out(memory))
    return train(reader, settings.train_vocab, settings.held_out, memory, work, stages.progress)


def _tell_what_is_missing(reader: Reader | ReadyReader, tokens: TokenFiles, held_out: float, progress: ProgressLike) -> None:
    """Warn of what was passed over; raise CorpusError where nothing is left to count."""
    training, held = tokens.training.documents, tokens.held_out.documents
    if not training + held and tokens.duplicates:
        raise CorpusError(f"a corpus to add has new documents, but all {tokens.duplicates:,} were seen before; name others")
    if not training + held:
        names = ", ".join(source.name for source in reader.sources[:3])
        raise CorpusError(f"a corpus holds text, but there is none in {names}; name files with text")
    if not training:
        raise CorpusError(f"some documents must be left to count, but --held-out {held_out} takes all {held}; lower it")
    if reader.empty:
        progress.warn(f"files without text were passed over: {len(reader.empty):,}, such as {reader.sources[reader.empty[0]].name}")
    if tokens.duplicates:
        progress.warn(f"documents seen before were left out: {tokens.duplicates:,}; --keep-duplicates counts them too")
    if reader.blank:
        progress.warn(f"blank documents were passed over: {reader.blank:,}")
    if held_out and not held:
        split = "split text files with --document-separator" if isinstance(reader, Reader) else "end documents with the end token"
        progress.warn(
            f"no document is held out: none of {training:,} fell into --held-out {held_out}, so nothing can be evaluated; "
            f"raise it, or {split}"
        )


def _sample(
    training: engine.Tokens, held_out: engine.Tokens, settings: Settings, means: Means, draft: Draft, stages: Stages
) -> dict[str, Any]:
    """Sample windows and write them; the shares that they tell."""
    progress = stages.next("looking for repeated text")
    sampled = windows.sample(training, held_out, settings.orders, min(means.engine.threads, engine.cores()), progress)
    return windows.write(draft, sampled, progress)


def _count(
    tokens: engine.Tokens,
    packing: ngrams.Packing,
    settings: Settings,
    means: Means,
    draft: Draft,
    stages: Stages,
) -> list[Tally]:
    """Count all orders and write them; what was written, by order."""
    progress = stages.next(f"counting {settings.orders}-grams")

    def counted(done: int) -> None:
        progress.advance(done, tokens.tokens, "tokens")
        if done == tokens.tokens:
            stages.next(f"writing orders 1 to {settings.orders}")

    spill = (
        draft.scratch / "spill" if means.tmp is None else means.tmp / f"engram-{xxhash.xxh3_64_hexdigest(os.fsencode(draft.path))}"
    )
    shutil.rmtree(spill, ignore_errors=True)  # of one that was killed
    try:
        with ExitStack() as files:
            writers = [
                files.enter_context(draft.numbers(ngrams_file(order), ngrams_schema(order, packing.bits)))
                for order in range(1, settings.orders + 1)
            ]
            tallies = engine.count_tokens(
                tokens,
                packing,
                [writer.write for writer in writers],
                engine=means.engine,
                memory=means.memory,
                tmp=spill,
                min_count=settings.min_count,
                counted=counted,
                written=lambda done, total: progress.advance(done, total, "ranges"),
            )
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    spectra = {order: tally.spectrum.curve() for order, tally in enumerate(tallies, 1)}
    draft.table(curves.FILE, curves.to_arrow(spectra))
    return tallies


def _facts(tokens: TokenFiles, vocabulary: Vocabulary, settings: Settings, tallies: dict[int, Tally]) -> dict[str, object]:
    facts: dict[str, object] = {
        "documents": tokens.training.documents,
        "tokens": tokens.training.tokens - tokens.held_out.tokens,  # held-out tokens lie behind them by now
        "bytes": tokens.training.bytes,
        "held_out": settings.held_out,
        "held_out_documents": tokens.held_out.documents,
        "held_out_tokens": tokens.held_out.tokens,
        "held_out_bytes": tokens.held_out.bytes,
        "vocab": vocabulary.vocab,
        "canonical_vocab": vocabulary.token_map.canonical_vocab,
        "token_map_digest": vocabulary.token_map.digest,
        "pad": vocabulary.pad,
        "end": vocabulary.end,
        "bits": vocabulary.bits,
        "orders": list(tallies),
        "encoder": tokens.encoder,
        "duplicates": tokens.duplicates,
        "distinct": {str(order): tally.distinct for order, tally in tallies.items()},
        "singletons": {str(order): tally.singletons for order, tally in tallies.items()},
        "min_count": settings.min_count,
    }
    if vocabulary.trained_on is not None:
        facts["trained_on"] = vocabulary.trained_on
    if settings.min_count > 1:
        for name in ("pruned", "pruned_occurrences"):
            facts[name] = {str(order): getattr(tally, name) for order, tally in tallies.items()}
    return facts
