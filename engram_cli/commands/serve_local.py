"""`engram serve-local`: chat with a table."""

from pathlib import Path
from typing import Annotated, Any

import typer

from engram_cli.commands.options import Device, Json


def command(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Table artifact, made by `engram build`.")],
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="One turn: print the answer and exit.")] = None,
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="What stands before the first turn.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Let a host that was taught to chat continue text, as others do.")] = False,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="The host alone: nothing is looked up.")] = False,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="0: the likeliest token, always. [default: 0.7]")] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Choose among the K likeliest tokens; 0: all. [default: 40]")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Choose among the likeliest tokens that together have this share. [default: 0.95]"),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(metavar="F", help="Above 1: tokens that stand there already are less likely. [default: 1.1]")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Longest answer. [default: 64]")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the random numbers: equal seeds, equal answers. [default: 0]")
    ] = None,
    host: Annotated[
        Path | None, typer.Option("--host", metavar="PATH", help="Where a foreign host is now, if not where it was.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int, typer.Option(min=0, metavar="N", help="Threads to use; 0: as many as there are cores. Small hosts want 1.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Chat with a table on this machine.

    The host of a table is a small base model: it was taught to continue text, not to chat. A conversation is one document, each
    turn a paragraph: what you write, and how the host goes on. An answer ends with its paragraph, with the document, or at
    --max-tokens. A foreign host that brings a chat template is spoken to by that, and ends its answers itself.

    At a terminal, /help lists the commands: /memory off shows what the memory does, /trace what was looked up. Turns can be piped
    in, one a line; then answers are all that stdout gets.

    \b
    Example:
      engram serve-local demo/table
      engram serve-local demo/table --prompt "The capital of France is" --temperature 0
      printf '%s\\n' "The capital of France is" /trace | engram serve-local demo/table
    """
    import torch

    from engram_cli.commands.chat import Chat
    from engram_cli.model.generate import Sampling
    from engram_cli.model.session import open_session
    from engram_cli.model.table import open_table

    given: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    sampling = Sampling(**{name: value for name, value in given.items() if value is not None})
    if threads:
        torch.set_num_threads(threads)
    session = open_session(open_table(table, device, host), sampling, memory=not no_memory, raw=raw)
    session.reset(system)
    chat = Chat(session, as_json)
    if prompt is None:
        chat.run()
    else:
        chat.answer(prompt)
