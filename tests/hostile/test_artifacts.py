"""Artifacts that must be refused, each with one line on stderr and exit code 2, never with a traceback or an answer.

README.md says what each tries, and what stops it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engram_cli.store.artifact
from engram_cli.__main__ import run
from engram_cli.corpus.extract import extract
from engram_cli.store.artifact import Draft, open_artifact, write_artifact
from engram_cli.store.tensors import TensorSpec, create_tensors, write_tensors

Output = pytest.CaptureFixture[str]
Damage = Callable[[Path], object]
Lie = Callable[[Draft], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, table_path: Path) -> dict[str, Path]:
    """One good artifact of each kind that all commands accept together."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "text.txt").write_text("The capital of France is Paris. The capital of Italy is Rome.\n" * 20, encoding="utf-8")
    extract([folder / "text.txt"], folder / "ngrams", tokenizer=table_path / "tokenizer.json", held_out=0.0)
    assert run(["collisions", str(folder / "ngrams"), "--table", str(table_path), "-o", str(folder / "report"), "--quiet"]) == 0
    return {"ngrams": folder / "ngrams", "table": table_path, "report": folder / "report"}


def uses(kind: str, path: Path, good: dict[str, Path]) -> dict[str, list[str]]:
    """What reads an artifact of `kind`: a name -> a command line that gives it `path`."""
    collisions = ["collisions", str(path if kind == "ngrams" else good["ngrams"]), "--quiet"]
    table = str(path if kind == "table" else good["table"])
    serve = ["serve-local", str(path), "--prompt", "The capital", "--max-tokens", "2", "--device", "cpu"]
    lines = {"inspect": ["inspect", str(path)]}
    if kind != "report":
        lines["collisions"] = [*collisions, "--table", table]
    return lines | ({"serve-local": serve} if kind == "table" else {})


def refusal(line: list[str], capsys: Output) -> str:
    """The one line a command refuses with."""
    capsys.readouterr()
    code = run(line)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), (line, captured)
    assert captured.err.startswith("engram: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


# damage: the bytes are not those that were written ------------------------------------------------------------------------
def rewrite_manifest(path: Path, **changes: Any) -> None:
    """Change keys of the manifest and give it a digest that fits, as an attacker would."""
    document = json.loads((path / "manifest.json").read_text()) | changes
    document.pop("xxh3_128")
    document["xxh3_128"] = xxhash.xxh3_128_hexdigest(json.dumps(document, indent=2, ensure_ascii=False).encode())
    (path / "manifest.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def outside(name: str) -> Damage:
    return lambda path: rewrite_manifest(path, files={name: {"bytes": 1, "xxh3_128": "00"}})


FIRST = {"ngrams": "ngrams-2.arrow", "table": "layout.arrow", "report": "report.json"}  # a file that every command needs
EVERYWHERE: dict[str, tuple[Damage, str]] = {
    "half written": (lambda path: (path / "manifest.json").unlink(), "did not finish"),
    "newer format": (lambda path: rewrite_manifest(path, format=2), "has format 2: upgrade engram"),
    "manifest changed by hand": (
        lambda path: (path / "manifest.json").write_text((path / "manifest.json").read_text().replace("0.1.0", "0.1.1")),
        "not as it was written",
    ),
    "manifest flipped": (lambda path: flip(path / "manifest.json"), "manifest"),
    "manifest empty": (lambda path: (path / "manifest.json").write_text(""), "manifest"),
    "manifest binary": (lambda path: (path / "manifest.json").write_bytes(bytes(range(256))), "manifest"),
    "manifest a list": (lambda path: (path / "manifest.json").write_text("[]"), "manifest"),
    "manifest too deep": (lambda path: (path / "manifest.json").write_text("[" * 200_000), "manifest"),
    "manifest a folder": (lambda path: to_folder(path / "manifest.json"), "manifest"),
    "file above": (outside("../secret"), "lie inside it"),
    "file above, hidden": (outside("a/../../secret"), "lie inside it"),
    "file absolute": (outside("/etc/hostname"), "lie inside it"),
    "file with a zero byte": (outside("a\0b"), "lie inside it"),
    "negative size": (lambda path: rewrite_manifest(path, files={"a": {"bytes": -1, "xxh3_128": "00"}}), "impossible"),
    "unknown kind": (lambda path: rewrite_manifest(path, kind="weights"), "weights"),
}
FILES: dict[str, tuple[Damage, str]] = {
    "missing": (Path.unlink, "is missing"),
    "cut": (cut, "bytes but has"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "bytes but has"),
    "emptied": (lambda path: path.write_bytes(b""), "bytes but has"),
    "flipped": (flip, "a byte of it has changed"),
    "a folder": (to_folder, "is missing"),
    "a link to nothing": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "is missing"),
}


@pytest.mark.parametrize("attack", [name for name in EVERYWHERE if name != "unknown kind"])
@pytest.mark.parametrize("kind", FIRST)
def test_a_manifest_that_cannot_be_trusted(kind: str, attack: str, good: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    path = Path(shutil.copytree(good[kind], tmp_path / "bad"))
    damage, message = EVERYWHERE[attack]
    damage(path)
    for line in [*uses(kind, path, good).values(), ["verify", str(path)]]:
        assert message in refusal(line, capsys)


@pytest.mark.parametrize("attack", FILES)
@pytest.mark.parametrize("kind", FIRST)
def test_a_file_that_is_not_what_was_written(kind: str, attack: str, good: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    path = Path(shutil.copytree(good[kind], tmp_path / "bad"))
    damage, message = FILES[attack]
    damage(path / FIRST[kind])
    for line in uses(kind, path, good).values():
        assert message in refusal(line, capsys)
    assert run(["verify", str(path), "--quiet"]) == 1


@pytest.mark.parametrize(
    "name", ["host.safetensors", "memory.safetensors", "rows-00.safetensors", "tokenizer.json", "token_map.arrow"]
)
@pytest.mark.parametrize("attack", FILES)
def test_a_damaged_table_does_not_speak(name: str, attack: str, good: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    path = Path(shutil.copytree(good["table"], tmp_path / "bad"))
    damage, message = FILES[attack]
    damage(path / name)
    assert message in refusal(uses("table", path, good)["serve-local"], capsys)


def test_the_wrong_kind(good: dict[str, Path], tmp_path: Path, capsys: Output) -> None:
    for given_kind in FIRST:
        for wanted in ("ngrams", "table"):
            if given_kind != wanted:
                for name, line in uses(wanted, good[given_kind], good).items():
                    if name != "inspect":
                        assert f"of kind {wanted}, but" in refusal(line, capsys)
    path = Path(shutil.copytree(good["table"], tmp_path / "bad"))
    rewrite_manifest(path, kind="weights")
    for name, line in uses("table", path, good).items():
        if name != "inspect":
            assert "is of kind weights" in refusal(line, capsys)


# lies: manifest and digests fit, what they vouch for does not hang together -----------------------------------------------
def forge(source: Path, out: Path, lie: Lie) -> Path:
    """An artifact like `source`, but for what `lie` changes before its digests are taken."""
    artifact = open_artifact(source)
    with write_artifact(out, artifact.manifest.kind) as draft:
        for name in artifact.manifest.files:
            shutil.copy(artifact.file(name), draft.path / name)
        draft.facts, draft.recipe = dict(artifact.manifest.facts), artifact.manifest.recipe
        lie(draft)
    return out


def fact(**facts: Any) -> Lie:
    return lambda draft: draft.facts.update(facts)


def no_fact(name: str) -> Lie:
    return lambda draft: draft.facts.pop(name)


def columns(name: str, change: Callable[[pa.Table], pa.Table]) -> Lie:
    """Replace an Arrow file by another."""

    def lie(draft: Draft) -> None:
        table = change(pa.ipc.open_file(draft.path / name).read_all())
        draft.table(name, table)

    return lie


def content(name: str, data: bytes) -> Lie:
    return lambda draft: (draft.path / name).write_bytes(data)


def tensors(name: str, **arrays: tuple[str, Any]) -> Lie:
    return lambda draft: write_tensors(draft.path / name, arrays)


def raised(table: pa.Table, name: str, value: int) -> pa.Table:
    """A table whose last value in a column is another."""
    field = table.schema.field(name)
    return table.set_column(table.schema.names.index(name), field, pa.array([*table[name].to_pylist()[:-1], value], field.type))


def header(length: int, text: bytes = b"{}") -> bytes:
    return length.to_bytes(8, "little") + text


ALL, BOTH, SHOWN = {"inspect", "collisions", "serve-local"}, {"inspect", "collisions"}, {"inspect", "serve-local"}
LOOKED, HASHED, SERVED = {"inspect"}, {"collisions"}, {"serve-local"}
Lies = dict[str, tuple[Lie, set[str], str]]  # attack -> what it changes, which commands refuse, with which words
NGRAM_LIES: Lies = {
    **{
        f"no fact {name}": (no_fact(name), BOTH, f"lacks the fact '{name}'")
        for name in ("vocab", "canonical_vocab", "pad", "end", "bits", "orders")
    },
    "orders that are none": (fact(orders=3), BOTH, "lacks the fact"),
    "an order without a file": (fact(orders=[1, 2, 3, 4]), LOOKED, "that of order 4"),
    "another token map": (fact(token_map_digest="00" * 16), BOTH, "map"),
    "counts without counts": (
        columns("ngrams-2.arrow", lambda t: t.select(["gram"])),
        BOTH,
        "must have the columns",
    ),
    "counts that are texts": (
        columns("ngrams-2.arrow", lambda t: pa.table({"gram": t["gram"], "count": t["count"].cast(pa.string())})),
        BOTH,
        "must have the columns",
    ),
    "a gram of unknown ids": (
        columns("ngrams-2.arrow", lambda t: raised(raised(t, "gram", (1 << 18) - 1), "count", 10**9)),
        BOTH,
        "canonical ids end at",
    ),
    "a count that is too high": (
        columns("ngrams-2.arrow", lambda t: raised(t, "count", 2**63)),
        HASHED,
        "add up to the tokens",
    ),
    "a spectrum of other counts": (
        columns("spectrum.arrow", lambda t: raised(t, "grams", 2**63)),
        LOOKED,
        "adds up to the tokens",
    ),
    "windows of which one in none is there": (
        columns("windows.arrow", lambda t: t.set_column(1, t.schema.field(1), pa.array([0] * len(t), pa.uint64()))),
        set(),
        "",
    ),
    "a spectrum without an order": (
        columns("spectrum.arrow", lambda t: t.slice(0, 1)),
        LOOKED,
        "adds up to the tokens",
    ),
    "a token beyond the vocabulary": (
        columns("tokens.arrow", lambda t: raised(t, "token", 60_000)),
        LOOKED,
        "token ids beyond",
    ),
    "counts that are no Arrow": (content("ngrams-2.arrow", b"ARROW1 or not"), BOTH, "cannot be read as Arrow"),
    "a tokenizer that is none": (content("tokenizer.json", b"{}"), BOTH, "tokenizer"),
}
TABLE_LIES: Lies = {
    "another token map": (fact(token_map_digest="00" * 16), HASHED, "must have one token map"),
    "a prime of one": (
        columns("layout.arrow", lambda t: raised(t, "prime", 1)),
        ALL,
        "wrong gram",
    ),
    "a prime of 2^62": (
        columns("layout.arrow", lambda t: raised(t, "prime", 1 << 62)),
        ALL,
        "gram",
    ),
    "an offset of its own": (
        columns("layout.arrow", lambda t: raised(t, "offset", 3)),
        ALL,
        "gram",
    ),
    "no heads": (columns("layout.arrow", lambda t: t.slice(0, 0)), ALL, "wrong gram"),
    "a layout without multipliers": (
        columns("layout.arrow", lambda t: t.replace_schema_metadata({"pad": "0"})),
        ALL,
        "layout.arrow lacks",
    ),
    "too few rows": (
        tensors("rows-00.safetensors", rows=("F32", np.zeros((239, 4), np.float32))),
        SHOWN,
        "must hold 240 x",
    ),
    "rows of another width": (
        tensors("rows-00.safetensors", rows=("F32", np.zeros((240, 5), np.float32))),
        SERVED,
        "240 x 5",
    ),
    "rows of whole numbers": (
        tensors("rows-00.safetensors", rows=("I64", np.zeros((240, 4), np.int64))),
        SERVED,
        "must hold one",
    ),
    "rows under another name": (
        tensors("rows-00.safetensors", weight=("F32", np.zeros((240, 4), np.float32))),
        SHOWN,
        "must hold",
    ),
    "a header of 2^63 bytes": (content("rows-00.safetensors", header(1 << 63)), SHOWN, "header length"),
    "a header of no bytes": (content("rows-00.safetensors", header(0)), SHOWN, "header length"),
    "a header too deep": (
        content("rows-00.safetensors", header(200_000, b"[" * 200_000)),
        SHOWN,
        "not a safetensors",
    ),
    "rows beyond the file": (
        lambda draft: (
            create_tensors(draft.path / "rows-00.safetensors", {"rows": TensorSpec("F32", (240, 4))}),
            cut(draft.path / "rows-00.safetensors"),
        ),
        SHOWN,
        "it is truncated",
    ),
    "weights of another host": (
        tensors("host.safetensors", x=("F32", np.zeros(3, np.float32))),
        SERVED,
        "do not fit its recipe",
    ),
    "a recipe that is none": (lambda draft: setattr(draft, "recipe", "[["), SHOWN, "TOML"),
    "a recipe of another host": (
        lambda draft: setattr(draft, "recipe", draft.recipe.replace("width = 16", "width = 24")),
        SERVED,
        "do not fit its recipe",
    ),
    "a tokenizer that is none": (content("tokenizer.json", b"{}"), SERVED, "tokenizer"),
}
REPORT_LIES: Lies = {
    "no report.json": (lambda draft: (draft.path / "report.json").unlink(), LOOKED, "has no file report.json"),
    "a list": (content("report.json", b"[]"), LOOKED, "cannot be read as a report"),
    "no title": (content("report.json", b'{"about": "x", "facts": {}, "tables": [], "notes": []}'), LOOKED, "'title'"),
    "a table above": (
        content("report.json", b'{"about": "x", "title": "", "facts": {}, "tables": ["../../x"], "notes": []}'),
        LOOKED,
        "has no file ../../x.arrow",
    ),
    "too deep": (content("report.json", b"[" * 200_000), LOOKED, "cannot be read as a report"),
}
LIES = {"ngrams": NGRAM_LIES, "table": TABLE_LIES, "report": REPORT_LIES}


@pytest.mark.parametrize(("kind", "attack"), [(kind, attack) for kind, lies in LIES.items() for attack in lies])
def test_an_artifact_that_does_not_hang_together(
    kind: str, attack: str, good: dict[str, Path], tmp_path: Path, capsys: Output
) -> None:
    lie, refusing, message = LIES[kind][attack]
    path = forge(good[kind], tmp_path / "bad", lie)
    for name, line in uses(kind, path, good).items():
        if name in refusing:
            assert message in refusal(line, capsys)
        else:
            assert run(line) in (0, 2)
            assert "Traceback" not in capsys.readouterr().err


# anything: bytes changed at random in files too large to be digested when they are used -----------------------------------
@pytest.mark.parametrize("kind", ["ngrams", "table"])
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_a_large_file_is_refused_or_survived(
    kind: str, good: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, capsys: Output, data: st.DataObject
) -> None:
    path = Path(shutil.copytree(good[kind], tmp_path_factory.mktemp("random") / "bad"))
    name = data.draw(st.sampled_from([name for name in open_artifact(path).manifest.files if name != "tokenizer.json"]))
    changed = bytearray((path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    (path / name).write_bytes(changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engram_cli.store.artifact, "SMALL", -1)
        for line in uses(kind, path, good).values():
            assert run(line) in (0, 2)
            assert "Traceback" not in capsys.readouterr().err
