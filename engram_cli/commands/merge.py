"""`engram merge`: add two n-gram artifacts up."""

from pathlib import Path
from typing import Annotated

import typer

from engram_cli.commands.options import Force, Json, Out, Quiet


def command(
    first: Annotated[Path, typer.Argument(metavar="NGRAMS", help="N-gram artifact, made by `engram extract`.")],
    second: Annotated[Path, typer.Argument(metavar="MORE", help="Another, made with the same tokenizer and options.")],
    out: Out,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add two n-gram artifacts up, without counting anything again.

    Both must have been made with the same tokenizer, token map, orders and share held out. The sum is that of one extraction of
    both corpora, byte for byte where they have no document in common.

    \b
    Example:
      engram merge january/ngrams february/ngrams -o both/ngrams
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.corpus.merge import merge
    from engram_cli.report.ngrams_summary import summarise

    with progress(quiet) as shown:
        merge(first, second, out, force=force, progress=shown)
    show(summarise(open_ngrams(out)), as_json=as_json)
