"""`engram inspect`: what an artifact is and where it came from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engram_cli.commands.options import Force, Json, Quiet

if TYPE_CHECKING:
    from engram_cli.progress import ProgressLike
    from engram_cli.report.report import Report


def command(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT", help="An n-gram artifact, a table, a saved report, a folder of such, or a checkpoint with a table."
        ),
    ],
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="Which rows a text names, and what they hold.")] = None,
    row: Annotated[
        str | None, typer.Option("--row", metavar="LAYER:ROW", help="One row of a table; --ngrams: who lives in it.")
    ] = None,
    gram: Annotated[
        str | None, typer.Option("--gram", metavar="TEXT", help="The rows of one gram; --ngrams: what shares them.")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Read all rows of a table once: norms, zeros, scales.")] = False,
    ngrams: Annotated[Path | None, typer.Option("--ngrams", metavar="NGRAMS", help="The n-grams that are asked about.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Save the report, with a picture where there is one to draw.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what an artifact is and where it came from.

    N-grams add what was counted; --out draws it: how often grams occur, what the most frequent hold, and how many more text brings.
    A table adds its layout, weights and training; a saved report is shown as the command that wrote it showed it; of a folder of
    artifacts, each is named with what it was made from and its main figures.
    A checkpoint is a directory as models are published in: config.json, safetensors, tokenizer.json. Its table is found and held to
    its config and its tokenizer, and no row of it is read.

    Of any table, an artifact or a checkpoint, one question more may be asked: --text, --row, --gram or --stats. The first three
    read no more than the rows that are shown, and with --ngrams the counts of one order once; --stats reads every row once.

    \b
    Example:
      engram inspect demo/table
      engram inspect demo/ngrams --out demo/counts
      engram inspect demo/collisions --json
      engram inspect demo
      engram inspect checkpoints/deepseek-v4.1
      engram inspect checkpoints/deepseek-v4.1 --text "Only Alexander the Great"
      engram inspect demo/table --row 1:12345 --ngrams demo/ngrams
      engram inspect demo/table --gram "of the" --ngrams demo/ngrams
      engram inspect demo/table --stats --ngrams demo/ngrams --out demo/stats
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.report.report import write_report
    from engram_cli.store.artifact import check_out

    questions = {"--text": text, "--row": row, "--gram": gram, "--stats": stats or None}
    asked = [name for name, value in questions.items() if value is not None]
    if len(asked) > 1:
        raise typer.BadParameter(f"one question at a time, but {' and '.join(asked)} are given; ask for each by itself")
    if ngrams is not None and not asked:
        raise typer.BadParameter(f"--ngrams belongs to a question; give {', '.join(questions)} too")
    if out is not None:
        check_out(out.absolute(), force)
    if asked:
        with progress(quiet) as shown:
            report, inputs = _answer(artifact, asked[0], str(questions[asked[0]]), ngrams, shown)
    else:
        report, inputs = _inspect(artifact)
    if out is not None:
        write_report(out, report, inputs=inputs, force=force)
    show(report, as_json=as_json)


def _inspect(path: Path) -> "tuple[Report, dict[str, str]]":
    """What lies at `path`, and the digests of what was looked at."""
    from engram_cli.table.formats import is_checkpoint

    if is_checkpoint(path):
        from engram_cli.report.stored import inspect_checkpoint

        return inspect_checkpoint(path), _table_digest(path)
    from engram_cli.report.inspect import inspect
    from engram_cli.report.overview import artifacts_in, overview
    from engram_cli.store.artifact import open_artifact

    several = artifacts_in(path)
    inspected = several or [open_artifact(path)]
    report = overview(path, several) if several else inspect(inspected[0])
    return report, {one.path.name if several else one.manifest.kind: one.digest for one in inspected}


def _answer(
    path: Path, question: str, value: str, ngrams: Path | None, progress: "ProgressLike"
) -> "tuple[Report, dict[str, str]]":
    """The answer to a question about the table at `path`, and the digests of what was looked at."""
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.report.lookup import look_up_gram, look_up_text, open_lookup
    from engram_cli.report.row import look_at_row
    from engram_cli.report.table_stats import table_statistics
    from engram_cli.table.formats import open_stored_table

    stored = open_stored_table(path)
    counted = None if ngrams is None else open_ngrams(ngrams)
    if question == "--stats":
        report = table_statistics(stored, counted, progress)
    elif question == "--row":
        report = look_at_row(stored, value, counted, progress)
    elif question == "--gram":
        report = look_up_gram(open_lookup(stored, counted), value, progress)
    else:
        report = look_up_text(open_lookup(stored, counted), value)
    return report, _table_digest(path) | ({} if counted is None else {"ngrams": counted.artifact.digest})


def _table_digest(path: Path) -> dict[str, str]:
    """What a table is known by among a report's inputs: an artifact's digest, or that of a checkpoint's config."""
    from engram_cli.store.artifact import open_artifact
    from engram_cli.store.manifest import file_digest
    from engram_cli.table.formats import CONFIG, is_checkpoint

    if is_checkpoint(path):
        return {"config": file_digest(path / CONFIG)}
    return {"table": open_artifact(path, "table").digest}
