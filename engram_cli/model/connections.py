"""How a sublayer is connected with the residual stream: what it hears of it, and what comes of its answer.

With one branch the stream itself is heard and the answer added. With several, static hyper-connections (arXiv 2409.19606) say how
much of each branch a sublayer hears, how much of its answer each branch gets, and what each branch takes over from the others:

    heard = sum over h of read[h] * branch[h],   branch'[g] = sum over h of carry[g, h] * branch[h] + write[g] * answer

They begin such that all branches remain equal and the host is the one with a single branch: each sublayer hears one branch, in
turn, all get its answer, and none takes over anything. What memories add, branch by branch, and reading in turn set them apart.
Shapes: B batch, T tokens, G branches (H: those heard), D width. A stream is [B, T, G, D], or [B, T, D] of the one branch.
"""

import torch
from torch import Tensor, nn

from engram_cli.recipe import HostRecipe


class Connections(nn.Module):
    """The residual connection of one branch, without parameters."""

    def heard(self, stream: Tensor) -> Tensor:
        """What the sublayer hears, [B, T, D]."""
        return stream

    def answered(self, stream: Tensor, answer_BTD: Tensor) -> Tensor:
        """The residual stream after the sublayer's answer."""
        return stream + answer_BTD

    def begin(self) -> None:
        """Set the parameters to where they begin."""


class HyperConnections(Connections):
    """Those of several branches: read [G], write [G], carry [G * G], flat, since what is no matrix trains without weight decay.

    branches: G; number: of the sublayer in its host, which says what branch it hears at first.
    """

    def __init__(self, branches: int, number: int) -> None:
        super().__init__()
        self.first = number % branches
        self.read = nn.Parameter(torch.empty(branches))
        self.write = nn.Parameter(torch.empty(branches))
        self.carry = nn.Parameter(torch.empty(branches * branches))

    def heard(self, stream: Tensor) -> Tensor:
        return _mixed("h,bthd->btd", self.read, stream)

    def answered(self, stream: Tensor, answer_BTD: Tensor) -> Tensor:
        carry_GH = self.carry.view(len(self.read), -1)
        return _mixed("gh,bthd->btgd", carry_GH, stream) + self.write[:, None] * answer_BTD.unsqueeze(-2)

    def begin(self) -> None:
        branches = len(self.read)
        with torch.no_grad():
            self.read.zero_()[self.first] = 1
            self.write.fill_(1)
            self.carry.copy_(torch.eye(branches).flatten())


def connect(branches: int, number: int) -> Connections:
    """The connections of sublayer `number` in a host of `branches` branches, uninitialised."""
    return HyperConnections(branches, number) if branches > 1 else Connections()


def branches_at(layer: int, recipe: HostRecipe) -> int:
    """Branches that a memory at `layer` meets: at the output they are one again."""
    return recipe.branches if layer < recipe.layers else 1


def fork(hidden_BTD: Tensor, branches: int) -> Tensor:
    """The residual stream that begins with `branches` times the same."""
    return hidden_BTD.unsqueeze(-2).expand(-1, -1, branches, -1) if branches > 1 else hidden_BTD


def join(stream: Tensor, branches: int) -> Tensor:
    """The mean of its branches, [B, T, D]: their sum, were it not for the eps of the norm behind."""
    return stream.mean(-2) if branches > 1 else stream


def _mixed(equation: str, weights: Tensor, stream: Tensor) -> Tensor:
    """A weighted sum over branches, in f32 even under autocast: else each sublayer would round the whole stream again."""
    with torch.autocast(stream.device.type, enabled=False):
        return torch.einsum(equation, weights, stream)
