"""documents.arrow, a batch at a time."""


import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus.documents import read_digests, write_documents
from engram_cli.corpus.parts import Records
from engram_cli.errors import ArtifactError
from engram_cli.store import schema
from engram_cli.store.artifact import open_artifact, write_artifact

HALVES = st.integers(0, 2**64 - 1)


@given(batches=st.lists(st.lists(st.tuples(HALVES, HALVES), min_size=1, max_size=5), max_size=4))
def test_digests_are_read_as_they_were_written(batches: list[list[tuple[int, int]]], tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("documents") / "one"
    with write_artifact(out, "ngrams") as draft:
        whole = write_documents(draft, pa.array(["a"]), ((False, records(batch)) for batch in batches))
    column = open_artifact(out).table("documents.arrow", schema.DOCUMENTS)["digest"]
    texts = [f"{high:016x}{low:016x}" for batch in batches for high, low in batch]
    assert column.to_pylist() == texts
    assert whole == xxhash.xxh3_128_hexdigest("".join(texts).encode())
    read = [list(zip(part.high_D.tolist(), part.low_D.tolist(), strict=True)) for part in read_digests(column)]
    assert read == batches
    sliced = [pair for part in read_digests(column.slice(1)) for pair in zip(part.high_D.tolist(), part.low_D.tolist(), strict=True)]
    assert sliced == [pair for batch in batches for pair in batch][1:]


@pytest.mark.parametrize("digests", [["0" * 31], ["0" * 32, "0" * 33], [None, "0" * 32]])
def test_what_is_no_digest_is_refused(digests: list[str | None]) -> None:
    with pytest.raises(ArtifactError, match="a document's digest has 32 letters"):
        list(read_digests(pa.chunked_array([pa.array(digests, pa.string())])))


def records(halves: list[tuple[int, int]]) -> Records:
    high_D, low_D = np.array(halves, dtype=np.uint64).T
    numbers = np.arange(len(halves), dtype=np.uint64)
    return Records(numbers, numbers, high_D, low_D, np.zeros(len(halves), np.int32), np.ones(len(halves), np.bool_))
