"""`engram extract`: read a corpus, encode it, count its grams, write the n-gram artifact.

Tokens go to disk as they are encoded and are counted from there through a memory map, so that memory is taken by the grams and not
by the text. Encoding takes nearly all of the time.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus import ngrams
from engram_cli.corpus.artifact import TOKEN_MAP, TOKENIZER, ngrams_file
from engram_cli.corpus.canonical import TokenMap, identity_map, token_map
from engram_cli.corpus.reader import Reader
from engram_cli.corpus.sources import Source, find_sources, spool
from engram_cli.corpus.tokenizer import check_vocab, find_end, find_pad, load_tokenizer, train_tokenizer, vocab_size
from engram_cli.corpus.tokens import TokenFiles, batches, is_held_out
from engram_cli.errors import CorpusError, RecipeError
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.store.artifact import Artifact, Draft, check_out, open_artifact, write_artifact

ENCODING_ERRORS = ("strict", "replace", "ignore")


def extract(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    train_vocab: int | None = None,
    pad_token: str | None = None,
    canonical: bool = True,
    orders: int = 3,
    held_out: float = 0.02,
    text_field: str | None = None,
    encoding_errors: str = "strict",
    document_separator: str | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: ProgressLike = SILENT,
) -> Artifact:
    """Count the grams of orders 1..`orders` over a corpus and write them as the n-gram artifact `out`.

    paths: files, folders, globs, or "-" for stdin; tokenizer: a tokenizer.json, or train_vocab: ids of a byte-level BPE trained on
    the corpus (one of the two); pad_token: the token before a document's first (default: known by name); canonical: fold ids by
    the token map; held_out: share of documents, chosen by the digests of their texts, that is not counted; text_field: of JSONL and
    Parquet, "text" where it is None, and naming it makes stdin JSONL; encoding_errors: strict, replace or ignore;
    document_separator: splits text files; threads: None for all cores.
    Raises CorpusError, TokenizerError, RecipeError or ArtifactError; then nothing was written.
    """
    check_out(Path(out).absolute(), force)
    _check(tokenizer, train_vocab, orders, held_out, encoding_errors, document_separator)
    used = None if tokenizer is None else load_tokenizer(tokenizer)
    found = find_sources(paths, "jsonl" if text_field else "text")
    if found.passed_over:
        progress.warn(f"files with other extensions were passed over: {found.passed_over:,}; name files to read them as text")
    if threads:
        os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizers library reads it when it first encodes
    stages = _Stages(progress, orders + (2 if train_vocab is None else 3))
    with write_artifact(out, "ngrams", force=force) as draft, _sources_to_read(found.sources, draft) as sources:
        reader = Reader(
            sources, text_field=text_field or "text", encoding_errors=encoding_errors, document_separator=document_separator
        )
        if train_vocab is not None:
            stages.next(f"training a tokenizer of {train_vocab:,} ids")
            used = _train(reader, train_vocab, held_out, progress)
        assert used is not None
        vocabulary = _vocabulary(used, canonical, pad_token, orders, progress)
        with TokenFiles(draft, vocabulary.vocab, vocabulary.end, held_out) as tokens:
            stages.next("encoding")
            tokens.encode(reader, used, progress)
            _tell_what_is_missing(reader, tokens, held_out, progress)
            distinct, singletons = _count(tokens, vocabulary, orders, threads or _cores(), draft, stages)
            stages.next("writing")
            vocabulary.write(draft, tokenizer)
            draft.inputs["corpus"] = tokens.finish([source.name for source in sources])
            draft.facts = _facts(tokens, vocabulary, orders, held_out) | {"distinct": distinct, "singletons": singletons}
    return open_artifact(out, "ngrams")


@contextmanager
def _sources_to_read(sources: Sequence[Source], draft: Draft) -> Iterator[list[Source]]:
    """The sources, those that come only once spooled beside the artifact: training a tokenizer reads the corpus twice."""
    spools = draft.path / "spools"
    spools.mkdir()
    yield [spool(source, spools / str(number)) if source.once else source for number, source in enumerate(sources)]
    shutil.rmtree(spools)


@dataclass(frozen=True)
class _Vocabulary:
    """A tokenizer with what the artifact must know of it."""

    tokenizer: Tokenizer
    token_map: TokenMap
    vocab: int
    pad: int
    end: int | None
    bits: int

    def write(self, draft: Draft, original: str | Path | None) -> None:
        """tokenizer.json (as it was given, byte for byte) and token_map.arrow."""
        text = self.tokenizer.to_str(pretty=True).encode() if original is None else Path(original).read_bytes()
        (draft.path / TOKENIZER).write_bytes(text)
        draft.inputs["tokenizer"] = xxhash.xxh3_128_hexdigest(text)
        draft.table(TOKEN_MAP, self.token_map.to_arrow())


class _Stages:
    """Numbers the stages of a run."""

    def __init__(self, progress: ProgressLike, of: int) -> None:
        self.progress = progress
        self.number, self.of = 0, of

    def next(self, text: str) -> ProgressLike:
        self.number += 1
        self.progress.stage(self.number, self.of, text)
        return self.progress


def _check(
    tokenizer: str | Path | None,
    train_vocab: int | None,
    orders: int,
    held_out: float,
    encoding_errors: str,
    document_separator: str | None,
) -> None:
    if (tokenizer is None) == (train_vocab is None):
        given = "neither is given" if tokenizer is None else "both are given"
        raise RecipeError(f"a corpus is encoded by one tokenizer, --tokenizer FILE or --train-tokenizer VOCAB, but {given}")
    if train_vocab is not None:
        check_vocab(train_vocab)
    if not 1 <= orders <= 6:
        raise RecipeError(f"--orders must be from 1 to 6, but it is {orders}; change it")
    if not 0 <= held_out < 1:
        raise RecipeError(f"--held-out is a share, from 0 to below 1, but it is {held_out}; change it")
    if encoding_errors not in ENCODING_ERRORS:
        raise RecipeError(f"--encoding-errors is one of {', '.join(ENCODING_ERRORS)}, but it is {encoding_errors!r}; change it")
    if document_separator == "":
        raise RecipeError("--document-separator must be a text, but it is empty; leave it out to keep files whole")


def _train(reader: Reader, vocab: int, held_out: float, progress: ProgressLike) -> Tokenizer:
    """Train on the documents that are not held out, in a thread of its own: in ours, the library would keep Ctrl-C waiting."""
    stopped = Event()

    def texts() -> Iterator[list[str]]:
        for batch in batches(reader):
            if stopped.is_set():
                raise InterruptedError
            progress.advance(reader.done, reader.bytes, "bytes")
            yield [document.text for document in batch if not is_held_out(document, held_out)]

    with ThreadPoolExecutor(1) as pool:
        try:
            tokenizer = pool.submit(train_tokenizer, texts(), vocab).result()
        finally:
            stopped.set()
    if tokenizer.get_vocab_size() < vocab:
        progress.warn(f"the corpus is too small for {vocab:,} ids: the trained tokenizer has {tokenizer.get_vocab_size():,}")
    return tokenizer


def _vocabulary(tokenizer: Tokenizer, canonical: bool, pad_token: str | None, orders: int, progress: ProgressLike) -> _Vocabulary:
    pad = find_pad(tokenizer, pad_token)
    if pad is None:
        pad = 0
        progress.warn(
            f"the tokenizer has no pad or end token known by name: id 0 ({tokenizer.id_to_token(0)!r}) stands before a document's "
            "first token; choose another with --pad-token"
        )
    folded = token_map(tokenizer) if canonical else identity_map(tokenizer)
    bits = ngrams.gram_bits(folded.canonical_vocab, orders)
    return _Vocabulary(tokenizer, folded, vocab_size(tokenizer), pad, find_end(tokenizer), bits)


def _tell_what_is_missing(reader: Reader, tokens: TokenFiles, held_out: float, progress: ProgressLike) -> None:
    """Warn of what was passed over; raise CorpusError where nothing is left to count."""
    training, held = tokens.training.documents, tokens.held_out.documents
    if not training + held:
        names = ", ".join(source.name for source in reader.sources[:3])
        raise CorpusError(f"a corpus holds text, but there is none in {names}; name files with text")
    if not training:
        raise CorpusError(f"some documents must be left to count, but --held-out {held_out} takes all {held}; lower it")
    if reader.empty:
        progress.warn(f"files without text were passed over: {len(reader.empty):,}, such as {reader.empty[0]}")
    if reader.blank:
        progress.warn(f"blank documents were passed over: {reader.blank:,}")
    if held_out and not held:
        progress.warn(
            f"no document is held out: none of {training:,} fell into --held-out {held_out}, so nothing can be evaluated; "
            "raise it, or split text files with --document-separator"
        )


def _count(
    tokens: TokenFiles, vocabulary: _Vocabulary, orders: int, threads: int, draft: Draft, stages: _Stages
) -> tuple[dict[str, int], dict[str, int]]:
    """Count and write each order; (distinct grams, grams that occur once) by order."""
    tokens_T, starts_D = tokens.training.mapped(), tokens.training.starts_D
    canonical_V = vocabulary.token_map.canonical_V
    distinct, singletons = {}, {}
    for order in range(1, orders + 1):
        progress = stages.next(f"counting {order}-grams")
        counts = ngrams.count_tokens(
            lambda begin, end: canonical_V[tokens_T[begin:end]],
            starts_D,
            len(tokens_T),
            order,
            bits=vocabulary.bits,
            pad=int(canonical_V[vocabulary.pad]),
            threads=threads,
            done=lambda done, progress=progress: progress.advance(done, len(tokens_T), "tokens"),  # type: ignore[misc]
        )
        draft.table(ngrams_file(order), counts)
        distinct[str(order)] = counts.num_rows
        singletons[str(order)] = int((ngrams.column(counts, "count") == 1).sum())
    return distinct, singletons


def _facts(tokens: TokenFiles, vocabulary: _Vocabulary, orders: int, held_out: float) -> dict[str, object]:
    return {
        "documents": tokens.training.documents,
        "tokens": tokens.training.tokens,
        "bytes": tokens.training.bytes,
        "held_out": held_out,
        "held_out_documents": tokens.held_out.documents,
        "held_out_tokens": tokens.held_out.tokens,
        "held_out_bytes": tokens.held_out.bytes,
        "vocab": vocabulary.vocab,
        "canonical_vocab": vocabulary.token_map.canonical_vocab,
        "token_map_digest": vocabulary.token_map.digest,
        "pad": vocabulary.pad,
        "end": vocabulary.end,
        "bits": vocabulary.bits,
        "orders": list(range(1, orders + 1)),
    }


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
