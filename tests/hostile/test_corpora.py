"""Corpora and settings that must be refused: each with one line on stderr, exit code 2, and nothing written, not even half."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from engram_cli.__main__ import run
from engram_cli.corpus import sources
from tests.corpora import make_documents, write_jsonl

Refused = Callable[..., str]
LINES = "".join(json.dumps({"title": "note", "text": text}) + "\n" for text in make_documents(400)).encode()


@pytest.fixture
def refused(tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run `engram extract` in an empty folder with files {name: content} and return its one line of refusal."""
    monkeypatch.chdir(tmp_path)
    given = ("--tokenizer", str(tokenizer_path))

    def check(*arguments: str, files: dict[str, bytes] | None = None, tokenizer: Sequence[str] = given, out: str = "out") -> str:
        for name, content in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        before = sorted(tmp_path.rglob("*"))
        code = run(["extract", *arguments, "--out", out, "--quiet", *tokenizer])
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if not line.startswith("engram: warning:")]
        assert code == 2
        assert captured.out == ""
        assert len(lines) == 1
        assert lines[0].startswith("engram: ")
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return check


# nothing to read ------------------------------------------------------------------------------------------------------
def test_no_such_file(refused: Refused) -> None:
    assert "nothing.txt is not there" in refused("nothing.txt")


def test_a_link_to_nothing(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("gone.txt")
    assert "link.txt is a link to nothing" in refused("link.txt")


def test_a_glob_that_matches_nothing(refused: Refused) -> None:
    assert "*.txt matches none" in refused("*.txt", files={"a.md": b"text"})


def test_an_empty_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    assert "corpus has none" in refused("corpus")


def test_a_folder_of_other_files(refused: Refused) -> None:
    assert "only 2 other files such as a.png" in refused("corpus", files={"corpus/a.png": b"", "corpus/b.bin": b""})


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_only_empty_files(refused: Refused, content: bytes) -> None:
    assert "a corpus holds text, but there is none in a.txt" in refused("a.txt", files={"a.txt": content})


def test_only_empty_lines(refused: Refused) -> None:
    assert "there is none in a.jsonl" in refused("a.jsonl", files={"a.jsonl": b'\n{"text": ""}\n{"text": null}\n'})


def test_everything_held_out(refused: Refused) -> None:
    line = refused("a.txt", "--held-out", "0.999999999999", files={"a.txt": b"text"})
    assert "--held-out 0.999999999999 takes all 1; lower it" in line


# what cannot be read --------------------------------------------------------------------------------------------------
def test_no_permission(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*arguments: object, **settings: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources, "open", deny, raising=False)  # since root may read everything
    assert "a.txt is not (Permission denied); change its permissions" in refused("a.txt", files={"a.txt": b"text"})


def test_a_folder_without_permission(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def deny(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    (tmp_path / "corpus").mkdir()
    monkeypatch.setattr("os.scandir", deny)
    with monkeypatch.context() as context:
        context.setattr(Path, "rglob", lambda path, pattern: [])
        assert "corpus is not (Permission denied)" in refused("corpus")


def test_a_disk_that_fails_while_reading(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def read(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(sources, "open", lambda *a, **k: Failing(), raising=False)
    assert "a.txt is not (Input/output error)" in refused("a.txt", files={"a.txt": b"text"})


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "picture.png"])
def test_binary_files(refused: Refused, name: str) -> None:
    assert f"{name} has one at byte 4: it is binary or UTF-16" in refused(name, files={name: b"\x89PNG\0\1\2"})


def test_utf16(refused: Refused) -> None:
    assert "at byte 3: it is binary or UTF-16; convert it to UTF-8" in refused("a.txt", files={"a.txt": "text".encode("utf-16")})


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("padding", [0, 3 << 20])
def test_invalid_utf8_is_located(refused: Refused, mark: bytes, padding: int) -> None:
    content = mark + b"x" * padding + "é".encode() + b"caf\xe9 "
    line = refused("a.txt", files={"a.txt": content})
    assert f"a.txt has 0xe9 at byte {content.index(0xE9.to_bytes())} (invalid continuation byte)" in line
    assert "--encoding-errors replace" in line


def test_invalid_utf8_is_located_behind_separators_and_in_compressed_lines(refused: Refused) -> None:
    assert "at byte 9" in refused("a.txt", "--document-separator", "--", files={"a.txt": b"one--two-\xff"})
    assert "b.jsonl.gz has 0xff at byte 24" in refused(
        "b.jsonl.gz", files={"b.jsonl.gz": gzip.compress(b'{"text": "a"}\n{"text": "\xff"}\n')}
    )


@pytest.mark.parametrize("cut", [1, 4, 30, 1000])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_compressed_files(refused: Refused, suffix: str, cut: int) -> None:
    data = gzip.compress(LINES) if suffix == ".gz" else zstandard.ZstdCompressor().compress(LINES)
    line = refused("a.jsonl" + suffix, files={"a.jsonl" + suffix: data[:-cut]})
    assert f"a.jsonl{suffix} is cut short; fetch it again" in line


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damaged_compressed_files(refused: Refused, suffix: str) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    data = bytearray(gzip.compress(LINES) if suffix == ".gz" else compressor.compress(LINES))
    data[len(data) // 2] ^= 0x10
    assert f"a.jsonl{suffix} is" in refused("a.jsonl" + suffix, files={"a.jsonl" + suffix: bytes(data)})


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_in_name_only(refused: Refused, suffix: str) -> None:
    assert f"a.txt{suffix} is damaged" in refused("a.txt" + suffix, files={"a.txt" + suffix: b"plain text"})


# JSONL and Parquet ----------------------------------------------------------------------------------------------------
def test_a_line_without_the_field(refused: Refused) -> None:
    line = refused("a.jsonl", files={"a.jsonl": b'{"text": "a"}\n\n{"title": "b", "body": "c"}\n'})
    assert "a.jsonl:3 has only 'title', 'body'; choose one with --text-field" in line


@pytest.mark.parametrize(("record", "found"), [("[1]", "list"), ('"text"', "str"), ("7", "int")])
def test_a_line_that_is_no_object(refused: Refused, record: str, found: str) -> None:
    assert f"a.jsonl:1 is a {found}" in refused("a.jsonl", files={"a.jsonl": record.encode()})


@pytest.mark.parametrize("value", ["7", "{}", "[]", "true"])
def test_a_field_that_is_no_text(refused: Refused, value: str) -> None:
    assert "at a.jsonl:1 it is a " in refused("a.jsonl", files={"a.jsonl": f'{{"text": {value}}}'.encode()})


@pytest.mark.parametrize("line", [b"not json", b'{"text": "cut', b"[" * 100_000])
def test_a_line_that_is_not_json(refused: Refused, line: bytes) -> None:
    assert "a.jsonl:2 is not JSON" in refused("a.jsonl", files={"a.jsonl": b'{"text": "a"}\n' + line + b"\n"})


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def test_parquet_without_the_column(refused: Refused) -> None:
    line = refused("a.parquet", files={"a.parquet": parquet(pa.table({"body": ["x"], "id": [1]}))})
    assert "a.parquet has only 'body', 'id'; choose one with --text-field" in line


def test_parquet_whose_column_is_no_text(refused: Refused) -> None:
    assert "in a.parquet it is int64" in refused("a.parquet", files={"a.parquet": parquet(pa.table({"text": [1]}))})


def test_parquet_in_name_only_or_cut(refused: Refused) -> None:
    whole = parquet(pa.table({"text": make_documents(50)}))
    for content in (b"plain text", b"", whole[:-10], whole[:4] + whole[2000:]):
        assert "a.parquet cannot be read as such" in refused("a.parquet", files={"a.parquet": content})


def test_the_same_is_refused_while_a_tokenizer_is_trained(refused: Refused) -> None:
    training = ["--train-tokenizer", "300"]
    assert "0xff at byte 2" in refused("a.txt", files={"a.txt": b"ab\xff"}, tokenizer=training)
    assert "a.jsonl:2 is not JSON" in refused("a.jsonl", files={"a.jsonl": b'{"text": "a"}\nb\n'}, tokenizer=training)
    assert "there is none in b.txt" in refused("b.txt", files={"b.txt": b""}, tokenizer=training)


# settings -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"model": {"type": "BPE"}}', b"\xff\0", b"[]"])
def test_a_tokenizer_that_is_not_one(refused: Refused, content: bytes) -> None:
    files = {"a.txt": b"text", "tokenizer.json": content}
    line = refused("a.txt", files=files, tokenizer=["--tokenizer", "tokenizer.json"])
    assert "a tokenizer is a Hugging Face tokenizer.json, but tokenizer.json" in line


def test_a_tokenizer_that_is_not_there_or_a_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    files = {"a.txt": b"text"}
    assert "cannot be read (No such file" in refused("a.txt", files=files, tokenizer=["--tokenizer", "none.json"])
    assert "cannot be read (Is a directory)" in refused("a.txt", files=files, tokenizer=["--tokenizer", "folder"])


def test_both_tokenizers_or_neither(refused: Refused) -> None:
    files = {"a.txt": b"text"}
    assert "but neither is given" in refused("a.txt", files=files, tokenizer=[])
    assert "but both are given" in refused("a.txt", "--train-tokenizer", "300", files=files)


def test_a_vocabulary_too_small(refused: Refused) -> None:
    assert "at least 257 ids (256 bytes and <|endoftext|>), but --train-tokenizer says 256" in refused(
        "a.txt", tokenizer=["--train-tokenizer", "256"]
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--orders", "0", "--orders must be from 1 to 6, but it is 0"),
        ("--orders", "7", "--orders must be from 1 to 6, but it is 7"),
        ("--held-out", "1", "--held-out is a share, from 0 to below 1, but it is 1.0"),
        ("--held-out", "-0.1", "--held-out is a share, from 0 to below 1, but it is -0.1"),
        ("--held-out", "nan", "--held-out is a share, from 0 to below 1, but it is nan"),
        ("--encoding-errors", "lax", "--encoding-errors is one of strict, replace, ignore, but it is 'lax'"),
        ("--document-separator", "", "--document-separator must be a text, but it is empty"),
        ("--pad-token", "<none>", "--pad-token must be a token of the tokenizer, but it has no '<none>'"),
    ],
)
def test_settings_that_break_a_rule(refused: Refused, option: str, value: str, message: str) -> None:
    assert message in refused("a.txt", option, value, files={"a.txt": b"text"})


def test_an_out_that_exists(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_jsonl(tmp_path / "a.jsonl", ["text"])
    assert "out does; choose another, or give --force" in refused("a.jsonl")
    assert "--force replaces artifacts only" in refused("a.jsonl", "--force")


def test_an_out_that_cannot_be_made(refused: Refused) -> None:
    assert "cannot be made (Not a directory)" in refused("a.txt", files={"a.txt": b"text"}, out="a.txt/out")
