"""`engram inspect`: what an artifact is and where it came from."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Force, Json


def command(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT", help="An n-gram artifact, a table, a saved report, a folder of such, or a checkpoint with a table."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Save the report, with a picture where there is one to draw.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Show what an artifact is and where it came from.

    N-grams add what was counted; --out draws it: how often grams occur, what the most frequent hold, and how many more text brings.
    A table adds its layout, weights and training; a saved report is shown as the command that wrote it showed it; of a folder of
    artifacts, each is named with what it was made from and its main figures.
    A checkpoint is a directory as models are published in: config.json, safetensors, tokenizer.json. Its table is found and held to
    its config and its tokenizer, and no row of it is read.

    \b
    Example:
      engram inspect demo/table
      engram inspect demo/ngrams --out demo/counts
      engram inspect demo/collisions --json
      engram inspect demo
      engram inspect checkpoints/deepseek-v4.1
    """
    from engram_cli.commands.terminal import show
    from engram_cli.report.inspect import inspect
    from engram_cli.report.overview import artifacts_in, overview
    from engram_cli.report.report import write_report
    from engram_cli.report.stored import inspect_checkpoint
    from engram_cli.store.artifact import check_out, open_artifact
    from engram_cli.store.manifest import file_digest
    from engram_cli.table.formats import CONFIG, is_checkpoint

    if out is not None:
        check_out(out.absolute(), force)
    if is_checkpoint(artifact):
        report, inputs = inspect_checkpoint(artifact), {"config": file_digest(artifact / CONFIG)}
    else:
        several = artifacts_in(artifact)
        inspected = several or [open_artifact(artifact)]
        report = overview(artifact, several) if several else inspect(inspected[0])
        inputs = {one.path.name if several else one.manifest.kind: one.digest for one in inspected}
    if out is not None:
        write_report(out, report, inputs=inputs, force=force)
    show(report, as_json=as_json)
