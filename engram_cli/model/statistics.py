"""Where host and rows begin: token vectors from a corpus's adjacent pairs, and the host that reads rows through them.

Every token gets a vector that stands for it *as something that comes next*: positive pointwise mutual information of adjacent
tokens, truncated SVD (Levy and Goldberg 2014). They are made as unlike each other as their number allows, since a row names
its tokens by them (rows_from_counts.py): of equal length, centred by frequency, with the same variance in every direction, and
turned by a random orthogonal matrix, so that each head holds an even share.
The host starts in such coordinates: its (tied) embedding is token vectors, its bias how many others tokens follow, and W_V of a
memory adds the rows of all orders up.
Shapes: V vocabulary, C = heads of an order * numbers of a row, D width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engram_cli.model.host import Host
from engram_cli.model.memory import Memory

_OVERSAMPLE = 32  # extra directions of the randomised SVD (Halko et al. 2011)
EMBEDDING_SCALE = 0.2
_HALF_OPEN = 0.5  # a gate that knows nothing yet
_QUIET = 0.05  # gain of the last norm of a host with a memory at its output: at first rows speak, the host learns what they lack
_FAINT = 0.1  # gain of the host's side of a memory's gates, so that all start about half open


@dataclass(frozen=True)
class TokenVectors:
    """vectors_VC: f32, those from pairs of length sqrt(C), by which a row names tokens; to_width_DC: from there to the host's
    coordinates (the strongest directions first), so that its output embedding, centred, times this is vectors_VC; bias_V: what
    logits begin with (None: a foreign host has its own), of vectors from pairs log of the share of distinct ones in which a token
    is the second, as with Kneser-Ney."""

    vectors_VC: Tensor
    to_width_DC: Tensor
    bias_V: Tensor | None = None


def token_vectors(tokens_T: npt.NDArray[np.integer], vocab: int, size: int, width: int, seed: int) -> TokenVectors:
    """Vectors of `size` numbers from the adjacent pairs in `tokens_T`, and their map to `width` coordinates."""
    generator = torch.Generator().manual_seed(seed)
    information_VV, pairs_V = _mutual_information(tokens_T, vocab)
    principal_VC = _right_singular_vectors(information_VV, min(size, vocab), generator)
    principal_VC = torch.nn.functional.normalize(principal_VC)
    count_V = torch.from_numpy(np.bincount(tokens_T, minlength=vocab)).float() + 0.5
    frequency_V1 = (count_V / count_V.sum())[:, None]
    principal_VC = principal_VC - (frequency_V1 * principal_VC).sum(0)
    variance_C, directions_CC = torch.linalg.eigh((frequency_V1 * principal_VC).T @ principal_VC)
    principal_VC = principal_VC @ directions_CC.flip(1) * (variance_C.flip(0) + 1e-3 * variance_C.mean() + 1e-12).rsqrt()
    principal_VC = torch.nn.functional.pad(principal_VC, (0, size - principal_VC.shape[1]))
    turn_CC = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    vectors_VC = torch.nn.functional.normalize(principal_VC @ turn_CC) * size**0.5
    return TokenVectors(vectors_VC.contiguous(), torch.eye(width, size) @ turn_CC, ((pairs_V + 0.5) / (pairs_V + 0.5).sum()).log())


def _mutual_information(tokens_T: npt.NDArray[np.integer], vocab: int) -> tuple[Tensor, Tensor]:
    """Positive pointwise mutual information of (token, next token), sparse [V, V], and how many tokens each follows, [V]."""
    pair_T = tokens_T[:-1].astype(np.int64) * vocab + tokens_T[1:]
    pairs, counts = np.unique(pair_T, return_counts=True)
    first, second = pairs // vocab, pairs % vocab
    precedes_V = np.bincount(first, counts, vocab)
    follows_V = np.bincount(second, counts, vocab)
    information = np.log(counts * float(len(pair_T)) / (precedes_V[first] * follows_V[second]))
    kept = information > 0
    indices = torch.from_numpy(np.stack([first[kept], second[kept]]))
    values = torch.from_numpy(information[kept].astype(np.float32))
    sparse_VV = torch.sparse_coo_tensor(indices, values, (vocab, vocab), is_coalesced=True, check_invariants=False)
    return sparse_VV, torch.from_numpy(np.bincount(second, minlength=vocab)).float()


def _right_singular_vectors(matrix_VV: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The `count` strongest right singular vectors of a sparse matrix, [V, count], strongest first (Halko et al. 2011)."""
    vocab = matrix_VV.shape[1]
    probe = torch.randn(vocab, min(vocab, count + _OVERSAMPLE), generator=generator)
    for _ in range(4):
        probe = torch.linalg.qr(torch.sparse.mm(matrix_VV.t(), torch.sparse.mm(matrix_VV, probe)))[0]
        probe = probe.contiguous()  # by columns, as it comes, a sparse product takes 17 times as long
    right = torch.linalg.svd(torch.sparse.mm(matrix_VV, probe), full_matrices=False)[2]
    directions_VC: Tensor = (probe @ right.T)[:, :count]
    return directions_VC


def initialise_host(host: Host, vectors: TokenVectors, pairs: TokenVectors) -> None:
    """Put the host where statistics let it begin. vectors: through which rows name tokens; pairs: those of adjacent tokens.

    A host whose layers hear rows begins in their coordinates: embedding = their vectors, bias = bias_V, and W_V of each memory such
    that, half open, it adds to the logits what the rows of all orders say. One that does not begins as a plain one would.
    Directions of the width that the vectors do not reach keep their random start.
    """
    begin = vectors if host.memory_layers else pairs
    reached = min(begin.to_width_DC.shape)
    with torch.no_grad():
        embedding_VD = begin.vectors_VC @ begin.to_width_DC.T * EMBEDDING_SCALE
        host.embedding.weight[:, :reached] = embedding_VD[:, :reached]
        if begin.bias_V is not None:
            host.bias.copy_(begin.bias_V)
        if host.recipe.layers in host.memory_layers:
            host.final_norm.weight.fill_(_QUIET)
        if host.mixture is not None:
            assert vectors.bias_V is not None
            host.mixture.begin(vectors.vectors_VC, vectors.bias_V, host.bias)
        for memory in host.memories.values():
            read_rows(memory, vectors, 1 / EMBEDDING_SCALE)


def read_rows(memory: nn.Module, vectors: TokenVectors, scale: float) -> None:
    """Let `memory`, half open, add what the rows of all orders say, times `scale`, in the host's coordinates."""
    assert isinstance(memory, Memory)
    value_DM = memory.value.weight
    value_DM.copy_(vectors.to_width_DC.repeat(1, value_DM.shape[1] // vectors.to_width_DC.shape[1]))
    value_DM *= scale / _HALF_OPEN
    memory.hidden_norm.weight.fill_(_FAINT)
