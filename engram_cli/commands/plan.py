"""`engram plan`: how large a table may be, what it costs, and a recipe for it."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Device, Force, Json, Quiet, Threads


def command(
    ngrams: Annotated[Path | None, typer.Argument(metavar="[NGRAMS]", help="N-gram artifact, made by `engram extract`.")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="What the table may take in training, such as 2GiB.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Plan this recipe; with --memory, its host and training.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the advised plan as a recipe.")] = None,
    take: Annotated[str | None, typer.Option("--take", metavar="PLAN", help="Write this plan instead of the advised one.")] = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Do not train a few steps of each plan for its speed.")] = False,
    device: Device = "auto",
    threads: Threads = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Size a table: what a budget of memory buys for these n-grams, or what a recipe costs.

    Bytes in memory, on disk, on a GPU, of the optimizer; bytes read for a token; load, sharing and purity to be expected from how
    often the n-grams occur; the speed of training, measured here. Several plans side by side, one of them advised. --recipe alone
    tells what a table costs, also a published one; with NGRAMS, what they would meet in it.

    \b
    Example:
      engram plan demo/ngrams --memory 1GiB -o my.toml
      engram plan demo/ngrams --recipe tables/demo.toml --memory 1GiB
      engram plan --recipe tables/deepseek-v4.1-flash.toml
    """
    from engram_cli.commands.options import read_size, use_threads
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.recipe import load_recipe
    from engram_cli.report.plan import plan
    from engram_cli.store.artifact import write_whole

    if out is not None and memory is None:
        raise typer.BadParameter("--out writes a plan that was chosen for a budget; give --memory")
    if take is not None and out is None:
        raise typer.BadParameter("--take says which plan --out writes; give --out")
    budget, given = read_size(memory), None if recipe is None else load_recipe(recipe)
    if out is not None:
        _check_out(out, force)
    use_threads(threads)
    counted = None if ngrams is None else open_ngrams(ngrams)
    with progress(quiet) as shown:
        found = plan(counted, recipe=given, memory=budget, take=take, measure=not no_measure, device=device, progress=shown)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, found.recipe_text(take, out.stem))
    show(found.report, as_json=as_json)


def _check_out(out: Path, force: bool) -> None:
    """Refuse before any work a file that is there and may not be replaced."""
    from engram_cli.errors import RecipeError

    if out.is_dir() or (out.exists() and not force):
        way_out = "name a file" if out.is_dir() else "choose another name, or replace it with --force"
        raise RecipeError(f"--out writes a new recipe, but {out} is there already; {way_out}")
