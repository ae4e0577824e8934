"""A table as the model uses it: host and memory weights, mapped rows, tokenizer and token map, opened from a table artifact.

    table = open_table("demo/table")
    logits = table.host(tokens_BT, table.look_up(windows_BTN))

Shapes: B batch, T tokens, N highest order, H heads, E numbers per row, M = H * E, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from engram_cli.corpus.tokenizer import load_tokenizer
from engram_cli.errors import ArtifactError, DeviceError, HostError
from engram_cli.model.carrier import OF_MEMORY, Carrier
from engram_cli.model.connections import branches_at
from engram_cli.model.foreign import ForeignHost
from engram_cli.model.host import Host
from engram_cli.model.host_directory import HostDirectory, open_host
from engram_cli.model.memory import Memory
from engram_cli.model.mixture import Mixture
from engram_cli.recipe import Recipe, parse_recipe
from engram_cli.store import schema
from engram_cli.store.artifact import Artifact, open_artifact
from engram_cli.store.matrix import Ids
from engram_cli.store.tensors import write_tensors
from engram_cli.table.formats.engram import LAYOUT_FILE, open_layer
from engram_cli.table.layout import LayerLayout, Layout
from engram_cli.table.row_types import Floats
from engram_cli.table.rows import Rows

HOST_FILE, MEMORY_FILE = "host.safetensors", "memory.safetensors"


def pick_device(name: str) -> torch.device:
    """The torch device for auto, cpu or cuda. Raises DeviceError for CUDA where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise DeviceError(f"--device is auto, cpu or cuda, but it is {name!r}; choose one of them")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"--device cuda needs a CUDA GPU, but torch {torch.__version__} finds none; use --device cpu")
    return torch.device(name)


def make_memories(recipe: Recipe, width: int, layout: Layout | None) -> dict[int, Memory]:
    """An uninitialised memory for every layer of `layout` (None: no layer), for a host of `width`; not where a mixture is."""
    mixed = {recipe.host.layers} if recipe.mixes else set()
    return {
        layer.layer: Memory(
            width,
            layer.heads * recipe.rows.dim,
            recipe.memory,
            dilation=layer.max_order,
            branches=branches_at(layer.layer, recipe.host),
        )
        for layer in (layout.layers if layout else ())
        if layer.layer not in mixed
    }


def make_host(recipe: Recipe, vocab: int, layout: Layout | None) -> Host:
    """An uninitialised host of ours with a memory, or a mixture, at every layer of `layout` (None: plain)."""
    mixture = None
    if layout and recipe.mixes:
        numbers, orders = recipe.hash.heads * recipe.rows.dim, len(recipe.hash.orders)
        mixture = Mixture(vocab, numbers, orders, recipe.host.width, recipe.memory.heard)
    return Host(vocab, recipe.host, make_memories(recipe, recipe.host.width, layout), mixture)


def make_foreign_host(directory: HostDirectory, recipe: Recipe, layout: Layout | None) -> ForeignHost:
    """The host in `directory`, with uninitialised memories in the same way."""
    memories = make_memories(recipe, directory.width, layout)
    return ForeignHost(directory.model, directory.vocab, directory.context, memories, recipe.trained_host)


@dataclass(frozen=True)
class Table:
    """An open table. host: in evaluation mode; rows: layer -> mapped rows; canonical_V: raw token id -> canonical id; directory:
    where a foreign host lies, None for ours."""

    artifact: Artifact
    recipe: Recipe
    layout: Layout
    host: Carrier
    rows: Mapping[int, Rows]
    canonical_V: npt.NDArray[np.uint32]
    directory: HostDirectory | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the table was built with."""
        return load_tokenizer(self.artifact.file("tokenizer.json"))

    @property
    def end(self) -> int | None:
        """Raw id that closes a document, if the tokenizer has one."""
        end: int | None = self.artifact.manifest.facts["end"]
        return end

    @property
    def bytes_per_token(self) -> int:
        """Bytes of rows read for one token, over all layers."""
        return sum(layer.heads * self.rows[layer.layer].bytes_per_row for layer in self.layout.layers)

    def look_up(self, windows_BTN: npt.NDArray[np.int64]) -> dict[int, Tensor]:
        """What the windows' rows hold: layer -> f32 [B, T, M] on the host's device, ready for `host(tokens, memory)`."""
        return look_up(self.layout.layers, self.rows, windows_BTN, self.host.device)


class TakesRows(Protocol):
    """Where rows can be looked up: f32 [..., E] for ids of any shape."""

    def take(self, ids: Ids) -> Floats: ...


def look_up(
    layers: Sequence[LayerLayout], rows: Mapping[int, TakesRows], windows_BTN: npt.NDArray[np.int64], device: torch.device
) -> dict[int, Tensor]:
    """Hash windows, read their rows, and lay each position's rows end to end: layer -> f32 [B, T, M]."""
    memory = {}
    for layer in layers:
        values_BTHE = rows[layer.layer].take(layer.row_ids(windows_BTN))
        memory[layer.layer] = torch.from_numpy(values_BTHE.reshape(*values_BTHE.shape[:-2], -1)).to(device)
    return memory


def open_table(path: str | Path, device: str = "auto", host: str | Path | None = None) -> Table:
    """Open a table artifact; rows stay on disk and are mapped. host: where a foreign host lies, None for where it was.

    Raises ArtifactError where it is damaged or its parts do not fit each other, DeviceError where the device is not there,
    HostError where a foreign host is not the one that it was built for.
    """
    artifact = open_artifact(path, "table")
    recipe = parse_recipe(artifact.manifest.recipe, f"the recipe in {artifact.path}")
    layout = Layout.from_arrow(artifact.table(LAYOUT_FILE, schema.LAYOUT))
    canonical_V = artifact.table("token_map.arrow", schema.TOKEN_MAP)["canonical"].to_numpy()
    directory = _find_host(artifact, recipe, host)
    made = make_foreign_host(directory, recipe, layout) if directory else make_host(recipe, len(canonical_V), layout)
    load_weights(made, artifact)
    rows = {layer.layer: open_layer(artifact, layer, recipe.rows.dim).rows for layer in layout.layers}
    return Table(artifact, recipe, layout, made.to(pick_device(device)).eval(), rows, canonical_V, directory)


def _find_host(artifact: Artifact, recipe: Recipe, given: str | Path | None) -> HostDirectory | None:
    """The foreign host that the table was built for, None for ours."""
    if not recipe.host.foreign:
        if given is not None:
            raise HostError(f"--host is for tables of foreign hosts, but {artifact.path} has its own; leave it out")
        return None
    try:
        path, digest = (artifact.manifest.facts["host"][key] for key in ("path", "digest"))
    except (LookupError, TypeError):
        raise ArtifactError(
            f"a host answers from the table that was built for it, but {artifact.path} was built elsewhere for "
            f"{recipe.host.name}; it can be inspected and converted"
        ) from None
    if given is None and not Path(path).exists():
        raise HostError(f"{artifact.path} was built for a host in {path}, but nothing is there; say with --host where it is now")
    found = open_host(given or path)
    if found.digest != digest:
        raise HostError(
            f"{artifact.path} was built for a host with digest {digest}, but {found.path} has {found.digest}; name that one "
            "with --host"
        )
    return found


def save_weights(host: Carrier, directory: Path) -> None:
    """Write `host.safetensors` and `memory.safetensors` (f32) into `directory`; of a foreign host what was trained."""
    state = {name: tensor.detach().to("cpu", torch.float32).numpy() for name, tensor in sorted(host.stored().items())}
    parts = {HOST_FILE: False, MEMORY_FILE: True}
    for file, memories in parts.items():
        write_tensors(directory / file, {n: ("F32", a) for n, a in state.items() if n.startswith(OF_MEMORY) == memories})


def load_weights(host: Carrier, artifact: Artifact) -> None:
    """Load what `save_weights` wrote. Raises ArtifactError where names or shapes differ."""
    state = {name: (file, spec.shape) for file in (HOST_FILE, MEMORY_FILE) for name, spec in artifact.tensors(file).items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in host.stored().items()}
    if unlike := sorted(name for name in state.keys() | wanted if name not in state or state[name][1] != wanted.get(name)):
        found = state[unlike[0]][1] if unlike[0] in state else "nothing"
        detail = f"{unlike[0]} is {found} and should be {wanted.get(unlike[0], 'left out')}"
        raise ArtifactError(f"the weights in {artifact.path} do not fit its recipe ({detail}); build the table again")
    with torch.no_grad():
        for name, parameter in host.stored().items():
            parameter.copy_(torch.from_numpy(np.array(artifact.tensor(state[name][0], name))))
