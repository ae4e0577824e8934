"""Options that have the same name and meaning in every command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engram_cli import recipe as recipes
    from engram_cli.model.host_directory import HostDirectory
    from engram_cli.model.train import Budget

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No stages and no progress on stderr; warnings stay.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out names.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the artifact is written.")]
ReportOut = Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Save the report, with a picture.")]
Threads = Annotated[int, typer.Option("--threads", min=0, metavar="N", help="Threads to use; 0: as many as there are cores.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Of weights and batch order, instead of the recipe's training.seed.")
]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Most memory to use, such as 2GiB.")]
Recipe = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="A recipe, as tables/demo.toml [default: built in].")]
Minutes = Annotated[float | None, typer.Option("--minutes", metavar="M", help="Train for so long [default: the recipe's].")]
MaxLoss = Annotated[
    float | None,
    typer.Option("--max-loss", min=0, metavar="NATS", help="Most that another row type may add to the loss on held-out text."),
]
Tokens = Annotated[int | None, typer.Option("--tokens", metavar="N", help="Train on so many tokens, instead of --minutes.")]


def read_recipe(
    path: Path | None,
    *,
    init: str | None = None,
    seed: int | None = None,
    parts: str | None = None,
    host: "HostDirectory | None" = None,
) -> "recipes.Recipe":
    """The recipe at `path` (None: the one that is built in) with what the command line says instead, a foreign host among it.

    Raises RecipeError, and HostError where the host is not one for it.
    """
    from dataclasses import replace

    from engram_cli import recipe as recipes
    from engram_cli.errors import RecipeError

    built_in = recipes.BUILT_IN if host is None else recipes.Recipe()
    recipe = built_in if path is None else recipes.load_recipe(path)
    if init is not None:
        recipe = recipe.starting_from(init)
    if seed is not None:
        recipe = replace(recipe, training=replace(recipe.training, seed=seed))
    if parts is not None:
        recipe = replace(recipe, training=replace(recipe.training, parts=parts))
    if host is not None:
        if path is not None and not recipe.host.foreign:
            raise RecipeError(
                f"--host takes a recipe for a foreign host, but {path} is for {recipes.OUR_HOST}, the one that is made here; "
                "name the host in it ([host] name), or leave out --host"
            )
        recipe = host.complete(recipe)
    recipe.check()
    return recipe


def budget(recipe: "recipes.Recipe", minutes: float | None, tokens: int | None) -> "Budget":
    """How long to train. Raises RecipeError where both are given, or one is not above 0."""
    from engram_cli.errors import RecipeError
    from engram_cli.model.train import Budget

    if minutes is not None and tokens is not None:
        raise RecipeError(f"a run ends by --minutes or by --tokens, but both are given ({minutes:g} and {tokens:,}); give one")
    for name, value in (("--minutes", minutes), ("--tokens", tokens)):
        if value is not None and not value > 0:  # not a number is refused too
            raise RecipeError(f"{name} must be above 0, but it is {value:g}; give more")
    if tokens is not None:
        return Budget(tokens=tokens)
    return Budget(seconds=60 * (recipe.training.minutes if minutes is None else minutes))


def use_threads(threads: int) -> None:
    """Compute with so many threads; 0 leaves it to torch."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def read_size(size: str | None) -> int | None:
    """Bytes of a size such as 2GiB, 1.5G or 512MB. Raises RecipeError where it is none."""
    import re

    from engram_cli.errors import RecipeError

    if size is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B?)\s*", size, re.IGNORECASE)
    if not found or not float(found[1]):
        raise RecipeError(f"--memory is a size such as 512MiB or 2GiB, but it is {size!r}; change it")
    unit = 1000 if found[3].upper() == "B" and found[2] else 1024
    return int(float(found[1]) * unit ** " KMGT".index(found[2].upper() or " "))
