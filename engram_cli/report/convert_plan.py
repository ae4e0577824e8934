"""Which files a converted table will have, and what its layout of files cannot tell: refused before anything is written.

A config names a hash family by its model and little else: orders from 2 up, one number of heads, one size. So the config of the new
table is made, read again as any checkpoint's is, and must give the layout that the source has, prime for prime.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engram_cli.errors import ArtifactError, RecipeError
from engram_cli.recipe import parse_recipe
from engram_cli.report.convert_source import KEPT_TENSORS, WRITERS, Source
from engram_cli.report.stored import FORMS, check_tokenizer
from engram_cli.store.mapping import Mode
from engram_cli.store.matrix import Matrix
from engram_cli.store.tensors import STORAGE, Stored, TensorSpec, read_tensor_specs
from engram_cli.table.config import hash_of_config, text_config
from engram_cli.table.formats import TOKEN_MAP_DIGEST
from engram_cli.table.formats.parts import RowTensors
from engram_cli.table.row_types import BLOCK, ROW_TYPES, RowType
from engram_cli.table.rows import Rows, rows_file
from engram_cli.table.stored import WRONG_GRAM, StoredLayer

TARGETS = ("engram", *WRITERS)
_SHARD_BYTES = 5_000_000_000  # of a file with more than one tensor, as `transformers` has it

Files = dict[str, dict[str, TensorSpec]]


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer: its rows' new type and the tensors that hold them."""

    source: StoredLayer
    type: RowType
    tensors: RowTensors

    @property
    def number(self) -> int:
        """Of the host's layer."""
        return self.source.layout.layer

    @property
    def bytes(self) -> int:
        """Of all its tensors."""
        return sum(spec.bytes for spec in self.tensors.specs.values())


@dataclass(frozen=True)
class Plan:
    """form: the layout of files; files: name -> its tensors; config: of a checkpoint, None for an artifact."""

    form: str
    layers: tuple[LayerPlan, ...]
    files: Files
    config: Mapping[str, Any] | None

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(spec.bytes for specs in self.files.values() for spec in specs.values())

    def located(self, directory: Path, layer: LayerPlan | None = None) -> dict[str, Stored]:
        """Where in `directory` the tensors lie that belong to a layer, or all that are kept and are not of rows."""
        names = [rows_file(layer.number)] if layer and self.config is None else self.files
        found = {
            name: Stored(directory / file, spec) for file in names for name, spec in read_tensor_specs(directory / file).items()
        }
        return {name: found[name] for name in layer.tensors.specs} if layer else found

    def rows(self, directory: Path, layer: LayerPlan, mode: Mode = "r") -> Rows:
        """The rows of a layer in `directory`; where they share one scale, that is written already."""
        places = self.located(directory, layer)
        numbers = Matrix([places[name] for name in layer.tensors.numbers], mode)
        scales = [Matrix([places[name]], mode) for name in layer.tensors.scales]
        if layer.type.share == "matrix":
            return Rows(layer.type, numbers, scales[0].read(0, 1))
        return Rows(layer.type, numbers, scales[0] if scales else None)

    def index(self) -> str:
        """The index of a checkpoint's shards, as JSON."""
        places = {tensor: file for file, specs in self.files.items() for tensor in specs}
        document = {"metadata": {"total_size": self.bytes}, "weight_map": dict(sorted(places.items()))}
        return json.dumps(document, indent=2) + "\n"


def plan_conversion(source: Source, form: str, dtype: str | None) -> Plan:
    """What `source` becomes in the layout `form`, with rows of the type `dtype` [default: what they are].

    Raises ArtifactError where that layout cannot tell what the table is.
    """
    types = [ROW_TYPES[dtype] if dtype else layer.rows.type for layer in source.stored.layers]
    for layer, type in zip(source.stored.layers, types, strict=True):
        if type.share == "block" and layer.rows.dim % BLOCK:
            raise ArtifactError(
                f"{type.name} has a scale for every {BLOCK} numbers of a row, but rows of layer {layer.layout.layer} have "
                f"{layer.rows.dim}; give another --dtype"
            )
    return _artifact(source, types) if form == "engram" else _checkpoint(source, form, types)


def _artifact(source: Source, types: list[RowType]) -> Plan:
    if source.layout is None or source.token_map is None:
        raise ArtifactError(
            f"a table artifact holds its tokenizer and its token map, but beside {source.stored.path} lies no tokenizer.json; put "
            "the one there that the table was made with"
        )
    layers = []
    for layer, type in zip(source.stored.layers, types, strict=True):
        specs = type.tensors(layer.rows.count, layer.rows.dim)
        layers.append(LayerPlan(layer, type, RowTensors({"rows": specs.pop("rows")}, specs, {})))
    files = {rows_file(layer.number): layer.tensors.specs for layer in layers}
    if source.rest:
        files[KEPT_TENSORS] = _by_width({name: tensor.spec for name, tensor in source.rest.items()})
    return Plan("engram", tuple(layers), files, None)


def _checkpoint(source: Source, form: str, types: list[RowType]) -> Plan:
    writer, stored = WRITERS[form], source.stored
    _refuse(source, form, writer, types)
    config = dict(source.config) if source.config is not None else _new_config(source, writer)
    text = dict(config["text_config"]) if isinstance(config.get("text_config"), Mapping) else config
    if text is not config:
        config["text_config"] = text
    writer.set_type(text, types[0])
    if source.token_map is not None and stored.family.canonical:
        text[TOKEN_MAP_DIGEST] = source.token_map.digest
    _hold(source, form, config)
    layers = []
    for layer, type in zip(stored.layers, types, strict=True):
        prefix = source.prefixes.get(layer.layout.layer) or writer.PREFIX.format(layer.layout.layer)
        tensors = writer.plan_tensors(prefix, layer.layout, layer.rows.dim, type, text_config(config))
        layers.append(LayerPlan(layer, type, tensors))
    rest = {name: tensor.spec for name, tensor in source.rest.items()}
    groups = [*(layer.tensors.specs for layer in layers), *([rest] if rest else [])]
    return Plan(form, tuple(layers), _shards(groups), config)


def _refuse(source: Source, form: str, writer: ModuleType, types: list[RowType]) -> None:
    """Refuse what the layout has no words for."""
    stored, name = source.stored, FORMS[form]
    if stored.family.name != form:
        raise ArtifactError(
            f"the layout of {name} is read with the hash {form}, but {stored.path} has {stored.family.name}: {WRONG_GRAM}; "
            f'--to engram holds any, or build a table with `family = "{form}"` in its recipe'
        )
    held = list(dict.fromkeys(writer.TYPES.values()))
    for type in types:
        if type.name not in held:
            raise ArtifactError(f"the layout of {name} holds rows of {', '.join(held)}, but these are {type.name}; give --dtype")
    dims, names = {layer.rows.dim for layer in stored.layers}, {type.name for type in types}
    if len(dims) > 1 or len(names) > 1:
        raise ArtifactError(
            f"the layout of {name} has one width and one type of rows for all layers, but {stored.path} has widths "
            f"{', '.join(map(str, sorted(dims)))} and types {', '.join(sorted(names))}; give --dtype, or keep it as it is"
        )
    if stored.form == "engram":
        for layer in stored.layers:
            counts = {layer.layout.orders_H.count(order) for order in layer.layout.orders}
            if len(counts) > 1 or layer.layout.orders != tuple(range(2, layer.layout.max_order + 1)):
                raise ArtifactError(
                    f"the layout of {name} has the orders 2, 3 ... with as many heads each, but layer {layer.layout.layer} has "
                    f"heads of orders {', '.join(map(str, layer.layout.orders_H))}; build a table that has"
                )
        check_tokenizer(stored)  # raises where ids were not folded as this family folds them


def _new_config(source: Source, writer: ModuleType) -> dict[str, Any]:
    """The config of a table that was built here."""
    stored = source.stored
    try:
        hash = parse_recipe(source.origin["recipe"], f"the recipe in {stored.path}").hash
        pad = source.origin["facts"]["pad"]
    except (RecipeError, KeyError) as error:
        raise ArtifactError(f"a config is made from a table's recipe, but {error}; build the table again") from None
    rows = [layer.rows.count for layer in stored.layers]
    config: dict[str, Any] = writer.make_config(hash, stored.layers[0].rows.dim, stored.vocab, pad, rows)
    return config


def _hold(source: Source, form: str, config: Mapping[str, Any]) -> None:
    """Read the new config as a checkpoint's: it must lead to the rows that the source has."""
    found = hash_of_config(config, "the new config")
    canonical_V = source.token_map.canonical_V if source.token_map else None
    planned = found.layout(canonical_V) if found and canonical_V is not None else None
    if source.layout is None or planned is None:
        return  # a checkpoint without a tokenizer: its own config is kept
    for ours, theirs in zip(source.layout.layers, planned.layers, strict=False):
        if ours != theirs:
            raise ArtifactError(
                f"the config of {FORMS[form]} would give layer {theirs.layer} {theirs.rows} rows and multipliers "
                f"{theirs.multipliers_N}, but {source.stored.path} has layer {ours.layer} with {ours.rows} and "
                f"{ours.multipliers_N}: {WRONG_GRAM}; this table cannot be told in that layout"
            )
    if len(source.layout.layers) != len(planned.layers) or source.layout.pad != planned.pad:
        raise ArtifactError(
            f"the config of {FORMS[form]} would give {len(planned.layers)} layers and the pad {planned.pad}, but "
            f"{source.stored.path} has {len(source.layout.layers)} and {source.layout.pad}: {WRONG_GRAM}; build the table again"
        )


def _shards(groups: Iterable[Mapping[str, TensorSpec]]) -> Files:
    """Tensors by the names of their files; a group begins a file of its own, and goes on in another where one is full."""
    shards = [shard for group in groups for shard in _cut(group)]
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards, 1)}


def _cut(specs: Mapping[str, TensorSpec]) -> Iterator[dict[str, TensorSpec]]:
    shard: dict[str, TensorSpec] = {}
    for name, spec in specs.items():
        if shard and sum(one.bytes for one in shard.values()) + spec.bytes > _SHARD_BYTES:
            yield _by_width(shard)
            shard = {}
        shard[name] = spec
    yield _by_width(shard)


def _by_width(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The widest numbers first, so that each tensor lies where its type wants it."""
    return dict(sorted(specs.items(), key=lambda item: -np.dtype(STORAGE[item[1].dtype]).itemsize))
