"""Ready tokens: the same documents whatever file they lie in, and refusals of what is no file of tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engram_cli.corpus import ready
from engram_cli.corpus.artifact import DOCUMENTS, NGrams
from engram_cli.corpus.ready import ReadyReader, find_ready
from engram_cli.corpus.tokenizer import load_tokenizer
from engram_cli.errors import CorpusError
from tests.corpora import make_documents

END = 0


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_path)


@pytest.fixture(scope="module")
def documents(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text).ids for text in make_documents(40)]


def flat(documents: list[list[int]]) -> npt.NDArray[np.uint16]:
    return np.array([id for document in documents for id in [*document, END]], dtype=np.uint16)


def read(names: list[Any], tokenizer: Tokenizer, end: int | None = END, **options: Any) -> list[tuple[list[int], int, int]]:
    """(ids, bytes, digest) of every document."""
    found: list[tuple[list[int], int, int]] = []
    expected: list[int] = []
    for block in ReadyReader(find_ready(names, **options).sources, tokenizer, np.uint16, end, **options):
        assert block.ids_T.dtype == np.uint16
        bounds = [*block.starts_D.tolist(), len(block.ids_T)]
        if found:
            found[-1][0].extend(block.ids_T[: bounds[0]].tolist())
        for begin, stop, size, high, low in zip(
            bounds, bounds[1:], block.bytes_D.tolist(), block.high_D.tolist(), block.low_D.tolist(), strict=False
        ):
            found.append((block.ids_T[begin:stop].tolist(), size, high << 64 | low))
        expected += block.lengths_D.tolist()
    assert [len(ids) for ids, _, _ in found] == expected
    return found


def write_bin(path: Path, documents: list[list[int]]) -> Path:
    flat(documents).tofile(path)
    return path


def write_npy(path: Path, documents: list[list[int]]) -> Path:
    np.save(path, flat(documents).astype(np.int32))
    return path


def write_megatron(path: Path, documents: list[list[int]]) -> Path:
    """Two sequences a document, where it has two tokens."""
    sequences = [part for document in documents for part in (document[:1], document[1:]) if part]
    bounds = np.cumsum([0, *(min(2, len(document)) for document in documents)])
    np.array([id for part in sequences for id in part], dtype="<i4").tofile(path)
    lengths = np.array([len(part) for part in sequences], dtype="<i4")
    header = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + bytes([4])
    header += len(sequences).to_bytes(8, "little") + len(bounds).to_bytes(8, "little")
    pointers = (4 * (np.cumsum(lengths) - lengths)).astype("<i8")
    path.with_suffix(".idx").write_bytes(header + lengths.tobytes() + pointers.tobytes() + bounds.astype("<i8").tobytes())
    return path


def write_parquet(path: Path, documents: list[list[int]]) -> Path:
    pq.write_table(pa.table({"ids": pa.array(documents, pa.list_(pa.int32()))}), path, row_group_size=7)
    return path


def write_arrow(path: Path, documents: list[list[int]]) -> Path:
    table = pa.table({"ids": pa.array(documents, pa.large_list(pa.int64()))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    return path


def write_arrow_stream(path: Path, documents: list[list[int]]) -> Path:
    table = pa.table({"ids": pa.array(documents, pa.list_(pa.uint16()))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    return path


WRITERS: dict[str, tuple[Callable[[Path, list[list[int]]], Path], dict[str, str]]] = {
    "a.bin": (write_bin, {"token_dtype": "u16"}),
    "a.npy": (write_npy, {}),
    "b.bin": (write_megatron, {}),
    "a.parquet": (write_parquet, {"token_field": "ids"}),
    "a.arrow": (write_arrow, {"token_field": "ids"}),
    "b.arrow": (write_arrow_stream, {"token_field": "ids"}),
}


@pytest.mark.parametrize("block", [40, 1 << 20])
@pytest.mark.parametrize("name", WRITERS)
def test_every_file_gives_the_same_documents(
    name: str, block: int, tokenizer: Tokenizer, documents: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "BLOCK", block)
    write, options = WRITERS[name]
    found = read([write(tmp_path / name, documents)], tokenizer, **options)
    assert [ids for ids, _, _ in found] == [[*document, END] for document in documents]
    assert [size for _, size, _ in found] == [len(text.encode()) for text in make_documents(40)]
    assert [digest for _, _, digest in found] == [
        xxhash.xxh3_128_intdigest(np.array(ids, dtype="<u4").tobytes()) for ids, _, _ in found
    ]


@given(lengths=st.lists(st.integers(0, 9), max_size=8), block=st.integers(1, 12), closed=st.booleans())
def test_blocks_and_blank_documents_change_nothing(
    lengths: list[int], block: int, closed: bool, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents = [[5 + at] * length for at, length in enumerate(lengths)]
    path = tmp_path_factory.mktemp("blocks") / "a.bin"
    ids_T = flat(documents)
    (ids_T if closed else ids_T[:-1]).tofile(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ready, "BLOCK", block)
        found = read([path], tokenizer, token_dtype="u16")
    assert [ids for ids, _, _ in found] == [[*document, END] for document in documents if document]


def test_without_an_end_token_a_file_is_one_document(tokenizer: Tokenizer, documents: list[list[int]], tmp_path: Path) -> None:
    found = read([write_npy(tmp_path / "a.npy", documents)], tokenizer, end=None)
    assert [ids for ids, _, _ in found] == [flat(documents).tolist()]


def test_an_artifact_is_read_with_its_digests_and_sizes(ngrams: NGrams) -> None:
    found = read([ngrams.artifact.path], ngrams.tokenizer, ngrams.end)
    records = ngrams.artifact.table(DOCUMENTS).to_pylist()
    assert [f"{digest:032x}" for _, _, digest in found] == [record["digest"] for record in records]
    assert [size for _, size, _ in found] == [record["bytes"] for record in records]
    everything = np.concatenate([ngrams.stream(held_out).tokens_T for held_out in (False, True)])
    assert [id for ids, _, _ in found for id in ids] == everything.tolist()


def test_folders_and_globs_and_progress(tokenizer: Tokenizer, documents: list[list[int]], tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", documents[:20])
    write_npy(tmp_path / "b.npy", documents[20:])
    (tmp_path / "c.txt").write_text("text")
    found = find_ready([tmp_path, tmp_path / "*.npy"])
    assert found.passed_over == 1
    reader = ReadyReader(found.sources, tokenizer, np.uint16, END)
    assert sum(len(block.lengths_D) for block in reader) == 40
    assert reader.done == reader.bytes > 0
    assert not find_ready([tmp_path / "c.txt"]).sources


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: write_bin(p / "a.bin", [[1]]), {}, "known width"),
        (lambda p: (p / "a.bin").write_bytes(b"123"), {"token_dtype": "u16"}, "a multiple of 2 bytes, but .* has 3"),
        (lambda p: write_bin(p / "a.bin", [[1, 2], [3, 999]]), {"token_dtype": "u16"}, "0 to 319, but token 4 of .* is 999"),
        (lambda p: np.save(p / "a.npy", np.array([1, -2])), {}, "token 1 of .* is -2"),
        (lambda p: np.save(p / "a.npy", np.array([1.0, 2.0])), {}, "whole numbers, but those of .* are float64"),
        (lambda p: np.save(p / "a.npy", np.ones((2, 2), int)), {}, r"one row of ids, but .* has the shape \(2, 2\)"),
        (lambda p: (p / "a.npy").write_bytes(b"nonsense"), {}, "must be whole"),
        (lambda p: write_parquet(p / "a.parquet", [[1]]), {"token_field": "tokens"}, "has only 'ids'"),
        (lambda p: pq.write_table(pa.table({"ids": ["a"]}), p / "a.parquet"), {"token_field": "ids"}, "is string"),
        (lambda p: pq.write_table(pa.table({"ids": [[1, None]]}), p / "a.parquet"), {"token_field": "ids"}, "1 that are null"),
        (lambda p: (p / "a.arrow").write_bytes(b"x" * 99), {"token_field": "ids"}, "must be whole"),
        (lambda p: write_bin(p / "a.bin", [[1]]), {"token_dtype": "u8"}, "one of u16, u32"),
        (lambda p: (p / "a.txt").write_text("text"), {"token_dtype": "u16"}, "is none; leave the option out"),
        (lambda p: [write_npy(p / "a.npy", [[1]]), (p / "a.txt").write_text("text")], {}, "extract them apart"),
    ],
)
def test_what_is_refused(
    make: Callable[[Path], object], options: dict[str, str], message: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(CorpusError, match=message):
        read(sorted(tmp_path.iterdir()), tokenizer, **options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("magic", "but .*idx is not"),
        ("size", r"tells of 12 bytes, and a\.bin has 8"),
        ("short", "idx is cut short"),
        ("missing", r"tells of 12 bytes, and a\.bin is missing"),
        ("pointers", "sequences that do not lie end to end"),
        ("bounds", "documents that are not made of its 3 sequences"),
    ],
)
def test_an_index_and_its_file_must_agree(damage: str, message: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "a.bin", [[1, 2], [3]])
    index = path.with_suffix(".idx")
    data = bytearray(index.read_bytes())
    if damage == "magic":
        data[0] = 0
    elif damage == "bounds":
        data[-1] = 9
    elif damage == "pointers":
        data[34 + 3 * 4] = 9
    index.write_bytes(data[:-30] if damage == "short" else data)
    if damage == "size":
        path.write_bytes(path.read_bytes()[:-4])
    if damage == "missing":
        path.unlink()
    with pytest.raises(CorpusError, match=message):
        read([index], tokenizer)


def test_tokens_of_another_tokenizer_are_refused(ngrams: NGrams, tokenizer: Tokenizer) -> None:
    with pytest.raises(CorpusError, match=r"is another; give .*tokenizer.json"):
        read([ngrams.artifact.path], tokenizer)
