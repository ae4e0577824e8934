"""`engram collisions`: one layout, from a table or a recipe; a report, a picture, an exit code."""

import json
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.corpus.extract import extract
from engram_cli.report.report import read_report
from engram_cli.store.artifact import open_artifact
from tests.corpora import make_documents

Output = pytest.CaptureFixture[str]
RECIPE = 'name = "some"\n[hash]\nheads = 2\nsize = 60\n'


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "some.toml").write_text(RECIPE)
    return str(tmp_path / "some.toml")


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, table_path: Path) -> str:
    """N-grams counted with the tokenizer of the tiny table."""
    folder = tmp_path_factory.mktemp("counted")
    (folder / "text.txt").write_text("\n".join(make_documents(5)), encoding="utf-8")
    extract([folder / "text.txt"], folder / "ngrams", tokenizer=table_path / "tokenizer.json", held_out=0.0)
    return str(folder / "ngrams")


def test_the_layout_of_a_table(counted: str, table_path: Path, tmp_path: Path, capsys: Output) -> None:
    assert run(["collisions", counted, "--table", str(table_path), "-o", str(tmp_path / "made")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Collisions in the layout `tiny`")
    assert "[1/4] layer 0: 2-grams into 2 heads" in shown.err
    artifact = open_artifact(tmp_path / "made", "report")
    digests = {"ngrams": open_artifact(counted).digest, "table": open_artifact(table_path).digest}
    assert artifact.manifest.inputs == digests
    assert set(artifact.manifest.files) == {"report.json", "orders.arrow", "heads.arrow", "worst.arrow", "collisions.png"}


def test_the_layout_of_a_recipe(ngrams_path: Path, recipe: str, tmp_path: Path, capsys: Output) -> None:
    assert run(["collisions", str(ngrams_path), "--recipe", recipe, "-o", str(tmp_path / "made"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert 'name = "some"' in open_artifact(tmp_path / "made").manifest.recipe


def test_what_is_shown_is_what_was_saved(ngrams_path: Path, recipe: str, tmp_path: Path, capsys: Output) -> None:
    for flags in ([], ["--json"]):
        run(["collisions", str(ngrams_path), "--recipe", recipe, "-o", str(tmp_path / "made"), "--force", *flags])
        shown = capsys.readouterr().out
        run(["inspect", str(tmp_path / "made"), *flags])
        assert capsys.readouterr().out == shown


def test_json_agrees_with_the_saved_table(ngrams_path: Path, recipe: str, tmp_path: Path, capsys: Output) -> None:
    run(["collisions", str(ngrams_path), "--recipe", recipe, "-o", str(tmp_path / "made"), "--json", "--worst", "3"])
    document = json.loads(capsys.readouterr().out)
    tables = read_report(tmp_path / "made").tables
    assert document["tables"] == {name: table.to_pylist() for name, table in tables.items()}
    assert len(document["tables"]["worst"]) == 2 * 3


def test_nothing_is_written_without_out(ngrams_path: Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(["collisions", str(ngrams_path), "--recipe", recipe]) == 0
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(("share", "code"), [("0", 1), ("1", 0)])
def test_fail_over_is_an_exit_code(ngrams_path: Path, recipe: str, tmp_path: Path, share: str, code: int) -> None:
    out = tmp_path / "made"
    assert run(["collisions", str(ngrams_path), "--recipe", recipe, "--fail-over", share, "-o", str(out)]) == code
    assert read_report(out).facts["limit (--fail-over)"] is not None
    assert any("is exceeded" in note for note in read_report(out).notes) == bool(code)


def test_one_layer(counted: str, table_path: Path, capsys: Output) -> None:
    assert run(["collisions", counted, "--table", str(table_path), "--layer", "2", "--json"]) == 0
    assert {head["layer"] for head in json.loads(capsys.readouterr().out)["tables"]["heads"]} == {2}
    assert run(["collisions", counted, "--table", str(table_path), "--layer", "1"]) == 2
    assert "one of the layout's layers, 0, 2, but it is 1" in capsys.readouterr().err


def test_a_table_of_another_token_map_is_refused_with_both_digests(ngrams_path: Path, table_path: Path, capsys: Output) -> None:
    assert run(["collisions", str(ngrams_path), "--table", str(table_path)]) == 2
    error = capsys.readouterr().err
    for path in (ngrams_path, table_path):
        assert open_artifact(path).manifest.facts["token_map_digest"] in error


def test_one_layout_is_needed(ngrams_path: Path, table_path: Path, recipe: str, capsys: Output) -> None:
    for layouts in ([], ["--table", str(table_path), "--recipe", recipe]):
        assert run(["collisions", str(ngrams_path), *layouts]) == 2
        assert "give either --table or --recipe" in capsys.readouterr().err


def test_an_existing_report_is_kept_and_refused_before_the_work(
    ngrams_path: Path, recipe: str, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "mine").mkdir()
    assert run(["collisions", str(ngrams_path), "--recipe", recipe, "-o", str(tmp_path / "mine")]) == 2
    error = capsys.readouterr().err
    assert "--force" in error
    assert error.count("\n") == 1  # no stage began


@pytest.mark.parametrize(("text", "message"), [("[hash]\nhaeds = 2", "did you mean `hash.heads`"), ("[hash]\nsize = 1", "from 2")])
def test_a_wrong_recipe_is_refused(ngrams_path: Path, tmp_path: Path, text: str, message: str, capsys: Output) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    assert run(["collisions", str(ngrams_path), "--recipe", str(tmp_path / "wrong.toml")]) == 2
    assert message in capsys.readouterr().err
