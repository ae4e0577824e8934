"""What `sweep` found, in tables and words: loss against rows, a straight line and whether it holds, loss against share."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.report.report import column, table

LINES = ("counts", "random")
LEVELS = {"counts": "plain+statistics", "random": "plain"}  # what a line is to fall below
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, about 2
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)

ROWS = [
    column("line", pa.string(), "text"),
    column("rows", pa.int64(), "rows"),
    column("seeds", pa.int64(), "runs"),
    column("loss", pa.float64(), "nats"),
    column("spread", pa.float64(), "nats"),
    column("below_plain", pa.float64(), "nats"),  # that is started alike
    column("tokens", pa.int64(), "tokens"),
    column("seconds", pa.float64(), "seconds"),
]
FITS = [
    column("line", pa.string(), "text"),
    column("runs", pa.int64(), "runs"),
    column("per_doubling", pa.float64(), "nats"),
    column("within", pa.float64(), "nats"),  # 95 %
    column("bend", pa.float64(), "nats"),  # how the slope changes with each doubling
    column("bend_within", pa.float64(), "nats"),
    column("straight", pa.bool_()),  # no bend is told from 0
]
SHARES = [
    column("share", pa.float64(), "share"),  # of the parameters that are in rows
    column("rows", pa.int64(), "rows"),
    column("width", pa.int64(), "numbers"),
    column("parameters", pa.int64(), "parameters"),
    column("loss", pa.float64(), "nats"),
    column("spread", pa.float64(), "nats"),
    column("tokens", pa.int64(), "tokens"),
    column("seconds", pa.float64(), "seconds"),
]
RUNS = [
    column("line", pa.string(), "text"),
    *(field for field in SHARES if field.name in ("share", "rows", "width", "parameters")),
    column("seed", pa.int64()),
    *(field for field in SHARES if field.name in ("loss", "tokens", "seconds")),
]


@dataclass(frozen=True)
class Outcome:
    """One run: line: counts, random, plain, plain+statistics or shares; share: of the parameters in rows, of line "shares"."""

    line: str
    rows: int
    share: float | None
    width: int
    parameters: int
    seed: int
    loss: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Fit:
    """loss = level + per_doubling * log2(rows) by least squares, and the bend of a parabola through the same runs.

    within, bend_within: half of the 95 % interval, by Student's t; None where there are too few runs to tell.
    """

    runs: int
    level: float
    per_doubling: float
    within: float | None
    bend: float | None
    bend_within: float | None

    @property
    def straight(self) -> bool | None:
        """Whether a straight line holds: no bend that the runs can tell from none. None where they are too few."""
        return None if self.bend is None or self.bend_within is None else abs(self.bend) <= self.bend_within


def fit_line(rows: Sequence[int], losses: Sequence[float]) -> Fit | None:
    """A straight line through losses over the logarithm of rows; None of fewer than two sizes."""
    x, y = np.log2(np.array(rows, dtype=np.float64)), np.array(losses)
    sizes = len(set(rows))
    if sizes < 2:
        return None
    (level, slope), (_, within) = _least_squares(np.stack([np.ones_like(x), x], 1), y)
    if sizes == 2:
        return Fit(len(y), level, slope, within, None, None)
    (_, _, square), (_, _, square_within) = _least_squares(np.stack([np.ones_like(x), x, x * x], 1), y)
    return Fit(len(y), level, slope, within, 2 * square, square_within and 2 * square_within)


def _least_squares(columns_PK: npt.NDArray[np.float64], y_P: npt.NDArray[np.float64]) -> tuple[list[float], list[float | None]]:
    """(coefficients, half of the 95 % interval of each; None where no run is left over to tell)."""
    found = np.linalg.lstsq(columns_PK, y_P, rcond=None)[0]
    free = len(y_P) - columns_PK.shape[1]
    if free < 1:
        return found.tolist(), [None] * len(found)
    variance = float(np.square(y_P - columns_PK @ found).sum()) / free
    errors = np.sqrt(np.diag(np.linalg.inv(columns_PK.T @ columns_PK)) * variance)
    return found.tolist(), (errors * (_T[free - 1] if free <= len(_T) else 2.0)).tolist()


def sweep_tables(outcomes: Sequence[Outcome]) -> dict[str, pa.Table]:
    """The tables of what was swept: rows and fits, or shares, or all; and every run."""
    tables = {
        "rows": table(ROWS, _row_records(outcomes), title="Loss against rows"),
        "fits": table(FITS, _fit_records(outcomes), title="Straight lines through it"),
        "shares": table(SHARES, _share_records(outcomes), title="Loss against the share of the parameters in rows"),
        "runs": table(RUNS, [vars(outcome) for outcome in outcomes], title="Runs", limit=0),
    }
    return {name: found for name, found in tables.items() if found.num_rows}


def fits(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, Fit]]:
    """The line of each way to start rows, where two sizes or more were run."""
    for line in LINES:
        runs = [outcome for outcome in outcomes if outcome.line == line]
        found = fit_line([run.rows for run in runs], [run.loss for run in runs])
        if found is not None:
            yield line, found


def sweep_notes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What the curves say, in words."""
    for line, fit in fits(outcomes):
        rows, sure = (
            {"counts": "rows from counts", "random": "random rows"}[line],
            "" if fit.within is None else f" +- {fit.within:.3f}",
        )
        if fit.within is not None and abs(fit.per_doubling) <= fit.within:
            told = f"{fit.per_doubling:.3f}{sure} nats for each doubling"
            yield f"{rows}: how many makes no difference that {fit.runs} runs can tell ({told})"
            continue
        change = "lowers" if fit.per_doubling < 0 else "raises"
        shape = {True: "a straight line holds", False: "the line bends", None: "too few runs to tell whether a straight line holds"}
        yield f"{rows}: each doubling {change} the loss by {abs(fit.per_doubling):.3f}{sure} nats; {shape[fit.straight]}"
    shares = list(_share_records(outcomes))
    if len(shares) > 2:
        best = min(range(len(shares)), key=lambda at: shares[at]["loss"])
        where = f"the loss is lowest with {100 * shares[best]['share']:.0f} % of the parameters in rows"
        yield f"{where}, and rises to both sides" if 0 < best < len(shares) - 1 else f"{where}, at the end of what was swept"


def _row_records(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    for line in (*LEVELS.values(), *LINES):
        level = [outcome.loss for outcome in outcomes if outcome.line == LEVELS.get(line)]
        for rows in sorted({outcome.rows for outcome in outcomes if outcome.line == line}):
            record = _mean([outcome for outcome in outcomes if (outcome.line, outcome.rows) == (line, rows)])
            below = statistics.fmean(level) - record["loss"] if level else None
            yield record | {"line": line, "rows": rows, "below_plain": below}


def _share_records(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    swept = [outcome for outcome in outcomes if outcome.line == "shares"]
    for share in sorted({outcome.share or 0.0 for outcome in swept}):
        runs = [outcome for outcome in swept if math.isclose(outcome.share or 0.0, share)]
        yield _mean(runs) | {name: getattr(runs[0], name) for name in ("share", "rows", "width", "parameters")}


def _mean(runs: Sequence[Outcome]) -> dict[str, Any]:
    losses = [run.loss for run in runs]
    return {
        "seeds": len(runs),
        "loss": statistics.fmean(losses),
        "spread": max(losses) - min(losses) if len(runs) > 1 else None,
        "tokens": round(statistics.fmean(run.tokens for run in runs)),
        "seconds": statistics.fmean(run.seconds for run in runs),
    }


def _fit_records(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    for line, fit in fits(outcomes):
        yield {"line": line, **vars(fit), "straight": fit.straight}
