"""The host: a small decoder-only transformer (RMSNorm, RoPE, SwiGLU, tied embeddings, SDPA) that carries memories at some layers.

Without memories, or called without what they looked up, it is *plain*: the same host, the same logits bit for bit as with every
gate at zero. Its residual stream has the recipe's branches, nearly always one (connections.py).
Shapes: B batch, T tokens, S cached tokens, G branches, K attention heads, C numbers per attention head, D width, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram_cli.model.carrier import MIXTURE, CacheLike, Carrier
from engram_cli.model.connections import Connections, branches_at, connect, fork, join
from engram_cli.model.memory import Memory
from engram_cli.model.mixture import Mixture
from engram_cli.recipe import HostRecipe

_ROPE_BASE = 10_000.0


class Cache:
    """What a host keeps of the tokens seen so far, of which there are `length`; a smaller `length` takes the newest back.

    store: keys and values of every layer, [layers, 2, B, K, context, C]; convolved: layer -> inputs of its memory's convolution,
    [B, context, G, D], where it has one. All passes over one cache look up at the same layers.
    """

    def __init__(self, host: "Host", batch: int = 1) -> None:
        recipe = host.recipe
        shape = (recipe.layers, 2, batch, recipe.heads, recipe.context, recipe.width // recipe.heads)
        self.store = host.embedding.weight.new_zeros(shape)
        self.convolved = {
            layer: host.embedding.weight.new_zeros(batch, recipe.context, branches_at(layer, recipe), recipe.width)
            for layer in host.convolved_layers
        }
        self.length = 0

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.store.shape[4] - self.length

    def extend(self, layer: int, key_BKTC: Tensor, value_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; return all up to here, [B, K, S + T, C] each."""
        end = self.length + key_BKTC.shape[2]
        self.store[layer, 0, :, :, self.length : end] = key_BKTC
        self.store[layer, 1, :, :, self.length : end] = value_BKTC
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]

    def past(self, layer: int) -> Tensor | None:
        """What one layer's convolution has taken in up to here, [B, S, G, D]; None where it has none."""
        return self.convolved[layer][:, : self.length] if layer in self.convolved else None

    def take_in(self, layer: int, inputs_BTGD: Tensor) -> None:
        """Store what one layer's convolution took in."""
        self.convolved[layer][:, self.length : self.length + inputs_BTGD.shape[1]] = inputs_BTGD

    def reorder(self, places: Sequence[int]) -> None:
        """Let text number i go on from what was kept of text number `places[i]`: for beam search, and to make one text several."""
        self.store = self.store[:, :, list(places)]
        self.convolved = {layer: inputs[list(places)] for layer, inputs in self.convolved.items()}


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, recipe: HostRecipe) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.query_key_value = nn.Linear(recipe.width, 3 * recipe.width, bias=False)
        self.output = nn.Linear(recipe.width, recipe.width, bias=False)

    def forward(self, hidden_BTD: Tensor, rotation_TC: tuple[Tensor, Tensor], layer: int, cache: Cache | None) -> Tensor:
        batch, length, width = hidden_BTD.shape
        packed = self.query_key_value(hidden_BTD).view(batch, length, 3, self.heads, width // self.heads)
        query_BKTC, key_BKTC, value_BKTC = packed.permute(2, 0, 3, 1, 4)
        query_BKTC, key_BKTC = _rotate(query_BKTC, rotation_TC), _rotate(key_BKTC, rotation_TC)
        mask = None
        if cache is not None:
            seen = cache.length
            key_BKTC, value_BKTC = cache.extend(layer, key_BKTC, value_BKTC)
            if seen and length > 1:
                mask = torch.ones(length, seen + length, dtype=torch.bool, device=hidden_BTD.device).tril(seen)
        causal = mask is None and key_BKTC.shape[2] == length and length > 1
        mixed = _attend(query_BKTC, key_BKTC, value_BKTC, mask, causal)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return output


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, recipe: HostRecipe) -> None:
        super().__init__()
        self.gate_up = nn.Linear(recipe.width, 2 * recipe.feed_forward, bias=False)
        self.down = nn.Linear(recipe.feed_forward, recipe.width, bias=False)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        gate, up = self.gate_up(hidden_BTD).chunk(2, dim=-1)
        down: Tensor = self.down(F.silu(gate) * up)
        return down


class Block(nn.Module):
    """Layer number `layer`: attention and feed-forward, each behind an RMSNorm and connected with the residual stream."""

    def __init__(self, recipe: HostRecipe, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.RMSNorm(recipe.width, eps=1e-6)
        self.attention = Attention(recipe)
        self.attention_connections = connect(recipe.branches, 2 * layer)
        self.feed_forward_norm = nn.RMSNorm(recipe.width, eps=1e-6)
        self.feed_forward = FeedForward(recipe)
        self.feed_forward_connections = connect(recipe.branches, 2 * layer + 1)

    def forward(self, stream: Tensor, rotation_TC: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        heard_BTD = self.attention_norm(self.attention_connections.heard(stream))
        answer_BTD = self.attention(heard_BTD, rotation_TC, self.layer, cache)
        stream = self.attention_connections.answered(stream, answer_BTD)
        heard_BTD = self.feed_forward_norm(self.feed_forward_connections.heard(stream))
        return self.feed_forward_connections.answered(stream, self.feed_forward(heard_BTD))


class Host(Carrier):
    """Decoder-only transformer with a Memory before the attention of some layers.

    vocab: V; recipe: its sizes; mixture: the memory at its output where rows speak for themselves there.
    """

    def __init__(
        self, vocab: int, recipe: HostRecipe, memories: Mapping[int, Memory] | None = None, mixture: Mixture | None = None
    ) -> None:
        super().__init__(recipe.width, recipe.context, memories)
        self.mixture = mixture
        self.speaking_layer = None if mixture is None else recipe.layers
        self.recipe = recipe
        self.embedding = nn.Embedding(vocab, recipe.width)
        self.blocks = nn.ModuleList(Block(recipe, layer) for layer in range(recipe.layers))
        self.final_norm = nn.RMSNorm(recipe.width, eps=1e-6)
        self.bias = nn.Parameter(torch.zeros(vocab))
        cosine, sine = _rotation_tables(recipe.context, recipe.width // recipe.heads)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    @property
    def gated(self) -> tuple[int | str, ...]:
        return self.memory_layers if self.mixture is None else (*self.memory_layers, MIXTURE)

    def make_cache(self, batch: int = 1) -> Cache:
        return Cache(self, batch)

    def forward(
        self, tokens_BT: Tensor, memory: Mapping[int, Tensor] | None = None, cache: CacheLike | None = None, last: int = 0
    ) -> Tensor:
        assert cache is None or isinstance(cache, Cache)
        hidden_BTD = self.hidden(tokens_BT, memory, cache)
        spoken_BTM = self._spoken(memory)
        if self.mixture is None or spoken_BTM is None:
            return F.linear(hidden_BTD[:, -last:], self.embedding.weight, self.bias)
        logits_BTV, gate_BT1 = self.mixture(hidden_BTD, spoken_BTM, self.embedding.weight, last)
        self.gates[MIXTURE] = gate_BT1.detach()
        return logits_BTV  # type: ignore[no-any-return]

    def hidden(self, tokens_BT: Tensor, memory: Mapping[int, Tensor] | None = None, cache: Cache | None = None) -> Tensor:
        """The last hidden states [B, T, D], normalised, with what a memory at the output adds; `forward` multiplies them with the
        embedding."""
        first = cache.length if cache else 0
        last = first + tokens_BT.shape[1]
        assert last <= self.recipe.context, f"{last} tokens in a context of {self.recipe.context}"
        rotation_TC = (self.cosine[first:last], self.sine[first:last])  # type: ignore[index]
        embedding_VD = self.embedding.weight if self._spoken(memory) is None else self.embedding.weight.detach()
        stream = fork(F.embedding(tokens_BT, embedding_VD), self.recipe.branches)
        for layer, block in enumerate(self.blocks):
            stream = self._with_memory(layer, stream, memory or {}, cache)
            stream = block(stream, rotation_TC, cache)
        if cache is not None:
            cache.length = last
        normed_BTD: Tensor = self.final_norm(join(stream, self.recipe.branches))
        output = self.recipe.layers
        if memory is not None and output in memory and self.mixture is None:
            normed_BTD = normed_BTD + self.remember(output, normed_BTD, memory[output], cache)
        return normed_BTD

    def _with_memory(self, layer: int, stream: Tensor, memory: Mapping[int, Tensor], cache: Cache | None) -> Tensor:
        """The residual stream with what its memory adds before `layer`, and what is heard there of rows that speak."""
        if layer in memory:
            stream = stream + self.remember(layer, stream, memory[layer], cache)
        spoken_BTM = self._spoken(memory)
        heard_BTD = None if self.mixture is None or spoken_BTM is None else self.mixture.heard(layer, spoken_BTM)
        return stream if heard_BTD is None else stream + fork(heard_BTD, self.recipe.branches)

    def _spoken(self, memory: Mapping[int, Tensor] | None) -> Tensor | None:
        """The rows that speak for themselves at the output, [B, T, M], where they were looked up."""
        return None if self.mixture is None else (memory or {}).get(self.recipe.layers)


def initialise(host: Host, generator: torch.Generator) -> None:
    """Random weights: normal with standard deviation 0.02 for the embedding, 1/sqrt(fan-in) for the rest, and residual outputs
    scaled by 1/sqrt(2 * layers), so that the residual stream does not grow with depth (GPT-2's rule)."""
    shrink = (2 * host.recipe.layers) ** -0.5
    for name, parameter in host.host_parameters():
        if parameter.ndim < 2:
            nn.init.constant_(parameter, float(name != "bias"))
            continue
        deviation = 0.02 if name.startswith("embedding") else parameter.shape[1] ** -0.5
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            deviation *= shrink
        nn.init.normal_(parameter, std=deviation, generator=generator)
    for module in host.modules():
        if isinstance(module, Connections):
            module.begin()
    for layer in host.memory_layers:
        memory: Memory = host.memories[str(layer)]  # type: ignore[assignment]
        memory.initialise(generator)
    if host.mixture is not None:
        host.mixture.initialise(generator)


def _attend(query_BKTC: Tensor, key_BKSC: Tensor, value_BKSC: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Scaled dot-product attention. On a CPU in f32 even under autocast: its bf16 kernel takes four times as long backward."""
    if query_BKTC.device.type != "cpu":
        return F.scaled_dot_product_attention(query_BKTC, key_BKSC, value_BKSC, attn_mask=mask, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        states = (query_BKTC.float(), key_BKSC.float(), value_BKSC.float())
        return F.scaled_dot_product_attention(*states, attn_mask=mask, is_causal=causal)


def _rotation_tables(context: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (arXiv 2104.09864), [context, C] each."""
    frequency = _ROPE_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle = torch.arange(context, dtype=torch.float32)[:, None] * torch.cat([frequency, frequency])
    return angle.cos(), angle.sin()


def _rotate(states_BKTC: Tensor, rotation_TC: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = rotation_TC
    left, right = states_BKTC.chunk(2, dim=-1)
    return states_BKTC * cosine.to(states_BKTC.dtype) + torch.cat([-right, left], dim=-1) * sine.to(states_BKTC.dtype)
