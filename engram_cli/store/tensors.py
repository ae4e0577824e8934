"""Matrices on disk: safetensors files whose data starts on a 4096-byte boundary, opened by memory map.

The header of a safetensors file may be padded with spaces; padding it to a page makes every row matrix mappable, and aligned for
direct reads, while any safetensors reader still opens the file. bfloat16 has no numpy dtype: it is mapped as uint16, and the
floor with torch views it as what it is.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engram_cli.errors import ArtifactError

PAGE = 4096
_MAX_HEADER = 100_000_000  # the limit of the safetensors library
STORAGE: Mapping[str, npt.DTypeLike] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64}


@dataclass(frozen=True)
class TensorSpec:
    """Type (safetensors name: "F32", "F16", "BF16", "I64"), shape, and absolute byte offset in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(STORAGE[self.dtype]).itemsize


def create_tensors(path: Path, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Create a sparse file with room for `specs` (each starting on a page) and return them with their offsets.

    The file reads as zeros until rows are written through `map_tensor(..., "r+")`. Raises OSError where the disk refuses.
    """
    header: dict[str, Any] = {}
    position = 0
    for name, spec in specs.items():
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [position, position + spec.bytes]}
        position += spec.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    start = -(-(8 + len(text)) // PAGE) * PAGE
    with path.open("wb") as file:
        file.write((start - 8).to_bytes(8, "little") + text.ljust(start - 8))
        os.truncate(file.fileno(), start + position)
    return read_tensor_specs(path)


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> None:
    """Write name -> (safetensors dtype, array in that dtype's storage type) to `path`, whole."""
    specs = {name: TensorSpec(dtype, array.shape) for name, (dtype, array) in tensors.items()}
    for name, spec in create_tensors(path, specs).items():
        if spec.bytes:
            target = map_tensor(path, spec, "r+")
            target[...] = tensors[name][1]
            target.flush()


def read_tensor_specs(path: Path) -> dict[str, TensorSpec]:
    """Read a safetensors header. Raises ArtifactError where the file is not one or is shorter than its header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError(f"header length {length} in a file of {size} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        specs = {name: _spec(entry, 8 + length) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a safetensors file that engram reads ({error}); make the artifact again") from None
    end = max((spec.offset + spec.bytes for spec in specs.values()), default=0)
    if end > size:
        raise ArtifactError(f"{path} must hold {end} bytes by its header but has {size}: it is truncated; make the artifact again")
    return specs


def _spec(entry: dict[str, Any], start: int) -> TensorSpec:
    first, last = entry["data_offsets"]
    spec = TensorSpec(entry["dtype"], tuple(entry["shape"]), start + first)
    if first < 0 or any(type(size) is not int or size < 0 for size in spec.shape) or last - first != spec.bytes:
        raise ValueError(f"bytes {first} to {last} for {entry['dtype']} {entry['shape']}")
    return spec


def map_tensor(path: Path, spec: TensorSpec, mode: Literal["r", "r+", "c"] = "r") -> "np.memmap[Any, Any]":
    """Map one tensor: "r" read only, "r+" written through to the file, "c" copy-on-write (changes stay in memory)."""
    return np.memmap(path, dtype=STORAGE[spec.dtype], mode=mode, offset=spec.offset, shape=spec.shape)
