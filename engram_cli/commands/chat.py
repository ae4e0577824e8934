"""The chat of `engram serve-local`: lines become turns or commands, answers stream to stdout, remarks go to stderr."""

import difflib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engram_cli.errors import ChatError, EngramError

if TYPE_CHECKING:
    from engram_cli.model.generate import Sampling
    from engram_cli.model.session import Session
    from engram_cli.report.report import Report

COMMANDS = {
    "help": "/help               these lines",
    "reset": "/reset              begin again: forget all turns, keep the system text, start the seed's random numbers anew",
    "system": "/system TEXT        begin again with TEXT as the system text; /system alone takes it away",
    "set": "/set NAME VALUE     change a setting, such as /set temperature 0.7; /set alone shows them",
    "stats": "/stats              tokens per second, rows read and their bytes",
    "memory": "/memory off|on      answer without or with the memory",
    "trace": "/trace              what the last turn looked up, and how far each gate opened, the mixture's too",
    "quit": "/quit               end (also Ctrl-D)",
}
HONESTY = (
    "This host is a small base model: it was taught to continue text, not to chat. Begin a sentence and it goes on; the "
    "conversation is one document, and each turn a paragraph of it."
)
CHATS = (
    "This host was taught to chat: turns are written by its own template. Its memory was made from plain text, and --raw lets the "
    "host go on with such a text instead."
)
_MULTILINE = 'End a line with \\ to go on in the next, or put a text of several lines between lines of """. Ctrl-C stops an answer.'


class Chat:
    """A chat about `session` on stdin and stdout. When `run` at a terminal, mistakes are told and the chat goes on, and Ctrl-C
    stops no more than the answer; elsewhere both are raised, so that a script notices."""

    def __init__(self, session: "Session", as_json: bool = False) -> None:
        self.session = session
        self.as_json = as_json
        self._at_terminal = False
        self._over = self._warned = False

    @property
    def _about(self) -> str:
        return CHATS if self.session.chats else HONESTY

    def run(self) -> None:
        """Take turns from stdin until it ends."""
        self._at_terminal = sys.stdin.isatty()
        if not self._at_terminal:
            self._take_turns(_piped)
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ctrl-C keeps the session, so a polite kill must not look like one
        _say(f"{self._about}\n/help lists what else it takes.")
        if sys.stdout.isatty():
            with _line_editing():
                self._take_turns(input)
        else:
            self._take_turns(_typed)

    def answer(self, text: str) -> None:
        """One turn: the answer on stdout as it comes, or as one line of JSON."""
        self.session.feed(text)
        pieces: list[str] = []
        stopped = False
        try:
            with closing(self.session.generate()) as answer:
                for piece in answer:
                    shown = piece if "".join(pieces).strip() else piece.lstrip()
                    pieces.append(piece)
                    if not self.as_json:
                        print(shown, end="", flush=True)
        except KeyboardInterrupt:
            if not self._at_terminal:
                raise
            stopped = True
        if self.as_json:
            usage = asdict(self.session.last_usage)
            self._print_json({"text": text, "answer": "".join(pieces), "stopped_by": self.session.stopped_by, "usage": usage})
        else:
            print(flush=True)
        if stopped:
            _say("(stopped)")
        self._warn_of_full_context()

    def command(self, line: str) -> None:
        """Obey a line that begins with a slash. Raises ChatError where it cannot."""
        name, _, rest = line[1:].strip().partition(" ")
        if name not in COMMANDS:
            raise ChatError(f"a line that begins with / is a command, but /{name} is not one; {_nearest(name, COMMANDS, '/')}")
        getattr(self, f"_{name}")(rest.strip())

    def _take_turns(self, read: Callable[[str], str]) -> None:
        while not self._over:
            try:
                text, is_command = read_turn(read)
                if is_command:
                    self.command(text)
                elif text.strip():
                    self.answer(text)
            except EOFError:
                if self._at_terminal:
                    _say("")
                return
            except KeyboardInterrupt:
                if not self._at_terminal:
                    raise
                _say("\nCtrl-D or /quit ends")
            except EngramError as error:
                if not self._at_terminal:
                    raise
                _say(f"engram: {error}")

    def _help(self, rest: str) -> None:
        print("\n".join([*COMMANDS.values(), "", _MULTILINE, "", self._about]))

    def _reset(self, rest: str) -> None:
        self.session.reset()
        _say("begun again")

    def _system(self, text: str) -> None:
        self.session.reset(text)
        _say("begun again with this system text" if text else "begun again without a system text")

    def _set(self, rest: str) -> None:
        from engram_cli.report.report import Report

        if not rest:
            self._show(Report("settings", "Settings", asdict(self.session.sampling)))
            return
        name, _, value = rest.partition(" ")
        self.session.sampling = changed(self.session.sampling, name, value.strip())

    def _stats(self, rest: str) -> None:
        from engram_cli.report.trace import stats

        self._show(stats(self.session))

    def _trace(self, rest: str) -> None:
        from engram_cli.report.trace import trace

        self._show(trace(self.session))

    def _memory(self, rest: str) -> None:
        if rest not in ("", "on", "off"):
            raise ChatError(f"/memory takes on or off, but it is given {rest!r}; write /memory off")
        if rest:
            self.session.decoder.memory = rest == "on"
        _say(f"memory is {'on' if self.session.decoder.memory else 'off: the host answers alone'}")

    def _quit(self, rest: str) -> None:
        self._over = True

    def _warn_of_full_context(self) -> None:
        if self.session.decoder.first and not self._warned:
            self._warned = True
            context = self.session.table.host.context
            _say(
                f"engram: warning: the host sees {context} tokens, and the conversation outgrew that: whenever they are full it "
                f"goes on with the newest {context // 2} and forgets the rest (said once)"
            )

    def _show(self, report: "Report") -> None:
        from engram_cli.commands.terminal import as_document, show

        if self.as_json:
            self._print_json(as_document(report))
        else:
            show(report, as_json=False)
            sys.stdout.flush()

    def _print_json(self, document: object) -> None:
        print(json.dumps(document, ensure_ascii=False), flush=True)


def read_turn(read: Callable[[str], str]) -> tuple[str, bool]:
    r"""One turn from `read(prompt)`, which raises EOFError where nothing is left: its text, and whether it is a command.

    A line that ends with \ goes on in the next. What stands between \"\"\" and \"\"\" is text, whatever it begins with; the end of
    the input ends it too.
    """
    line = read("> ")
    if line.lstrip().startswith('"""'):
        lines = [line.lstrip()[3:]]
        with suppress(EOFError):
            while not lines[-1].rstrip().endswith('"""'):
                lines.append(read(". "))
        return "\n".join(lines).rstrip().removesuffix('"""').strip("\n"), False
    with suppress(EOFError):
        while line.endswith("\\"):
            line = line[:-1] + "\n"
            line += read(". ")
    return line, line.startswith("/")


def changed(sampling: "Sampling", name: str, value: str) -> "Sampling":
    """`sampling` with setting `name` at `value`. Raises ChatError where there is no such setting, or the value breaks its rule."""
    known = asdict(sampling)
    if name not in known:
        raise ChatError(f"/set takes the name of a setting, but `{name}` is not one; {_nearest(name, known)}")
    kind = type(known[name])
    try:
        number = kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ChatError(
            f"{name} is {wanted}, but it is given {repr(value) if value else 'nothing'}; write /set {name} {known[name]}"
        ) from None
    return replace(sampling, **{name: number})


def _nearest(name: str, known: "Iterator[str] | dict[str, object] | dict[str, str]", prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(prefix + one for one in known)}"


def _piped(prompt: str) -> str:
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise ChatError(f"a turn is UTF-8 text, but stdin is not ({error.reason}); convert it first") from None
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _typed(prompt: str) -> str:
    """A line of a terminal where stdout goes elsewhere, so that prompts must not."""
    print(prompt, end="", file=sys.stderr, flush=True)
    return _piped(prompt)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _line_editing() -> Iterator[None]:
    """Editing, completion of commands, and a history that outlives the session (a file of the user's state directory)."""
    import readline

    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "engram" / "history"
    with suppress(OSError):
        readline.read_history_file(path)

    def complete(text: str, number: int) -> str | None:
        found = [f"/{name} " for name in COMMANDS if f"/{name}".startswith(text)] if text.startswith("/") else []
        return found[number] if number < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(path)
