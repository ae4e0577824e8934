"""Where the rows of one layer live while they are trained, with what their optimizer keeps of them: all of the same face.

| `--rows` | rows and optimizer state | memory |
|---|---|---|
| `ram` | read whole into memory | all of them |
| `mmap` | mapped, only read; changed rows in memory until the next checkpoint | changed rows, and pages that can be given back |
| `cuda` | read whole onto the GPU | of the GPU, all of them |

Rows that no step changes (`training.row_learning_rate = 0`) are mapped with `ram` too: what the system has of their file in memory
need not lie there twice, and it may be of any row type.
None of them writes to the files: between two checkpoints the rows on disk are those of the last one, whenever the process is
killed. `changes` is what a checkpoint has to keep, and once it is in the files too (checkpoint.py) `settle` forgets it. All three
round to the row type after every step, so `ram` and `mmap` train to the same bytes.
Shapes: R rows of the layer, E numbers per row, S numbers of optimizer state, U distinct rows of one call.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.store.artifact import scratch_path
from engram_cli.store.mapping import Mode
from engram_cli.store.matrix import Ids, Matrix
from engram_cli.store.resources import free_memory, mapped_memory
from engram_cli.store.tensors import Stored, TensorSpec, create_tensors, read_tensor_specs, reserve
from engram_cli.table.pending import Pending
from engram_cli.table.row_types import Floats
from engram_cli.table.rows import Rows, rows_file

_NUMBERS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}  # row type -> type of its numbers
_STATE = "state"
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Changes:
    """Rows that differ from the files: ids_U ascending; numbers_UE as the row type stores them; state_US f32."""

    ids_U: Ids
    numbers_UE: npt.NDArray[Any]
    state_US: Floats


class RowStore(Protocol):
    """Rows and their state. `read` and `write` take distinct ids, and rows as stored; `take` takes any ids, and gives f32.

    count: R; dim: E; type: of the numbers; row_bytes: of a row as it is stored; pending_bytes: memory that the next checkpoint sets
    free.
    """

    count: int
    dim: int
    type: torch.dtype
    row_bytes: int

    @property
    def pending_bytes(self) -> int: ...
    def read(self, ids_U: Ids) -> tuple[Tensor, Tensor]: ...
    def write(self, ids_U: Ids, numbers_UE: Tensor, state_US: Tensor) -> None: ...
    def take(self, ids: Ids) -> Floats: ...
    def changes(self) -> Changes: ...
    def settle(self) -> None: ...


class HeldRows:
    """Rows held whole, in memory or on a GPU.

    rows: what is read; state: its optimizer state (None: zeros); width: S.
    """

    pending_bytes = 0

    def __init__(self, rows: Rows, state: Matrix | None, width: int, device: torch.device) -> None:
        self.count, self.dim, self.row_bytes, self.type = rows.count, rows.dim, rows.bytes_per_row, _NUMBERS[rows.type.name]
        numbers = np.empty((rows.count, rows.dim), rows.numbers.type)
        for first, count in rows.blocks():
            rows.numbers.fill(first, numbers[first : first + count].view(np.uint8))
        self.numbers_RE = as_tensor(numbers, self.type).to(device)
        found = np.zeros((rows.count, width), np.float32) if state is None else state.read(0, rows.count)
        self.state_RS = torch.from_numpy(found).to(device)
        self._changed: list[Ids] = []

    def read(self, ids_U: Ids) -> tuple[Tensor, Tensor]:
        return _pick(self.numbers_RE, ids_U), _pick(self.state_RS, ids_U)

    def write(self, ids_U: Ids, numbers_UE: Tensor, state_US: Tensor) -> None:
        at_U = torch.from_numpy(ids_U).to(self.numbers_RE.device)
        self.numbers_RE[at_U] = numbers_UE.to(at_U.device)
        self.state_RS[at_U] = state_US.to(at_U.device)
        self._changed.append(ids_U)

    def take(self, ids: Ids) -> Floats:
        values: Floats = _pick(self.numbers_RE, ids.reshape(-1)).float().cpu().numpy()
        return values.reshape(*ids.shape, self.dim)

    def changes(self) -> Changes:
        ids_U = np.unique(np.concatenate([np.empty(0, np.int64), *self._changed]))
        self._changed = [ids_U]
        numbers_UE, state_US = self.read(ids_U)
        return Changes(ids_U, as_array(numbers_UE), state_US.cpu().numpy())

    def settle(self) -> None:
        self._changed = []


class MappedRows:
    """Rows and state in mapped files, changed ones in memory.

    rows, state: opened to read; resident: bytes of mapped pages that the process may hold before it gives them back.
    """

    def __init__(self, rows: Rows, state: Matrix, resident: int) -> None:
        self.count, self.dim, self.row_bytes, self.type = rows.count, rows.dim, rows.bytes_per_row, _NUMBERS[rows.type.name]
        self._rows, self._state, self._resident = rows, state, resident
        self._pending = Pending([(rows.numbers.type, (rows.dim,)), (np.float32, state.row_shape)])

    @property
    def pending_bytes(self) -> int:
        return self._pending.bytes

    def read(self, ids_U: Ids) -> tuple[Tensor, Tensor]:
        places_U = self._pending.find(ids_U)
        kept_U = np.flatnonzero(places_U >= 0)
        found = [self._rows.numbers.take(ids_U), self._state.take(ids_U)]
        for array, record in zip(found, self._pending.records, strict=True):
            array[kept_U] = record[places_U[kept_U]]
        if mapped_memory() > self._resident:
            self._rows.release()
            self._state.release()
        return as_tensor(found[0], self.type), torch.from_numpy(found[1])

    def write(self, ids_U: Ids, numbers_UE: Tensor, state_US: Tensor) -> None:
        self._pending.put(ids_U, as_array(numbers_UE), state_US.cpu().numpy())

    def take(self, ids: Ids) -> Floats:
        values: Floats = self.read(ids.reshape(-1))[0].float().numpy()
        return values.reshape(*ids.shape, self.dim)

    def changes(self) -> Changes:
        order_P = self._pending.ids.argsort()
        numbers_UE, state_US = (record[order_P] for record in self._pending.records)
        return Changes(self._pending.ids[order_P], numbers_UE, state_US)

    def settle(self) -> None:
        self._pending.clear()


class StillRows:
    """Rows in a mapped file that stay as they are, read as f32.

    resident: as for MappedRows. They have no state: S = 0.
    """

    pending_bytes = 0
    type = torch.float32

    def __init__(self, rows: Rows, resident: int) -> None:
        self.count, self.dim, self.row_bytes = rows.count, rows.dim, rows.bytes_per_row
        self._rows, self._resident = rows, resident

    def read(self, ids_U: Ids) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.take(ids_U)), torch.empty(len(ids_U), 0)

    def write(self, ids_U: Ids, numbers_UE: Tensor, state_US: Tensor) -> None:
        raise AssertionError("rows that stay as they are were trained")

    def take(self, ids: Ids) -> Floats:
        values = self._rows.take(ids)
        if mapped_memory() > self._resident:
            self._rows.release()
        return values

    def changes(self) -> Changes:
        numbers_UE = np.empty((0, self.dim), self._rows.numbers.type)
        return Changes(np.empty(0, np.int64), numbers_UE, np.empty((0, 0), np.float32))

    def settle(self) -> None:
        pass


def open_store(directory: Path, layer: int, width: int, where: str, device: torch.device) -> RowStore:
    """The rows of `layer` in `directory`, `where` they shall live (ram, mmap, cuda); width: S, 0 for rows that are not trained."""
    rows = Rows.open(directory / rows_file(layer))
    if width == 0 and where != "cuda":
        return StillRows(rows, free_memory() // 2)
    if where == "mmap":
        return MappedRows(rows, open_state(directory, layer, rows.count, width, "r"), free_memory() // 2)
    found = state_file(directory, layer).exists()
    state = open_state(directory, layer, rows.count, width) if found else None
    return HeldRows(rows, state, width, device if where == "cuda" else torch.device("cpu"))


def state_file(directory: Path, layer: int) -> Path:
    """Where the optimizer state of a layer's rows lies on disk."""
    return scratch_path(directory) / f"state-{layer:02}.safetensors"


def open_state(directory: Path, layer: int, count: int, width: int, mode: Mode = "r+") -> Matrix:
    """The optimizer state [R, S] on disk; made of zeros, with room for all of it, where there is none."""
    path = state_file(directory, layer)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        create_tensors(path, {_STATE: TensorSpec("F32", (count, width))})
        reserve(path)
    return Matrix([Stored(path, read_tensor_specs(path)[_STATE])], mode)


def count_trained(directory: Path, layer: int) -> int:
    """How many rows of a layer a gradient has reached, by the files."""
    path = state_file(directory, layer)
    if not path.exists():
        return 0
    state = Matrix([Stored(path, read_tensor_specs(path)[_STATE])])
    step = max(1, _BLOCK_BYTES // state.row_bytes)
    return sum(
        int(np.count_nonzero(state.read(first, min(step, state.count - first))[:, 0])) for first in range(0, state.count, step)
    )


def as_tensor(numbers: npt.NDArray[Any], type: torch.dtype) -> Tensor:
    """Stored numbers as a tensor of them, in the same memory."""
    return torch.from_numpy(numbers).view(type)


def as_array(numbers: Tensor) -> npt.NDArray[Any]:
    """The counterpart of `as_tensor`: bf16, which numpy has not, as uint16."""
    held = numbers.cpu()
    return (held.view(torch.uint16) if held.dtype == torch.bfloat16 else held).numpy()


def _pick(rows_RE: Tensor, ids_U: Ids) -> Tensor:
    return rows_RE.index_select(0, torch.from_numpy(ids_U).to(rows_RE.device))
