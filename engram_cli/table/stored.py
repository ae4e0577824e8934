"""A table where it lies: in an artifact of ours or in the shards of a checkpoint, opened without reading or converting it.

    stored = open_stored_table("checkpoint/")               (table/formats)
    stored.layers[0].rows.take(ids)                         f32
    layout = stored.layout(canonical_V)                     to hash with, once the token map is known

What needs a tokenizer is checked where tokenizers are known, on the floor of reports (report/stored.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engram_cli.errors import ArtifactError
from engram_cli.store.tensors import Stored
from engram_cli.table.config import FoundHash
from engram_cli.table.hashing import Family
from engram_cli.table.layout import LayerLayout, Layout
from engram_cli.table.rows import Rows

WRONG_GRAM = "every row would be read for the wrong gram"


@dataclass(frozen=True)
class StoredLayer:
    """One layer: its heads (`layout`), what they look up (`rows`), and where the tensors of its memory lie, by their names.

    `layout.multipliers_N` is empty where the multipliers follow from a token map that only `StoredTable.layout` is given.
    """

    layout: LayerLayout
    rows: Rows
    tensors: Mapping[str, Stored]

    @property
    def bytes(self) -> int:
        """Bytes of the rows with their own scales."""
        return self.rows.count * self.rows.bytes_per_row

    @property
    def bytes_per_token(self) -> int:
        """Bytes of rows read for one token."""
        return self.layout.heads * self.rows.bytes_per_row


@dataclass(frozen=True)
class StoredTable:
    """An open table.

    path: its directory; form: whose layout of files it has: engram, deepseek-v4.1, qwen-ple or demo; family: whose hash; vocab: ids
    that are hashed, None where only the token map says how many; pad: the raw id in window slots of which a window sees nothing;
    tokenizer: the tokenizer.json beside it, if there is one; token_map_digest: of the map it was made with, where that is
    recorded; missing: shards that are not there and not needed for the rows; planned: the layout, or what it follows from.
    """

    path: Path
    form: str
    family: Family
    layers: tuple[StoredLayer, ...]
    vocab: int | None
    pad: int
    tokenizer: Path | None
    token_map_digest: str | None
    missing: tuple[str, ...]
    planned: Layout | FoundHash

    def layout(self, canonical_V: npt.NDArray[np.uint32]) -> Layout:
        """The layout to hash with; `canonical_V` is the token map of the tokenizer, which says what the pad is.

        Raises ArtifactError where the map has another number of canonical ids than the table was made for.
        """
        canonical = int(np.max(canonical_V)) + 1
        if self.family.canonical and self.vocab not in (None, canonical):
            raise ArtifactError(
                f"{self.path} hashes {self.vocab} canonical ids, but its tokenizer has {canonical}: {WRONG_GRAM}; put the "
                "tokenizer beside it that it was made with"
            )
        return self.planned if isinstance(self.planned, Layout) else self.planned.layout(canonical_V)
