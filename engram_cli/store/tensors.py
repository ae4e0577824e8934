"""Matrices on disk: safetensors files whose data starts on a 4096-byte boundary, opened by memory map.

The header of a safetensors file may be padded with spaces; padding it to a page makes every row matrix mappable, and aligned for
direct reads, while any safetensors reader still opens the file. What numpy has no dtype for (bfloat16, float8) is mapped as
unsigned integers of its size. A header is not trusted: sizes are compared with the file and with each other before anything is
mapped.
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
STORAGE: Mapping[str, npt.DTypeLike] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_ITEM_BYTES = {name: np.dtype(stored).itemsize for name, stored in STORAGE.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Type (its safetensors name, "F32"), shape, and absolute byte offset in the file.

    length: bytes of a tensor whose type is not in STORAGE, by the header: such tensors are passed over, not read.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    length: int = 0

    @property
    def bytes(self) -> int:
        """Bytes in the file."""
        item = _ITEM_BYTES.get(self.dtype)
        return self.length if item is None else math.prod(self.shape) * item

    @property
    def end(self) -> int:
        """One past its last byte in the file."""
        return self.offset + self.bytes


@dataclass(frozen=True)
class Stored:
    """A tensor and the file it lies in."""

    path: Path
    spec: TensorSpec


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
    """Read a safetensors header.

    Raises ArtifactError where the file is not one, is shorter than its header says, or gives two tensors one name or one place.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError(f"header length {length} in a file of {size} bytes")
            header = json.loads(file.read(length), object_pairs_hook=unique_keys)
        header.pop("__metadata__", None)
        specs = {name: _spec(entry, 8 + length) for name, entry in header.items()}
        end = _check_apart(specs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a safetensors file that engram reads ({error}); make or fetch it again") from None
    if end > size:
        raise ArtifactError(f"{path} must hold {end} bytes by its header but has {size}: it is truncated; make or fetch it again")
    return specs


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object (`object_pairs_hook`). Raises ValueError where a key comes twice: readers differ in which they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found


def _spec(entry: dict[str, Any], start: int) -> TensorSpec:
    (first, last), shape = entry["data_offsets"], tuple(entry["shape"])
    spec = TensorSpec(entry["dtype"], shape, start + first, last - first)
    whole = {type(number) for number in (*shape, first, last)} == {int} and min(*shape, first, last) >= 0
    if not whole or type(spec.dtype) is not str or spec.bytes != last - first:
        raise ValueError(f"bytes {first} to {last} for {entry['dtype']} {entry['shape']}")
    return spec


def _check_apart(specs: Mapping[str, TensorSpec]) -> int:
    """One past the last byte of all tensors. Raises ValueError where two have bytes in common."""
    last = 0
    for start, end, name in sorted((spec.offset, spec.end, name) for name, spec in specs.items()):
        if start < last and start < end:
            raise ValueError(f"{name!r} overlaps with another tensor")
        last = max(last, end)
    return last


def map_tensor(path: Path, spec: TensorSpec, mode: Literal["r", "r+", "c"] = "r") -> "np.memmap[Any, Any]":
    """Map one tensor: "r" read only, "r+" written through to the file, "c" copy-on-write (changes stay in memory).

    Raises ArtifactError where its type is not in STORAGE.
    """
    if spec.dtype not in STORAGE:
        raise ArtifactError(f"engram reads tensors of {', '.join(STORAGE)}, but one in {path} is {spec.dtype}; convert it")
    return np.memmap(path, dtype=STORAGE[spec.dtype], mode=mode, offset=spec.offset, shape=spec.shape)
