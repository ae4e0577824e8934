"""The pages are true: generated ones are fresh, and what the tutorial and the README tell to run does run.

The tutorial's commands are run in a folder like the checkout, but with a slice of the corpus, a small recipe and tiny budgets.
"""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from engram_cli import __main__ as cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = 150  # of each corpus file
SMALLER = {
    r"--train-tokenizer \d+": "--train-tokenizer 400",
    r"--minutes [\d.]+": "--tokens 512",
    r"--memory \S+": "--memory 8MiB --no-measure",
    r"train_vocab=\d+": "train_vocab=400",
    r"seconds=\d+": "tokens=512",
}
RECIPE = """name = "demo"
hash = {orders = [2, 3], heads = 2, size = 997, layers = [1]}
rows = {dim = 32}
host = {width = 16, layers = 2, heads = 2, feed_forward = 32, context = 32}
training = {batch = 4}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with docs/corpus and tables/demo.toml, made small."""
    (tmp_path / "docs/corpus").mkdir(parents=True)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/demo.toml").write_text(RECIPE, encoding="utf-8")
    for path in (ROOT / "docs/corpus").glob("*.jsonl.zst"):
        with path.open("rb") as file:
            lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
            text = b"".join(next(lines) for _ in range(DOCUMENTS))
        (tmp_path / "docs/corpus" / path.name).write_bytes(zstandard.compress(text))
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines after `$ ` in a page's console blocks."""
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]


def run(command: str) -> int:
    """Run a line of a page, made smaller, and return its exit code; `engram` itself in this process, which has torch already."""
    for pattern, smaller in SMALLER.items():
        command = re.sub(pattern, smaller, command)
    if command.startswith("engram ") and not {"|", ">"} & set(command):
        return cli.run(shlex.split(command)[1:])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["sh", "-c", command], env=os.environ | {"PATH": path}, check=False).returncode


def test_generated_pages_are_fresh() -> None:
    assert subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], check=False).returncode == 0


def test_the_tutorial_and_the_readme_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    (example,) = blocks("README.md", "python")
    for command in [*commands("docs/tutorial.md"), f"python - <<'END'\n{example}\nEND"]:
        assert run(command) == 0, command
    assert {path.name for path in Path("demo").iterdir()} >= {"bench", "collisions", "ngrams", "table"}
