"""The promises of the house, each as a test: what is public, what is small, what stays out, what must agree."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import engram_cli
from engram_cli.__main__ import COMMANDS
from engram_cli.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "engram_cli").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tables/README.md"]
HEAVY = {"matplotlib", "numpy", "pyarrow", "rich", "safetensors", "tokenizers", "torch", "transformers"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for path in map(ROOT.joinpath, listed.stdout.split("\0")) if path.is_file()]


def test_every_public_name_is_there_and_documented() -> None:
    for name in engram_cli.__all__:
        assert getattr(engram_cli, name).__doc__, name
    assert not [name for name in engram_cli.__all__ if name not in dir(engram_cli)]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, engram_cli, engram_cli.__main__ as cli; cli.run(['extract', '--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "engram extract" in done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_floors_import_only_what_is_below_them() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_small(path: Path) -> None:
    """A function is measured from the first statement after its docstring, so that options may be explained at length."""
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 350
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 60, node.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_say_what_they_are(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert path.name == "__main__.py" or not source.strip() or ast.get_docstring(ast.parse(source))


def test_tracked_files_name_no_machine() -> None:
    """Neither folders of the machine they were written on nor hosts of package registries."""
    elsewhere = re.compile(r"(?<![\w.~])/(work|root|tmp|home)/|pypi[.]org|pythonhosted[.]org|npmjs[.](org|com)|deb[.]debian[.]org")
    found = []
    for path in tracked():
        if path.suffix not in (".zst", ".png"):
            found += [f"{name_of(path)}: {match[0]}" for match in elsewhere.finditer(path.read_text(encoding="utf-8"))]
    assert not found


def test_tables_are_data() -> None:
    assert not [name_of(path) for path in tracked() if path.parts[-2] == "tables" and path.suffix not in (".toml", ".md")]


@pytest.mark.parametrize("path", sorted((ROOT / "tables").glob("*.toml")), ids=name_of)
def test_shipped_recipes_load(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.description


def test_every_command_is_documented() -> None:
    for page in ("README.md", "docs/tutorial.md", "docs/cli.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not [command for command in COMMANDS if f"engram {command}" not in text], page


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_name_what_exists(page: Path) -> None:
    """Links lead somewhere, and `engram X` and `make X` are commands and targets."""
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert not [link for link in links if not (page.parent / link).exists()]
    assert set(re.findall(r"`(?:\$ )?make ([a-z]+)", text)) <= targets
    assert set(re.findall(r"(?:`|^\$ )engram ([a-z][a-z-]+)", text, re.MULTILINE)) <= set(COMMANDS)


def test_the_version_is_told_once() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert re.findall(r"^## \[?(\d[\w.]*)", changelog, re.MULTILINE)[0] == engram_cli.__version__


def test_every_dependency_is_pinned() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", constraints, re.MULTILINE))
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    assert {re.split(r"[<>=;\[ ]", requirement)[0] for requirement in wanted} <= pinned
