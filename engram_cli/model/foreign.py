"""A Hugging Face causal language model as the host: memories are added by hooks before the layers named, the model stays as it is.

It is frozen unless the recipe says otherwise, and a memory just made adds exact zeros, so that training starts from the very host;
at its output rows from counts have something to say at once (output_vectors.py).
Keys and values lie in the cache of transformers; what the memories' convolutions have seen lies beside them and is cut and
reordered with them. Reading a host's directory is model/host_directory.py's.
Shapes: B batch, T tokens, S cached tokens, G branches, D width, V vocabulary.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engram_cli.model.carrier import CacheLike, Carrier
from engram_cli.model.memory import Memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ForeignCache:
    """Keys and values of the host, and the inputs of its memories' convolutions, for the tokens seen so far."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        from transformers import DynamicCache

        self.store = DynamicCache()
        self.convolved: dict[int, Tensor] = {}

    @property
    def length(self) -> int:
        length: int = self.store.get_seq_length()
        return length

    @length.setter
    def length(self, length: int) -> None:
        if length == 0:
            self._forget()
        elif length < self.length:
            self.store.crop(length - self.length)
            self.convolved = {layer: inputs[:, :length] for layer, inputs in self.convolved.items()}

    def past(self, layer: int) -> Tensor | None:
        return self.convolved.get(layer)

    def take_in(self, layer: int, inputs_BTGD: Tensor) -> None:
        past = self.past(layer)
        self.convolved[layer] = inputs_BTGD if past is None else torch.cat([past, inputs_BTGD], dim=1)

    def reorder(self, places: Sequence[int]) -> None:
        self.store.batch_select_indices(torch.tensor(places))
        self.convolved = {layer: inputs[list(places)] for layer, inputs in self.convolved.items()}


class ForeignHost(Carrier):
    """`model` with memories. Unless all of it is frozen it is copied, so that one loaded model serves several hosts.

    vocab: V, of the tokenizer; logits beyond it, which some models have for the sake of round numbers, are left out.
    context: tokens that it sees; trained: which part of the model trains, `none`, `last` (its last block) or `all`.
    """

    pretrained = True
    computes_in_threads = False  # hooks hold what one pass looked up

    def __init__(
        self, model: "PreTrainedModel", vocab: int, context: int, memories: Mapping[int, Memory], trained: str = "none"
    ) -> None:
        config: Any = model.config.get_text_config()
        super().__init__(config.hidden_size, context, memories)
        self.model = model if trained == "none" else copy.deepcopy(model)
        self.vocab = vocab
        self._keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.model.requires_grad_(trained == "all")
        self.blocks[-1].requires_grad_(trained != "none")
        self._trained = {name for name, parameter in self.host_parameters() if parameter.requires_grad}

    @property
    def blocks(self) -> nn.ModuleList:
        """The first list of modules that is as long as the config says; experts and the like lie inside it."""
        lists = (module for module in self.model.modules() if isinstance(module, nn.ModuleList))
        layers = self.model.config.get_text_config().num_hidden_layers
        return next(modules for modules in lists if len(modules) == layers)

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights for the memories, but a value projection of zeros: the logits are the model's own, bit for bit."""
        for memory in self.memories.values():
            assert isinstance(memory, Memory)
            memory.initialise(generator)
            nn.init.zeros_(memory.value.weight)

    def stored(self) -> dict[str, nn.Parameter]:
        """What was trained, and the memories; the rest is where the model is."""
        return {name: p for name, p in self.named_parameters() if name in self._trained or name.startswith("memories.")}

    def make_cache(self, batch: int = 1) -> ForeignCache:
        return ForeignCache()

    def forward(
        self, tokens_BT: Tensor, memory: Mapping[int, Tensor] | None = None, cache: CacheLike | None = None, last: int = 0
    ) -> Tensor:
        assert cache is None or isinstance(cache, ForeignCache)
        keep = {"logits_to_keep": last} if self._keeps_last else {}
        hooks = [self._hook(layer, looked_up, cache) for layer, looked_up in (memory or {}).items()]
        try:
            store = {} if cache is None else {"cache": cache.store}
            output = self.model(input_ids=tokens_BT, use_cache=cache is not None, **store, **keep)
        finally:
            for hook in hooks:
                hook.remove()
        logits_BTV: Tensor = output.logits[:, -last:, : self.vocab]
        return logits_BTV

    def _hook(self, layer: int, memory_BTM: Tensor, cache: CacheLike | None) -> Any:
        """Let the layer read its hidden states with what its memory adds to them; at the output, the logits the last ones."""

        def added(hidden_BTD: Tensor) -> Tensor:
            return hidden_BTD + self.remember(layer, hidden_BTD, memory_BTM, cache).to(hidden_BTD.dtype)

        def before(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (added(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": added(kwargs["hidden_states"])}

        def after(base: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            output.last_hidden_state = added(output.last_hidden_state)
            return output

        if layer == len(self.blocks):
            return self.model.base_model.register_forward_hook(after)
        return self.blocks[layer].register_forward_pre_hook(before, with_kwargs=True)
