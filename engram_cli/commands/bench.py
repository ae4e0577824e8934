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
        str | None,
        typer.Option(
            "--arms",
            metavar="A,B",
            help="Of plain, plain+statistics, engram, engram-random, plain-wide, counts; with --host of plain, plain+last, engram, "
            "engram+last, counts.",
        ),
    ] = None,
    host: Annotated[
        Path | None, typer.Option("--host", metavar="PATH", help="A Hugging Face causal language model that gets the memory.")
    ] = None,
    reach: Annotated[
        float | None,
        typer.Option(
            "--reach", metavar="FACTOR", help="Train the control for up to FACTOR times the budget, until it reaches engram."
        ),
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
    Curves, the level of the counts beside them, and losses at equal tokens are measured on a part of the held-out text.

    With --reach the fairest control is trained anew for 2, 4, 8 ... times the budget, its learning rate falling over the whole of
    each run, until it is as good as engram, and the time that takes is told. engram-random begins with random rows and trains them.

    With --host the memory is added to that host. Its arms: plain, the host as it is; plain+last, its last block trained without a
    memory; engram, the memory as the recipe says; engram+last, both together.

    \b
    Example:
      engram bench demo/ngrams --recipe tables/demo.toml --minutes 1 --seeds 3 -o demo/bench
      engram bench demo/ngrams --recipe tables/demo.toml --tokens 500000 --arms engram,plain
      engram bench bible/ngrams --recipe tables/smollm2.toml --host SmolLM2-135M-Instruct --minutes 2
    """
    from engram_cli.commands.options import budget, read_recipe, use_threads
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.model.host_directory import open_host
    from engram_cli.report.bench import bench
    from engram_cli.report.report import write_report
    from engram_cli.store.artifact import check_out

    if out is not None:
        check_out(out.absolute(), force)
    use_threads(threads)
    directory = None if host is None else open_host(host)
    chosen = read_recipe(recipe, seed=seed, host=directory)
    counted = open_ngrams(ngrams)
    with progress(quiet) as shown:
        report = bench(
            counted,
            chosen,
            budget(chosen, minutes, tokens),
            seeds=seeds,
            arms=[arm.strip() for arm in arms.split(",")] if arms else None,
            host=directory,
            reach_within=reach,
            device=device,
            progress=shown,
        )
    if out is not None:
        inputs = {"ngrams": counted.artifact.digest} | ({"host": directory.digest} if directory else {})
        write_report(out, report, inputs=inputs, recipe=chosen.to_toml(), force=force)
    show(report, as_json=as_json)
