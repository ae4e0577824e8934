"""`engram diff`: which rows of two tables differ."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Json, Quiet


def command(
    first: Annotated[Path, typer.Argument(metavar="TABLE", help="A table artifact, or a checkpoint with a table.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another, with the same heads.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show which rows of two tables differ, and by how much, head by head.

    Rows are compared by what they mean, in whatever layout of files and row type they are stored. Exit codes: 0 all rows are the
    same, 1 some differ, 2 could not be compared.

    \b
    Example:
      engram diff demo/table demo/int8
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.report.diff import diff, differs

    with progress(quiet) as shown:
        report = diff(first, second, shown)
    show(report, as_json=as_json)
    if differs(report):
        raise typer.Exit(1)
