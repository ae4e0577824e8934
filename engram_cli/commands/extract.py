"""`engram extract`: read a corpus, encode it, count its grams."""

from pathlib import Path
from typing import Annotated, Any

import typer

from engram_cli.commands.options import Force, Json, Memory, Out, Quiet, Threads, read_size


def command(
    context: typer.Context,
    corpus: Annotated[list[str], typer.Argument(metavar="CORPUS", help="Files, folders, globs, or - for stdin.")],
    out: Out,
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", metavar="FILE", help="A Hugging Face tokenizer.json.")] = None,
    train_tokenizer: Annotated[
        int | None, typer.Option("--train-tokenizer", metavar="VOCAB", help="Train a byte-level BPE of VOCAB ids on the corpus.")
    ] = None,
    pad_token: Annotated[
        str | None, typer.Option("--pad-token", metavar="TOKEN", help="Stands before a document's first token [default: by name].")
    ] = None,
    no_canonical: Annotated[bool, typer.Option("--no-canonical", help="Hash raw token ids instead of folded ones.")] = False,
    orders: Annotated[int, typer.Option("--orders", metavar="N", help="Count grams of orders 1 to N.")] = 3,
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", help="Documents kept out of counts and training.")
    ] = 0.02,
    text_field: Annotated[
        str | None,
        typer.Option(
            "--text-field", metavar="NAME", help="JSONL key or Parquet column of the text [default: text]; makes - JSONL."
        ),
    ] = None,
    encoding_errors: Annotated[
        str, typer.Option("--encoding-errors", metavar="strict|replace|ignore", help="What to do with bytes that are not UTF-8.")
    ] = "strict",
    document_separator: Annotated[
        str | None,
        typer.Option("--document-separator", metavar="TEXT", help=r"Splits text files into documents; \n and \t are understood."),
    ] = None,
    min_count: Annotated[int, typer.Option("--min-count", min=1, metavar="N", help="Leave out grams seen less often.")] = 1,
    token_dtype: Annotated[
        str | None, typer.Option("--token-dtype", metavar="u16|u32", help="What the ids in .bin files are.")
    ] = None,
    token_field: Annotated[
        str | None, typer.Option("--token-field", metavar="NAME", help="Column of token id lists in Parquet and Arrow files.")
    ] = None,
    keep_duplicates: Annotated[bool, typer.Option("--keep-duplicates", help="Count documents that come again as well.")] = False,
    add_to: Annotated[
        Path | None, typer.Option("--add-to", metavar="NGRAMS", help="Count what is new, and write the sum with NGRAMS as --out.")
    ] = None,
    memory: Memory = None,
    tmp: Annotated[
        Path | None,
        typer.Option("--tmp", metavar="DIR", help="Where runs go that memory cannot hold [default: beside --out]."),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="local|ray", help="Work on threads, or as tasks of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="The Ray cluster, or auto [default: one started here].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same extraction was killed.")] = False,
    threads: Threads = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Count the n-grams of a corpus: text, Markdown, JSONL and Parquet files, each also as .gz or .zst.

    A text file is one document; a JSONL line or a Parquet row is one each. In folders, hidden files and other extensions are passed
    over; a file that is named is read as text whatever it is called. Stdin is text, or JSONL where --text-field is given. Corpora
    that are tokenised already are counted as they are: .npy, .bin (also with Megatron's .idx), columns of id lists, an n-gram
    artifact. One that was killed goes on with --resume, and gives the same bytes; so does any --threads, --memory and --engine
    (docs/cluster.md).

    \b
    Example:
      engram extract corpus/ --train-tokenizer 8192 -o demo/ngrams
      engram extract tokens.bin --token-dtype u16 --tokenizer tokenizer.json --memory 2GiB -o ngrams
      engram extract 'books/*.txt.gz' --tokenizer tokenizer.json -o ngrams
      engram extract more/ --add-to ngrams -o more-ngrams
      zcat posts.jsonl.gz | engram extract - --text-field body --train-tokenizer 8192 -o ngrams
    """
    from engram_cli.commands.terminal import progress, show
    from engram_cli.corpus.artifact import open_ngrams
    from engram_cli.corpus.extract import extract
    from engram_cli.corpus.merge import add
    from engram_cli.report.ngrams_summary import summarise

    separator = document_separator and document_separator.replace("\\n", "\n").replace("\\t", "\t")
    reading: dict[str, Any] = {
        "text_field": text_field,
        "encoding_errors": encoding_errors,
        "document_separator": separator,
        "token_dtype": token_dtype,
        "token_field": token_field,
        "keep_duplicates": keep_duplicates,
        "memory": read_size(memory),
        "tmp": tmp,
        "engine": engine,
        "address": address,
        "threads": threads or None,
    }
    counting: dict[str, Any] = {
        "pad_token": pad_token,
        "canonical": not no_canonical,
        "orders": orders,
        "held_out": held_out,
        "min_count": min_count,
    }
    with progress(quiet) as shown:
        if add_to is not None:
            _refuse_others(context)
            add(corpus, add_to, out, tokenizer=tokenizer, force=force, progress=shown, **reading)
        else:
            given: dict[str, Any] = {"tokenizer": tokenizer, "train_vocab": train_tokenizer}
            extract(corpus, out, resume=resume, force=force, progress=shown, **given, **counting, **reading)
    show(summarise(open_ngrams(out)), as_json=as_json)


def _refuse_others(context: typer.Context) -> None:
    """Refuse options that follow from the artifact that is added to."""
    for name in ("train_tokenizer", "pad_token", "no_canonical", "orders", "held_out", "min_count", "keep_duplicates", "resume"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise typer.BadParameter(f"--add-to counts as the artifact was counted, so --{option} cannot be given; leave it out")
