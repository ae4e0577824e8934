"""What every host of memories is: ours (model/host.py) and a Hugging Face model (model/foreign.py).

Training, decoding and the artifacts know hosts by these methods alone. Shapes: B batch, T tokens, S cached tokens, G branches,
M numbers looked up, D width, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from engram_cli.model.memory import Memory
from engram_cli.model.mixture import cross_entropy

MIXTURE = "mixture"  # where its gate is, beside those of layers
OF_MEMORY = ("memories.", "mixture.")  # what the names of parameters begin with that are not the transformer's own


class CacheLike(Protocol):
    """What a host keeps of the tokens seen so far, of which there are `length`; a smaller `length` takes the newest back."""

    length: int

    def past(self, layer: int) -> Tensor | None:
        """What one layer's convolution has taken in up to here, [B, S, G, D]; None where it has none."""

    def take_in(self, layer: int, inputs_BTGD: Tensor) -> None:
        """Store what one layer's convolution took in."""

    def reorder(self, places: Sequence[int]) -> None:
        """Let text number i go on from what was kept of text number `places[i]`: for beam search, and to make one text several."""


class Carrier(nn.Module):
    """A causal language model with a Memory before the attention of some layers.

    width: D; context: tokens that it can see; memories: layer (0-based) -> Memory, none for plain.
    After a forward pass with memory, `gates` holds for each of `gated` the gate [B, T, G] of that pass, detached.
    """

    pretrained = False  # whether its weights were something before they were trained here
    computes_in_threads = True  # whether several may run it at once
    speaking_layer: int | None = None  # the layer whose rows speak beside the host (mixture.py), None where none do

    def __init__(self, width: int, context: int, memories: Mapping[int, Memory] | None = None) -> None:
        super().__init__()
        self.width, self.context = width, context
        self.memories = nn.ModuleDict({str(layer): memory for layer, memory in (memories or {}).items()})
        self.gates: dict[int | str, Tensor] = {}

    @property
    def memory_layers(self) -> tuple[int, ...]:
        """Layers that carry a memory."""
        return tuple(int(layer) for layer in self.memories)

    @property
    def gated(self) -> tuple[int | str, ...]:
        """Where gates are: layers that carry a memory, and MIXTURE where there is one."""
        return self.memory_layers

    @property
    def convolved_layers(self) -> tuple[int, ...]:
        """Layers whose memory has a convolution."""
        return tuple(int(layer) for layer, memory in self.memories.items() if memory.convolution is not None)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def make_cache(self, batch: int = 1) -> CacheLike:
        """An empty cache for `batch` texts of equal length."""

    @abstractmethod
    def forward(
        self, tokens_BT: Tensor, memory: Mapping[int, Tensor] | None = None, cache: CacheLike | None = None, last: int = 0
    ) -> Tensor:
        """Logits [B, T, V] for token ids int64 [B, T]; with `last`, of so many last positions only.

        memory: layer -> what was looked up there, [B, T, M]; None (or a layer left out) runs without that memory.
        cache: continues after the tokens it holds and takes these in; together they must not exceed the context.
        """

    def losses(self, tokens_BT: Tensor, targets_BT: Tensor, memory: Mapping[int, Tensor] | None = None) -> Tensor:
        """-log p of the token that follows each, nats, f32 [B, T]."""
        return cross_entropy(self(tokens_BT, memory), targets_BT)

    def mean_loss(self, tokens_BT: Tensor, targets_BT: Tensor, memory: Mapping[int, Tensor] | None = None) -> Tensor:
        """The mean of `losses`, which training makes smaller."""
        return self.losses(tokens_BT, targets_BT, memory).mean()

    def remember(self, layer: int, hidden: Tensor, memory_BTM: Tensor, cache: CacheLike | None) -> Tensor:
        """What the memory of `layer` adds to `hidden`, [B, T, G, D] or [B, T, D] as there."""
        past_BSGD = cache.past(layer) if cache is not None else None
        addition, gate_BTG, inputs_BTGD = self.memories[str(layer)](hidden, memory_BTM, past_BSGD)
        if cache is not None and inputs_BTGD is not None:
            cache.take_in(layer, inputs_BTGD)
        self.gates[layer] = gate_BTG.detach()
        return addition  # type: ignore[no-any-return]

    def stored(self) -> dict[str, nn.Parameter]:
        """The named parameters that an artifact holds: all that cannot be found elsewhere."""
        return dict(self.named_parameters())

    def host_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Named parameters of the transformer itself, memories left out."""
        return ((name, p) for name, p in self.named_parameters() if not name.startswith(OF_MEMORY))
