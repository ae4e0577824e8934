"""Batches with their rows, one ahead: while a step computes, a thread reads what the next one needs.

Hashing, finding distinct rows and reading them follow from the tokens alone, so they need not wait. The thread does one thing after
another: it reads for step n + 1 before it writes what step n made, always, so what it read lacks just that, and `refresh` adds it.
So a run is the same whether a batch was read ahead or not.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from engram_cli.model.data import Batch, Batches
from engram_cli.model.layer_rows import Gathered, LayerRows, Updated


@dataclass(frozen=True)
class Fed:
    """A batch and, by layer, the rows that it names."""

    batch: Batch
    gathered: Mapping[int, Gathered]


class Feed:
    """Feeds steps from `batches` and `rows`, which nobody else may change; tensors of rows are on `device`."""

    def __init__(self, batches: Batches, rows: Mapping[int, LayerRows], device: torch.device) -> None:
        self.batches, self.rows, self.device = batches, rows, device
        self._thread = ThreadPoolExecutor(1, "feed")
        self._ahead: tuple[tuple[int, Sequence[int]], Future[Fed]] | None = None
        self._last: Mapping[int, Updated] = {}

    def take(self, step: int, layers: Sequence[int]) -> Fed:
        """What step number `step` needs of `layers`, with all that earlier steps wrote; the next one, of the same, is begun."""
        ahead = self._ahead if self._ahead and self._ahead[0] == (step, layers) else None
        fed = (ahead[1] if ahead else self._thread.submit(self._read, step, layers)).result()
        if ahead:
            for layer, updated in self._last.items():
                self.rows[layer].refresh(fed.gathered[layer], updated)
        self._ahead = (step + 1, layers), self._thread.submit(self._read, step + 1, layers)
        self._last = {}
        return fed

    def write(self, updated: Mapping[int, Updated]) -> None:
        """Have the rows written that the step made which was taken last."""
        self._last = updated
        for layer, made in updated.items():
            self.rows[layer].writing = self._thread.submit(self.rows[layer].write, made)

    def _read(self, step: int, layers: Sequence[int]) -> Fed:
        batch = self.batches[step]
        return Fed(batch, {layer: self.rows[layer].gather(batch, self.device) for layer in layers})
