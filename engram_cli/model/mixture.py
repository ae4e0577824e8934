"""A memory at the host's output: what its rows say by themselves, mixed with what the host says.

    p = (1 - w) softmax(logits) + w softmax(U r + b),   w = sigmoid(gate(hidden, e, how sure each side is))

e is what was looked up, r its sum over orders, U and b the token vectors and the bias that the rows were filled for
(rows_from_counts.py); how sure a side is, is the logarithm of its largest probability. Logits that add up trust both sides
everywhere; but where a text is unlike what the host was trained on for some minutes, it is sure of the wrong thing, while the
counts have seen far more. Mixed, a token costs at most -log w more than by what the rows say alone.
The host neither hears the rows nor learns from the mixture: it is a plain one beside them, and only the gate learns from both.
By the mixture's own gradient a host learns little where the rows know the answer, and where its logits begin with theirs it
learns more slowly what they lack (docs/log.md). U and b stay as they are: what rows mean does not change.
Shapes: B batch, T tokens, V vocabulary, D width, C numbers of an order, M = orders * C, H hidden numbers of the gate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HIDDEN = 64  # between the two layers of the gate


class Mixture(nn.Module):
    """U and b, and the gate. vocab: V; numbers: C; orders: how many the rows have; width: D."""

    def __init__(self, vocab: int, numbers: int, orders: int, width: int) -> None:
        super().__init__()
        self.orders = orders
        self.vectors = nn.Parameter(torch.zeros(vocab, numbers), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(vocab), requires_grad=False)
        self.gate_in = nn.Linear(width + orders * numbers + 2, _HIDDEN)
        self.gate_out = nn.Linear(_HIDDEN, 1)

    def initialise(self, generator: torch.Generator) -> None:
        """A gate that weighs both sides the same at first."""
        nn.init.normal_(self.gate_in.weight, std=self.gate_in.in_features**-0.5, generator=generator)
        for parameter in (self.gate_in.bias, *self.gate_out.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, logits_BTV: Tensor, hidden_BTD: Tensor, memory_BTM: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of both together, [B, T, V], and w, [B, T, 1]; hidden: what the host's logits were made of."""
        host_BTV, own_BTV = (F.log_softmax(part.float(), dim=-1) for part in (logits_BTV, self._own_logits(memory_BTM)))
        score_BT1 = self._score(hidden_BTD, memory_BTM, [host_BTV.amax(-1), own_BTV.amax(-1)])
        return _mix(host_BTV, own_BTV, score_BT1), score_BT1.sigmoid()

    def losses(self, logits_BTV: Tensor, hidden_BTD: Tensor, memory_BTM: Tensor, targets_BT: Tensor) -> Tensor:
        """-log p of the targets, [B, T], without the distributions in between; the host's gradient is that of it alone."""
        (host_BT, host_sure_BT), (own_BT, own_sure_BT) = (
            _log_probabilities(part_BTV, targets_BT) for part_BTV in (logits_BTV, self._own_logits(memory_BTM))
        )
        score_BT = self._score(hidden_BTD, memory_BTM, [host_sure_BT, own_sure_BT]).squeeze(-1)
        return -(_mix(host_BT.detach(), own_BT, score_BT) + (host_BT - host_BT.detach()))

    def _own_logits(self, memory_BTM: Tensor) -> Tensor:
        return F.linear(memory_BTM.view(*memory_BTM.shape[:-1], self.orders, -1).sum(-2), self.vectors, self.bias)

    def _score(self, hidden_BTD: Tensor, memory_BTM: Tensor, sure: list[Tensor]) -> Tensor:
        heard = [hidden_BTD, memory_BTM, torch.stack(sure, dim=-1)]
        inner_BTH = F.silu(self.gate_in(torch.cat([part.detach().float() for part in heard], dim=-1)))
        score_BT1: Tensor = self.gate_out(inner_BTH)
        return score_BT1.float()


def _mix(host: Tensor, own: Tensor, score: Tensor) -> Tensor:
    return torch.logaddexp(host + F.logsigmoid(-score), own + F.logsigmoid(score))


def _log_probabilities(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax(logits) of the targets, and the largest there is, which has no gradient; f32 [B, T] each."""
    target_BT = -cross_entropy(logits_BTV, targets_BT)
    with torch.no_grad():
        lead_BT = logits_BTV.amax(-1) - logits_BTV.gather(-1, targets_BT.unsqueeze(-1)).squeeze(-1)
        return target_BT, target_BT.detach() + lead_BT.float()


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """-log softmax(logits) of the targets, f32 [B, T]."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="none").view(targets_BT.shape)
