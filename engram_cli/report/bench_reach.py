"""How long the control must train to reach engram's loss: anew for 2, 4, 8 ... times the budget, until its loss is no higher.

One long run would not tell: its learning rate falls over the whole of it, and would still be high where it passes engram's loss. So
each length is a run of its own, and between the last that was too short and the first that was long enough the time is read off a
straight line over the logarithm of seconds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from engram_cli.errors import RecipeError
from engram_cli.report.bench_tables import CONTROLS, Run, by_arm, mean
from engram_cli.report.report import column, table

_FIELDS = [
    column("arm", pa.string(), "text"),
    column("times_the_budget", pa.float64(), "times"),
    column("tokens", pa.int64(), "tokens"),
    column("seconds", pa.float64(), "seconds"),
    column("loss", pa.float64(), "nats"),
]


@dataclass(frozen=True)
class Point:
    """What the control came to with so many times the budget."""

    times_the_budget: float
    tokens: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Reach:
    """control: which arm was trained for longer; loss, seconds: engram's; points: of the control, longer and longer, the first with
    the budget itself."""

    control: str
    loss: float
    seconds: float
    points: Sequence[Point]

    def note(self) -> str:
        """The answer in words."""
        last = self.points[-1]
        engram = f"engram's loss of {self.loss:.3f}"
        if last.loss > self.loss:
            end = f"{last.seconds:.0f} s, {last.times_the_budget:g} times the budget"
            return f"{self.control} did not reach {engram} within {end}: it came to {last.loss:.3f}"
        if len(self.points) == 1:
            return f"{self.control} reaches {engram} within the budget"
        before, needed = self.points[-2], self._needed()
        return (
            f"{self.control} needs about {needed:.0f} s to reach {engram}, {needed / self.seconds:.1f} times engram's "
            f"{self.seconds:.0f} s: it is at {before.loss:.3f} after {before.seconds:.0f} s, and at {last.loss:.3f} after "
            f"{last.seconds:.0f} s (one seed)"
        )

    def table(self) -> pa.Table:
        """One record for each length."""
        records = [{"arm": self.control, **vars(point)} for point in self.points]
        return table(_FIELDS, records, title="What the control needs to reach engram's loss")

    def _needed(self) -> float:
        before, after = self.points[-2:]
        share = (before.loss - self.loss) / (before.loss - after.loss)
        return math.exp((1 - share) * math.log(before.seconds) + share * math.log(after.seconds))


def control_among(arms: Sequence[str]) -> str:
    """The fairest control of `arms`, which train. Raises RecipeError where there is none, or no engram to be reached."""
    controls = [name for name in CONTROLS if name in arms]
    if not controls or "engram" not in arms:
        raise RecipeError(
            f"--reach trains a control until it reaches engram, but the arms that train are {', '.join(arms) or 'none'}; name "
            "engram and a control in --arms (plain+statistics, or plain+last with --host)"
        )
    return controls[0]


def lengths(factor: float) -> list[float]:
    """2, 4, 8 ... times the budget, the last `factor`. Raises RecipeError where that is not above 1."""
    if not 1 < factor < math.inf:
        raise RecipeError(f"--reach is how many times the budget a control may train, above 1, but it is {factor:g}; give more")
    doubled = [2.0**power for power in range(1, math.ceil(math.log2(factor)))]
    return [*doubled, factor]


def reach(runs: Sequence[Run], control: str, times: Sequence[float], train: Callable[[int, float], Run]) -> Reach:
    """Train the control with `train(number from 1, times the budget)` for each of `times` until it reaches engram.

    runs: what the arms came to within the budget, the control and engram among them; over seeds their means count.
    """
    arms = by_arm(runs)
    engram, points = _point(1, arms["engram"]), [_point(1, arms[control])]
    for number, factor in enumerate(times, 1):
        if points[-1].loss <= engram.loss:
            break
        points.append(_point(factor, [train(number, factor)]))
    return Reach(control, engram.loss, engram.seconds, points)


def _point(times: float, runs: Sequence[Run]) -> Point:
    return Point(times, round(mean(runs, "tokens")), mean(runs, "seconds"), mean(runs, "loss"))
