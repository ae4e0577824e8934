"""What all layouts of checkpoints do: find the tensors of each layer by their names, and hold them to what the config says."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engram_cli.errors import ArtifactError
from engram_cli.store.shards import Shards
from engram_cli.store.tensors import Stored, TensorSpec
from engram_cli.table.config import FoundHash
from engram_cli.table.layout import LayerLayout, plan_layout
from engram_cli.table.stored import WRONG_GRAM

_LAYER = re.compile(r"(?:^|\.)layers\.([0-9]{1,9})\.")


class RowTensors(NamedTuple):
    """The tensors that hold a layer's rows, by name: its numbers (end to end), their scales, and the constants of its hash.

    `scales` is one tensor, of as many rows as the numbers or of the one scale of all; empty where the row type has none.
    """

    numbers: Mapping[str, TensorSpec]
    scales: Mapping[str, TensorSpec]
    constants: Mapping[str, npt.NDArray[np.int64]]

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """All of them."""
        return {**self.numbers, **self.scales, **{name: TensorSpec("I64", each.shape) for name, each in self.constants.items()}}


def plan_layers(found: FoundHash, shards: Shards) -> tuple[LayerLayout, ...]:
    """The heads of each layer. Raises ArtifactError where they do not have the rows that the config declares."""
    layers = plan_layout(found.hash, found.vocab or 2, 0).layers  # the pad belongs to the windows, not to the heads
    if found.vocab is None:
        layers = tuple(replace(layer, multipliers_N=()) for layer in layers)
    for layer, declared in zip(layers, found.rows or (), strict=False):
        if layer.rows != declared:
            raise ArtifactError(
                f"the config of {shards.directory} declares {declared} rows for layer {layer.layer}, but its primes add up to "
                f"{layer.rows}: {WRONG_GRAM}; get the checkpoint's config again"
            )
    return layers


def find_prefixes(shards: Shards, pattern: str, layers: Sequence[int]) -> dict[int, str]:
    """Layer -> what the names of its tensors begin with, for the layers that the config names.

    pattern: of a whole name, with the group `prefix`, in which `layers.L.` tells the layer; a prefix without it is of the only one.
    Raises ArtifactError where a layer has no such tensor, or two, or where the config does not name it.
    """
    found: dict[int, set[str]] = {}
    for match in filter(None, map(re.compile(pattern).fullmatch, shards)):
        numbers = _LAYER.findall(match["prefix"])
        layer = int(numbers[-1]) if numbers else layers[0]
        found.setdefault(layer, set()).add(match["prefix"])
    if set(found) != set(layers):
        hint = f" ({', '.join(shards.unlisted)} is not in the index)" if shards.unlisted else ""
        raise ArtifactError(
            f"the config of {shards.directory} names layers {_listed(layers)} as those with a table, but there are rows of "
            f"{_listed(sorted(found))}{hint}; config and shards of one checkpoint belong together: fetch it again"
        )
    for layer, prefixes in found.items():
        if len(prefixes) > 1:
            raise ArtifactError(
                f"a layer has one matrix of rows, but layer {layer} of {shards.directory} has {len(prefixes)}: "
                f"{', '.join(sorted(prefixes))}; leave out the others"
            )
    return {layer: prefixes.pop() for layer, prefixes in found.items()}


def expect(shards: Shards, name: str, dtypes: Collection[str], shape: Sequence[int], meaning: str = "") -> Stored:
    """The tensor `name`. Raises ArtifactError where it is not there or has another type or shape; `meaning`: what would follow."""
    stored = shards[name]
    if stored.spec.dtype not in dtypes or stored.spec.shape != tuple(shape):
        wanted, found = f"{' or '.join(dtypes)} {_shape(shape)}", f"{stored.spec.dtype} {_shape(stored.spec.shape)}"
        raise ArtifactError(
            f"{name} of {shards.directory} must be {wanted} by the config, but it is {found}{meaning and ': '}{meaning}; config "
            "and shards of one checkpoint belong together: fetch it again"
        )
    return stored


def whole(config: Any, key: str) -> int | None:
    """A positive whole number of the config that is of use but not needed, or None."""
    value = config.get(key)
    return value if type(value) is int and value > 0 else None


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers[:20])) + (" ..." if len(layers) > 20 else "") or "none"
