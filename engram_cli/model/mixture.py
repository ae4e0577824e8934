"""A memory at the host's output: what its rows say by themselves, multiplied with what the host says.

    p = softmax(E (a h + A h) + U (b r + B m) + bias),   a, b = gates(h, m)

h is the hidden state that the host's own logits E h are made of, m what was looked up, r its sum over orders, and U the token
vectors that the rows were filled for (rows_from_counts.py). With A = B = 0 this is the geometric mean of both sides, each with a
weight from its gate: what both hold for likely is likelier still, and what one rules out is out. A and B, linear maps from zero,
learn what each side has to change when the other speaks too. At equal training this is 0.05 to 0.07 nats better than an
arithmetic mean of any gate that was tried, and makes one distribution where that makes two (docs/log.md).
The host first learns as a plain one does, since by the mixture's gradient a beginner learns little where the rows know the answer;
then by that gradient alone, which teaches it what the rows do not know (model/train.py). From there on it may hear the rows too,
before some of its blocks (Hearing), and E stays as it is: to train it further gains nothing. So does U: what rows mean does not
change.
Shapes: B batch, T tokens, V vocabulary, D width, C numbers of an order, M = orders * C, H hidden numbers of the gates.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HIDDEN = 64  # between the two layers of the gates
_EPS = 1e-6  # added to the mean square of rows that are heard; that of rows that say something is near 0.003
_HOST, _ROWS = 0.75, 1.5  # weights where gates are open; they begin half open, near what is best for them fixed


class Hearing(nn.Module):
    """What the residual stream gets of looked-up rows before a layer: a linear map and a gated hidden layer (SwiGLU), from zero.

    The rows of each order count alike, however much they say: a host that hears loud ones hears little else. numbers: C; width: D.
    """

    def __init__(self, numbers: int, orders: int, width: int) -> None:
        super().__init__()
        self.orders = orders
        self.direct = nn.Linear(orders * numbers, width, bias=False)
        self.gate_up = nn.Linear(orders * numbers, 2 * width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Nothing heard at first."""
        nn.init.zeros_(self.direct.weight)
        nn.init.normal_(self.gate_up.weight, std=self.gate_up.in_features**-0.5, generator=generator)
        nn.init.zeros_(self.down.weight)

    def forward(self, memory_BTM: Tensor) -> Tensor:
        order_BTOC = memory_BTM.view(*memory_BTM.shape[:-1], self.orders, -1)
        normed_BTM = F.rms_norm(order_BTOC, order_BTOC.shape[-1:], eps=_EPS).flatten(-2)
        gate_BTD, up_BTD = self.gate_up(normed_BTM).chunk(2, dim=-1)
        return self.direct(normed_BTM) + self.down(F.silu(gate_BTD) * up_BTD)  # type: ignore[no-any-return]


class Mixture(nn.Module):
    """U, the bias, the maps and the gates.

    vocab: V; numbers: C; orders: how many the rows have; width: D; heard: layers of the host before which it hears the rows.
    """

    def __init__(self, vocab: int, numbers: int, orders: int, width: int, heard: Sequence[int] = ()) -> None:
        super().__init__()
        self.orders = orders
        self.vectors = nn.Parameter(torch.zeros(vocab, numbers), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(vocab))
        self.gate_in = nn.Linear(width + orders * numbers, _HIDDEN)
        self.gate_out = nn.Linear(_HIDDEN, 2)
        self.map_host = nn.Linear(width, width, bias=False)
        self.map_rows = nn.Linear(orders * numbers, numbers, bias=False)
        self.hearing = nn.ModuleDict({str(layer): Hearing(numbers, orders, width) for layer in heard})

    def initialise(self, generator: torch.Generator) -> None:
        """Gates half open, nothing mapped and nothing heard at first."""
        for module in (self.gate_out, self.map_host, self.map_rows):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.gate_in.bias)
        nn.init.normal_(self.gate_in.weight, std=self.gate_in.in_features**-0.5, generator=generator)
        for hearing in self.hearing.values():
            hearing.initialise(generator)  # type: ignore[operator]

    def begin(self, vectors_VC: Tensor, bias_V: Tensor, host_bias_V: Tensor) -> None:
        """Take over U, and the biases of both sides. bias_V: of what rows say."""
        self.vectors.data.copy_(vectors_VC)
        self.bias.data.copy_((_HOST * host_bias_V + _ROWS * bias_V) / 2)

    def heard(self, layer: int, memory_BTM: Tensor) -> Tensor | None:
        """What the residual stream gets before `layer` of what was looked up, [B, T, D]; None where it gets nothing."""
        return self.hearing[str(layer)](memory_BTM) if str(layer) in self.hearing else None

    def forward(self, hidden_BTD: Tensor, memory_BTM: Tensor, embedding_VD: Tensor, last: int = 0) -> tuple[Tensor, Tensor]:
        """Logits [B, T, V], with `last` of so many last positions only, and b of all positions as a share of how much it can be,
        [B, T, 1]. embedding_VD: E, which receives no gradient here."""
        heard_BTX = torch.cat([hidden_BTD, memory_BTM], dim=-1)
        gate_BT2 = self.gate_out(F.silu(self.gate_in(heard_BTX))).sigmoid()
        says_BTC = memory_BTM.view(*memory_BTM.shape[:-1], self.orders, -1).sum(-2)
        host_BTD = _HOST * gate_BT2[..., :1] * hidden_BTD + self.map_host(hidden_BTD)
        rows_BTC = _ROWS * gate_BT2[..., 1:] * says_BTC + self.map_rows(memory_BTM)
        logits_BTV = F.linear(rows_BTC[:, -last:], self.vectors, self.bias) + F.linear(host_BTD[:, -last:], embedding_VD.detach())
        return logits_BTV, gate_BT2[..., 1:].float()


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """-log softmax(logits) of the targets, f32 [B, T]."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="none").view(targets_BT.shape)
