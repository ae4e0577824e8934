"""The manifest: its bytes, its digest, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from engram_cli.errors import ArtifactError
from engram_cli.store.manifest import FORMAT, FileRecord, Manifest, RunningDigest, file_digest, read_manifest

GOOD = Manifest(kind="ngrams", tool="0.1.0", inputs={"corpus": "ab"}, facts={"tokens": 3}, files={"a.arrow": FileRecord(2, "00ff")})


def write(folder: Path, **changes: Any) -> Path:
    """A manifest with some keys changed, and those changed to `...` left out; its own digest is right."""
    document = {key: value for key, value in (json.loads(GOOD.to_json()) | changes).items() if value is not ...}
    document.pop("xxh3_128")
    document["xxh3_128"] = xxhash.xxh3_128_hexdigest(json.dumps(document, indent=2, ensure_ascii=False).encode())
    (folder / "manifest.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return folder


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(GOOD.to_json())
    assert read_manifest(tmp_path) == GOOD


def test_the_helper_writes_manifests(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path)) == GOOD


@given(at=st.integers(0, len(GOOD.to_json()) - 1), byte=st.integers(0, 255))
@example(at=1, byte=13)  # a line feed became a carriage return
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    content = bytearray(GOOD.to_json().encode())
    if content[at] != byte:
        content[at] = byte
        folder = tmp_path_factory.mktemp("changed")
        (folder / "manifest.json").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"manifest|format"):
            read_manifest(folder)


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(GOOD.to_json().replace('"tokens": 3', '"tokens": 4'))
    with pytest.raises(ArtifactError, match="not as it was written"):
        read_manifest(tmp_path)


def test_digests_of_format_1_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"engram")
    assert file_digest(tmp_path / "file") == "99566619823feaa615c28784a06aa9c3"
    assert GOOD.digest == "e97d2679bb17178bab0345acc4f9fb5e"


def test_the_digest_is_of_kind_and_files_and_of_nothing_else() -> None:
    same = Manifest(kind="ngrams", tool="9", inputs={}, facts={"x": 1}, recipe="r", files=GOOD.files)
    assert same.digest == GOOD.digest
    others = [
        Manifest(kind="table", tool="0.1.0", files=GOOD.files),
        Manifest(kind="ngrams", tool="0.1.0", files={"b.arrow": FileRecord(2, "00ff")}),
        Manifest(kind="ngrams", tool="0.1.0", files={"a.arrow": FileRecord(2, "00fe")}),
    ]
    assert len({GOOD.digest, *(other.digest for other in others)}) == 4


def test_a_newer_format_says_upgrade(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"formats up to {FORMAT}, but .* has format {FORMAT + 1}: upgrade engram"):
        read_manifest(write(tmp_path, format=FORMAT + 1, unheard_of=True))


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/hostname", "", "nul\0byte"])
def test_files_outside_the_artifact_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="lie inside it"):
        read_manifest(write(tmp_path, files={name: {"bytes": 1, "xxh3_128": "00"}}))


@pytest.mark.parametrize(
    "changes",
    [
        {"files": ...},
        {"kind": ...},
        {"format": ...},
        {"format": "1"},
        {"files": []},
        {"files": {"a": 3}},
        {"files": {"a": {"bytes": 3}}},
        {"files": {"a": {"bytes": "3", "xxh3_128": "00"}}},
        {"files": {"a": {"bytes": -1, "xxh3_128": "00"}}},
        {"files": {"a": {"bytes": 1, "xxh3_128": None}}},
        {"facts": []},
        {"inputs": "corpus"},
        {"recipe": None},
        {"kind": 7},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_a_manifest_that_is_not_one_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="manifest"):
        read_manifest(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000], ids=lambda content: repr(content[:8])
)
def test_bytes_that_are_no_manifest_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="manifest"):
        read_manifest(tmp_path)


def test_nothing_a_file_or_an_unfinished_directory_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "unfinished").mkdir()
    for name, message in (("none", "nothing is there"), ("file", "a file lies there"), ("unfinished", "did not finish")):
        with pytest.raises(ArtifactError, match=message):
            read_manifest(tmp_path / name)


def test_a_digest_taken_while_a_file_is_written_is_that_of_the_file(tmp_path: Path) -> None:
    path, content = tmp_path / "file", np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    path.write_bytes(content.tobytes())
    for pieces in ([], [(100, 900), (900, 4000)], [(100, 300), (400, 5000)], [(200, 5000)]):
        digest = RunningDigest(path, 100)
        for start, stop in pieces:
            digest.add(start, content[start:stop].view(np.uint16))
        assert digest.finish() == file_digest(path), "in order, with a gap, from the middle"
