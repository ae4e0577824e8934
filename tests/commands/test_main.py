"""The command line as a whole: help, exit codes, and one line for whatever goes wrong."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import engram_cli.report.inspect
from engram_cli import __version__
from engram_cli.__main__ import COMMANDS, run
from engram_cli.errors import EngramError

Output = pytest.CaptureFixture[str]
ENGRAM = [sys.executable, "-m", "engram_cli"]

SLOW = """
import signal, sys, time
import engram_cli.__main__ as cli
import engram_cli.report.verify
from engram_cli.store.artifact import write_artifact

def verify(*_):
    with write_artifact(sys.argv[1], "report") as draft:
        (draft.path / "half").write_text("half")
        print("writing", flush=True)
        time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
engram_cli.report.verify.verify = verify
cli.main(["verify", sys.argv[2]])
"""

CRAMPED = """
import resource, sys
import engram_cli.__main__ as cli

resource.setrlimit(resource.RLIMIT_DATA, (100 << 20, 100 << 20))
cli.main(sys.argv[1:])
"""


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    """A command line that runs into `error`."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(engram_cli.report.inspect, "inspect", fail)
    return ["inspect"]


def test_help_lists_the_commands_in_the_order_of_the_pipeline(capsys: Output) -> None:
    assert run(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.split("Commands:")[1].splitlines() if line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_of_its_command(command: str, capsys: Output) -> None:
    assert run([command, "--help"]) == 0
    example = capsys.readouterr().out.split("Example:\n")[1].splitlines()[0]
    assert example.startswith(f"    engram {command} ")


def test_no_arguments_show_the_help_and_are_no_success(capsys: Output) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: Output) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"engram {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["colisions"], "Did you mean 'collisions'? (see engram --help)"),
        (["inspect"], "Missing argument 'ARTIFACT' (see engram inspect --help)"),
        (["inspect", "x", "--jsn"], "No such option: --jsn (Possible options: --json) (see engram inspect --help)"),
        (["inspect", "x", "y"], "unexpected extra argument(s) (y) (see engram inspect --help)"),
        (["inspect", "nowhere"], "an artifact is a directory, but nothing is there: nowhere"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], message: str, capsys: Output) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("engram: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EngramError("a rule\nin two lines"), "engram: a rule in two lines\n"),
        (MemoryError("17 GiB"), "engram: the work must fit in memory, but it ran out (17 GiB);"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "engram: the work must fit in memory, but it ran out ("),
        (RuntimeError("CUDA out of memory. Tried"), "engram: the work must fit in memory, but it ran out ("),
        (RuntimeError("can't start new thread"), "engram: the work must fit in memory, but it ran out (can't start new thread);"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "engram: the work must fit in memory,"),
        (MemoryError(), "engram: the work must fit in memory, but it ran out;"),
        (PermissionError(errno.EACCES, "Permission denied", "rows"), "but it said `Permission denied` on rows;"),
        (OSError("odd"), "but it said `odd`;"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_one_line(
    monkeypatch: pytest.MonkeyPatch, table_path: Path, capsys: Output, error: Exception, message: str
) -> None:
    assert run([*broken(monkeypatch, error), str(table_path)]) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1


@pytest.mark.parametrize(("command", "takes"), [("inspect", "256.0"), ("verify", "256.0"), ("build", "576.0"), ("bench", "576.0")])
def test_too_little_memory_to_begin_is_one_line(ngrams_path: Path, tmp_path: Path, command: str, takes: str) -> None:
    """Loaded all the same, libraries that get no memory for their threads end the process, some of them without a word."""
    arguments = [command, str(ngrams_path), *(["--out", str(tmp_path / "made")] if command == "build" else [])]
    done = subprocess.run([sys.executable, "-c", CRAMPED, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"engram: to begin, engram {command} takes {takes} MiB of memory, but ")
    assert line.endswith("raise the limits of this process (ulimit -d, ulimit -v)")


def test_help_takes_next_to_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", CRAMPED, "build", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example:" in done.stdout


def test_a_mistake_of_ours_shows_where_it_is(monkeypatch: pytest.MonkeyPatch, table_path: Path, capsys: Output) -> None:
    assert run([*broken(monkeypatch, ZeroDivisionError("oops")), str(table_path)]) == 2
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.splitlines()[-1].startswith("engram: this is a mistake in engram")


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, table_path: Path, capsys: Output) -> None:
    assert run([*broken(monkeypatch, KeyboardInterrupt()), str(table_path)]) == 130
    assert capsys.readouterr().err == "engram: stopped\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_nothing(tmp_path: Path, table_path: Path, number: signal.Signals, code: int) -> None:
    arguments = [sys.executable, "-c", SLOW, str(tmp_path / "out"), str(table_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.splitlines()[-1]) == (code, "engram: stopped")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_no_error(ngrams_path: Path) -> None:
    """`engram inspect NGRAMS | head -0`: quiet, and neither 1 (a check found something) nor 2."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = subprocess.run([*ENGRAM, "inspect", str(ngrams_path)], stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("shell", "words", "place", "completed"),
    [("bash", "engram ins", "1", "inspect"), ("bash", "engram verify --q", "2", "--quiet"), ("fish", "engram ins", "1", "inspect")],
)
def test_shells_complete_commands_and_options(shell: str, words: str, place: str, completed: str) -> None:
    asked = {"_ENGRAM_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": place}
    asked |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(ENGRAM, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert completed in done.stdout


def test_equal_options_have_equal_names_and_meanings(capsys: Output) -> None:
    """An option that several commands have is explained in the same words."""
    shared = {"--json", "--quiet", "--force", "--device"}
    meanings: dict[str, set[str]] = {}
    for command in COMMANDS:
        run([command, "--help"])
        for name, meaning in options(capsys.readouterr().out).items():
            meanings.setdefault(name, set()).add(meaning)
    assert {name: found for name, found in meanings.items() if name in shared and len(found) > 1} == {}


def options(page: str) -> dict[str, str]:
    """Option -> its explanation, from a help page."""
    found: dict[str, list[str]] = {}
    for line in page.split("Options:\n")[-1].splitlines():
        name, _, explanation = line.strip().partition("  ") if line.startswith("  -") else ("", "", line)
        if name:
            found[name.split()[0]] = []
        found[list(found)[-1]] += explanation.split()
    return {name: " ".join(words) for name, words in found.items()}
