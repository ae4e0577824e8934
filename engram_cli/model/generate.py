"""Decoding on token ids: the KV cache, the window of the hash, sampling, and how fast it all is. Text is model/session.py's.

    decoder = Decoder(table)
    decoder.extend([17, 4, 99])
    for token in generate(decoder, Sampling(temperature=0)): ...

A token costs one hash, one row per head, and one pass over the cache. When the context is full, the newest half of it is kept and
run again: keys of old tokens would otherwise stand at positions that the host does not have. The windows of the hash do not see
that cut; they reach back into what was dropped.
Shapes: B batch (1), T tokens, N highest order, K candidates, V vocabulary.
"""

import time
from collections.abc import Generator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.errors import ArtifactError, ChatError
from engram_cli.model.carrier import Carrier
from engram_cli.model.table import look_up
from engram_cli.table.layout import Layout
from engram_cli.table.rows import Rows


class TableLike(Protocol):
    """What decoding needs of a table: an open `Table`, or one that was never saved. See `Table` for the fields."""

    @property
    def host(self) -> Carrier: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def rows(self) -> Mapping[int, Rows]: ...
    @property
    def canonical_V(self) -> npt.NDArray[np.uint32]: ...
    @property
    def end(self) -> int | None: ...


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Defaults suit small hosts.

    temperature: 0 takes the likeliest token; top_k: of so many likeliest (0: all); top_p: of the likeliest that together have this
    share; repetition_penalty: above 1 makes tokens that the host still sees less likely; max_tokens: of an answer; seed: equal
    seeds, equal answers. Raises ChatError where a value breaks its rule.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    repetition_penalty: float = 1.1
    max_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        _rule(0 <= self.temperature <= 10, "temperature", "from 0 (always the likeliest token) to 10", self.temperature)
        _rule(self.top_k >= 0, "top_k", "0 (all tokens) or more", self.top_k)
        _rule(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (all tokens)", self.top_p)
        _rule(0.5 <= self.repetition_penalty <= 5, "repetition_penalty", "from 0.5 to 5, 1 for none", self.repetition_penalty)
        _rule(self.max_tokens >= 1, "max_tokens", "1 or more", self.max_tokens)
        _rule(0 <= self.seed < 1 << 63, "seed", "from 0 to 2^63 - 1", self.seed)


@dataclass(frozen=True)
class Usage:
    """What decoding took: tokens and seconds of prefill and of decode, and the rows read for both, with their bytes."""

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    rows: int = 0
    bytes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__))


class Decoder:
    """One document of token ids, and what the host keeps of it.

    ids: all of it; first: the first id that the host still sees; gates: for each of the host's gates how far it opened at each id
    that was run, the mean of its branches, None where it ran without memory or not at all; usage: what it took so far.
    """

    def __init__(self, table: TableLike, memory: bool = True) -> None:
        self.table = table
        self.usage = Usage()
        self._memory = memory
        self._cache = table.host.make_cache()
        self._logits_V: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Begin a new document."""
        self.ids: list[int] = []
        self.first = 0
        self.gates: dict[int | str, list[float | None]] = {place: [] for place in self.table.host.gated}
        self._forget()

    @property
    def memory(self) -> bool:
        """Whether rows are looked up. Setting it drops the cache: keys and values depend on what the memory added below."""
        return self._memory

    @memory.setter
    def memory(self, on: bool) -> None:
        if on != self._memory:
            self._memory = on
            self._forget()

    def extend(self, ids: Sequence[int]) -> None:
        """Add ids to the end of the document; they run at the next `logits`."""
        self.ids.extend(ids)
        self._logits_V = None

    def cut(self, length: int) -> None:
        """Take the document back to its first `length` ids."""
        del self.ids[length:]
        for gates in self.gates.values():
            del gates[length:]
        self._logits_V = None
        if length > self.first:
            self._cache.length = min(self._cache.length, length - self.first)
        else:
            self._start_at(max(0, length - self._keep))

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """What comes next: f32 [V] on the CPU. Runs what has not been run; the document must not be empty."""
        assert self.ids, "a document of no tokens has no next one"
        context = self.table.host.context
        if len(self.ids) - self.first > context:
            self._start_at(len(self.ids) - self._keep)
        if self._logits_V is None:
            start = min(self.first + self._cache.length, len(self.ids) - 1)  # after a cut the last one runs again
            self._cache.length = start - self.first
            self._logits_V = self._run(start, len(self.ids))
        return self._logits_V

    def windows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Windows of the ids from `start` to `stop`, newest first: int64 [T, N]. Only these and the N-1 before them are hashed."""
        return hash_windows(self.table, self.ids, start, stop)

    @property
    def waiting(self) -> int:
        """Ids that the next `logits` runs, as far as they fit."""
        return len(self.ids) - self.first - self._cache.length

    @property
    def _keep(self) -> int:
        """Ids that are kept when the context is full."""
        return max(1, self.table.host.context // 2)

    def _forget(self) -> None:
        self._cache.length = 0
        self._logits_V = None

    def _start_at(self, first: int) -> None:
        self.first = first
        self._forget()

    def _run(self, start: int, stop: int) -> Tensor:
        """Run ids `start` to `stop` through the host; what follows the last one, f32 [V]."""
        host = self.table.host
        tokens_BT = torch.tensor([self.ids[start:stop]], device=host.device)
        memory = None
        if self._memory:
            memory = look_up(self.table.layout.layers, self.table.rows, self.windows(start, stop)[None], host.device)
            self._count_rows(stop - start)
        logits_BTV = host(tokens_BT, memory, self._cache, last=1)
        for place, gates in self.gates.items():
            gates += [None] * (start - len(gates))
            gates[start:stop] = host.gates[place][0].mean(-1).tolist() if memory else [None] * (stop - start)
        return logits_BTV[0, -1].float().cpu()  # type: ignore[no-any-return]

    def _count_rows(self, tokens: int) -> None:
        layers = self.table.layout.layers
        rows = tokens * sum(layer.heads for layer in layers)
        read = tokens * sum(layer.heads * self.table.rows[layer.layer].bytes_per_row for layer in layers)
        self.usage += Usage(rows=rows, bytes=read)


def hash_windows(table: TableLike, ids: Sequence[int], start: int, stop: int) -> npt.NDArray[np.int64]:
    """Windows of the ids of one document from `start` to `stop`, newest first: int64 [T, N]."""
    carried = min(start, table.layout.max_order - 1)
    raw_T = np.array(ids[start - carried : stop], dtype=np.int64)
    windows_TN: npt.NDArray[np.int64] = table.layout.windows(table.canonical_V[raw_T], np.arange(start - carried, stop))
    return windows_TN[carried:]


def generate(
    decoder: Decoder, sampling: Sampling, random: torch.Generator | None = None, ends: Set[int] | None = None
) -> Generator[int, None, None]:
    """Continue the document token by token, each added to it before it is yielded, until `max_tokens` or one of `ends` (which is
    not added, and never comes first). `random`: on the CPU; None: a new one from the seed; ends: None: the token that closes
    documents.

    Raises ArtifactError where the host's numbers are not finite.
    """
    random = random or torch.Generator().manual_seed(sampling.seed)
    if ends is None:
        ends = frozenset(() if decoder.table.end is None else (decoder.table.end,))
    for number in range(sampling.max_tokens):
        began, waiting = time.perf_counter(), decoder.waiting
        logits_V = decoder.logits()
        if number == 0:
            logits_V = logits_V.index_fill(0, torch.tensor(sorted(ends), dtype=torch.int64), -torch.inf)
        seen = [id for id in decoder.ids[decoder.first :] if id not in ends]
        token = sample(logits_V, seen, sampling, random)
        seconds = time.perf_counter() - began
        decoder.usage += Usage(waiting, seconds) if number == 0 else Usage(decode_tokens=1, decode_seconds=seconds)
        if token in ends:
            return
        decoder.extend([token])
        yield token


def sample(logits_V: Tensor, seen: Sequence[int], sampling: Sampling, random: torch.Generator) -> int:
    """Choose the next token id from logits f32 [V] on the CPU; `seen`: ids that the repetition penalty is about."""
    if sampling.repetition_penalty != 1 and seen:
        ids_U = torch.tensor(sorted(set(seen)))
        values_U = logits_V[ids_U]
        factor = sampling.repetition_penalty
        logits_V = logits_V.index_copy(0, ids_U, torch.where(values_U > 0, values_U / factor, values_U * factor))
    candidates = 1 if sampling.temperature == 0 else min(sampling.top_k or len(logits_V), len(logits_V))
    values_K, ids_K = logits_V.topk(candidates)
    if not values_K[0].isfinite():
        raise ArtifactError(f"a host's logits are finite, but its likeliest token has {values_K[0]:g}; build the table again")
    if candidates == 1:
        return int(ids_K[0])
    share_K = ((values_K.double() - values_K[0]) / sampling.temperature).softmax(0)
    share_K[share_K.cumsum(0) - share_K >= sampling.top_p] = 0  # the likeliest always stays
    return int(ids_K[torch.multinomial(share_K, 1, generator=random)])


def decode_speed(table: TableLike, prompt_ids: Sequence[int], tokens: int, memory: bool = True) -> float:
    """Decoded tokens per second after `prompt_ids`, greedily, with or without memory; prefill is not counted."""
    decoder = Decoder(table, memory)
    decoder.extend(prompt_ids)
    decoder.logits()  # prefill, and everything that is slow the first time
    began = time.perf_counter()
    for _ in range(tokens):
        decoder.extend([int(decoder.logits().argmax())])
    return tokens / (time.perf_counter() - began)


def _rule(holds: bool, name: str, rule: str, found: float) -> None:
    if not holds:
        raise ChatError(f"{name} must be {rule}, but it is {found:g}; give another")
