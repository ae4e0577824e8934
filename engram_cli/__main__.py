"""`engram`: the commands in the order of the pipeline, and the one place that turns an error into a line and an exit code.

0: fine. 1: the check found something (`verify`, `diff`, `collisions --fail-over`). 2: could not do it. 130 and 143: stopped by
Ctrl-C or SIGTERM, nothing half-written. 141: whoever read the output stopped reading.
"""

import gc
import importlib
import os
import re
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, NoReturn

import typer
import typer.main

from engram_cli import __version__
from engram_cli.errors import EngramError
from engram_cli.store.resources import need_start

COMMANDS = (
    "extract",
    "merge",
    "plan",
    "build",
    "collisions",
    "serve-local",
    "bench",
    "sweep",
    "inspect",
    "convert",
    "diff",
    "verify",
)
_OBJECTS = 20_000  # made before a search for cycles among them
COMPUTING = ("plan", "build", "serve-local", "bench", "sweep")  # with torch
_LIBRARIES, _TORCH = 256 << 20, 576 << 20  # bytes of memory that they take before any work, and threads of them
_SHORT = "(out of|allocate) memory|start new thread|map segment|zero-fill pages"  # as torch, Python and the loader say it
app = typer.Typer(name="engram", rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"engram {__version__}")
        raise typer.Exit


@app.callback()
def _engram(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Build, inspect and use Engram tables: n-gram lookup memory for language models.

    Every command reads whole artifacts and writes one whole artifact; what it shows is made from what it wrote.

    \b
    Example:
      engram extract corpus/ --train-tokenizer 8192 -o demo/ngrams
      engram build demo/ngrams --recipe tables/demo.toml -o demo/table
      engram serve-local demo/table
    """


for _name in COMMANDS:
    app.command(_name)(importlib.import_module(f"engram_cli.commands.{_name.replace('-', '_')}").command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        stopped.append(number)
        raise KeyboardInterrupt

    gc.set_threshold(_OBJECTS)  # what is imported stays: looking through it every 700 objects took a tenth of a short command
    signal.signal(signal.SIGTERM, stop)  # a polite kill cleans up like Ctrl-C
    code = run(sys.argv[1:] if arguments is None else arguments)
    if code == 141:  # the interpreter flushes stdout on its way out and would complain that nobody reads it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    gc.freeze()  # nor is it looked through on the way out: that took another fifth
    sys.exit(143 if code == 130 and stopped else code)


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; where that is 2 or 130, one line on stderr has said why."""
    try:
        code = _run(arguments or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        return 141
    except SystemExit as exit:  # of shell completion; and typer gives a broken pipe 1, our code for a check that found something
        return 141 if isinstance(exit.__context__, BrokenPipeError) else int(exit.code or 0)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        _say("stopped")
    return code if arguments else 2


def _run(arguments: list[str]) -> int:
    try:
        if arguments[0] in COMMANDS and "--help" not in arguments:
            need_start(_TORCH if arguments[0] in COMPUTING else _LIBRARIES, f"to begin, engram {arguments[0]}")
            if arguments[0] in COMPUTING:
                importlib.import_module("engram_cli.model")  # before NumPy has threads, which is when it can set up their heap
        code = typer.main.get_command(app).main(arguments, prog_name="engram", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "engram")
        _say(f"{error.format_message().rstrip('.')} (see {command} --help)")
    except EngramError as error:
        _say(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f" on {error.filename}" if error.filename else ""
        _say(f"the system must allow what is asked, but it said `{error.strerror or error}`{place}; mend that and run it again")
    except Exception as error:
        if isinstance(error, MemoryError) or re.search(_SHORT, str(error)):
            told = f" ({error})" if str(error) else ""
            _say(f"the work must fit in memory, but it ran out{told}; ask for less, or take a larger machine")
        else:
            traceback.print_exc()
            _say("this is a mistake in engram, not yours; please report it with the lines above")
    return 2


def _say(message: str) -> None:
    print(f"engram: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
