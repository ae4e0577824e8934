"""`engram verify`: whether every byte of an artifact is what was written."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Json, Quiet


def command(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT", help="Artifacts of any kind.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that every byte of an artifact is what was written.

    Reads all files and compares them with the manifest. Exit codes: 0 all as written, 1 something is not, 2 could not be checked.

    \b
    Example:
      engram verify demo/ngrams demo/table
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.report.verify import damaged, verify
    from engram_cli.store.artifact import open_artifact

    opened = [open_artifact(path) for path in artifacts]
    with progress(quiet) as shown:
        report = verify(opened, shown)
    show(report, as_json=as_json)
    if damaged(report):
        raise typer.Exit(1)
