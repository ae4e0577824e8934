"""The memory of one layer: what was looked up, gated by the context, is added to the residual stream.

    key = W_K e,  value = W_V e,  score = RMSNorm(hidden) . RMSNorm(key) / sqrt(width)
    gate = sigmoid(sign(score) * sqrt(max(|score|, 1e-6))),  addition = gate * value

(arXiv 2601.07372; the signed square root is in the published demo and in released models, not in the paper's text.)
e is the concatenation of the looked-up rows, heads x dim numbers wide. Rows are not parameters of this module: a batch brings
its own (model/train.py), so that nothing here grows with the table.
Shapes: B batch, T tokens, M = heads * dim, D width.
"""

import math

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """Gate and value projection for one layer.

    width: D; memory_width: M; signed_sqrt: whether the score passes the demo's signed square root.
    """

    def __init__(self, width: int, memory_width: int, signed_sqrt: bool = True) -> None:
        super().__init__()
        self.key = nn.Linear(memory_width, width, bias=False)
        self.value = nn.Linear(memory_width, width, bias=False)
        self.hidden_norm = nn.RMSNorm(width, eps=1e-6)
        self.key_norm = nn.RMSNorm(width, eps=1e-6)
        self.signed_sqrt = signed_sqrt

    def gate(self, hidden_BTD: Tensor, memory_BTM: Tensor) -> Tensor:
        """How far each position opens for what it looked up: [B, T, 1], between 0 and 1."""
        hidden_BTD, key_BTD = self.hidden_norm(hidden_BTD), self.key_norm(self.key(memory_BTM).float())
        score_BT1 = (hidden_BTD * key_BTD).sum(-1, keepdim=True) / math.sqrt(hidden_BTD.shape[-1])
        if self.signed_sqrt:
            score_BT1 = score_BT1.sign() * score_BT1.abs().clamp_min(1e-6).sqrt()
        return torch.sigmoid(score_BT1)

    def forward(self, hidden_BTD: Tensor, memory_BTM: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to the residual stream [B, T, D], and the gate [B, T, 1]."""
        gate_BT1 = self.gate(hidden_BTD, memory_BTM)
        return gate_BT1 * self.value(memory_BTM), gate_BT1
