"""`engram collisions`: which counted grams share buckets of a layout."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engram_cli.commands.options import Force, Json, Quiet, ReportOut

if TYPE_CHECKING:
    from engram_cli.corpus.artifact import NGrams
    from engram_cli.table.layout import Layout


def command(
    ngrams: Annotated[Path, typer.Argument(metavar="NGRAMS", help="N-gram artifact, made by `engram extract`.")],
    table: Annotated[Path | None, typer.Option("--table", metavar="TABLE", help="Take the layout of this table.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="Take the layout this recipe gives.")] = None,
    out: ReportOut = None,
    layer: Annotated[list[int] | None, typer.Option("--layer", metavar="L", help="Only this layer; may be repeated.")] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, metavar="K", help="Buckets to write out per order.")] = 10,
    fail_over: Annotated[
        float | None,
        typer.Option("--fail-over", min=0, max=1, metavar="SHARE", help="Exit with 1 if in any head more occurrences share."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count hash collisions: which n-grams of the corpus share rows.

    Per head: load, occupied buckets, grams and occurrences that share a bucket, and purity, each beside what random hashing gives;
    full collisions; the worst buckets with their n-grams. Exit codes: 0 fine, 1 over --fail-over, 2 could not be done.

    \b
    Example:
      engram collisions demo/ngrams --table demo/table -o demo/collisions
      engram collisions demo/ngrams --recipe tables/demo.toml --fail-over 0.5
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.report.collisions import collisions, exceeds
    from engram_cli.report.report import write_report
    from engram_cli.store.artifact import check_out

    if (table is None) == (recipe is None):
        raise typer.BadParameter("give either --table or --recipe: collisions need one layout")
    if out is not None:
        check_out(out.absolute(), force)
    counted = open_ngrams(ngrams)
    layout, name, text, inputs = _table_layout(table, counted) if table else _recipe_layout(recipe, counted)
    with progress(quiet) as shown:
        report = collisions(counted, layout, name=name, layers=layer or None, worst=worst, limit=fail_over, progress=shown)
    if out is not None:
        write_report(out, report, inputs={"ngrams": counted.artifact.digest} | inputs, recipe=text, force=force)
    show(report, as_json=as_json)
    if fail_over is not None and exceeds(report, fail_over):
        raise typer.Exit(1)


def _table_layout(path: Path, ngrams: "NGrams") -> "tuple[Layout, str, str, dict[str, str]]":
    """(layout, name, recipe text, inputs) of a table; its token map must be the one the n-grams were counted by."""
    from engram_cli.errors import ArtifactError
    from engram_cli.store import schema
    from engram_cli.store.artifact import open_artifact
    from engram_cli.table.layout import Layout

    artifact = open_artifact(path, "table")
    facts = artifact.manifest.facts
    built, counted = facts.get("token_map_digest"), ngrams.artifact.manifest.facts.get("token_map_digest")
    if built != counted:
        raise ArtifactError(
            f"table and n-grams must have one token map, but {path} has {built} and {ngrams.artifact.path} has {counted}: the rows "
            "are other n-grams' rows; give the n-grams that the table was built from"
        )
    layout = Layout.from_arrow(artifact.table("layout.arrow", schema.LAYOUT))
    return layout, str(facts.get("name", path.name)), artifact.manifest.recipe, {"table": artifact.digest}


def _recipe_layout(path: Path | None, ngrams: "NGrams") -> "tuple[Layout, str, str, dict[str, str]]":
    """(layout, name, recipe text, inputs) of what a recipe would give with the n-grams' canonical ids."""
    from engram_cli.model.data import layout_for
    from engram_cli.recipe import load_recipe

    assert path is not None
    recipe = load_recipe(path)
    layout = layout_for(recipe.hash, ngrams)
    return layout, recipe.name, recipe.to_toml(), {}
