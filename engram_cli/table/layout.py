"""The layout of a table: what follows from a recipe. Which layer, order and head has which prime, and where its rows start.

On disk it is `layout.arrow` (store/schema.py LAYOUT), one record per (layer, order, head) in that order; multipliers and the pad
id follow from seed, layer and the number of canonical ids and are kept in the manifest's facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engram_cli.errors import ArtifactError
from engram_cli.recipe import HashRecipe
from engram_cli.store import schema
from engram_cli.table.hashing import Array, head_primes, multipliers, row_ids


@dataclass(frozen=True)
class LayerLayout:
    """The heads of one layer, in (order, head) order.

    orders_H: the order each head serves; primes_H: its prime, which is its number of rows; multipliers_N: the layer's
    multipliers, N the highest order; pad: the canonical id in window slots before a document's first token.
    """

    layer: int
    orders_H: tuple[int, ...]
    primes_H: tuple[int, ...]
    multipliers_N: tuple[int, ...]
    pad: int

    @cached_property
    def offsets_H(self) -> tuple[int, ...]:
        """First row of each head: prefix sums of the primes."""
        return tuple(int(total) for total in np.cumsum([0, *self.primes_H[:-1]]))

    @property
    def rows(self) -> int:
        """Rows of the layer's matrix."""
        return sum(self.primes_H)

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

        `heads` picks some of the heads; windows need to be no longer than the orders those serve.
        """
        parts = (
            self.multipliers_NH[: windows_TN.shape[-1], heads],
            np.array(self.primes_H)[heads],
            np.array(self.offsets_H)[heads],
        )
        if not isinstance(windows_TN, np.ndarray):  # a torch tensor: put the constants on its device
            parts = tuple(windows_TN.new_tensor(part) for part in parts)
        rows: Array = row_ids(windows_TN, *parts)
        return rows


@dataclass(frozen=True)
class Layout:
    """The layout of a whole table: one LayerLayout per layer, in the recipe's order."""

    layers: tuple[LayerLayout, ...]

    @property
    def rows(self) -> int:
        """Rows of all layers together."""
        return sum(layer.rows for layer in self.layers)

    def to_arrow(self) -> pa.Table:
        """The layout as an Arrow table of schema LAYOUT; multipliers and pad are in its metadata."""
        records = [
            {"layer": layer.layer, "order": order, "head": head - layer.heads_of(order).start, "prime": prime, "offset": offset}
            for layer in self.layers
            for head, (order, prime, offset) in enumerate(zip(layer.orders_H, layer.primes_H, layer.offsets_H, strict=True))
        ]
        metadata = {f"multipliers-{layer.layer}": " ".join(map(str, layer.multipliers_N)) for layer in self.layers}
        metadata["pad"] = str(self.layers[0].pad)
        return pa.Table.from_pylist(records, schema.LAYOUT.with_metadata(metadata))

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "Layout":
        """Read what `to_arrow` wrote. Raises ArtifactError where columns or metadata are missing or do not fit each other."""
        try:
            metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            columns = {name: table[name].to_pylist() for name in schema.LAYOUT.names}
            layers = [
                LayerLayout(
                    layer=layer,
                    orders_H=tuple(order for at, order in zip(columns["layer"], columns["order"], strict=True) if at == layer),
                    primes_H=tuple(prime for at, prime in zip(columns["layer"], columns["prime"], strict=True) if at == layer),
                    multipliers_N=tuple(int(text) for text in metadata[f"multipliers-{layer}"].split()),
                    pad=int(metadata["pad"]),
                )
                for layer in dict.fromkeys(columns["layer"])
            ]
            layout = cls(tuple(layers))
            fits = all(layer.max_order == len(layer.multipliers_N) and min(layer.primes_H) > 1 for layer in layers)
            fits = fits and bool(layers) and layout.to_arrow().equals(table)
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"layout.arrow lacks {error}: the table artifact is damaged; build it again") from None
        if not fits:
            raise ArtifactError(
                "the heads of a layout lie end to end, each with its prime and multipliers, but those of layout.arrow do not: rows "
                "would be read for the wrong gram; build the table again"
            )
        return layout


def plan_layout(recipe: HashRecipe, vocab: int, pad: int) -> Layout:
    """The layout that follows from a recipe, `vocab` canonical ids, and the canonical id of the pad token.

    Raises RecipeError where a head would have fewer than 2 rows.
    """
    primes = head_primes(recipe.layers, recipe.sizes, recipe.heads)
    orders_H = tuple(order for order in recipe.orders for _ in range(recipe.heads))
    return Layout(
        tuple(
            LayerLayout(
                layer=layer,
                orders_H=orders_H,
                primes_H=tuple(prime for order in by_order for prime in order),
                multipliers_N=_ints(multipliers(recipe.seed, layer, max(recipe.orders), vocab)),
                pad=pad,
            )
            for layer, by_order in zip(recipe.layers, primes, strict=True)
        )
    )


def _ints(numbers: Sequence[int] | npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)
