"""`engram inspect`: what an artifact is and where it came from."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Json


def command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An n-gram artifact, a table, or a saved report.")],
    as_json: Json = False,
) -> None:
    """Show what an artifact is and where it came from.

    A table adds its layout, weights and training; a saved report is shown as the command that wrote it showed it.

    \b
    Example:
      engram inspect demo/table
      engram inspect demo/collisions --json
    """
    from engram_cli.commands.terminal import show
    from engram_cli.report.inspect import inspect
    from engram_cli.store.artifact import open_artifact

    show(inspect(open_artifact(artifact)), as_json=as_json)
