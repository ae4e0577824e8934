"""Rows from counts: what the count-only model knows of a gram, written into its row before any training.

In logarithms interpolated Kneser-Ney (corpus/count_model.py) is a sum over orders of sparse terms: up to a constant, which a
softmax does not see,

    log p(k | g) = log p(k | g') + ratio(g, k),  where k followed g  ratio(g, k) = log(1 + (c(g k) - D) / (gamma(g) c(g) p(k | g')))

with g' the gram without its oldest token. A row of g holds r such that u_k . r is close to ratio(g, k), u_k the vectors of tokens
(statistics.py), so that the logits are the sum of what the rows of all orders say, whatever a memory and a host make of it.
Few numbers for many tokens say nothing exactly. So where rows of g' say less of k than p(k | g'), or more, the row of g has the
difference added to its ratio (`ratio_kernels.say`): what one order falls short of is made up for by the next.

* Single ids, where the table has rows of order 1 and its vectors are its own: r is learnt (order_one.py), and from what that says
  all longer grams go on.
* Few tokens followed (nearly all grams): r = sum weight_k u_k over the _MOST tokens worth most, by least squares with a penalty on
  r, since what a row says of tokens that never followed is noise (`ratio_kernels.solve`).
* More than _MANY followed, or g is _OFTEN in the text, and more often than one token in _SELDOM; as many times over as the
  vocabulary, with which the cost grows, is larger than _USUAL: r by conjugate gradients on the cross-entropy against p(. | g).
* Grams that share a row: it is the most frequent one's. A mean would be nobody's.

What a position's own document put there is left out while it is trained on (left_out.py). So all text serves both to fill rows and
to train on.
Memory: about 37 bytes for each gram, with its next token, of every order, and 100 for each of the order that is filled.
Shapes: T tokens, V vocabulary, H heads, E numbers per row, M numbers of an order, G grams with their next token, C grams, P some.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.corpus.artifact import Stream
from engram_cli.corpus.count_model import REST, Level, estimate_levels, ids_of, rest_of
from engram_cli.model.data import Ids, Windowed
from engram_cli.model.left_out import own_tensors
from engram_cli.model.logit_fit import fit_logits
from engram_cli.model.order_one import OrderOne, learn_order_one
from engram_cli.model.precision import computes_bfloat16
from engram_cli.model.ratio_kernels import add_up, claim, interpolate, log_ratios, own_weights, say, solve
from engram_cli.model.threads import single_threads
from engram_cli.store.resources import need_memory
from engram_cli.table.layout import LayerLayout
from engram_cli.table.rows import Rows

_BLOCK = 1 << 14  # grams, or tokens, at once
_BLOCK_BYTES = 1 << 20  # of rows in f32 at once
_MOST, _PENALTY = 48, 1.0
_MANY, _OFTEN, _SELDOM, _USUAL = 48, 32, 200_000, 8192
_DENSE, _FEWEST = 1 << 18, 32  # logits at once, of so many grams at least: a core's cache full, but a matrix for each product
_SHARE = 16  # a document with more than one token of so many counts as several
_SORTING, _FILLING = 48, 100  # bytes of memory: of a token while grams are sorted, of a gram while its order is filled
_LESS = "give less text, lower the highest of hash.orders, or set rows.init"
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class _Order:
    """A level of the count-only model with what follows from it and the level below: probability_G f64; ratio_G, to what rows of
    shorter grams say, f32; kept_G, the share of the ratio that remains with one occurrence less, f32."""

    level: Level
    probability_G: Floats
    ratio_G: Floats
    kept_G: Floats


class Counted:
    """The count-only model of a stream whose contexts are the windows that the hash sees: `levels[n]` has contexts of n ids.

    order_one: what takes the place of its order 1 once that is learnt.
    Raises ResourceError where memory does not suffice to sort the grams.
    """

    def __init__(self, source: Windowed, max_order: int, vocab: int) -> None:
        tokens = len(source.stream.tokens_T) - 1
        need_memory(_SORTING * tokens, f"sorting the grams of {tokens:,} tokens", _LESS)
        self.vocab = vocab
        self.order_one: OrderOne | None = None
        self.levels = estimate_levels(_ids(source, max_order), _documents(source.stream))
        lowest = self.levels[0]
        self.frequency_V = np.full(vocab, lowest.backoff_C[0] / vocab)
        self.frequency_V[lowest.token_G] += lowest.discounted_G
        self.frequency_V /= lowest.total_C[0]

    def learn(self, vectors_VM: Tensor, seed: int) -> OrderOne:
        """Learn order 1, beginning with these vectors, and from now on go by what is learnt."""
        with single_threads() as pool:
            self.order_one = learn_order_one(self.levels[1], self.frequency_V, vectors_VM, seed, pool)
        self.frequency_V = self.order_one.frequency_V
        return self.order_one

    def shortened(self, context_P: Ids, order: int) -> list[Ids]:
        """The newest 0, 1, ... `order` ids of contexts of that many: places in `context_C` of each level, [P]."""
        contexts = [context_P]
        for level in self.levels[order:0:-1]:
            contexts.append(rest_of(level.context_C[contexts[-1]]))
        return contexts[::-1]

    def windows(self, context_P: Ids, order: int) -> Ids:
        """Contexts of `order` ids as windows, newest id first: int64 [P, order]."""
        contexts = self.shortened(context_P, order)
        return np.stack([ids_of(self.levels[n].context_C[contexts[n]]) for n in range(1, order + 1)], axis=1)

    def order(self, number: int, lower_G: Floats, said_G: Floats, pool: ThreadPoolExecutor) -> _Order:
        """For contexts of `number` ids, given the probabilities of the level below and what rows say that these are."""
        level, size = self.levels[number], len(self.levels[number].gram_G)
        probability_G, ratio_G, kept_G = np.empty(size), np.empty(size, np.float32), np.empty(size, np.float32)
        given = (level.starts_C1, level.gram_G, level.count_G, level.discounts, level.total_C, level.backoff_C)
        results = (probability_G, ratio_G, kept_G)
        parts = _parts(len(level.context_C))
        tasks = [pool.submit(log_ratios, *part, *given, REST, lower_G, said_G, *results) for part in parts]
        for task in tasks:
            task.result()
        if number == 1 and self.order_one:
            self.order_one.probabilities(level, pool, probability_G)
        return _Order(level, probability_G, ratio_G, kept_G)

    def distributions(self, contexts: Sequence[Ids]) -> Floats:
        """p(. | context) for contexts as `shortened` has them, or the first of these, f32 [P, V]; of none: how
        frequent tokens are."""
        if self.order_one and len(contexts) > 1:
            p_PV, counted = self.order_one.distributions(contexts[1]), 2
        else:
            p_PV, counted = np.repeat(self.frequency_V.astype(np.float32)[None], len(contexts[0]), axis=0), 1
        for level, at_P in zip(self.levels[counted:], contexts[counted:], strict=False):
            given = (level.starts_C1, level.token_G, level.count_G, level.discounts, level.total_C, level.backoff_C)
            interpolate(at_P, *given, p_PV)
        return p_PV


def _ids(source: Windowed, max_order: int) -> Iterator[npt.NDArray[np.uint32]]:
    """What `estimate_levels` wants of a stream and its windows."""
    yield source.stream.tokens_T[1:].astype(np.uint32)
    tokens = len(source.stream.tokens_T) - 1
    for back in range(max_order):
        ids_T = np.empty(tokens, np.uint32)
        for first, last in _parts(tokens):
            ids_T[first:last] = source.windows(first, last)[:, back]
        yield ids_T


def _documents(stream: Stream) -> npt.NDArray[np.uint32]:
    """The number of the document of each position; of the parts of a document that is much of the text, each has its own."""
    longest = max(1, len(stream.tokens_T) // _SHARE)
    return np.cumsum(stream.position_T[:-1] % longest == 0, dtype=np.uint32)


def fill_rows(layer: LayerLayout, rows: Rows, counted: Counted, vectors_VM: Tensor) -> dict[str, npt.NDArray[np.generic]]:
    """Fill a layer's rows, all zero before, with what follows each gram that was counted; returns what `LeftOut` needs.

    Raises ResourceError where memory does not suffice for the grams.
    """
    most = max(len(level.gram_G) for level in counted.levels)
    need_memory(_FILLING * most, f"filling rows from {most:,} grams", _LESS)
    left_out: dict[str, npt.NDArray[np.generic]] = {f"gram-{n}": level.gram_G for n, level in enumerate(counted.levels)}
    lower_G = said_G = counted.frequency_V[counted.levels[0].token_G]
    with single_threads() as pool:
        for number in range(1, len(counted.levels)):
            order = counted.order(number, lower_G, said_G, pool)
            below_G, lower_G = said_G, order.probability_G
            said_G = lower_G  # where there are no rows, or rows that were learnt as they are
            if number < layer.orders[0]:
                continue
            owned_CH, weight_G = np.zeros((len(order.level.context_C), 0), bool), np.zeros(len(order.ratio_G), np.float32)
            if number in layer.orders:
                filling = _Filling(layer, rows, counted, number, order, vectors_VM, pool)
                owned_CH, weight_G = filling.owned_CH, filling.weight_G
                filling.fill()
                if number < layer.max_order and not filling.learnt:
                    said_G = filling.said(below_G)
            left_out |= own_tensors(number, order.level, order.kept_G, owned_CH, weight_G)
    return left_out


class _Filling:
    """The rows of one order while they are filled: `fit` and `solve` find what each gram says, `write` writes it.

    owner_R: the gram whose a row is, -1 for nobody's; owned_CH: whether that is the gram that names it; weight_G: how much of the
    next token's vector is in the row, f32; dense_P: the grams whose rows are fitted to whole distributions, fitted_PM, and place_C
    where there; learnt: where all these rows come from, None where counts are all there is.
    """

    def __init__(
        self,
        layer: LayerLayout,
        rows: Rows,
        counted: Counted,
        number: int,
        order: _Order,
        vectors_VM: Tensor,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.layer, self.rows, self.counted = layer, rows, counted
        self.number, self.order, self.vectors_VM, self.pool = number, order, vectors_VM, pool
        self.coarse_VM = vectors_VM.bfloat16() if computes_bfloat16(vectors_VM.device) else vectors_VM
        self.heads = layer.heads_of(number)
        level, self.begin = order.level, layer.offsets_H[self.heads.start]
        named_CH = np.empty((len(level.context_C), self.heads.stop - self.heads.start), np.int64)
        list(pool.map(partial(self._name, named_CH), _parts(len(named_CH))))
        self.owner_R = np.full(sum(layer.primes_H[self.heads]), -1, np.int64)
        claim(named_CH, level.total_C, np.zeros(len(self.owner_R)), self.owner_R)
        self.owned_CH = self.owner_R[named_CH] == np.arange(len(named_CH))[:, None]
        self.learnt = counted.order_one if number == 1 else None
        self.owns_C = self.owned_CH.any(axis=1)
        self.dense_P = np.flatnonzero(self.owns_C & self._dense())
        self.fitted_PM = np.empty((len(self.dense_P), vectors_VM.shape[1]), np.float32)
        self.place_C = np.full(len(self.owns_C), -1, np.int32)
        self.place_C[self.dense_P] = np.arange(len(self.dense_P))
        self.weight_G = np.zeros(len(level.gram_G), np.float32)

    def _dense(self) -> npt.NDArray[np.bool_]:
        """Which grams are worth a fit to a whole distribution, [C]."""
        if self.learnt:
            return np.ones(len(self.owns_C), bool)
        level, wide = self.order.level, max(1.0, self.counted.vocab / _USUAL)
        often = max(_OFTEN, self.counted.levels[-1].total_C.sum() / _SELDOM)
        dense_C: npt.NDArray[np.bool_] = (level.followed_C > _MANY * wide) | (level.total_C >= often * wide)
        return dense_C

    def fill(self) -> None:
        """Fill the rows."""
        if not self.learnt:
            list(self.pool.map(self.solve, _parts(len(self.owns_C))))
        list(self.pool.map(self.fit, _parts(len(self.dense_P), max(_FEWEST, _DENSE // self.counted.vocab))))
        for head, size in enumerate(self.layer.primes_H[self.heads]):
            vectors_VE = self.vectors_VM.numpy()[:, head * self.rows.dim :][:, : self.rows.dim].copy()
            parts = _parts(size, max(1, _BLOCK_BYTES // (4 * self.rows.dim)))
            list(self.pool.map(partial(self.write, head, vectors_VE), parts))

    def _name(self, named_CH: Ids, part: tuple[int, int]) -> None:
        """The rows that grams `part` name, counted from the order's first."""
        windows_PN = self.counted.windows(np.arange(*part), self.number)
        named_CH[slice(*part)] = self.layer.row_ids(windows_PN, self.heads) - self.begin

    def solve(self, part: tuple[int, int]) -> None:
        """Find what the rows of grams `part` are made of, if few tokens followed."""
        level = self.order.level
        given = (level.starts_C1, level.token_G, level.count_G, level.discounts, level.total_C, self.order.ratio_G)
        solve(*part, self.owns_C, *given, _PENALTY, _MOST, self.vectors_VM.numpy(), self.weight_G)

    def fit(self, part: tuple[int, int]) -> None:
        """Find the rows of grams `part` of those that are fitted. One more occurrence of a token moves its logit by about M over
        the number of all of them, so more than that is not taken for its own."""
        level, at_P, vectors_VM = self.order.level, self.dense_P[slice(*part)], self.vectors_VM.numpy()
        rows_PM = self.learnt.rows_CM.numpy()[at_P] if self.learnt else self._fitted(at_P)
        self.fitted_PM[slice(*part)] = rows_PM
        own_weights(at_P, level.starts_C1, level.token_G, level.total_C, vectors_VM, rows_PM, self.weight_G)

    def _fitted(self, at_P: Ids) -> Floats:
        """Rows of grams, beginning with what was solved for: [P, M]."""
        level, vectors_VM = self.order.level, self.vectors_VM.numpy()
        rows_PM = np.zeros((len(at_P), vectors_VM.shape[1]), np.float32)
        add_up(at_P, level.starts_C1, level.token_G, self.weight_G, vectors_VM, self.place_C[:0], rows_PM, rows_PM)
        p_PV = torch.from_numpy(self.counted.distributions(self.counted.shortened(at_P, self.number)))
        rows_PM += fit_logits(self._logits(at_P, torch.from_numpy(rows_PM)), p_PV, self.coarse_VM).numpy()
        return rows_PM

    def write(self, head: int, vectors_VE: Floats, part: tuple[int, int]) -> None:
        """Write rows `part` of a head, counted from its first, in which vectors_VE stand for tokens: all, where any is a gram's.
        One by one, through the map, they took six times as long."""
        first = self.layer.offsets_H[self.heads][head] + part[0]
        owner_R = self.owner_R[first - self.begin :][: part[1] - part[0]]
        if (owner_R < 0).all():
            return
        level, numbers = self.order.level, slice(head * self.rows.dim, (head + 1) * self.rows.dim)
        said = (level.starts_C1, level.token_G, self.weight_G, vectors_VE)
        rows_RE = np.zeros((len(owner_R), self.rows.dim), np.float32)
        add_up(owner_R, *said, self.place_C, self.fitted_PM[:, numbers], rows_RE)
        self.rows.write_range(first, rows_RE)

    def said(self, lower_G: Floats) -> Floats:
        """p(token | context) of all grams as the rows of up to this order have it, given that of up to the order below: f64 [G]."""
        frequency_V, vectors_VM = self.counted.frequency_V.astype(np.float32), self.vectors_VM.numpy()
        square_MM = vectors_VM.T @ (frequency_V[:, None] * vectors_VM)
        said_G = np.empty(len(self.order.level.gram_G))
        list(self.pool.map(partial(self.say, lower_G, frequency_V, square_MM, said_G), _parts(len(self.owns_C))))
        return said_G

    def say(self, lower_G: Floats, frequency_V: Floats, square_MM: Floats, said_G: Floats, part: tuple[int, int]) -> None:
        """Fill in what `said` returns for grams `part`. What stands in rows that are others' is not theirs to make up for."""
        level, vectors_VM, owned_PH = self.order.level, self.vectors_VM.numpy(), self.owned_CH[slice(*part)]
        at_P = np.where(self.owns_C[slice(*part)], np.arange(*part), -1)
        rows_PM = np.zeros((len(at_P), vectors_VM.shape[1]), np.float32)
        said = (level.starts_C1, level.token_G, self.weight_G, vectors_VM)
        add_up(at_P, *said, self.place_C, self.fitted_PM, rows_PM)
        rows_PM *= np.repeat(owned_PH, self.rows.dim, axis=1)
        square_P = ((rows_PM @ square_MM) * rows_PM).sum(1)
        given = (level.starts_C1, level.gram_G, level.token_G, REST, lower_G, vectors_VM, frequency_V)
        say(*part, *given, rows_PM, square_P, said_G)

    def _logits(self, context_P: Ids, rows_PM: Tensor) -> Tensor:
        """What the logits are for contexts with these rows of this order: [P, V].

        The rows of shorter orders count as they were filled, so that what they fell short of is made up for; where the table has
        none, counts speak for them.
        """
        layer, windows_PN = self.layer, self.counted.windows(context_P, self.number)
        shortest = self.counted.shortened(context_P, self.number)[: layer.orders[0]]
        shorter = slice(0, layer.heads_of(self.number).start)
        if shorter.stop:
            values_PHE = torch.from_numpy(self.rows.take(layer.row_ids(windows_PN, shorter)))
            rows_PM = rows_PM + values_PHE.view(len(context_P), -1, rows_PM.shape[1]).sum(1)
        return torch.addmm(torch.from_numpy(self.counted.distributions(shortest)).log(), rows_PM, self.vectors_VM.T)


def _parts(size: int, step: int = _BLOCK) -> list[tuple[int, int]]:
    return [(first, min(first + step, size)) for first in range(0, size, step)]
