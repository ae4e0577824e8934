"""The layout of a table: what follows from a recipe. Which layer, order and head has which prime, and where its rows start.

    layout = plan_layout(recipe.hash, vocab, pad)           # of a recipe
    found = hash_of_config(config)                          # of a checkpoint's config.json (table/config.py), planned likewise
    windows_TN = layout.windows(ids_T, position_T)
    rows_TH = layout.layers[0].row_ids(windows_TN)

On disk it is `layout.arrow` (store/schema.py LAYOUT), one record per (layer, order, head) in that order; the family, the pad and
the multipliers, which follow from seed, layer and the number of ids, are metadata of the file.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.errors import ArtifactError
from engram_cli.recipe import HashRecipe
from engram_cli.store import schema
from engram_cli.table.hashing import FAMILIES, Array, Family, head_primes, row_ids, windows


@dataclass(frozen=True)
class LayerLayout:
    """The heads of one layer, in (order, head) order.

    layer: of the host, 0-based; orders_H: the order each head serves; primes_H: its prime, which is its number of rows;
    multipliers_N: the layer's multipliers, N the highest order; multiple: what the matrix's rows are filled up to a multiple of.
    """

    layer: int
    orders_H: tuple[int, ...]
    primes_H: tuple[int, ...]
    multipliers_N: tuple[int, ...]
    multiple: int = 1

    @cached_property
    def offsets_H(self) -> tuple[int, ...]:
        """First row of each head: prefix sums of the primes."""
        return tuple(int(total) for total in np.cumsum([0, *self.primes_H[:-1]]))

    @property
    def rows(self) -> int:
        """Rows of the layer's matrix: those of its heads, and the unused ones at its end."""
        return -(-sum(self.primes_H) // self.multiple) * self.multiple

    @property
    def heads(self) -> int:
        """Heads over all orders."""
        return len(self.primes_H)

    @property
    def orders(self) -> tuple[int, ...]:
        """The distinct orders, ascending."""
        return tuple(dict.fromkeys(self.orders_H))

    @property
    def max_order(self) -> int:
        return max(self.orders_H)

    def heads_of(self, order: int) -> slice:
        """Where the heads of `order` stand among all heads."""
        first = self.orders_H.index(order)
        return slice(first, first + self.orders_H.count(order))

    @cached_property
    def multipliers_NH(self) -> npt.NDArray[np.int64]:
        """multipliers_N for each head, 0 beyond the head's order: int64 [N, H]."""
        back_N1 = np.arange(self.max_order)[:, None]
        return np.where(back_N1 < np.array(self.orders_H), np.array(self.multipliers_N)[:, None], 0)

    def row_ids(self, windows_TN: Array, heads: slice = slice(None)) -> Array:
        """Rows that each window names: int64 [..., H] for windows int64 [..., N], newest id first; numpy or torch.

        `heads` picks some of the heads; windows need to be no longer than the orders those serve. `hashing.row_ids` is the
        definition; for numpy its compiled form (kernels.py) gives the same.
        """
        rows: Array
        if isinstance(windows_TN, np.ndarray):
            rows = self._compiled_row_ids(windows_TN, heads)
            return rows
        parts = (self.multipliers_NH[: windows_TN.shape[-1], heads], self.primes_H[heads], self.offsets_H[heads])
        rows = row_ids(windows_TN, *(windows_TN.new_tensor(part) for part in parts))
        return rows

    def _compiled_row_ids(self, windows_TN: Any, heads: slice) -> Any:
        from engram_cli.table.kernels import hash_windows  # numba takes a quarter of a second to import

        orders_H = self.orders_H[heads]
        ends_N = np.searchsorted(orders_H, np.arange(1, max(orders_H) + 1), "right").astype(np.uint64)
        shape = windows_TN.shape
        rows_TH = np.empty((*shape[:-1], len(orders_H)), np.int64)
        multipliers_N, primes_H, reciprocals_H, offsets_H = self._constants
        hash_windows(
            np.ascontiguousarray(windows_TN, np.int64).reshape(-1, shape[-1]),
            multipliers_N,
            ends_N,
            primes_H[heads],
            reciprocals_H[heads],
            offsets_H[heads],
            rows_TH.reshape(-1, len(orders_H)),
        )
        return rows_TH

    @cached_property
    def _constants(self) -> tuple[npt.NDArray[np.uint64], ...]:
        """(multipliers_N, primes_H, reciprocals_H, offsets_H) as the compiled hash takes them."""
        reciprocals_H = tuple(2**64 // prime for prime in self.primes_H)
        return tuple(np.array(part, np.uint64) for part in (self.multipliers_N, self.primes_H, reciprocals_H, self.offsets_H))


@dataclass(frozen=True)
class Layout:
    """The layout of a whole table: one LayerLayout per layer, in the recipe's order.

    pad: the id in window slots of which a window sees nothing; family: whose hash it is.
    """

    layers: tuple[LayerLayout, ...]
    pad: int
    family: Family = FAMILIES["demo"]

    @property
    def rows(self) -> int:
        """Rows of all layers together."""
        return sum(layer.rows for layer in self.layers)

    @property
    def max_order(self) -> int:
        return max(layer.max_order for layer in self.layers)

    def windows(self, ids_T: Any, position_T: Any) -> Any:
        """What the hash sees at each position, newest id first: int64 [T, N]; numpy or torch.

        ids_T and position_T as in `hashing.windows`: canonical or raw ids, as the family has them, and DEAD where it has those.
        """
        return self.family.settle(windows(ids_T, position_T, self.max_order, self.pad), self.pad)

    def to_arrow(self) -> pa.Table:
        """The layout as an Arrow table of schema LAYOUT; the rest is in its metadata."""
        records = [
            {"layer": layer.layer, "order": order, "head": head - layer.heads_of(order).start, "prime": prime, "offset": offset}
            for layer in self.layers
            for head, (order, prime, offset) in enumerate(zip(layer.orders_H, layer.primes_H, layer.offsets_H, strict=True))
        ]
        metadata = {f"multipliers-{layer.layer}": " ".join(map(str, layer.multipliers_N)) for layer in self.layers}
        metadata |= {"pad": str(self.pad), "family": self.family.name, "multiple": str(self.layers[0].multiple)}
        return pa.Table.from_pylist(records, schema.LAYOUT.with_metadata(metadata))

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "Layout":
        """Read what `to_arrow` wrote. Raises ArtifactError where columns or metadata are missing or do not fit each other."""
        try:
            metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            family = _family(metadata.get("family", "demo"))
            columns = {name: table[name].to_pylist() for name in schema.LAYOUT.names}
            heads = list(zip(columns["layer"], columns["order"], columns["prime"], strict=True))
            layers = [
                LayerLayout(
                    layer=layer,
                    orders_H=tuple(order for at, order, _ in heads if at == layer),
                    primes_H=tuple(prime for at, _, prime in heads if at == layer),
                    multipliers_N=tuple(int(text) for text in metadata[f"multipliers-{layer}"].split()),
                    multiple=int(metadata.get("multiple", "1")),
                )
                for layer in dict.fromkeys(columns["layer"])
            ]
            layout = cls(tuple(layers), int(metadata["pad"]), family)
            fits = all(layer.max_order == len(layer.multipliers_N) and min(layer.primes_H) > 1 for layer in layers)
            fits = fits and bool(layers) and min(layer.multiple for layer in layers) > 0
            fits = fits and layout.to_arrow().equals(table)
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"layout.arrow lacks {error}: the table artifact is damaged; build it again") from None
        if not fits:
            raise ArtifactError(
                "the heads of a layout lie end to end, each with its prime and multipliers, but those of layout.arrow do not: rows "
                "would be read for the wrong gram; build the table again"
            )
        return layout


def plan_layout(recipe: HashRecipe, vocab: int, pad: int) -> Layout:
    """The layout that follows from a recipe, the number of ids that are hashed, and the id of the pad among them.

    vocab, pad: canonical ids, or raw ids in a family that hashes those (`FAMILIES[recipe.family].canonical`).
    Raises RecipeError where a head would have fewer than 2 rows.
    """
    family = FAMILIES[recipe.family]
    orders_H = tuple(order for order in recipe.orders for _ in range(recipe.heads))
    primes = head_primes(recipe.layers, recipe.sizes, recipe.heads)
    layers = []
    for place, (layer, by_order) in enumerate(zip(recipe.host_layers, primes, strict=True)):
        multipliers_N = family.draw(recipe.seed, place if family.by_place else layer, max(recipe.orders), vocab)
        primes_H = tuple(prime for order in by_order for prime in order)
        layers.append(LayerLayout(layer, orders_H, primes_H, tuple(multipliers_N.tolist()), recipe.multiple))
    return Layout(tuple(layers), pad, family)


def _family(name: str) -> Family:
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ArtifactError(f"a layout is of the hash family {known}, but layout.arrow says {name}; open it with a newer engram")
    return FAMILIES[name]
