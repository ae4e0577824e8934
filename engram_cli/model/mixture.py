"""What rows at the host's output say by themselves, mixed with what the host makes of them.

    p = (1 - w) softmax(logits) + w softmax(U r + b),   w = sigmoid(a . hidden + c . e)

e is what was looked up, r its sum over orders, U and b the token vectors and the bias that the rows were filled for
(rows_from_counts.py). A sum of logits trusts the host everywhere; but where a text is unlike what it was trained on for some
minutes, it is sure of the wrong thing, while the counts have seen far more. Mixed, a token costs at most -log w more than by what
the rows say alone. U and b stay as they are: what rows mean does not change while the host learns. The host in turn learns as if it
were alone, and only the gate from both together: by the mixture's own gradient a host learns little where the rows know the answer.
Shapes: B batch, T tokens, V vocabulary, D width, C numbers of an order, M = orders * C.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mixture(nn.Module):
    """U and b, and the two halves of the gate. vocab: V; numbers: C; orders: how many the rows have; width: D."""

    def __init__(self, vocab: int, numbers: int, orders: int, width: int) -> None:
        super().__init__()
        self.orders = orders
        self.vectors = nn.Parameter(torch.zeros(vocab, numbers), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(vocab), requires_grad=False)
        self.hidden_gate = nn.Linear(width, 1)
        self.memory_gate = nn.Linear(orders * numbers, 1, bias=False)
        for parameter in (*self.hidden_gate.parameters(), *self.memory_gate.parameters()):
            nn.init.zeros_(parameter)  # both sides weigh the same at first

    def forward(self, logits_BTV: Tensor, hidden_BTD: Tensor, memory_BTM: Tensor) -> Tensor:
        """Log-probabilities of both together, [B, T, V]; hidden: what the host's logits were made of."""
        host_BTV, own_BTV = (F.log_softmax(part.float(), dim=-1) for part in (logits_BTV, self._own_logits(memory_BTM)))
        return self._mix(host_BTV, own_BTV, self._score(hidden_BTD, memory_BTM))

    def gate(self, hidden_BTD: Tensor, memory_BTM: Tensor) -> Tensor:
        """w, the share of what the rows say by themselves, [B, T, 1]."""
        return self._score(hidden_BTD, memory_BTM).sigmoid()

    def losses(self, logits_BTV: Tensor, hidden_BTD: Tensor, memory_BTM: Tensor, targets_BT: Tensor) -> Tensor:
        """-log p of the targets, [B, T], without the distributions in between; the host's gradient is that of it alone."""
        host_BT, own_BT = (-cross_entropy(part, targets_BT) for part in (logits_BTV, self._own_logits(memory_BTM)))
        score_BT = self._score(hidden_BTD.detach(), memory_BTM).squeeze(-1)
        mixed_BT = self._mix(host_BT.detach(), own_BT, score_BT)
        return -(mixed_BT + (host_BT - host_BT.detach()))

    @torch.no_grad()
    def _own_logits(self, memory_BTM: Tensor) -> Tensor:
        return F.linear(memory_BTM.view(*memory_BTM.shape[:-1], self.orders, -1).sum(-2), self.vectors, self.bias)

    def _score(self, hidden_BTD: Tensor, memory_BTM: Tensor) -> Tensor:
        score_BT1: Tensor = self.hidden_gate(hidden_BTD) + self.memory_gate(memory_BTM)
        return score_BT1.float()

    @staticmethod
    def _mix(host: Tensor, own: Tensor, score: Tensor) -> Tensor:
        return torch.logaddexp(host + F.logsigmoid(-score), own + F.logsigmoid(score))


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """-log softmax(logits) of the targets, f32 [B, T]."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="none").view(targets_BT.shape)
