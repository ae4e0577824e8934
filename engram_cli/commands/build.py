"""`engram build`: from counts to a table: layout, rows, training, artifact."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Device, Force, Json, Minutes, Out, Quiet, Recipe, Seed, Threads, Tokens


def command(
    ngrams: Annotated[Path, typer.Argument(metavar="NGRAMS", help="The n-gram artifact to build from.")],
    out: Out,
    recipe: Recipe = None,
    init: Annotated[
        str | None, typer.Option("--init", metavar="counts|random|zero", help="How rows start, instead of the recipe's rows.init.")
    ] = None,
    minutes: Minutes = None,
    tokens: Tokens = None,
    seed: Seed = None,
    device: Device = "auto",
    rows: Annotated[
        str,
        typer.Option("--rows", metavar="auto|ram|mmap|cuda", help="Where rows live; auto: in memory if they fit, else mapped."),
    ] = "auto",
    threads: Threads = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of an unfinished run.")] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build a table: lay it out by a recipe, fill its rows from the counts, train host and memory together.

    The loss on held-out documents is measured on the way. A checkpoint is written every minute and on Ctrl-C.

    \b
    Example:
      engram build demo/ngrams --recipe tables/demo.toml --minutes 3 -o demo/table
      engram build demo/ngrams --recipe tables/demo.toml --minutes 3 -o demo/table --resume
    """
    from engram_cli.commands.options import budget, read_recipe, use_threads
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.model.build import build
    from engram_cli.report.inspect import inspect

    use_threads(threads)
    chosen = read_recipe(recipe, init=init, seed=seed)
    with progress(quiet) as shown:
        artifact = build(
            open_ngrams(ngrams),
            chosen,
            out,
            budget(chosen, minutes, tokens),
            device=device,
            rows=rows,
            resume=resume,
            force=force,
            progress=shown,
        )
    show(inspect(artifact), as_json=as_json)
