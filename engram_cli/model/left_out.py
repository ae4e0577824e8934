"""What a training position must not find in its rows: what its own document put there.

No other text has rows that know it, so who learns by such rows trusts them too much, and most of all on text that is unlike the
rest (docs/log.md). Nothing remains of a gram that no other document has, nor of a token that followed it in no other; of a token
that did, what it has with a count less. Not undone: what the document did to the row's other tokens, and any more than one
occurrence of what others have as well; to do so was hardly better.
Shapes: B stretches, T tokens, V vocabulary, H heads, E numbers per row, M numbers of an order, G grams with their next token,
C grams.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from engram_cli.corpus.count_model import Level, find, keys
from engram_cli.model.data import Ids
from engram_cli.table.layout import LayerLayout

Tensors = dict[str, npt.NDArray[np.generic]]
Floats = npt.NDArray[np.floating]


def own_tensors(number: int, level: Level, kept_G: Floats, owned_CH: npt.NDArray[np.bool_], weight_G: Floats) -> Tensors:
    """What `LeftOut` needs to know of order `number`. kept_G: the share of what a row holds of a token that remains with one
    occurrence less; owned_CH: whether a gram's rows are its own; weight_G: how much of the token's vector is in them.

    Raises ValueError where the level was estimated without documents.
    """
    if level.local_G is None or level.local_C is None:
        raise ValueError("what is left out of rows follows from documents; estimate the levels with document_T")
    own_G = np.where(level.local_G, weight_G, weight_G * (1 - kept_G)).astype(np.float32)
    own_G[np.repeat(level.local_C, level.followed_C)] = np.inf
    own_GH = np.where(np.repeat(owned_CH, level.followed_C, axis=0), own_G[:, None], np.float32(0))
    return {f"own-{number}": own_GH, f"local-{number}": level.local_G.view(np.uint8)}


class LeftOut:
    """What the document of a training position put into the rows that it looks up.

    tensors: from `fill_rows`, mapped or not: gram-N u64 [G] of all levels, and for orders from the lowest of the table own-N f32
    [G, H], how much of the next token's vector in its rows is due to the document, or to one occurrence where others have the gram
    as well, infinite where no other has its context, so that all of a row is; and local-N u8 [G], 1 where none has the gram.
    """

    def __init__(self, layer: LayerLayout, vectors_VM: Tensor, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self.layer, self.tensors, self.vectors_VM = layer, tensors, vectors_VM

    def own(self, windows_BTN: Ids, targets_BT: Ids) -> npt.NDArray[np.float32]:
        """By head, how much of the next token's vector is the document's own, infinite where all of the row is: [B, T, H].

        Below the highest order what counts is in how many longer grams a token followed: a document less changes that only where no
        other has the longer gram.
        """
        grams = self._grams(windows_BTN, targets_BT)
        parts, local_BT = [], np.ones(targets_BT.shape, bool)
        for number in range(self.layer.max_order, self.layer.orders[0] - 1, -1):
            own_GH, local_G = (self.tensors[f"{name}-{number}"] for name in ("own", "local"))
            parts.append(np.where(local_BT[..., None], own_GH[grams[number]], np.float32(0)))
            local_BT &= local_G[grams[number]] == 1
        return np.concatenate(parts[::-1], axis=-1)

    def _grams(self, windows_BTN: Ids, targets_BT: Ids) -> list[Ids]:
        """The gram of each position by level, as its place there, [B, T]."""
        grams = [find(self.tensors["gram-0"], keys(targets_BT, np.zeros_like(targets_BT)))]
        for number in range(1, self.layer.max_order + 1):
            grams.append(find(self.tensors[f"gram-{number}"], keys(windows_BTN[..., number - 1], grams[-1])))
        return grams

    def without(self, values_BTHE: Tensor, own_BTH: Tensor, targets_BT: Tensor) -> Tensor:
        """Looked-up rows as they would be without the positions' documents; no gradient passes through what is taken out."""
        heads = self.vectors_VM.shape[1] // values_BTHE.shape[-1]
        vector_BTKE = self.vectors_VM[targets_BT].view(*targets_BT.shape, heads, -1)
        left_BTHE = values_BTHE - own_BTH.unsqueeze(-1) * vector_BTKE.repeat(1, 1, len(self.layer.orders), 1)
        return left_BTHE.masked_fill(own_BTH.isinf().unsqueeze(-1), 0.0)
