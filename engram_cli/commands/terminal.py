"""All of rich: the one renderer of reports, and progress on stderr.

A report looks the same with and without a terminal, but for colour and for the width: output that goes to a file or a pipe is never
folded. Numbers are right-aligned and written by the unit of their column.
"""

import itertools
import json
import math
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from engram_cli.progress import Amounts
from engram_cli.store.resources import format_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table

    from engram_cli.report.report import Report

_MOST_ROWS = 60  # of a table on the screen
_HEADING, _TEXT = 11, 40  # columns are not made narrower for their heading, nor wider for a text, than so many letters
_GAP = 3  # between columns
_HEARTBEAT = 30.0  # seconds between lines about a stage where there is no terminal
_SAID = 0.02, 2.0  # share of a stage and seconds after which it is said when it will end: before, that would be a guess
_DECIMALS = {"nats": 3, "bits": 3}


def show(report: "Report", *, as_json: bool) -> None:
    """Print `report` on stdout: for people, or as one JSON document {about, title, facts, tables, notes, units}."""
    if as_json:
        print(json.dumps(as_document(report), ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else 100_000, soft_wrap=not terminal)
    with console.capture() as capture:
        console.print(Text(report.title, style="bold"))
        if report.facts:
            console.print()
            console.print(_facts(report))
        for name, table in report.tables.items():
            console.print()
            _print_table(console, name, table)
        for note in report.notes:
            console.print()
            console.print(Text(f"Note: {note}", style="yellow"))
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def as_document(report: "Report") -> dict[str, Any]:
    """The report as JSON data: plain numbers; what has a unit is listed under "units"; what JSON cannot say (NaN) is null."""
    from engram_cli.report.report import Measure, metadata_of

    facts = {label: fact.value if isinstance(fact, Measure) else fact for label, fact in report.facts.items()}
    units = {"facts": {label: fact.unit for label, fact in report.facts.items() if isinstance(fact, Measure)}}
    for name, table in report.tables.items():
        units[name] = {field.name: unit for field in table.schema if (unit := metadata_of(field, "unit"))}
    return {
        "about": report.about,
        "title": report.title,
        "facts": {label: _finite(value) for label, value in facts.items()},
        "tables": {
            name: [{key: _finite(value) for key, value in record.items()} for record in table.to_pylist()]
            for name, table in report.tables.items()
        },
        "notes": list(report.notes),
        "units": units,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def written(value: Any, unit: str = "") -> str:
    """A value for people: 1,234,567 rows; 1.6 GiB; 12.34 %; 4.193 nats (the unit itself is left to the label)."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if unit == "share":
        return f"{100 * value:.2f} %"
    if unit == "bytes":
        return format_bytes(value)
    if unit == "seconds":
        return seconds_text(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    if unit in _DECIMALS:
        return f"{value:,.{_DECIMALS[unit]}f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def seconds_text(seconds: float) -> str:
    """0.0123 -> "12.3 ms", 12.3 -> "12.3 s", 252 -> "4:12 min", 7500 -> "2:05 h"."""
    if abs(seconds) < 1:
        return f"{1000 * seconds:.1f} ms"
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


def _facts(report: "Report") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from engram_cli.report.report import Measure

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, fact in report.facts.items():
        text = written(fact.value, fact.unit) if isinstance(fact, Measure) else written(fact)
        grid.add_row(Text(label, style="dim"), Text(text))
    return grid


def _print_table(console: "Console", name: str, table: "pa.Table") -> None:
    from rich.text import Text

    from engram_cli.report.report import metadata_of

    console.print(Text(metadata_of(table.schema, "title") or name.replace("_", " "), style="bold"))
    shown = table.slice(0, int(metadata_of(table.schema, "limit") or _MOST_ROWS))
    if shown.num_rows:
        columns = [_Column(field, shown[field.name].to_pylist()) for field in shown.schema]
        for number, block in enumerate(_blocks(columns, console.width)):
            if number:
                console.print()
            console.print(_grid(block))
    if shown.num_rows < table.num_rows:
        more = " more" if shown.num_rows else ""
        console.print(Text(f"{table.num_rows - shown.num_rows:,}{more} rows: --json shows them", style="dim"))
    elif not table.num_rows:
        console.print(Text("none", style="dim"))


class _Column:
    """One column of a table as text. key: it says what the row is about; width: what it needs on the screen."""

    def __init__(self, field: "pa.Field", values: list[Any]) -> None:
        import pyarrow.types as types
        from rich.cells import cell_len

        from engram_cli.report.report import metadata_of

        unit = metadata_of(field, "unit")
        self.cells = [written(value, unit) for value in values]
        self.text = types.is_string(field.type) or types.is_boolean(field.type) or types.is_dictionary(field.type)
        self.key = self.text or (types.is_integer(field.type) and not unit)
        widest = max(map(cell_len, self.cells))
        words = field.name.replace("_", " ") + (f" [{unit}]" if unit in _DECIMALS else "")
        lines = textwrap.wrap(words, max(widest, *map(len, words.split()), _HEADING))
        self.heading = "\n".join(lines)
        self.width = max(min(widest, _TEXT) if self.text else widest, *map(len, lines))


def _blocks(columns: list[_Column], width: int) -> Iterator[list[_Column]]:
    """The columns, or where the screen is too narrow for them, blocks of columns that each begin with the leading keys."""
    keys = list(itertools.takewhile(lambda column: column.key, columns))
    if len(keys) == len(columns):
        keys = columns[:1]
    block, room = list(keys), width - sum(key.width + _GAP for key in keys)
    for column in columns[len(keys) :]:
        if len(block) > len(keys) and column.width > room:
            yield block
            block, room = list(keys), width - sum(key.width + _GAP for key in keys)
        block.append(column)
        room -= column.width + _GAP
    yield block


def _grid(columns: list[_Column]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.text else "right"
        grid.add_column(Text(column.heading), justify=justify, no_wrap=not column.text, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        grid.add_row(*map(Text, cells))
    return grid


@contextmanager
def progress(quiet: bool = False) -> Iterator["Progress"]:
    """Progress on stderr: bars with rate and time left on a terminal; elsewhere a line per stage, and one every half minute."""
    shown = Progress(quiet)
    try:
        yield shown
        shown.finish_stage()
    finally:
        shown.close()


class Progress:
    """A `ProgressLike` that writes to stderr; see `progress`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bars: RichProgress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._started = self._spoke = time.monotonic()
        self._last: tuple[float, float | None, str, str, Amounts] | None = None

    def stage(self, number: int, of: int, text: str) -> None:
        self.finish_stage()
        label = f"[{number}/{of}] {text}"
        self._label = label.partition(" (")[0]  # what is in brackets is said once
        self._started = self._spoke = time.monotonic()
        if self._quiet:
            return
        if sys.stderr.isatty():
            bars = self._bars or self._open()
            self._task = bars.add_task(label, total=None, status="")
        else:
            print(label, file=sys.stderr, flush=True)

    def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
        self._last = (done, total, unit, note, also)
        if self._quiet:
            return
        now = time.monotonic()
        if self._bars is not None and self._task is not None:
            if now - self._spoke >= 0.1:
                self._spoke = now
                self._bars.update(self._task, completed=done, total=total, status=self._status(now), refresh=True)
        elif now - self._spoke >= _HEARTBEAT:
            self._spoke = now
            print(f"{self._label}: {self._status(now)}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        line = f"engram: warning: {text}"
        if self._bars is not None:
            self._bars.console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bars down; that of a stage that did not come to its end stays as it is."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _open(self) -> "RichProgress":
        from rich.console import Console, RenderableType
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class Bars(RichProgress):
            """Two lines: what is being done, and how far it is."""

            def get_renderables(self) -> Iterator[RenderableType]:
                for task in self.tasks:
                    yield Text(task.description, overflow="fold")
                    yield self.make_tasks_table([task])

        columns = (BarColumn(bar_width=16), TextColumn("{task.fields[status]}", markup=False))
        self._bars = Bars(*columns, console=Console(file=sys.stderr, highlight=False), refresh_per_second=8)
        self._bars.start()
        return self._bars

    def _status(self, now: float) -> str:
        """Share done, rates, time left, note."""
        assert self._last is not None
        done, total, unit, note, also = self._last
        elapsed = now - self._started
        parts = [f"{100 * done / total:.0f} %"] if total else []
        if elapsed > 0:
            amounts = also or [(done, unit)]
            parts += [_rate_text(amount / elapsed, unit) for amount, unit in amounts if amount and unit != "seconds"]
        share, seconds = _SAID
        if total and share * total <= done < total and elapsed >= seconds:
            left = total - done if unit == "seconds" else elapsed * (total - done) / done
            parts.append(f"{seconds_text(max(1, left))} left")
        return "  ".join([*parts, note] if note else parts)

    def finish_stage(self) -> None:
        """Leave a line in place of the stage's bar: what it took."""
        if self._bars is not None and self._task is not None:
            took = seconds_text(time.monotonic() - self._started)
            note = self._last[3] if self._last else ""
            self._bars.remove_task(self._task)
            self._bars.refresh()
            line = f"{self._label}: {took}  {note}".rstrip()
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._task = self._last = None


def _rate_text(rate: float, unit: str) -> str:
    if unit.startswith("bytes"):  # of what, where that must be said
        return f"{format_bytes(rate)}/s{unit.removeprefix('bytes')}"
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= scale:
            return f"{rate / scale:.1f} {letter} {unit}/s"
    return f"{rate:.1f} {unit}/s"
