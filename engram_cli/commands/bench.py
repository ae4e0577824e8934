"""`engram bench`: engram, plain and counting, compared on the same data."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Device, Force, Json, Minutes, Quiet, Recipe, ReportOut, Seed, Threads, Tokens


def command(
    ngrams: Annotated[Path, typer.Argument(metavar="NGRAMS", help="The n-gram artifact to train on.")],
    recipe: Recipe = None,
    out: ReportOut = None,
    minutes: Minutes = None,
    tokens: Tokens = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Runs of each arm, to see the spread.")] = 1,
    arms: Annotated[
        str | None, typer.Option("--arms", metavar="A,B", help="Of plain, plain+statistics, engram, plain-wide, counts.")
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare engram with a plain transformer, and both with counting alone.

    All arms see the same data in the same order. --minutes is wall clock for each run, with what it spends on counting and filling
    rows included; --tokens compares at equal training tokens. Reported: held-out loss against both, what is stored and read, speed.

    \b
    Example:
      engram bench demo/ngrams --recipe tables/demo.toml --minutes 1 --seeds 3 -o demo/bench
      engram bench demo/ngrams --recipe tables/demo.toml --tokens 500000 --arms engram,plain
    """
    from engram_cli.commands.options import budget, read_recipe, use_threads
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.report.bench import bench
    from engram_cli.report.report import write_report
    from engram_cli.store.artifact import check_out

    if out is not None:
        check_out(out.absolute(), force)
    use_threads(threads)
    chosen = read_recipe(recipe, seed=seed)
    counted = open_ngrams(ngrams)
    with progress(quiet) as shown:
        report = bench(
            counted,
            chosen,
            budget(chosen, minutes, tokens),
            seeds=seeds,
            arms=[arm.strip() for arm in arms.split(",")] if arms else None,
            device=device,
            progress=shown,
        )
    if out is not None:
        write_report(out, report, inputs={"ngrams": counted.artifact.digest}, recipe=chosen.to_toml(), force=force)
    show(report, as_json=as_json)
