"""`engram inspect`: what an artifact is and where it came from."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Json


def command(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="An n-gram artifact, a table, a saved report, or a folder of such.")
    ],
    as_json: Json = False,
) -> None:
    """Show what an artifact is and where it came from.

    A table adds its layout, weights and training; a saved report is shown as the command that wrote it showed it; of a folder of
    artifacts, each is named with what it was made from and its main figures.

    \b
    Example:
      engram inspect demo/table
      engram inspect demo/collisions --json
      engram inspect demo
    """
    from engram_cli.commands.terminal import show
    from engram_cli.report.inspect import inspect
    from engram_cli.report.overview import artifacts_in, overview
    from engram_cli.store.artifact import open_artifact

    several = artifacts_in(artifact)
    show(overview(artifact, several) if several else inspect(open_artifact(artifact)), as_json=as_json)
