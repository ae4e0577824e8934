"""Matrices on disk: safetensors files whose data starts on a 4096-byte boundary, opened by memory map.

The header of a safetensors file may be padded with spaces; padding it to a page makes every row matrix mappable, and aligned for
direct reads, while any safetensors reader still opens the file. What numpy has no dtype for (bfloat16, float8) is mapped as
unsigned integers of its size. A header is not trusted: sizes are compared with the file and with each other before anything is
mapped.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
_NOT_SAFETENSORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_ITEM_BYTES = {name: np.dtype(stored).itemsize for name, stored in STORAGE.items()}


class TensorSpec(NamedTuple):
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


class Stored(NamedTuple):
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


def reserve(path: Path) -> None:
    """Take the disk that the sparse file at `path` has room for: writing through a map would meet a full one as SIGBUS.
    Raises OSError where there is too little."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> None:
    """Write name -> (safetensors dtype, array in that dtype's storage type) to `path`, whole.

    Raises OSError where the disk refuses: it is written plainly, since a map would meet a full disk as SIGBUS.
    """
    specs = {name: TensorSpec(dtype, array.shape) for name, (dtype, array) in tensors.items()}
    placed = create_tensors(path, specs)
    with path.open("r+b", buffering=0) as file:
        for name, spec in placed.items():
            stored = np.ascontiguousarray(tensors[name][1], STORAGE[spec.dtype]).reshape(-1).view(np.uint8)
            file.seek(spec.offset)
            while len(stored):
                stored = stored[file.write(stored.data) :]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file. Where tensors lie is known of all of them, what they are of those that are asked for: the
    headers of a large model name a hundred thousand."""

    path: Path
    start: int
    entries: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Header":
        """Raises ArtifactError where the file is none, is shorter than its header says, or has two tensors of one name or place."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_MAX_HEADER, size - 8):
                    raise ValueError(f"header length {length} in a file of {size} bytes")
                entries = json.loads(file.read(length), object_pairs_hook=unique_keys)
            entries.pop("__metadata__", None)
            end = 8 + length + _check_apart([entry["data_offsets"] for entry in entries.values()])
        except _NOT_SAFETENSORS as error:
            raise _refusal(path, error) from None
        if end > size:
            raise ArtifactError(
                f"{path} must hold {end} bytes by its header but has {size}: it is truncated; make or fetch it again"
            )
        return cls(path, 8 + length, entries)

    def spec(self, name: str) -> TensorSpec:
        """What the tensor `name` is. Raises ArtifactError where its type and shape do not take the bytes it lies in."""
        entry = self.entries[name]
        try:
            (first, last), shape = entry["data_offsets"], tuple(entry["shape"])
            spec = TensorSpec(entry["dtype"], shape, self.start + first, last - first)
            whole = {type(number) for number in (*shape, first, last)} == {int} and min(shape, default=0) >= 0
            if not whole or type(spec.dtype) is not str or spec.bytes != last - first:
                raise ValueError(f"bytes {first} to {last} for {entry['dtype']} {entry['shape']}")
        except _NOT_SAFETENSORS as error:
            raise _refusal(self.path, error) from None
        return spec


def read_tensor_specs(path: Path) -> dict[str, TensorSpec]:
    """What all tensors of a safetensors file are. Raises ArtifactError as `Header` does."""
    header = Header.read(path)
    return {name: header.spec(name) for name in header.entries}


def _check_apart(places: Sequence[Any]) -> int:
    """Bytes of data that tensors at `places` (first, last) take. Raises ValueError where they overlap, or are no places."""
    if not places:
        return 0
    places_N2 = np.array(places)
    if places_N2.dtype != np.int64 or places_N2.shape[1:] != (2,) or places_N2.min() < 0 or (np.diff(places_N2) < 0).any():
        raise ValueError("data_offsets are not first and last bytes")
    filled_N2 = places_N2[places_N2[:, 0] < places_N2[:, 1]]
    ordered_N2 = filled_N2[filled_N2[:, 0].argsort()]
    if (ordered_N2[1:, 0] < ordered_N2[:-1, 1]).any():
        raise ValueError("tensors overlap")
    return int(places_N2.max())


def _refusal(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} is not a safetensors file that engram reads ({error}); make or fetch it again")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object (`object_pairs_hook`). Raises ValueError where a key comes twice: readers differ in which they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found


def map_tensor(path: Path, spec: TensorSpec, mode: Literal["r", "r+", "c"] = "r") -> "np.memmap[Any, Any]":
    """Map one tensor: "r" read only, "r+" written through to the file, "c" copy-on-write (changes stay in memory).

    Raises ArtifactError where its type is not in STORAGE.
    """
    if spec.dtype not in STORAGE:
        raise ArtifactError(f"engram reads tensors of {', '.join(STORAGE)}, but one in {path} is {spec.dtype}; convert it")
    return np.memmap(path, dtype=STORAGE[spec.dtype], mode=mode, offset=spec.offset, shape=spec.shape)
