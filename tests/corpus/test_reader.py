"""Sources and documents: every format, every compression, and where a document begins and ends."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.corpus import budget, files, sources
from engram_cli.corpus import reader as reading
from engram_cli.corpus.budget import Budget
from engram_cli.corpus.reader import Document, Reader, pieces
from engram_cli.corpus.sources import find_sources
from engram_cli.errors import CorpusError

TEXTS = ["First.\r\nSecond line.", "Ünïcödé 東京 🙂", "  spaced  "]


def read(*names: Path | str, **settings: str) -> list[str]:
    return [document.text for document in Reader(find_sources(names).sources, **settings)]  # type: ignore[arg-type]


def jsonl(*texts: str | None) -> bytes:
    return b"".join(json.dumps({"id": 1, "text": text}).encode() + b"\n" for text in texts)


def parquet(texts: list[str | None], type: pa.DataType | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    column = pa.array(texts, pa.string()).cast(type or pa.string())
    pq.write_table(pa.table({"id": range(len(texts)), "text": column}), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


COMPRESS = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.ndjson", "a.parquet", "A.JSONL"])
def test_every_format_is_read_plain_and_compressed(tmp_path: Path, name: str, suffix: str) -> None:
    content = {".txt": TEXTS[0].encode(), ".md": TEXTS[0].encode(), ".parquet": parquet(list(TEXTS))}.get(name[1:], jsonl(*TEXTS))
    (tmp_path / (name + suffix)).write_bytes(COMPRESS[suffix](content))
    expected = TEXTS[:1] if name[1:] in (".txt", ".md") else TEXTS
    assert read(tmp_path / (name + suffix)) == expected


@pytest.mark.parametrize("type", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_may_be_stored_in_any_way(tmp_path: Path, type: pa.DataType) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(list(TEXTS), type))
    assert read(tmp_path / "a.parquet") == TEXTS


def test_compressed_files_may_be_concatenated(tmp_path: Path) -> None:
    for suffix in (".gz", ".zst"):
        compress = COMPRESS[suffix]
        (tmp_path / f"a.jsonl{suffix}").write_bytes(compress(jsonl("one")) + compress(jsonl("two")))
        assert read(tmp_path / f"a.jsonl{suffix}") == ["one", "two"]


def test_another_field_may_hold_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x", "text": 1}\n')
    pq.write_table(pa.table({"body": ["y"]}), tmp_path / "b.parquet")
    assert read(tmp_path, text_field="body") == ["x", "y"]


def test_folders_are_read_sorted_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/.hidden.txt", ".git/x.txt", "a/image.png", "notes.tar.gz", "c.txt.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(name.encode()) if name.endswith("gz") else name.encode())
    found = find_sources([tmp_path])
    assert [Path(source.name).name for source in found.sources] == ["b.txt", "c.txt.gz", "z.txt"]
    assert found.passed_over == 2


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert read(tmp_path) == ["text"]


def test_millions_of_files_are_known_in_little_more_than_their_names(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number:05}.txt").write_text("text")
    tracemalloc.start()
    found = find_sources([tmp_path])
    taken = tracemalloc.get_traced_memory()[0] / len(found.sources)
    tracemalloc.stop()
    assert taken < 50 + 1.2 * len(f"{tmp_path}/00000.txt")
    assert found.sources[7].path == f"{tmp_path}/00007.txt"
    assert found.sources.names.to_pylist() == [source.name for source in found.sources]


def test_files_are_known_by_their_names_sizes_and_times(tmp_path: Path) -> None:
    def identity() -> str:
        return find_sources([tmp_path]).sources.identity

    (tmp_path / "a.txt").write_text("text")
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    first = identity()
    assert identity() == first
    os.utime(tmp_path / "a.txt", ns=(1, 2))
    touched = identity()
    (tmp_path / "a.txt").write_text("texts")
    os.utime(tmp_path / "a.txt", ns=(1, 2))
    longer = identity()
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({first, touched, longer, identity()}) == 4


def test_more_names_than_an_artifact_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("text")
    size = len(os.fsencode(tmp_path / "a.txt"))
    monkeypatch.setattr(files, "_MOST", 3 * size)
    assert len(find_sources([tmp_path]).sources) == 3
    monkeypatch.setattr(files, "_MOST", 3 * size - 1)
    with pytest.raises(CorpusError, match=rf"at most {3 * size - 1:,} bytes together, but .*/c\.txt is beyond that; .* --add-to"):
        find_sources([tmp_path])


def test_a_name_that_is_no_utf8_is_shown_as_text(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_text("text")
    found = find_sources([tmp_path]).sources
    assert found[0].name == f"{tmp_path}/caf\\xe9.txt"
    assert found.names.to_pylist() == [found[0].name]
    assert [document.text for document in Reader(found)] == ["text"]


def test_a_named_file_is_text_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("all:")
    assert read(tmp_path / "Makefile") == ["all:"]


def test_globs_reach_into_folders(tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.txt", "deep/c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path / "**" / "*.txt") == ["a.txt", "deep/b.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("text")
    assert read(tmp_path / "a[1].txt") == ["text"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert read(tmp_path, tmp_path / "a.txt", tmp_path / "link.txt") == ["text"]


def test_a_separator_splits_text_files_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n\n\nthree\n")
    (tmp_path / "b.jsonl").write_bytes(jsonl("four\n\nfour"))
    assert read(tmp_path, document_separator="\n\n") == ["one", "two", "three\n", "four\n\nfour"]


@given(st.lists(st.binary(max_size=7), max_size=12), st.sampled_from([b"\n", b"ab", b"aa", b"\n\n\n"]))
def test_pieces_are_those_of_the_whole_whatever_the_blocks(blocks: list[bytes], separator: bytes) -> None:
    whole = b"".join(blocks)
    found = list(pieces(iter(blocks), separator))
    expected = whole.split(separator)
    assert [piece for _, piece, _ in found] == (expected if expected[-1] else expected[:-1])
    assert all(last and whole[offset : offset + len(piece)] == piece for offset, piece, last in found)


@given(st.lists(st.binary(max_size=7), max_size=12), st.sampled_from([b"a", b"ab", b"aa", None]), st.integers(0, 9))
def test_long_pieces_come_in_parts_that_are_never_much_longer_than_asked(
    blocks: list[bytes], separator: bytes | None, most: int
) -> None:
    whole, joined, held = b"".join(blocks), [b""], True
    for offset, part, last in pieces(iter(blocks), separator, most):
        assert whole[offset : offset + len(part)] == part
        assert last or len(part) <= most + 7
        joined = [*joined, part] if held else [*joined[:-1], joined[-1] + part]
        held = last
    assert held
    assert joined[1:] == [piece for _, piece, _ in pieces(iter(blocks), separator)]


PROSE = "In the river towns Café Wien serves 12 or 345 of them.\n\nПривет мир and 東京に雨が降る。それは\u3000It's so. "


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> Budget:
    """A budget so small that a document of some hundred characters is long."""
    monkeypatch.setattr(reading, "PIECE", 16)
    monkeypatch.setattr(sources, "_BLOCK", 50)
    return Budget(30_000, 32 * 600)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_long_documents_come_in_pieces_and_are_known_as_a_whole(
    tmp_path: Path, little: Budget, monkeypatch: pytest.MonkeyPatch, suffix: str, errors: str
) -> None:
    texts = [PROSE * 20, "short", PROSE * 9, " " * 900, PROSE[:40], "x" + PROSE * 3]
    (tmp_path / ("a.txt" + suffix)).write_bytes(COMPRESS[suffix]("--".join(texts).encode()))
    (tmp_path / ("b.jsonl" + suffix)).write_bytes(COMPRESS[suffix](jsonl(PROSE * 2, "short")))
    settings: dict[str, str] = {"document_separator": "--", "encoding_errors": errors}
    found = find_sources([tmp_path]).sources
    with monkeypatch.context() as patch:
        patch.setattr(reading, "PIECE", 1 << 20)
        plain = list(Reader(found, **settings))  # type: ignore[arg-type]
    assert all(document.first and document.last for document in plain)
    reader = Reader(found, **settings, budget=little, cuts=True)  # type: ignore[arg-type]
    for _ in range(2):
        pieces = list(reader)
        assert reader.blank == 1
        assert len(pieces) > 40
        assert max(len(piece.text) for piece in pieces) < 80
        joined: list[list[Document]] = []
        for piece in pieces:
            joined += [[]] if piece.first else []
            joined[-1].append(piece)
        assert ["".join(piece.text for piece in parts) for parts in joined] == [document.text for document in plain]
        for parts, document in zip(joined, plain, strict=True):
            assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
            assert {(part.digest, part.source) for part in parts} == {(document.digest, document.source)}
            assert sum(part.bytes for part in parts) == document.bytes


def test_what_cannot_be_cut_must_fit(tmp_path: Path, little: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PIECE", 16)
    (tmp_path / "a.txt").write_text("x" * 1000)
    (tmp_path / "b.jsonl").write_bytes(jsonl("short", "x" * 1000))
    for cuts in (True, False):
        with pytest.raises(CorpusError, match=r"a\.txt has .* characters or more without; give --memory .* or more"):
            list(Reader(find_sources([tmp_path / "a.txt"]).sources, budget=little, cuts=cuts))
        with pytest.raises(CorpusError, match=r"but the JSONL line .*b\.jsonl:2 has 1021 B; give --memory 42\.\d KiB or more"):
            list(Reader(find_sources([tmp_path / "b.jsonl"]).sources, budget=little, cuts=cuts))
    pq.write_table(pa.table({"text": ["short", "x" * 1000]}), tmp_path / "c.parquet")
    with pytest.raises(CorpusError, match=r"but a document of .*c\.parquet has 1000 B; give"):
        list(Reader(find_sources([tmp_path / "c.parquet"]).sources, budget=little))


def test_a_longer_zstd_window_than_memory_is_kept_for_is_refused(tmp_path: Path) -> None:
    for log in (27, 28):
        packer = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=log)).compressobj()
        (tmp_path / f"{log}.txt.zst").write_bytes(packer.compress(b"text") + packer.flush())
    assert read(tmp_path / "27.txt.zst") == ["text"]
    with pytest.raises(CorpusError, match=r"at most 128 MiB, but .*28\.txt\.zst was packed with a longer one"):
        read(tmp_path / "28.txt.zst")


@pytest.mark.parametrize("packed", ["none", "zstd", "snappy"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_pages_of_parquet_must_fit(tmp_path: Path, little: Budget, packed: str, dictionary: bool) -> None:
    texts = [f"{number} {'x' * 40}" for number in range(400)]
    options: dict[str, Any] = {"compression": packed, "use_dictionary": dictionary}
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", **options)
    with pytest.raises(CorpusError, match=r"one of .*a\.parquet takes [123][0-9.]+ KiB; give --memory .* or more, or write it with smaller"):
        list(Reader(find_sources([tmp_path / "a.parquet"]).sources, budget=little))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=20, **options)
    assert len(list(Reader(find_sources([tmp_path / "a.parquet"]).sources, budget=little))) == 400


def test_bytes_that_are_no_text_are_located_in_long_documents(tmp_path: Path, little: Budget) -> None:
    content = b"\xef\xbb\xbf" + PROSE.encode() * 9 + b"\xff" + PROSE.encode()
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"0xff at byte {content.index(bytes([255]))} "):
        list(Reader(find_sources([tmp_path]).sources, budget=little, cuts=True))
    (tmp_path / "a.txt").write_bytes(content.replace(b"\xff", b"\0"))
    with pytest.raises(CorpusError, match=rf"one at byte {content.index(bytes([255]))}:"):
        list(Reader(find_sources([tmp_path]).sources, budget=little, cuts=True))


def test_blank_documents_and_empty_files_are_passed_over_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl("", " \n", "text", None) + b"\n  \n")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.parquet").write_bytes(parquet([None, "", "text"]))
    reader = Reader(find_sources([tmp_path]).sources)
    for _ in range(2):  # reading again counts again
        assert [document.text for document in reader] == ["text", "text"]
        assert reader.blank == 5
        assert [reader.sources[number].name for number in reader.empty] == [str(tmp_path / "b.txt")]
        assert reader.done == reader.bytes


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    sources = find_sources([tmp_path]).sources
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CorpusError, match=r"a\.txt is not \(No such file"):
        list(Reader(sources))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl("line"))
    assert read(tmp_path) == ["text", "line"]


@pytest.mark.parametrize(("errors", "expected"), [("replace", "a\ufffdb"), ("ignore", "ab")])
def test_bytes_that_are_no_utf8_may_be_replaced_or_ignored(tmp_path: Path, errors: str, expected: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\xffb")
    assert read(tmp_path / "a.txt", encoding_errors=errors) == [expected]


def test_half_surrogate_pairs_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud83d"}\n{"text": "\\ud83d\\ude42"}\n')
    assert read(tmp_path, encoding_errors="replace") == ["a?", "🙂"]
    with pytest.raises(CorpusError, match=r"half a surrogate pair \(\\ud83d\).*--encoding-errors replace"):
        read(tmp_path)


def test_a_document_is_known_by_the_digest_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ünïcödé")
    (tmp_path / "b.jsonl").write_bytes(jsonl("x", "Ünïcödé"))
    one, _, other = Reader(find_sources([tmp_path]).sources)
    assert one.digest == other.digest == xxhash.xxh3_128_intdigest("Ünïcödé".encode())
    assert (one.bytes, one.source, other.source) == (11, 0, 1)


def test_a_line_may_be_longer_than_a_block(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl("x" * (3 << 20), "short"))
    assert [len(text) for text in read(tmp_path / "a.jsonl")] == [3 << 20, 5]


def test_progress_goes_by_the_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(jsonl(os.urandom(700).hex()) for _ in range(3000))))
    reader = Reader(find_sources([tmp_path]).sources)
    seen = [reader.done for _ in reader]
    assert 0 < seen[0] < seen[-1] <= reader.bytes == (tmp_path / "a.jsonl.gz").stat().st_size
