"""`engram convert`: a table in another layout of files, or with another row type."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engram_cli.commands.options import Force, Json, MaxLoss, Out, Quiet

Form = Literal["engram", "deepseek-v4.1", "qwen-ple"]
Type = Literal["f32", "f16", "bf16", "fp8-block", "fp8-scalar", "int8-row"]


def command(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A table artifact, or a checkpoint with a table.")],
    to: Annotated[Form, typer.Option("--to", help="The layout of files to write.")],
    out: Out,
    dtype: Annotated[Type | None, typer.Option("--dtype", help="How numbers are stored [default: as they are].")] = None,
    ngrams: Annotated[
        Path | None,
        typer.Option("--ngrams", metavar="NGRAMS", help="Measure the loss before and after on the held-out text of these n-grams."),
    ] = None,
    max_loss: MaxLoss = None,
    host: Annotated[
        Path | None, typer.Option("--host", metavar="PATH", help="For the loss, where the table's foreign host is now.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a table in another layout of files, or with another row type.

    Rows of the same type are copied as they are; else what rounding took is measured and told: relative RMS error, the worst row,
    numbers beyond the ends of the type. What a layout cannot tell (another hash family, heads, row type) is refused. What has no
    place in it is kept beside the table, so that converting back gives what there was: of an artifact in `engram/`, of a
    checkpoint's memory in `checkpoint/`. The other tensors of a model stay where they are.
    A stopped run goes on with --resume. With --ngrams the loss of a table with a host is told before and after, on their held-out
    text; where it rises by more than --max-loss nothing is written.

    \b
    Example:
      engram convert demo/table --to engram --dtype bf16 --out demo/bf16
      engram convert demo/table --to engram --dtype fp8-block --ngrams demo/ngrams --max-loss 0.01 --out demo/fp8
      engram convert checkpoints/deepseek-v4.1 --to engram --out v41
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.report.convert import convert

    text = None if ngrams is None else open_ngrams(ngrams)
    with progress(quiet) as shown:
        report = convert(
            table,
            to,
            out,
            dtype=dtype,
            ngrams=text,
            max_loss=max_loss,
            host=host,
            resume=resume,
            force=force,
            progress=shown,
        )
    show(report, as_json=as_json)
