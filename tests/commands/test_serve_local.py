"""The chat as its users meet it: one prompt, turns piped in, and a terminal."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from engram_cli.__main__ import run
from engram_cli.commands import serve_local
from engram_cli.commands.chat import COMMANDS, read_turn
from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ChatError
from engram_cli.model.build import build
from engram_cli.model.generate import Sampling
from engram_cli.model.host_directory import open_host
from engram_cli.model.train import Budget
from engram_cli.recipe import HostRecipe
from engram_cli.store.artifact import write_artifact
from tests.hosts import teach_to_chat, write_host
from tests.training import TINY

Serve = Callable[..., tuple[int, str, str]]


@pytest.fixture
def serve(table_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Run the command with `stdin`: (exit code, stdout, stderr)."""

    def run_it(*options: str, stdin: str = "", table: Path = table_path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(["serve-local", str(table), "--device", "cpu", "--max-tokens", "6", *options])
        out, err = capsys.readouterr()
        return code, out, err

    return run_it


def test_a_prompt_gives_the_answer_on_stdout_and_nothing_else(serve: Serve) -> None:
    code, out, err = serve("--prompt", "The capital of")
    assert (code, err) == (0, "")
    assert out.strip()
    assert serve("--prompt", "The capital of")[1] == out, "the same seed, the same answer"
    assert serve("--prompt", "The capital of", "--seed", "1")[1] != out
    assert serve("--prompt", "The capital of", "--no-memory")[1] != out
    assert serve("--prompt", "The capital of", "--system", "It is")[1] != out


def test_a_prompt_as_json(serve: Serve) -> None:
    code, out, _ = serve("--prompt", "The capital of", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["text"] == "The capital of"
    assert document["stopped_by"] == "max_tokens"
    assert document["usage"]["prefill_tokens"] == 3
    assert document["answer"].strip() == serve("--prompt", "The capital of")[1].strip()


def test_piped_lines_are_turns_and_stdout_holds_answers_alone(serve: Serve) -> None:
    code, out, err = serve(stdin="The capital of\n\nThe river\n")
    assert (code, err) == (0, "")
    assert out.startswith(serve("--prompt", "The capital of")[1])
    assert out.count("\n") >= 2
    assert ">" not in out.split("\n")[0]


def test_piped_json_is_one_document_a_line(serve: Serve) -> None:
    code, out, _ = serve("--json", stdin="The capital of\n/trace\n/stats\n/set\n")
    documents = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [document.get("about", "answer") for document in documents] == ["answer", "trace", "stats", "settings"]
    assert documents[1]["tables"]["lookups"][1]["2-gram"] == "The capital"
    assert documents[3]["facts"]["max_tokens"] == 6


def test_memory_off_changes_the_answer_and_reads_no_rows(serve: Serve) -> None:
    code, out, _ = serve(
        "--json", stdin="The capital of\n/reset\n/memory off\nThe capital of\n/reset\n/memory on\nThe capital of\n"
    )
    on, off, again = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert off["answer"] != on["answer"] == again["answer"]
    assert (off["usage"]["rows"], on["usage"]["rows"]) == (0, 8 * 8)


def test_set_takes_effect(serve: Serve) -> None:
    _, out, _ = serve("--json", stdin="/set max_tokens 2\n/set temperature 0\nThe\n/reset\n/set seed 5\nThe\n/set\n")
    first, second, settings = (json.loads(line) for line in out.splitlines())
    assert first["usage"]["decode_tokens"] == 1
    assert first["answer"] == second["answer"], "temperature 0 knows no seed"
    assert settings["facts"] | {"temperature": 0, "max_tokens": 2, "seed": 5} == settings["facts"]


def test_system_begins_again_with_a_paragraph(serve: Serve) -> None:
    _, out, _ = serve("--json", stdin="It\n/system The capital\nof\n/trace\n/system\nof\n/trace\n")
    with_system, without = (json.loads(line)["tables"]["lookups"] for line in out.splitlines() if '"about"' in line)
    assert with_system[0]["3-gram"] == "The capital⏎"
    assert without[0]["2-gram"] == "⊢of"


def test_help_lists_every_command_and_says_what_the_host_is(serve: Serve) -> None:
    _, out, _ = serve(stdin="/help\n/quit\nnever answered\n")
    assert all(f"/{name}" in out for name in COMMANDS)
    assert "not to chat" in out
    assert "never" not in out


def test_a_conversation_that_outgrows_the_context_says_so_once(serve: Serve) -> None:
    code, _, err = serve(stdin="The capital of France is Paris.\n" * 4)
    assert code == 0
    assert err.count("the host sees 32 tokens") == 1


def test_a_host_that_was_taught_to_chat_is_told_so(serve: Serve, ngrams: NGrams, tmp_path: Path) -> None:
    host = open_host(teach_to_chat(write_host(tmp_path / "host", ngrams.artifact.file("tokenizer.json"))))
    build(ngrams, replace(TINY, host=HostRecipe(context=16)), tmp_path / "table", Budget(tokens=64), host=host)
    answers = "The capital\n/trace\n/help\n"
    _, out, _ = serve("--json", stdin=answers, table=tmp_path / "table")
    assert "taught to chat: turns are written by its own template" in out
    assert json.loads(out.splitlines()[1])["tables"]["lookups"][0]["2-gram"] == "⊢u"  # of "user"
    _, out, _ = serve("--json", "--raw", stdin=answers, table=tmp_path / "table")
    assert "not to chat" in out
    assert json.loads(out.splitlines()[1])["tables"]["lookups"][0]["2-gram"] == "⊢T"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sats", "/sats is not one; did you mean /stats?"),
        ("/xyz", "there are /help, /reset"),
        ("/set temprature 1", "did you mean temperature?"),
        ("/set top_k many", "top_k is a whole number, but it is given 'many'; write /set top_k 40"),
        ("/set top_p", "top_p is a number, but it is given nothing"),
        ("/set top_p 2", "top_p must be above 0"),
        ("/memory maybe", "/memory takes on or off"),
        ("a\ud800b", "a turn is UTF-8 text"),
    ],
)
def test_a_wrong_line_in_a_script_stops_it_with_2(serve: Serve, line: str, message: str) -> None:
    code, out, err = serve(stdin=f"{line}\nThe capital\n")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", " "], "a turn has some text"),
        (["--prompt", "x", "--temperature", "-1"], "temperature must be from 0"),
        (["--prompt", "x", "--device", "tpu"], "--device is auto, cpu or cuda"),
        (["--prompt", "x", "--max-tokens", "0"], "max_tokens must be 1 or more"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(serve: Serve, options: list[str], message: str) -> None:
    code, out, err = serve(*options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_what_is_no_table_is_refused(serve: Serve, tmp_path: Path) -> None:
    with write_artifact(tmp_path / "grams", "ngrams"):
        pass
    assert "needs an artifact of kind table" in serve("--prompt", "x", table=tmp_path / "grams")[2]
    assert "nothing is there" in serve("--prompt", "x", table=tmp_path / "missing")[2]
    (tmp_path / "empty").mkdir()
    code, out, err = serve("--prompt", "x", table=tmp_path / "empty")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_help_names_the_defaults_there_are() -> None:
    defaults = Sampling()
    hints = serve_local.command.__annotations__
    for name in Sampling.__dataclass_fields__:
        assert f"[default: {getattr(defaults, name)}]" in hints[name].__metadata__[0].help


def lines(*given: str) -> Callable[[str], str]:
    left = iter(given)

    def read(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


@pytest.mark.parametrize(
    ("given", "turn"),
    [
        (["a", "b"], ("a", False)),
        (["a\\", "b\\", "c", "d"], ("a\nb\nc", False)),
        (["a\\"], ("a\n", False)),
        (['"""', "a", "", "/b", '"""', "c"], ("a\n\n/b", False)),
        (['"""a', 'b"""', "c"], ("a\nb", False)),
        (['"""/a"""', "c"], ("/a", False)),
        (['"""a', "b"], ("a\nb", False)),
        (['"""'], ("", False)),
        (["/set top_k 3"], ("/set top_k 3", True)),
    ],
)
def test_a_turn_may_have_several_lines(given: list[str], turn: tuple[str, bool]) -> None:
    assert read_turn(lines(*given)) == turn


def test_no_more_turns_at_the_end_of_the_input() -> None:
    with pytest.raises(EOFError):
        read_turn(lines())


def test_stdin_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    from engram_cli.commands.chat import _piped

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8"))
    with pytest.raises(ChatError, match="stdin is not"):
        _piped("> ")


def test_a_reader_that_leaves_is_exit_code_141(table_path: Path) -> None:
    command = [sys.executable, "-m", "engram_cli", "serve-local", str(table_path), "--prompt", "The", "--max-tokens", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


# at a terminal --------------------------------------------------------------------------------------------------------------------
_AT_ITS_OWN_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from engram_cli.__main__ import main
main()
"""


class Terminal:
    """`engram serve-local` at a pseudo-terminal."""

    def __init__(self, table: Path, state: Path, *options: str) -> None:
        self._us, theirs = pty.openpty()
        command = [sys.executable, "-c", _AT_ITS_OWN_TERMINAL, "serve-local", str(table), "--max-tokens", "4", *options]
        environment = os.environ | {"XDG_STATE_HOME": str(state), "TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._us, text.encode())

    def expect(self, pattern: str, seconds: float = 60) -> str:
        """Wait for `pattern` in what has not been read yet; return it with all before it."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < until, f"no {pattern!r} in {self._seen!r}"
            self._read()
        text, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return text

    def interrupt(self, pattern: str) -> None:
        """Press Ctrl-C until `pattern` comes: CPython can miss one that falls between two waits for a key."""
        for _ in range(20):
            self.type("\x03")
            with suppress(AssertionError):
                self.expect(pattern, 10)
                return
        raise AssertionError(f"Ctrl-C did not bring {pattern!r}, only {self._seen!r}")

    def _read(self) -> None:
        if select.select([self._us], [], [], 0.2)[0]:
            try:
                self._seen += os.read(self._us, 1 << 16).decode(errors="replace")
            except OSError:  # the other end is closed
                raise AssertionError(f"it ended, having said {self._seen!r}") from None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._us)


def test_ctrl_c_ends_a_prompt_at_a_terminal_with_130(table_path: Path, tmp_path: Path) -> None:
    terminal = Terminal(table_path, tmp_path, "--prompt", "The capital", "--max-tokens", "1000000")
    terminal.expect("[a-z]")
    terminal.interrupt("engram: stopped")
    assert terminal.process.wait(30) == 130
    terminal.close()


@pytest.fixture
def terminal(table_path: Path, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(table_path, tmp_path)
    yield opened
    opened.close()


def test_at_a_terminal_mistakes_and_ctrl_c_keep_the_session(terminal: Terminal, tmp_path: Path) -> None:
    assert "not to chat" in terminal.expect("> $")
    terminal.type("/memroy off\n")
    terminal.expect(r"did you mean /memory\?\r\n> $")
    terminal.type("/set max_tokens 1000000\n")
    terminal.expect("> $")
    terminal.type("The capital\\\n")
    terminal.expect(r"\. $")
    terminal.type("of\n")
    terminal.expect(r"of\r\n[^\r\n]+")
    terminal.type("\x03")
    terminal.expect(r"\(stopped\)\r\n(engram: warning: .*\r\n)?> $")
    terminal.type("/set max_tokens 2\n")
    terminal.expect("> $")
    terminal.type("half a line")
    terminal.expect("half a line")
    terminal.interrupt("Ctrl-D or /quit ends\r\n> $")
    terminal.type("/stats\n")
    assert "the last turn" in terminal.expect("> $")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
    assert "/memroy off" in (tmp_path / "engram" / "history").read_text()


def test_a_polite_kill_ends_a_chat_at_a_terminal(terminal: Terminal) -> None:
    terminal.expect("> $")
    terminal.process.terminate()
    assert terminal.process.wait(30) == -signal.SIGTERM
