"""The n-gram artifact, opened: figures, streams, grams as text."""

import dataclasses
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.artifact import TOKEN_MAP, NGrams, Stream, open_ngrams
from engram_cli.corpus.extract import extract
from engram_cli.corpus.ngrams import WideGrams
from engram_cli.errors import ArtifactError
from engram_cli.store.manifest import FileRecord, file_digest, read_manifest
from engram_cli.table.hashing import windows
from tests.corpora import make_documents, write_jsonl
from tests.strategies import documents, laid_end_to_end


def stream_of(documents: list[list[int]]) -> Stream:
    """Document i has i bytes and lies at i sixteenths of all digests."""
    ids_T, starts_D = laid_end_to_end(documents)
    numbers = np.arange(len(documents), dtype=np.uint64)
    return Stream(ids_T, starts_D, numbers, numbers * np.uint64(2**60))


def texts_of(stream: Stream) -> list[list[int]]:
    return [part.tolist() for part in np.split(stream.tokens_T, stream.starts_D[1:])] if len(stream.starts_D) else []


def test_figures_come_from_the_manifest(ngrams: NGrams) -> None:
    facts = ngrams.artifact.manifest.facts
    assert (ngrams.vocab, ngrams.canonical_vocab) == (len(ngrams.canonical_V), int(ngrams.canonical_V.max()) + 1)
    assert ngrams.orders == (1, 2, 3)
    assert 1 << (ngrams.bits - 1) < ngrams.canonical_vocab <= 1 << ngrams.bits
    for held_out, prefix in ((False, ""), (True, "held_out_")):
        stream = ngrams.stream(held_out)
        assert len(stream.tokens_T) == facts[f"{prefix}tokens"]
        assert len(stream.starts_D) == facts[f"{prefix}documents"]
        assert stream.bytes == facts[f"{prefix}bytes"]


def test_counts_are_those_of_the_training_stream(ngrams: NGrams) -> None:
    stream = ngrams.stream(held_out=False)
    windows_TN = windows(ngrams.canonical_V[stream.tokens_T], stream.position_T, 3, ngrams.canonical_pad)
    for order in ngrams.orders:
        grams, counts = ngrams.counts(order)
        expected, expected_counts = np.unique(windows_TN[:, order - 1 :: -1], axis=0, return_counts=True)
        assert np.array_equal(ngrams.unpack(grams, order)[:, ::-1], expected)
        assert np.array_equal(counts, expected_counts)


def test_counts_and_tokens_are_mapped_not_read(ngrams: NGrams) -> None:
    grams, counts = ngrams.counts(2)
    allocated = pa.total_allocated_bytes()
    assert not any(array.flags.owndata or array.flags.writeable for array in (grams, counts, ngrams.stream(False).tokens_T))
    assert pa.total_allocated_bytes() - allocated < ngrams.stream(False).tokens_T.nbytes


def test_every_document_ends_with_the_end_token_and_reads_as_its_text(ngrams: NGrams) -> None:
    for document in texts_of(ngrams.stream(held_out=True)):
        assert document[-1] == ngrams.end
        assert ngrams.tokenizer.decode(document).startswith("Note ")
        assert ngrams.end not in document[:-1]


@given(documents(), st.integers(0, 16))
def test_a_split_parts_the_documents_by_their_digests(documents: list[list[int]], sixteenths: int) -> None:
    stream = stream_of(documents)
    rest, part = stream.split(sixteenths / 16)
    assert texts_of(part) == documents[:sixteenths]
    assert texts_of(rest) == documents[sixteenths:]
    assert (part.bytes, rest.bytes) == (sum(range(len(documents))[:sixteenths]), sum(range(len(documents))[sixteenths:]))


def test_a_split_is_not_the_choice_of_held_out_documents(ngrams: NGrams) -> None:
    """Were both made from the same bits, none of the training documents would fall into a share as small as the held-out one."""
    _, part = ngrams.stream(held_out=False).split(ngrams.artifact.manifest.facts["held_out"])
    assert 0.03 < len(part.starts_D) / ngrams.artifact.manifest.facts["documents"] < 0.2


def test_grams_read_as_text(ngrams: NGrams) -> None:
    def canonical(text: str) -> list[int]:
        return ngrams.canonical_V[ngrams.tokenizer.encode(text).ids].tolist()  # type: ignore[no-any-return]

    assert ngrams.end is not None
    pad, end = ngrams.canonical_pad, int(ngrams.canonical_V[ngrams.end])
    assert ngrams.text(canonical(" the capital")) == "the capital"
    assert ngrams.text([pad, pad, *canonical(".")]) == "⊢⊢."
    assert ngrams.text([pad, end]) == "⊢⊣"
    assert ngrams.text(canonical(" ")) == "␣"


def test_a_canonical_id_is_shown_as_it_is_mostly_written(ngrams: NGrams) -> None:
    frequency_V = np.bincount(
        np.concatenate([ngrams.stream(held_out).tokens_T for held_out in (False, True)]), minlength=ngrams.vocab
    )
    assert np.array_equal(ngrams.canonical_V[ngrams.raw_C], np.arange(ngrams.canonical_vocab))
    highest_C = np.zeros(ngrams.canonical_vocab, dtype=np.int64)
    np.maximum.at(highest_C, ngrams.canonical_V, frequency_V)
    assert np.array_equal(frequency_V[ngrams.raw_C], highest_C)


def test_an_order_that_was_not_counted_is_refused(ngrams: NGrams) -> None:
    with pytest.raises(ArtifactError, match=r"order 4 must have been counted, but .* has orders 1, 2, 3; .* --orders 4"):
        ngrams.counts(4)


def test_another_kind_of_artifact_is_refused(table_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"of kind ngrams, but .* is of kind table; make one with engram extract"):
        open_ngrams(table_path)


def test_a_token_map_that_is_not_the_counted_one_is_refused(ngrams_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "ngrams"
    shutil.copytree(ngrams_path, path)
    table = open_ngrams(path).artifact.table(TOKEN_MAP)
    canonical = table["canonical"].to_numpy()[::-1]
    with pa.OSFile(str(path / "other"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.set_column(0, table.schema.field(0), pa.array(canonical)))
    (path / "other").rename(path / TOKEN_MAP)
    manifest = read_manifest(path)
    record = FileRecord((path / TOKEN_MAP).stat().st_size, file_digest(path / TOKEN_MAP))
    manifest.files[TOKEN_MAP] = record  # type: ignore[index]
    (path / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(ArtifactError, match="not the map the grams were counted with"):
        _ = open_ngrams(path).canonical_V


def test_a_manifest_without_its_figures_is_refused(ngrams_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "ngrams"
    shutil.copytree(ngrams_path, path)
    manifest = read_manifest(path)
    facts = {name: fact for name, fact in manifest.facts.items() if name != "bits"}
    (path / "manifest.json").write_text(dataclasses.replace(manifest, facts=facts).to_json())
    with pytest.raises(ArtifactError, match="lacks the fact 'bits'"):
        open_ngrams(path)


@pytest.mark.parametrize("wide", [False, True])
def test_counts_are_found_by_their_ids_and_read_in_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    monkeypatch.setattr("engram_cli.corpus.artifact._BLOCK", 100)
    texts = [random.Random(0).randbytes(10_000).hex()] if wide else make_documents(60)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", texts)
    ngrams = NGrams(extract([corpus], tmp_path / "ngrams", train_vocab=1200 if wide else 300, orders=6 if wide else 3, held_out=0.0))
    order = max(ngrams.orders)
    grams_G, counts_G = ngrams.counts(order)
    assert isinstance(grams_G, WideGrams) == wide
    windows_GN = ngrams.unpack(grams_G, order)
    stretches = list(ngrams.blocks(order))
    assert len(stretches) > 1
    assert np.array_equal(np.concatenate([windows for windows, _ in stretches]), windows_GN)
    assert np.array_equal(np.concatenate([counts for _, counts in stretches]), counts_G)
    for at in (0, len(counts_G) // 2, len(counts_G) - 1):
        assert ngrams.count(windows_GN[at, ::-1].tolist()) == counts_G[at]
    assert ngrams.count([ngrams.canonical_pad] * order) == 0, "no document ends before it begins"
    assert ngrams.count([2**ngrams.bits - 1] * order) == 0
