"""`engram build`: from counts to a table: layout, rows, training, artifact."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engram_cli.commands.options import Device, Force, Json, MaxLoss, Minutes, Out, Quiet, Recipe, Seed, Threads, Tokens

RowType = Literal["f32", "f16", "bf16", "fp8-block", "fp8-scalar", "int8-row"]


def command(
    ngrams: Annotated[Path, typer.Argument(metavar="NGRAMS", help="The n-gram artifact to build from.")],
    out: Out,
    recipe: Recipe = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init", metavar="counts|random|zero", help="How rows start, not as rows.init says; random and zero ones are trained."
        ),
    ] = None,
    minutes: Minutes = None,
    tokens: Tokens = None,
    seed: Seed = None,
    rows_dtype: Annotated[
        RowType | None,
        typer.Option("--rows-dtype", help="How rows are written once they are trained [default: as they are trained]."),
    ] = None,
    max_loss: MaxLoss = None,
    device: Device = "auto",
    rows: Annotated[
        str,
        typer.Option("--rows", metavar="auto|ram|mmap|cuda", help="Where rows live; auto: in memory if they fit, else mapped."),
    ] = "auto",
    host: Annotated[
        Path | None, typer.Option("--host", metavar="PATH", help="A Hugging Face causal language model that gets the memory.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="PARTS", help="memory, memory+last (block of the host) or memory+all, instead of training.parts."),
    ] = None,
    threads: Threads = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of an unfinished run.")] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build a table: lay it out by a recipe, fill its rows from the counts, train host and memory together.

    The loss on held-out documents is measured on the way. A checkpoint is written every minute and on Ctrl-C. With --rows-dtype the
    loss is told before and after; where it rises by more than --max-loss nothing is written, and --resume can try another type.

    With --host the memory is added to that host, which stays as it is unless --train says otherwise; its loss alone is told beside
    the loss with the memory. The n-grams must be of its tokenizer (engram extract --tokenizer PATH/tokenizer.json).

    \b
    Example:
      engram build demo/ngrams --recipe tables/demo.toml --minutes 3 -o demo/table
      engram build demo/ngrams --recipe tables/demo.toml --minutes 3 -o demo/table --resume
      engram build bible/ngrams --recipe tables/smollm2.toml --host SmolLM2-135M-Instruct --minutes 3 -o bible/table
    """
    from engram_cli.commands.options import budget, read_recipe, use_threads
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.errors import RecipeError
    from engram_cli.model.build import build
    from engram_cli.model.host_directory import open_host
    from engram_cli.report.inspect import inspect

    if max_loss is not None and rows_dtype is None:
        raise RecipeError("--max-loss is about rows written in another type; name that type with --rows-dtype")
    use_threads(threads)
    directory = None if host is None else open_host(host)
    chosen = read_recipe(recipe, init=init, seed=seed, parts=train, host=directory)
    with progress(quiet) as shown:
        artifact = build(
            open_ngrams(ngrams),
            chosen,
            out,
            budget(chosen, minutes, tokens),
            rows_dtype=rows_dtype,
            max_loss=max_loss,
            device=device,
            rows=rows,
            host=directory,
            resume=resume,
            force=force,
            progress=shown,
        )
    show(inspect(artifact), as_json=as_json)
