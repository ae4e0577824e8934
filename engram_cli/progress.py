"""How long-running library code tells what it is doing, without knowing who listens.

    progress.stage(2, 4, "counting 3-grams")            a new stage begins: number, of how many, what
    progress.advance(done, total, "tokens", "loss 4.2") how far it is; call it as often as you like
    progress.advance(done, total, "bytes", also=[(5e6, "tokens")])   with the rates of other things than what the end is known of
    progress.warn("...")                                something the user must not miss

The terminal's implementation is in commands/terminal.py; library functions take `progress: ProgressLike = SILENT`.
"""

from collections.abc import Sequence
from typing import Protocol

Amounts = Sequence[tuple[float, str]]  # (how much, unit)


class ProgressLike(Protocol):
    """Whoever listens to a long-running function."""

    def stage(self, number: int, of: int, text: str) -> None:
        """Stage `number` (from 1) of `of` begins."""

    def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
        """`done` of `total` (None where it is not known) of the current stage, in `unit` ("bytes", "tokens", "seconds" ...).

        also: what was done so far in other units, whose rates say more than that of `done`.
        """

    def warn(self, text: str) -> None:
        """Something the user must not miss, in one line."""


class Silent:
    """Nobody listens."""

    def stage(self, number: int, of: int, text: str) -> None:
        """Nothing."""

    def advance(self, done: float, total: float | None, unit: str, note: str = "", also: Amounts = ()) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


SILENT: ProgressLike = Silent()


class Stages:
    """Numbers the stages of a run."""

    def __init__(self, progress: ProgressLike, of: int) -> None:
        self.progress = progress
        self.number, self.of = 0, of

    def next(self, text: str) -> ProgressLike:
        """The next stage begins."""
        self.number += 1
        self.progress.stage(self.number, self.of, text)
        return self.progress
