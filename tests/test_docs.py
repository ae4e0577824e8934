"""The pages are true: generated ones are fresh, and what the tutorial and the README tell to run does run.

The tutorial's commands are run in a folder like the checkout, but with a slice of the corpus, a small recipe and tiny budgets.
"""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = 150  # of each corpus file
SMALLER = {
    r"--train-tokenizer \d+": "--train-tokenizer 400",
    r"--minutes [\d.]+": "--tokens 512",
    r"train_vocab=\d+": "train_vocab=400",
    r"seconds=\d+": "tokens=512",
}
RECIPE = """name = "demo"
hash = {orders = [2, 3], heads = 2, size = 997, layers = [1]}
rows = {dim = 8}
host = {width = 16, layers = 2, heads = 2, feed_forward = 32, context = 32}
training = {batch = 4}
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with docs/corpus and tables/demo.toml, made small."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "docs/corpus").mkdir(parents=True)
    (folder / "tables").mkdir()
    (folder / "tables/demo.toml").write_text(RECIPE, encoding="utf-8")
    for path in (ROOT / "docs/corpus").glob("*.jsonl.zst"):
        with path.open("rb") as file:
            lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
            text = b"".join(next(lines) for _ in range(DOCUMENTS))
        (folder / "docs/corpus" / path.name).write_bytes(zstandard.compress(text))
    return folder


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines after `$ ` in a page's console blocks."""
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    for pattern, smaller in SMALLER.items():
        command = re.sub(pattern, smaller, command)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_tutorial_runs(checkout: Path) -> None:
    told = commands("docs/tutorial.md")
    assert told
    for command in told:
        done = run(command, checkout)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert sorted(path.name for path in (checkout / "demo").iterdir()) == ["bench", "collisions", "ngrams", "table"]


def test_the_library_use_in_the_readme_runs(checkout: Path) -> None:
    """After the tutorial, whose artifacts it reads."""
    if not (checkout / "demo/table").exists():
        pytest.skip("needs what test_the_tutorial_runs builds")
    (example,) = blocks("README.md", "python")
    done = run(f"python - <<'END'\n{example}\nEND", checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout
