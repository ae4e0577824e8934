"""The memory of one layer: what was looked up, gated by the context, is added to the residual stream.

    key = W_K e,  value = W_V e,  score = RMSNorm(hidden) . RMSNorm(key) / sqrt(width)
    gate = sigmoid(sign(score) * sqrt(max(|score|, 1e-6))),  v = gate * value
    addition = v, or with the short convolution  v + SiLU(depthwise causal convolution of RMSNorm(v))

(arXiv 2601.07372; the signed square root is in the published demo and in released models, not in the paper's text.)
e is the concatenation of the looked-up rows, heads x dim numbers wide. Rows are not parameters of this module: a batch brings
its own (model/train.py), so that nothing here grows with the table. Each branch of the residual stream has its own W_K, norms and
gate; W_V and what was looked up are shared. `MemoryRecipe` says which parts there are: the demo has all (4 branches, biases,
convolution = "random", norm_eps = 1.1920929e-07); DeepSeek-V4.1 has 4 branches, and neither biases nor convolution; its `wkv` is
W_K of all branches on top of W_V.
Shapes: B batch, T tokens, S tokens before them, G branches, M = heads * dim, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engram_cli.recipe import MemoryRecipe

_KERNEL = 4  # inputs that the convolution weighs for one output, in the paper and wherever it was published
_CONVOLUTION_EPS = 1e-5  # of its norm, in the demo


class BranchNorm(nn.Module):
    """RMSNorm over the width, with a gain for each branch: weight [G * D]."""

    def __init__(self, width: int, branches: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(branches * width))
        self.eps = eps

    def forward(self, states_BTGD: Tensor) -> Tensor:
        return F.rms_norm(states_BTGD, states_BTGD.shape[-1:], eps=self.eps) * self.weight.view(states_BTGD.shape[-2:])


class ShortConvolution(nn.Module):
    """SiLU of a depthwise causal convolution over the normed values: weight [kernel, G, D], the newest input's last.

    Its inputs are `dilation` tokens apart, so that it sees `reach` tokens back; before the first token there are zeros. A sum of
    shifted products gives a text in pieces the very bits of the whole.
    """

    def __init__(self, width: int, branches: int, dilation: int) -> None:
        super().__init__()
        self.norm = BranchNorm(width, branches, _CONVOLUTION_EPS)
        self.weight = nn.Parameter(torch.zeros(_KERNEL, branches, width))
        self.dilation = dilation

    @property
    def reach(self) -> int:
        """Tokens before a position that it sees."""
        return (_KERNEL - 1) * self.dilation

    def forward(self, value_BTGD: Tensor, past_BSGD: Tensor | None) -> tuple[Tensor, Tensor]:
        """What to add to the values [B, T, G, D], and its inputs at these positions, the next `past`."""
        inputs_BTGD = self.norm(value_BTGD)
        tokens, seen_BSGD = value_BTGD.shape[1], inputs_BTGD
        if past_BSGD is not None:
            seen_BSGD = torch.cat([past_BSGD[:, -self.reach :], inputs_BTGD], dim=1)
        seen_BSGD = F.pad(seen_BSGD, (0, 0, 0, 0, self.reach + tokens - seen_BSGD.shape[1], 0))
        shifted = (seen_BSGD[:, place * self.dilation :][:, :tokens] * self.weight[place] for place in range(_KERNEL))
        return F.silu(sum(shifted, torch.zeros_like(inputs_BTGD))), inputs_BTGD


class Memory(nn.Module):
    """Gate, value projection and, where the recipe asks for it, the short convolution of one layer.

    width: D; memory_width: M; recipe: which parts it has; dilation: of the convolution, the highest order; branches: G.
    """

    def __init__(
        self, width: int, memory_width: int, recipe: MemoryRecipe | None = None, *, dilation: int = 1, branches: int = 1
    ) -> None:
        super().__init__()
        self.recipe = recipe or MemoryRecipe()
        self.branches = branches
        self.key = nn.Linear(memory_width, branches * width, bias=self.recipe.biases)
        self.value = nn.Linear(memory_width, width, bias=self.recipe.biases)
        self.hidden_norm = BranchNorm(width, branches, self.recipe.norm_eps)
        self.key_norm = BranchNorm(width, branches, self.recipe.norm_eps)
        self.convolution = ShortConvolution(width, branches, dilation) if self.recipe.convolution != "none" else None

    def gate(self, hidden: Tensor, memory_BTM: Tensor) -> Tensor:
        """How far each branch opens at each position for what it looked up: [B, T, G], between 0 and 1."""
        hidden_BTGD = hidden.unsqueeze(-2) if hidden.ndim == memory_BTM.ndim else hidden
        key_BTGD = self.key(memory_BTM).float().unflatten(-1, (self.branches, -1))
        score_BTG = (self.hidden_norm(hidden_BTGD) * self.key_norm(key_BTGD)).sum(-1) / math.sqrt(hidden.shape[-1])
        if self.recipe.signed_sqrt:
            score_BTG = score_BTG.sign() * score_BTG.abs().clamp_min(1e-6).sqrt()
        return torch.sigmoid(score_BTG)

    def forward(self, hidden: Tensor, memory_BTM: Tensor, past_BSGD: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What to add to the residual stream, the gate [B, T, G], and what the convolution took in (None without one).

        hidden: [B, T, G, D], or [B, T, D] of the one branch; the addition has its shape. past_BSGD: what the convolution took in
        on earlier passes over the same texts, end to end; its last `convolution.reach` positions matter, None: there were none.
        """
        gate_BTG = self.gate(hidden, memory_BTM)
        value_BTGD = gate_BTG.unsqueeze(-1) * self.value(memory_BTM).unsqueeze(-2)
        inputs_BTGD = None
        if self.convolution is not None:
            mixed_BTGD, inputs_BTGD = self.convolution(value_BTGD, past_BSGD)
            value_BTGD = value_BTGD + mixed_BTGD
        return value_BTGD.view(hidden.shape), gate_BTG, inputs_BTGD

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights: normal with standard deviation 1/sqrt(fan-in), gains 1, biases 0; the convolution as its recipe says."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            elif name != "convolution.weight":
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
            elif self.recipe.convolution == "random":
                nn.init.normal_(parameter, std=_KERNEL**-0.5, generator=generator)
            else:
                nn.init.zeros_(parameter)
