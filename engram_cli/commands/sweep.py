"""`engram sweep`: what rows are worth, and what share of the parameters they should have."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Device, Force, Json, Minutes, Quiet, Recipe, ReportOut, Seed, Threads, Tokens


def command(
    ngrams: Annotated[Path, typer.Argument(metavar="NGRAMS", help="The n-gram artifact to train on.")],
    recipe: Recipe = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="R,R...", help="Rows of the whole table, such as 2^16,2^18,2^20.")
    ] = None,
    shares: Annotated[
        str | None, typer.Option("--shares", metavar="S,S...", help="Of the parameters in rows, such as 0,0.25,0.5.")
    ] = None,
    parameters: Annotated[
        int | None, typer.Option("--parameters", min=1, metavar="N", help="In all, for --shares [default: twice host and memory].")
    ] = None,
    out: ReportOut = None,
    minutes: Minutes = None,
    tokens: Tokens = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Runs of each point, to see the spread.")] = 1,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train over sizes of the table, or over shares of the parameters in it, and draw the curves.

    --rows: the recipe's table at each size, rows from counts and random ones, beside the host alone; a straight line through the
    loss over the logarithm of rows, with its error, and whether it holds. --shares: the same number of parameters, so much of it in
    rows and the rest in a host as wide as that allows. --minutes or --tokens are those of one run. Ctrl-C keeps what is finished.

    \b
    Example:
      engram sweep demo/ngrams --recipe tables/demo.toml --rows 2^16,2^18,2^20 --tokens 200000 -o demo/sweep
      engram sweep demo/ngrams --recipe tables/demo.toml --shares 0,0.25,0.5,0.75 --tokens 200000
    """
    from engram_cli.commands.options import budget, read_recipe, use_threads
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.report.report import write_report
    from engram_cli.report.sweep import sweep
    from engram_cli.store.artifact import check_out

    if out is not None:
        check_out(out.absolute(), force)
    use_threads(threads)
    chosen = read_recipe(recipe, seed=seed)
    counted = open_ngrams(ngrams)
    sizes, parts = [int(size) for size in _numbers("--rows", rows)], _numbers("--shares", shares)
    with progress(quiet) as shown:
        report, finished = sweep(
            counted,
            chosen,
            budget(chosen, minutes, tokens),
            rows=sizes,
            shares=parts,
            parameters=parameters,
            seeds=seeds,
            device=device,
            progress=shown,
        )
    if out is not None:
        write_report(out, report, inputs={"ngrams": counted.artifact.digest}, recipe=chosen.to_toml(), force=force)
    show(report, as_json=as_json)
    if not finished:
        raise KeyboardInterrupt


def _numbers(option: str, text: str | None) -> list[float]:
    """Numbers of a list such as 2^16,100000 or 0,0.5. Raises RecipeError where one is none."""
    import re

    from engram_cli.errors import RecipeError

    found = []
    for item in text.split(",") if text is not None else ():
        power = re.fullmatch(r"\s*(\d{1,3})\^(\d{1,2})\s*", item)
        if not power and not re.fullmatch(r"\s*\d{1,13}(\.\d{1,13})?\s*", item):
            raise RecipeError(f"{option} is a list of numbers such as 100000 or 2^17, but {item!r} is not one; change it")
        found.append(float(power[1]) ** int(power[2]) if power else float(item))
    return found
