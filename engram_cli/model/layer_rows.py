"""One layer's rows in training: what a batch names is gathered, differentiated, changed by its gradient and written back.

Distinct rows become one leaf tensor, so that the gradient has their size and not the table's. A batch's rows can be gathered before
the step ahead of it has ended: they follow from the tokens alone, and `refresh` then copies what both share.
Shapes: B stretches, T tokens, H heads, E numbers per row, M = H * E, U distinct rows of a batch, S numbers of optimizer state,
R rows of the layer.
"""

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engram_cli.model.data import Batch
from engram_cli.model.left_out import LeftOut
from engram_cli.model.row_optimizer import RowOptimizer
from engram_cli.model.row_store import Changes, RowStore
from engram_cli.store.matrix import Ids
from engram_cli.table.layout import LayerLayout
from engram_cli.table.row_types import Floats


@dataclass
class Gathered:
    """The distinct rows of one batch: ids_U ascending, the leaf that receives their gradient, their optimizer state, where each
    position's rows are in it, and what its own document put there (None where rows are not from counts)."""

    ids_U: Ids
    leaf_UE: Tensor
    state_US: Tensor
    place_BTH: Tensor
    own_BTH: Tensor | None


@dataclass(frozen=True)
class Updated:
    """What a step made of its rows: numbers_UE as they are stored."""

    ids_U: Ids
    numbers_UE: Tensor
    state_US: Tensor


class LayerRows:
    """The rows of `layout` in `store`, and the rule that trains them.

    left_out: what each position's own document put into rows from counts; None where they are not.
    writing: the write that is under way in another thread; what is read here waits for it.
    """

    def __init__(
        self,
        layout: LayerLayout,
        store: RowStore,
        optimizer: RowOptimizer,
        left_out: LeftOut | None = None,
    ) -> None:
        self.layout, self.store, self.optimizer = layout, store, optimizer
        self.left_out = left_out
        self.writing: Future[None] | None = None

    def gather(self, batch: Batch, device: torch.device) -> Gathered:
        """The rows that the windows of a batch name, as they are in the store."""
        ids_BTH = self.layout.row_ids(batch.windows_BTN)
        ids_U, place = np.unique(ids_BTH, return_inverse=True)
        numbers_UE, state_US = self.store.read(ids_U)
        own_BTH = None
        if self.left_out is not None:
            own_BTH = _to(torch.from_numpy(self.left_out.own(batch.windows_BTN, batch.targets_BT)), device)
        place_BTH = _to(torch.from_numpy(place.reshape(ids_BTH.shape)), device)
        return Gathered(ids_U, _to(numbers_UE, device).float(), _to(state_US, device), place_BTH, own_BTH)

    def refresh(self, gathered: Gathered, updated: Updated) -> None:
        """Copy rows into `gathered` that a step changed after it was gathered."""
        at_U = np.searchsorted(updated.ids_U, gathered.ids_U).clip(max=len(updated.ids_U) - 1)
        shared = np.flatnonzero(updated.ids_U[at_U] == gathered.ids_U)
        to, source = (torch.from_numpy(ids).to(gathered.leaf_UE.device) for ids in (shared, at_U[shared]))
        gathered.leaf_UE[to] = updated.numbers_UE[source].float()
        gathered.state_US[to] = updated.state_US[source]

    def memory(self, gathered: Gathered, targets_BT: Tensor, part: slice = slice(None)) -> Tensor:
        """What stretches `part` of those gathered looked up, f32 [B, T, M], with each position's own document left out of rows
        that were counted; targets_BT: of those stretches."""
        place_BTH = gathered.place_BTH[part]
        values_BTHE = F.embedding(place_BTH, gathered.leaf_UE)  # whose gradient takes a third of that of plain indexing
        if gathered.own_BTH is not None and self.left_out is not None:
            values_BTHE = self.left_out.without(values_BTHE, gathered.own_BTH[part], targets_BT)
        return values_BTHE.flatten(-2)

    def update(self, gathered: Gathered, rate: float) -> Updated:
        """One step of the optimizer on the batch's rows."""
        assert gathered.leaf_UE.grad is not None
        values_UE = gathered.leaf_UE.detach()
        self.optimizer.step(values_UE, gathered.state_US, gathered.leaf_UE.grad, rate)
        return Updated(gathered.ids_U, values_UE.to(self.store.type), gathered.state_US)

    def write(self, updated: Updated) -> None:
        """Write back what `update` made."""
        self.store.write(updated.ids_U, updated.numbers_UE, updated.state_US)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a row as it is stored."""
        return self.store.row_bytes

    def take(self, ids: Ids) -> Floats:
        """Rows `ids` (any shape) as f32, with a last axis of E."""
        self.finish()
        return self.store.take(ids)

    def changes(self) -> Changes:
        """Rows that differ from the files."""
        self.finish()
        return self.store.changes()

    def finish(self) -> None:
        """Wait for the write that is under way."""
        if self.writing is not None:
            self.writing.result()


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Moved to `device` while this thread goes on, which takes pinned memory."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
