"""The rows of one layer: a matrix in `rows-LL.safetensors`, read and changed through a memory map.

Opened copy-on-write, a table costs memory for the pages that were touched and nothing else, however large it is: untouched rows
stay on disk, changed rows live in memory until `store` writes exactly those back.
Shapes: R rows of the matrix, E numbers per row, U rows of one call.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.errors import ArtifactError
from engram_cli.recipe import ROW_TYPES
from engram_cli.store.tensors import STORAGE, TensorSpec, create_tensors, map_tensor, read_tensor_specs

_TENSOR = "rows"
Floats = npt.NDArray[np.float32]


def rows_file(layer: int) -> str:
    """Name of the file that holds a layer's rows."""
    return f"rows-{layer:02}.safetensors"


class Rows:
    """The mapped matrix of one layer: `take` rows as f32, `put` changed ones.

    path: the safetensors file; mode: "r" to read, "c" to change in memory only, "r+" to change the file.
    Raises ArtifactError where the file is not a matrix of rows.
    """

    def __init__(self, path: Path, mode: Any = "r") -> None:
        spec = read_tensor_specs(path).get(_TENSOR)
        if spec is None or len(spec.shape) != 2 or spec.dtype.lower() not in ROW_TYPES:
            raise ArtifactError(f"{path} must hold one matrix `{_TENSOR}` of f32, bf16 or f16, but does not; build the table again")
        self.dtype = spec.dtype
        self.matrix_RE = map_tensor(path, spec, mode)

    @classmethod
    def create(cls, path: Path, rows: int, dim: int, dtype: str) -> "Rows":
        """A new file of `rows` x `dim` zeros of `dtype` ("f32", "bf16", "f16"), open for writing.

        The file is sparse: it takes disk only where rows are written.
        """
        create_tensors(path, {_TENSOR: TensorSpec(dtype.upper(), (rows, dim))})
        return cls(path, "r+")

    @property
    def count(self) -> int:
        return int(self.matrix_RE.shape[0])

    @property
    def dim(self) -> int:
        return int(self.matrix_RE.shape[1])

    @property
    def bytes_per_row(self) -> int:
        return int(self.dim * self.matrix_RE.dtype.itemsize)

    def take(self, ids: npt.NDArray[np.int64]) -> Floats:
        """Rows `ids` (any shape) as f32, with a last axis of E. Raises IndexError for ids outside the matrix."""
        return decode(np.take(self.matrix_RE, ids, axis=0), self.dtype)

    def put(self, ids_U: npt.NDArray[np.int64], values_UE: Floats) -> None:
        """Replace rows `ids_U` (distinct), rounding to the matrix's dtype."""
        self.matrix_RE[ids_U] = encode(values_UE, self.dtype)

    def put_range(self, first: int, values_UE: Floats) -> None:
        """Replace the rows from `first` on, rounding to the matrix's dtype."""
        self.matrix_RE[first : first + len(values_UE)] = encode(values_UE, self.dtype)

    def flush(self) -> None:
        """Write changes of an "r+" map to the file."""
        self.matrix_RE.flush()


def decode(stored: npt.NDArray[Any], dtype: str) -> Floats:
    """Stored numbers ("F32", "F16", or "BF16" as uint16) as f32."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def encode(values: Floats, dtype: str) -> npt.NDArray[Any]:
    """f32 as stored numbers, rounded to nearest even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(STORAGE[dtype], copy=False)
