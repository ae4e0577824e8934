"""Write the pages that follow from the code: `docs/cli.md` from every --help, `tables/README.md` from every recipe.

`make docs` runs it; with `--check` nothing is written, and stale pages are named and make the exit code 1 (tests/test_docs.py).
"""

import contextlib
import io
import os
import sys
from pathlib import Path

from engram_cli import __main__ as cli
from engram_cli.recipe import Recipe, load_recipe
from engram_cli.table.layout import plan_layout

ROOT = Path(__file__).resolve().parent.parent


def cli_page() -> str:
    """The --help of `engram` and of each command, as it is on a terminal of 80 columns."""
    parts = ["# Commands\n\nGenerated from `--help` by `make docs`; what each is for is told in the [tutorial](tutorial.md).\n"]
    for command in ("", *cli.COMMANDS):
        name = f"engram {command}".strip()
        parts.append(f"## {name}\n\n```text\n{help_text(command)}\n```\n")
    return "\n".join(parts)


def help_text(command: str) -> str:
    os.environ["COLUMNS"] = "80"
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        cli.run([command, "--help"] if command else ["--help"])
    return "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())


def catalogue() -> str:
    """What each recipe asks for and what follows from it, without building anything."""
    recipes = {path.name: load_recipe(path) for path in sorted((ROOT / "tables").glob("*.toml"))}
    columns = (
        "recipe",
        "hash",
        "layers",
        "orders",
        "heads per order",
        "rows",
        "dim",
        "type",
        "parameters",
        "bytes of rows",
        "read per token",
    )
    table = [columns, ("---",) * len(columns), *((f"[{name}]({name})", *figures(recipe)) for name, recipe in recipes.items())]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    told = [f"**{name}** {recipe.description.strip()}" for name, recipe in recipes.items() if recipe.description]
    return (
        "# Tables\n\nOne commented TOML file for each table; what is built from it lands beside it and is not tracked. "
        "Those of other people's models are there to be looked into. Generated from the recipes by `make docs`.\n\n"
        + "\n".join(lines)
        + "\n\n"
        + "\n\n".join(told)
        + "\n"
    )


def figures(recipe: Recipe) -> tuple[str, ...]:
    """The cells of one recipe; rows are exact, since primes follow from the sizes alone."""
    hashed, dim = recipe.hash, recipe.rows.dim
    rows = plan_layout(hashed, vocab=2, pad=0).rows  # which do not follow from the ids
    row_bytes = recipe.rows.row_bytes
    read = len(hashed.layers) * len(hashed.orders) * hashed.heads * row_bytes
    listed = (", ".join(map(str, numbers)) for numbers in (hashed.layers, hashed.orders))
    counted = (f"{number:,}" for number in (rows * dim, rows * row_bytes, read))
    return (hashed.family, *listed, str(hashed.heads), f"{rows:,}", str(dim), recipe.rows.dtype, *counted)


def main() -> int:
    pages = {ROOT / "docs/cli.md": cli_page(), ROOT / "tables/README.md": catalogue()}
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" not in sys.argv[1:]:
            path.write_text(pages[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
        else:
            print(f"{path.relative_to(ROOT)} is not what `make docs` writes; run it", file=sys.stderr)
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
