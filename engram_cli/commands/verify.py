"""`engram verify`: whether every byte of an artifact or a checkpoint is what was written."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Json, Quiet


def command(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT", help="Artifacts of any kind, or checkpoints.")],
    digests: Annotated[
        Path | None,
        typer.Option("--digests", metavar="FILE", help="Where a checkpoint's digests are recorded [default: beside its files]."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that every byte of an artifact is what was written.

    Reads all files and compares them with the manifest. A published checkpoint has none: its digests are recorded when it is first
    seen, unless its shards show that they are cut or do not fit their index, and later runs compare with them. Exit codes: 0 all as
    written, 1 something is not, 2 could not be checked.

    \b
    Example:
      engram verify demo/ngrams demo/table
      engram verify checkpoints/deepseek-v4.1
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.report.verify import damaged, verify
    from engram_cli.store.artifact import open_artifact
    from engram_cli.store.digests import open_checkpoint
    from engram_cli.table.formats import is_checkpoint

    checkpoints = [path for path in artifacts if is_checkpoint(path)]
    if digests is not None and (len(artifacts), len(checkpoints)) != (1, 1):
        raise typer.BadParameter(f"--digests is for one checkpoint alone, but {len(checkpoints)} of {len(artifacts)} are given")
    opened = [open_checkpoint(path, digests) if path in checkpoints else open_artifact(path) for path in artifacts]
    with progress(quiet) as shown:
        report = verify(opened, shown, digests)
    show(report, as_json=as_json)
    if damaged(report):
        raise typer.Exit(1)
