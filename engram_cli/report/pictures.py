"""One picture per question, drawn from a report's tables. matplotlib is imported only when something is drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engram_cli.report.report import Report

DPI = 150
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes
EXPECTED = "#888888"
MARKERS = ("o", "s", "^", "D", "v")


def draw(report: Report, directory: Path) -> list[Path]:
    """Draw the picture of `report` as a PNG file into `directory`; a report without numbers to see has none."""
    painter = _PAINTERS.get(report.about)
    return [painter(report, directory)] if painter else []


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """(figure, axes) in the house style, `width` x `height` inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.title.set_fontsize(11)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, color="#e5e5e5", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Any, path: Path) -> Path:
    """Write `figure` as a PNG whose bytes depend only on what is drawn."""
    figure.savefig(path, metadata={"Software": None})
    return path


def _draw_collisions(report: Report, directory: Path) -> Path:
    figure, axes = new_figure(1, 2, 10.5, 4.3)
    heads = report.tables["heads"].to_pylist()
    _draw_sharing(axes[0, 0], heads)
    _draw_purity(axes[0, 1], heads)
    figure.suptitle(report.title.replace("`", ""), fontsize=12, fontweight="bold")
    return save_figure(figure, directory / "collisions.png")


def _draw_sharing(axis: Any, heads: list[dict[str, Any]]) -> None:
    """Shares against load. With many rows random hashing occupies and shares alike, 1 - exp(-load): one curve for all points."""
    from matplotlib.ticker import LogLocator, NullFormatter

    loads = [max(record["load"], 1e-6) for record in heads]
    low, high = min(loads) / 10, max(loads) * 5
    line = np.geomspace(low, high, 200)
    axis.plot(line, 100 * -np.expm1(-line), color=EXPECTED, linewidth=1.5, label="random hashing, all three")
    measures = {
        "occurrences_sharing": "occurrences that share their bucket",
        "grams_sharing": "grams that share their bucket",
        "occupied": "buckets occupied",
    }
    for (key, label), colour, marker in zip(measures.items(), COLOURS, MARKERS, strict=False):
        shares = [100 * record[key] for record in heads]
        axis.plot(loads, shares, marker, color=colour, markersize=6, fillstyle="none", markeredgewidth=1.3, label=label)
    for order in sorted({record["order"] for record in heads}):
        at = max((load, 100 * r["sharing_expected"]) for load, r in zip(loads, heads, strict=True) if r["order"] == order)
        axis.annotate(f"{order}-grams", at, xytext=(10, -4), textcoords="offset points", fontsize=9, va="top")
    axis.set(xscale="log", xlim=(low, high), ylim=(0, 105), xlabel="load: distinct grams per row", ylabel="share, %")
    axis.set_title("What shares a bucket")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axis.legend(frameon=False, fontsize=8.5, loc="upper left")


def _draw_purity(axis: Any, heads: list[dict[str, Any]]) -> None:
    """Every head a point, grouped by layer and order; the tick beside them is what random hashing gives."""
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for record in heads:
        groups.setdefault((record["layer"], record["order"]), []).append(record)
    for place, records in enumerate(groups.values()):
        spread = np.linspace(-0.25, 0.25, len(records)) if len(records) > 1 else np.zeros(1)
        purity = [100 * record["purity"] for record in records]
        expected = [100 * record["purity_expected"] for record in records]
        first = place == 0
        axis.hlines(expected, place - 0.35, place + 0.35, color=EXPECTED, linewidth=1.5, label="random hashing" if first else None)
        axis.plot(place + spread, purity, "o", color=COLOURS[0], markersize=5, label="a head" if first else None)
    labels = [f"layer {layer}\n{order}-grams" for layer, order in groups]
    axis.set_xticks(range(len(groups)), labels)
    axis.set(xlim=(-0.6, len(groups) - 0.4), ylim=(0, 105), ylabel="share, %")
    axis.set_title("Purity: how much of a row's reads its top gram has")
    axis.grid(False, axis="x")
    axis.legend(frameon=False, fontsize=8.5, loc="lower left")


def _draw_bench(report: Report, directory: Path) -> Path:
    """Loss against tokens and against wall clock: a thin line per run; the count-only model and an untrained host as levels."""
    figure, axes = new_figure(1, 2, 10.5, 4.3)
    points = report.tables["curves"].to_pylist()
    levels = [point for point in points if point["arm"] == "counts" or not point["tokens"]]
    arms = list(dict.fromkeys(point["arm"] for point in points if point not in levels))
    losses = [point["loss"] for point in points]
    low, high = min(losses), max(np.quantile(losses, 0.9), min(losses) + 0.1)  # the first losses of a run are huge and say nothing
    for axis, key, label in zip(axes[0], ("tokens", "seconds"), ("training tokens", "seconds, preparation included"), strict=True):
        for arm, colour in zip(arms, COLOURS, strict=False):
            seeds = sorted({point["seed"] for point in points if point["arm"] == arm})
            for seed in seeds:
                run = [point for point in points if (point["arm"], point["seed"]) == (arm, seed)]
                name = arm if seed == seeds[0] else None
                axis.plot(
                    [p[key] for p in run], [p["loss"] for p in run], "o-", color=colour, markersize=3, linewidth=1.2, label=name
                )
        for point, style in zip(levels, ("-", "--"), strict=False):
            name = "counts only" if point["arm"] == "counts" else f"{point['arm']}, untrained"
            axis.axhline(point["loss"], color=EXPECTED, linewidth=1.5, linestyle=style, label=name)
        axis.set(xlabel=label, ylabel="held-out loss, nats per token")
        axis.set(xlim=(0, None), ylim=(low - 0.15 * (high - low), high + 0.05 * (high - low)))
        axis.xaxis.set_major_formatter(_in_thousands)
    axes[0, 0].set_title("On equal tokens")
    axes[0, 1].set_title("On equal wall clock")
    axes[0, 1].legend(frameon=False, fontsize=8.5, loc="upper right")
    figure.suptitle(report.title, fontsize=12, fontweight="bold")
    return save_figure(figure, directory / "bench.png")


def _draw_ngrams(report: Report, directory: Path) -> Path:
    """What sizes a table, a line for each order: how often the frequent grams occur, what they hold, how many more text brings."""
    figure, axes = new_figure(1, 3, 13.5, 4.3)
    zipf, coverage, growth = axes[0]
    _draw_orders(zipf, report, "zipf", "rank", "count")
    zipf.set(yscale="log", xlabel="rank of a gram by frequency", ylabel="occurrences", title="How often grams occur (Zipf)")
    _draw_orders(coverage, report, "coverage", "top_grams", "share", 100.0)
    coverage.set(
        ylim=(0, 105),
        xlabel="number of the most frequent grams",
        ylabel="share of all occurrences, %",
        title="What the most frequent grams hold",
    )
    _draw_orders(growth, report, "growth", "tokens", "distinct")
    growth.set(yscale="log", xlabel="tokens drawn from the corpus", ylabel="distinct grams", title="What more text brings (Heaps)")
    for axis in (zipf, growth):
        axis.yaxis.set_major_formatter(_in_thousands)
    growth.legend(frameon=False, fontsize=8.5, loc="upper left")
    figure.suptitle(report.title, fontsize=12, fontweight="bold")
    return save_figure(figure, directory / "ngrams.png")


def _draw_table(report: Report, directory: Path) -> Path:
    """What rows hold, a line for each layer and order: rows by norm, scales by size; zero and untouched rows head by head."""
    figure, axes = new_figure(1, 3, 13.5, 4.3)
    for axis, name, x, y in ((axes[0, 0], "norms", "from", "rows"), (axes[0, 1], "scales", "scale", "scales")):
        groups: dict[tuple[int, int], dict[float, int]] = {}
        for record in report.tables[name].to_pylist():
            group = groups.setdefault((record["layer"], record["order"]), {})
            if record[x] > 0:
                group[record[x]] = group.get(record[x], 0) + record[y]
        for ((layer, order), group), colour in zip(groups.items(), COLOURS, strict=False):
            line = sorted(group.items())
            axis.plot(
                *zip(*line, strict=True), "o-", color=colour, markersize=3, label=f"layer {layer}, {order}-grams"
            ) if line else None
        if any(groups.values()):
            axis.set(xscale="log", yscale="log")
            axis.legend(frameon=False, fontsize=8.5)
    axes[0, 0].set(xlabel="norm of a row", ylabel="rows", title="Norms")
    axes[0, 1].set(xlabel="scale", ylabel="scales", title="Scales")
    heads = report.tables["heads"].to_pylist()
    for key, label, marker, colour in (
        ("zero_rows", "all zero", "o", COLOURS[0]),
        ("never_touched", "never touched", "s", COLOURS[1]),
    ):
        shares = [100 * record[key] / record["rows"] for record in heads]
        axes[0, 2].plot(range(len(heads)), shares, marker, color=colour, markersize=5, fillstyle="none", label=label)
    axes[0, 2].set(
        ylim=(-3, 105), xlabel="heads, by layer and order", ylabel="share of the head's rows, %", title="Rows without use"
    )
    axes[0, 2].legend(frameon=False, fontsize=8.5)
    figure.suptitle(report.title, fontsize=12, fontweight="bold")
    return save_figure(figure, directory / "table.png")


def _draw_sweep(report: Report, directory: Path) -> Path:
    """Loss against rows, with a line through it and the host alone as a level; loss against the share of parameters in rows."""
    panels = [name for name in ("rows", "shares") if name in report.tables]
    figure, axes = new_figure(1, len(panels), 5.6 * len(panels) + 0.6, 4.3)
    runs = report.tables["runs"].to_pylist()
    for axis, name in zip(axes[0], panels, strict=True):
        if name == "rows":
            _draw_sizes(axis, report.tables["rows"].to_pylist(), runs)
        else:
            _draw_shares(axis, report.tables["shares"].to_pylist(), runs)
        axis.set(ylabel="held-out loss, nats per token")
    figure.suptitle(report.title, fontsize=12, fontweight="bold")
    return save_figure(figure, directory / "sweep.png")


def _draw_sizes(axis: Any, records: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    for line, level, colour, marker in zip(("counts", "random"), ("plain+statistics", "plain"), COLOURS, MARKERS, strict=False):
        points = [(run["rows"], run["loss"]) for run in runs if run["line"] == line]
        if points:
            axis.plot(
                *zip(*points, strict=True),
                marker,
                color=colour,
                markersize=5,
                fillstyle="none",
                label=f"rows from {line}" if line == "counts" else "random rows",
            )
            means = [(record["rows"], record["loss"]) for record in records if record["line"] == line]
            x = np.log2([rows for rows, _ in means])
            if len(means) > 1:
                slope, start = np.polyfit(np.log2([rows for rows, _ in points]), [loss for _, loss in points], 1)
                axis.plot(2.0**x, start + slope * x, color=colour, linewidth=1.2)
        for record in records:
            if record["line"] == level:
                axis.axhline(record["loss"], color=colour, linewidth=1.2, linestyle="--", label=level)
    axis.set(xscale="log", xlabel="rows of the table", title="What rows are worth")
    axis.xaxis.set_major_formatter(_in_thousands)
    axis.legend(frameon=False, fontsize=8.5)


def _draw_shares(axis: Any, records: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    points = [(100 * run["share"], run["loss"]) for run in runs if run["line"] == "shares"]
    axis.plot(*zip(*points, strict=True), "o", color=COLOURS[0], markersize=5, fillstyle="none")
    axis.plot(
        [100 * record["share"] for record in records], [record["loss"] for record in records], color=COLOURS[0], linewidth=1.2
    )
    axis.set(
        xlim=(-3, 103),
        xlabel="share of the parameters in rows, %",
        title=f"At {records[0]['parameters'] / 1e6:.1f} M parameters in all",
    )


def _draw_orders(axis: Any, report: Report, name: str, x: str, y: str, scale: float = 1.0) -> None:
    """A line for each order from the columns `x`, on a logarithmic scale, and `y` of a table."""
    points = report.tables[name].to_pylist()
    for order, colour in zip(sorted({point["order"] for point in points}), COLOURS, strict=False):
        line = [(point[x], scale * point[y]) for point in points if point["order"] == order]
        axis.plot(*zip(*sorted(line), strict=True), "-", color=colour, linewidth=1.8, label=f"{order}-grams")
    axis.set(xscale="log")
    axis.xaxis.set_major_formatter(_in_thousands)


def _in_thousands(value: float, position: int) -> str:
    """A number on an axis: 100, 1 k, 1.25 M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g} {letter}"
    return f"{value:g}"


_PAINTERS: Mapping[str, Callable[[Report, Path], Path]] = {
    "bench": _draw_bench,
    "collisions": _draw_collisions,
    "ngrams": _draw_ngrams,
    "sweep": _draw_sweep,
    "table-stats": _draw_table,
}
