"""Order 1 in few numbers: token vectors, a bias and a row for each single id, learnt together from counts.

Thousands of tokens follow a frequent id, and whatever a row says through vectors that were made without rows (statistics.py), it
leaves much of that out. So vectors U, bias b and the rows r of order 1 are learnt together, until softmax(U r + b) is as close in
cross-entropy as it gets to what Kneser-Ney says follows each id. From there on this is what order 1 says: longer grams are
interpolated with it, and their rows add what they know beyond it.
The gradient is softmax(U r + b) - p, of some contexts a step; frequent ones come more often, by the square root, and Adam
follows. Parts of a step are computed in threads, each alone, and added up in order: bytes do not depend on how many there are.
Shapes: G grams with their next token, C contexts of one id, P some of them, V vocabulary, M numbers of a row.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.corpus.count_model import Ids, Level
from engram_cli.model.precision import computes_bfloat16
from engram_cli.model.ratio_kernels import add_up, interpolate

LARGEST_VOCAB = 1 << 15  # beyond it the time for a few visits of each context is not a build's to give
_STEPS = 200
_LOGITS, _MOST_LOGITS, _PART = 1 << 23, 1 << 24, 1 << 21  # of a step; the most; of what one thread computes at once
_CONTEXTS = 512  # of a step at least, if these are no more than _MOST_LOGITS
_RATE, _ROW_RATE, _BIAS_RATE = 0.05, 0.03, 0.01
_LAST = 0.05  # of the rates, at the end
_BETAS = (0.9, 0.95)
_SHORT, _LONG = 0.85, 1.1  # times the length they began with: how long token vectors may be
_FIRST = 4.0  # times what a row would say by one short step of gradient descent: where rows begin
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class OrderOne:
    """softmax(vectors_VM r + bias_V), with r from rows_CM, is what follows each context of one id; f32."""

    vectors_VM: Tensor
    bias_V: Tensor
    rows_CM: Tensor

    @property
    def frequency_V(self) -> Floats:
        """What follows where nothing is known of the context, f64 [V]."""
        frequency_V: Floats = torch.softmax(self.bias_V.double(), 0).numpy()
        return frequency_V

    def distributions(self, at_P: Ids) -> Floats:
        """p(. | context) for contexts by place, f32 [P, V]."""
        logits_PV = torch.addmm(self.bias_V, self.rows_CM[torch.from_numpy(at_P)], self.vectors_VM.T)
        p_PV: Floats = torch.softmax(logits_PV, 1).numpy()
        return p_PV

    def probabilities(self, level: Level, pool: ThreadPoolExecutor, probability_G: Floats) -> None:
        """Fill in p(token | context) of all grams of the level."""

        def fill(part: Tensor) -> None:
            at_P = part.numpy()
            grams = slice(level.starts_C1[at_P[0]], level.starts_C1[at_P[-1] + 1])
            row_G = np.repeat(np.arange(len(at_P)), level.followed_C[at_P])
            probability_G[grams] = self.distributions(at_P)[row_G, level.token_G[grams]]

        list(pool.map(fill, _parts(torch.arange(len(level.context_C)), len(self.vectors_VM))))


def learn_order_one(level: Level, frequency_V: Floats, vectors_VM: Tensor, seed: int, pool: ThreadPoolExecutor) -> OrderOne:
    """Learn order 1 from its `level` of the count-only model, given the order below and the vectors to begin with.

    pool: of threads that compute alone.
    """
    learning = _Learning(level, frequency_V.astype(np.float32), vectors_VM)
    generator = torch.Generator().manual_seed(seed)
    total_C = torch.from_numpy(level.total_C)
    chance_C = total_C.sqrt()
    weight_C = (total_C / chance_C / total_C.mean()).float()
    logits = max(_LOGITS, min(_CONTEXTS * len(vectors_VM), _MOST_LOGITS))
    batch = min(len(total_C), max(1, logits // len(vectors_VM)))
    rows = torch.optim.SparseAdam([learning.rows_CM], lr=_ROW_RATE, betas=_BETAS)
    groups = [{"params": [learning.vectors_VM], "lr": _RATE}, {"params": [learning.bias_V], "lr": _BIAS_RATE}]
    optimizers = (torch.optim.Adam(groups, betas=_BETAS, fused=True), rows)
    schedules = [torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, _LAST, _STEPS) for optimizer in optimizers]
    for _ in range(_STEPS):
        at_P = torch.multinomial(chance_C, batch, generator=generator)
        learning.put_gradients(_parts(at_P, len(vectors_VM)), weight_C, pool)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        learning.even_out()
    return OrderOne(learning.vectors_VM, learning.bias_V, learning.rows_CM)


class _Learning:
    """What is learnt, and its gradients."""

    def __init__(self, level: Level, frequency_V: Floats, vectors_VM: Tensor) -> None:
        self.level, self.frequency_V = level, frequency_V
        self.type = torch.bfloat16 if computes_bfloat16(vectors_VM.device) else torch.float32
        self.vectors_VM, self.bias_V = vectors_VM.clone(), torch.from_numpy(frequency_V).log()
        self.rows_CM = self._first_rows() * (_FIRST / vectors_VM.shape[1])

    def even_out(self) -> None:
        """Keep token vectors about as long as they were.

        Those of rare tokens shrink otherwise, and what the row of a longer gram says of one of these it says several times over of
        longer vectors in much the same direction.
        """
        length_V1, first = self.vectors_VM.norm(dim=1, keepdim=True), self.vectors_VM.shape[1] ** 0.5
        self.vectors_VM *= length_V1.clamp(_SHORT * first, _LONG * first) / length_V1

    def _first_rows(self) -> Tensor:
        """(p(. | context) - frequency) U, by tokens that followed alone, since p falls back on the frequencies: f32 [C, M]."""
        level, vectors_VM = self.level, self.vectors_VM.numpy()
        share_G = (level.discounted_G / np.repeat(level.total_C, level.followed_C)).astype(np.float32)
        rest_C = (1 - level.backoff_C / level.total_C).astype(np.float32)
        rows_CM = -rest_C[:, None] * (self.frequency_V @ vectors_VM)
        everyone, nobody = np.arange(len(rows_CM)), (np.zeros(0, np.int32), rows_CM[:0])
        add_up(everyone, level.starts_C1, level.token_G, share_G, vectors_VM, *nobody, rows_CM)
        return torch.from_numpy(rows_CM)

    def put_gradients(self, parts: list[Tensor], weight_C: Tensor, pool: ThreadPoolExecutor) -> None:
        """Of the cross-entropy of contexts, in parts, each of which weighs weight_C; a row's own gradient is not weighed."""
        coarse_VM, coarse_V = self.vectors_VM.to(self.type), self.bias_V.to(self.type)
        of_vectors, of_bias, of_rows = zip(
            *pool.map(lambda at_P: self._gradients(at_P, weight_C[at_P], coarse_VM, coarse_V), parts), strict=True
        )
        self.vectors_VM.grad, self.bias_V.grad = sum(of_vectors[1:], of_vectors[0]), sum(of_bias[1:], of_bias[0])
        self.rows_CM.grad = torch.sparse_coo_tensor(
            torch.cat(parts)[None], torch.cat(of_rows), self.rows_CM.shape, check_invariants=False
        )

    def _gradients(self, at_P: Tensor, weight_P: Tensor, vectors_VM: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows_PM = self.rows_CM[at_P].to(self.type)
        off_PV = torch.softmax(torch.addmm(bias_V, rows_PM, vectors_VM.T), 1).sub_(self._wanted(at_P).to(self.type))
        of_rows = (off_PV @ vectors_VM).float()
        off_PV *= weight_P[:, None].to(self.type)
        return (off_PV.T @ rows_PM).float(), off_PV.sum(0, dtype=torch.float32), of_rows

    def _wanted(self, at_P: Tensor) -> Tensor:
        """What Kneser-Ney says, f32 [P, V]."""
        p_PV = np.repeat(self.frequency_V[None], len(at_P), axis=0)
        level = self.level
        given = (level.starts_C1, level.token_G, level.count_G, level.discounts, level.total_C, level.backoff_C)
        interpolate(at_P.numpy(), *given, p_PV)
        return torch.from_numpy(p_PV)


def _parts(at_P: Tensor, vocab: int) -> list[Tensor]:
    """Contexts, as many at once as a thread computes."""
    step = max(1, _PART // vocab)
    return [at_P[first : first + step] for first in range(0, len(at_P), step)]
