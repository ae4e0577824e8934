"""The terminal: how numbers are written, that nothing is cut or folded where a program reads, and what progress says."""

import io
import json
import re
import time
from typing import Any

import pyarrow as pa
import pytest

import engram_cli.commands.terminal as terminal
from engram_cli.commands.terminal import progress, seconds_text, show, written
from engram_cli.report.report import Measure, Report, column, table

Output = pytest.CaptureFixture[str]
HEADS = table(
    [
        column("head", pa.int32()),
        column("rows", pa.int64(), "rows"),
        column("held_out_loss", pa.float64(), "nats"),
        column("purity", pa.float64(), "share"),
        column("gram", pa.string(), "text"),
    ],
    [
        {"head": 0, "rows": 65537, "held_out_loss": 4.1234, "purity": 0.5, "gram": "[bold] of the"},
        {"head": 1, "rows": 12_345_678, "held_out_loss": 14.1, "purity": 1 / 3},
    ],
    title="Heads of [a] table",
)
REPORT = Report(
    "bench", "What [was] found", {"tokens": 1_234_567, "size": Measure(1.6 * 2**30, "bytes")}, {"heads": HEADS}, ("Mind.",)
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1_234_567, "rows", "1,234,567"),
        (7, "", "7"),
        (0, "rows", "0"),
        (-1_234, "", "-1,234"),
        (1_717_986_918, "bytes", "1.6 GiB"),
        (999, "bytes", "999 B"),
        (0.12345, "share", "12.35 %"),
        (0.0, "share", "0.00 %"),
        (4.1926, "nats", "4.193"),
        (1.5, "bits", "1.500"),
        (2.5, "grams/row", "2.50"),
        (0.0123, "grams/row", "0.0123"),
        (3.2e-10, "grams", "3.2e-10"),
        (12_345.6, "tokens/s", "12,346"),
        (0.0, "", "0.00"),
        (12.3, "seconds", "12.3 s"),
        (None, "rows", "-"),
        (float("nan"), "nats", "nan"),
        (float("inf"), "share", "inf"),
        (True, "", "yes"),
        (False, "", "no"),
        ("any [text]", "text", "any [text]"),
    ],
)
def test_values_are_written_by_their_unit(value: Any, unit: str, text: str) -> None:
    assert written(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (59.9, "59.9 s"), (60, "1:00 min"), (252, "4:12 min"), (3599.7, "1:00 h"), (7500, "2:05 h")],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_report_is_aligned_and_complete_where_no_terminal_is(capsys: Output) -> None:
    show(REPORT, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "What [was] found",
        "",
        "tokens  1,234,567",
        "size    1.6 GiB",
        "",
        "Heads of [a] table",
        "                       held out",
        "head         rows   loss [nats]    purity   gram",
        "─────────────────────────────────────────────────────────",
        "   0       65,537         4.123   50.00 %   [bold] of the",
        "   1   12,345,678        14.100   33.33 %   -",
        "",
        "Note: Mind.",
    ]


def test_json_holds_plain_numbers_and_their_units(capsys: Output) -> None:
    show(REPORT, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["facts"] == {"tokens": 1_234_567, "size": 1.6 * 2**30}
    assert document["tables"]["heads"] == HEADS.to_pylist()
    assert document["units"] == {
        "facts": {"size": "bytes"},
        "heads": {"rows": "rows", "held_out_loss": "nats", "purity": "share", "gram": "text"},
    }
    assert (document["about"], document["title"], document["notes"]) == ("bench", "What [was] found", ["Mind."])


def test_json_is_json_whatever_the_numbers(capsys: Output) -> None:
    losses = table([column("loss", pa.float64(), "nats")], [{"loss": float("nan")}, {"loss": float("inf")}, {"loss": 1.5}])
    show(Report("bench", "t", {"loss": Measure(float("nan"), "nats")}, {"losses": losses}), as_json=True)
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["facts"] == {"loss": None}
    assert document["tables"]["losses"] == [{"loss": None}, {"loss": None}, {"loss": 1.5}]


def test_wide_tables_are_never_folded_where_no_terminal_is(capsys: Output) -> None:
    wide = table(
        [column(f"column_{at}", pa.string(), "text") for at in range(40)], [{f"column_{at}": "x" * 30 for at in range(40)}]
    )
    show(Report("bench", "t", {}, {"wide": wide}), as_json=False)
    assert any(line.count("x" * 30) == 40 for line in capsys.readouterr().out.splitlines())


def test_a_narrow_terminal_gets_blocks_of_columns_that_repeat_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    show(REPORT, as_json=False)
    lines = re.sub("\x1b[^m]*m", "", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= 40
    assert sum("head" in line.split() for line in lines) >= 2
    for text in ("12,345,678", "14.100", "33.33 %", "[bold] of the"):
        assert text in "\n".join(lines)


def test_a_terminal_gets_colour_and_a_file_none(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    show(REPORT, as_json=False)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    show(REPORT, as_json=False)
    assert "\x1b[" in screen.getvalue()


@pytest.mark.parametrize(("limit", "rows", "more"), [(None, 60, "40 more rows"), (5, 5, "95 more rows"), (0, 0, "\n100 rows")])
def test_long_tables_are_cut_and_say_so(capsys: Output, limit: int | None, rows: int, more: str) -> None:
    long = table([column("value", pa.int64())], [{"value": 70_000 + at} for at in range(100)], limit=limit)
    show(Report("bench", "t", {}, {"long": long}), as_json=False)
    printed = capsys.readouterr().out
    assert printed.count("70,0") == rows
    assert f"{more}: --json shows them" in printed


def test_empty_tables_say_none(capsys: Output) -> None:
    show(Report("bench", "t", {}, {"worst": HEADS.slice(0, 0)}), as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "none"


def test_without_a_terminal_each_stage_is_a_line(capsys: Output) -> None:
    with progress() as shown:
        shown.stage(1, 2, "counting [3]-grams")
        shown.advance(5, 10, "tokens")
        shown.stage(2, 2, "writing")
        shown.warn("mind [this]")
    captured = capsys.readouterr()
    assert captured.err == "[1/2] counting [3]-grams\n[2/2] writing\nengram: warning: mind [this]\n"
    assert captured.out == ""


def test_quiet_shows_warnings_only(capsys: Output) -> None:
    with progress(quiet=True) as shown:
        shown.stage(1, 1, "counting")
        shown.advance(5, 10, "tokens")
        shown.warn("mind")
    assert capsys.readouterr().err == "engram: warning: mind\n"


def test_long_stages_speak_up_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress() as shown:
        shown.stage(1, 1, "training")
        for now in (1010.0, 1040.0, 1045.0, 1080.0):
            shown.advance(1_000_000 * (now - 1000), 200_000_000, "tokens", "loss 4.2")
    assert capsys.readouterr().err.splitlines() == [
        "[1/1] training",
        "[1/1] training: 20 %  1.0 M tokens/s  2:40 min left  loss 4.2",
        "[1/1] training: 40 %  1.0 M tokens/s  2:00 min left  loss 4.2",
    ]


@pytest.mark.parametrize(
    ("done", "total", "unit", "text"),
    [
        (90 * 2**20, None, "bytes", "3.0 MiB/s"),
        (60.0, 90.0, "seconds", "67 %  30.0 s left"),
        (9, 18, "steps", "50 %  0.3 steps/s  30.0 s left"),
        (45_000, None, "documents", "1.5 k documents/s"),
        (0, 10, "tokens", "0 %"),
    ],
)
def test_rates_suit_what_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, done: float, total: float | None, unit: str, text: str
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress() as shown:
        shown.stage(1, 1, "x")
        now = 30.0
        shown.advance(done, total, unit)
    assert capsys.readouterr().err.splitlines()[1].rstrip() == f"[1/1] x: {text}"


def test_on_a_terminal_bars_show_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    monkeypatch.setattr(terminal.time, "monotonic", iter(range(100)).__next__)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress() as shown:
        shown.stage(1, 2, "counting [3]-grams")
        shown.advance(5e6, 1e7, "tokens", "loss 4.2")
        shown.warn("mind [this]")
        shown.stage(2, 2, "writing")
    last = screen.getvalue()
    for text in (
        "[1/2] counting [3]-grams",
        "50 %",
        "M tokens/s",
        "[1/2] counting [3]-grams: ",
        " s  loss 4.2",
        "[2/2] writing",
        "mind [this]",
    ):
        assert text in last


def test_on_a_narrow_terminal_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress() as shown:
        shown.stage(1, 1, "encoding (about 100.0 GiB of disk needed, 100.0 GiB of --tmp if memory is short)")
        now = 1000.0
        shown.advance(40e9, 80e9, "bytes", also=[(120e9, "bytes of text"), (30e9, "tokens")])
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()))
    assert max(map(len, lines)) <= 80
    assert any(line.endswith("50 %  114.4 MiB/s of text  30.0 M tokens/s  16:40 min left") for line in lines)
    assert "--tmp if memory is short)" in "".join(lines)
    assert "[1/1] encoding: 16:40 min" in lines


@pytest.mark.parametrize(("done", "seconds", "told"), [(1, 100.0, False), (50, 1.0, False), (50, 10.0, True)])
def test_when_it_will_end_is_told_once_that_can_be_known(
    monkeypatch: pytest.MonkeyPatch, done: float, seconds: float, told: bool
) -> None:
    now = 0.0
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress() as shown:
        shown.stage(1, 1, "counting")
        now = seconds
        shown.advance(done, 100, "tokens")
    assert ("left" in screen.getvalue()) == told


def fail_in_a_stage() -> None:
    with progress() as shown:
        shown.stage(1, 1, "counting")
        raise ValueError("no")


def test_a_stage_that_fails_takes_its_bar_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(ValueError, match="no"):
        fail_in_a_stage()
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is there again
