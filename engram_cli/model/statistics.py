"""Rows from counts: what a corpus's own statistics say about each gram, written into its rows before any training.

1. Every token gets a vector that stands for it *as something that comes next*: positive pointwise mutual information of adjacent
   tokens, truncated SVD (Levy and Goldberg 2014), centred by frequency, scaled to unit variance per number, and turned by a random
   orthogonal matrix, so that each head holds an even share of the signal.
2. A row becomes the sum of the next-token vectors over all occurrences of its grams, divided by their number plus one; head k of
   an order holds slice k. Rows of a longer order hold only what is left after the shorter orders have spoken, so that the orders
   add up.
3. The host starts in the same coordinates: its (tied) embedding is the token vectors, and W_V adds what the rows say.

A training position must not see its own next token in its rows. `leave_one_out` takes exactly that one occurrence out of what was
looked up; so all text serves both to fill the rows and to train on, and plain sees the same batches as engram.
One pass over the tokens for each order, one head of it in memory at a time.
Shapes: T tokens, V vocabulary, H heads, E numbers per row, R rows, C = heads of an order * E, D width, M = H * E.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.model.data import Windowed
from engram_cli.model.host import Host
from engram_cli.table.layout import LayerLayout
from engram_cli.table.rows import Rows

_CHUNK = 1 << 19  # tokens whose windows are held at once
_OVERSAMPLE = 32  # extra directions of the randomised SVD (Halko et al. 2011)
EMBEDDING_SCALE = 0.2
VALUE_GAIN = 1.0


@dataclass(frozen=True)
class TokenVectors:
    """vectors_VC: for each token what it adds to the rows of a gram it follows, f32, of mean 0 over the corpus;
    to_width_DC: from there to the host's coordinates (the strongest directions first, each of unit variance over the corpus),
    orthonormal rows as far as C reaches."""

    vectors_VC: Tensor
    to_width_DC: Tensor


def token_vectors(tokens_T: npt.NDArray[np.integer], vocab: int, size: int, width: int, seed: int) -> TokenVectors:
    """Next-token vectors of `size` numbers from the adjacent pairs in `tokens_T`, and their map to `width` coordinates."""
    generator = torch.Generator().manual_seed(seed)
    information_VV, follows_V = _mutual_information(tokens_T, vocab)
    principal_VC = _right_singular_vectors(information_VV, min(size, vocab), generator)
    frequency_V1 = (follows_V / follows_V.sum())[:, None]
    principal_VC = principal_VC - (frequency_V1 * principal_VC).sum(0)
    variance_C = (frequency_V1 * principal_VC.square()).sum(0)
    principal_VC = principal_VC * torch.where(variance_C > 1e-12, variance_C.rsqrt(), 0.0)
    principal_VC = torch.nn.functional.pad(principal_VC, (0, size - principal_VC.shape[1]))
    turn_CC = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    return TokenVectors(principal_VC @ turn_CC, torch.eye(width, size) @ turn_CC)


def _mutual_information(tokens_T: npt.NDArray[np.integer], vocab: int) -> tuple[Tensor, Tensor]:
    """Positive pointwise mutual information of (token, next token), sparse [V, V], and how often each token follows one, [V]."""
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
    return sparse_VV, torch.from_numpy(follows_V.astype(np.float32))


def _right_singular_vectors(matrix_VV: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The `count` strongest right singular vectors of a sparse matrix, [V, count], strongest first (Halko et al. 2011)."""
    vocab = matrix_VV.shape[1]
    probe = torch.randn(vocab, min(vocab, count + _OVERSAMPLE), generator=generator)
    for _ in range(4):
        probe = torch.linalg.qr(torch.sparse.mm(matrix_VV.t(), torch.sparse.mm(matrix_VV, probe)))[0]
    right = torch.linalg.svd(torch.sparse.mm(matrix_VV, probe), full_matrices=False)[2]
    directions_VC: Tensor = (probe @ right.T)[:, :count]
    return directions_VC


def fill_rows(
    layer: LayerLayout, rows: Rows, occurrences_R: npt.NDArray[np.float32], source: Windowed, vectors: TokenVectors
) -> None:
    """Fill a layer's rows, all zero before, from every (window, next token) of `source`.

    occurrences_R: becomes how many of them each row holds, f32 [R]; zero before.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for order in layer.orders:  # ascending: a longer order needs the shorter ones finished
            heads = layer.heads_of(order)
            fill = partial(_fill_head, layer, rows, occurrences_R, source, vectors)
            list(pool.map(fill, range(heads.start, heads.stop)))


def _fill_head(
    layer: LayerLayout,
    rows: Rows,
    occurrences_R: npt.NDArray[np.float32],
    source: Windowed,
    vectors: TokenVectors,
    head: int,
) -> None:
    order = layer.orders_H[head]
    place = head - layer.heads_of(order).start
    shorter = [layer.heads_of(other).start + place for other in layer.orders if other < order]
    slice_VE = vectors.vectors_VC[:, place * rows.dim : (place + 1) * rows.dim].contiguous()
    sums_RE = torch.zeros(layer.primes_H[head], rows.dim)
    counts_R = torch.zeros(layer.primes_H[head], dtype=torch.float64)  # f32 stops counting at 2^24
    tokens_T = source.stream.tokens_T
    for begin in range(0, len(tokens_T) - 1, _CHUNK):
        end = min(begin + _CHUNK, len(tokens_T) - 1)
        windows_TN = source.windows(begin, end)
        values_TE = slice_VE[torch.from_numpy(tokens_T[begin + 1 : end + 1].astype(np.int64))]
        for column in shorter:
            values_TE -= torch.from_numpy(rows.take(layer.row_ids(windows_TN, slice(column, column + 1))[:, 0]))
        bucket_T = torch.from_numpy(layer.row_ids(windows_TN, slice(head, head + 1))[:, 0] - layer.offsets_H[head])
        sums_RE.index_add_(0, bucket_T, values_TE)
        counts_R.index_add_(0, bucket_T, torch.ones(end - begin, dtype=torch.float64))
    held = slice(layer.offsets_H[head], layer.offsets_H[head] + layer.primes_H[head])
    occurrences_R[held] = counts_R.numpy()
    rows.put_range(held.start, (sums_RE / (counts_R[:, None] + 1)).float().numpy())


def leave_one_out(
    layer: LayerLayout,
    values_BTHE: Tensor,
    occurrences_BTH: Tensor,
    targets_BT: Tensor,
    vectors: TokenVectors,
) -> Tensor:
    """What to add to looked-up rows so that they are as if this position had not been counted: [B, T, H, E], no gradient.

    A row of n occurrences holds s / (n + 1); without one that added v it would hold (s - v) / n, which is row + (row - v) / n.
    """
    dim = values_BTHE.shape[-1]
    left_BTKE = vectors.vectors_VC[targets_BT].view(*targets_BT.shape, -1, dim)
    own = []
    for order in layer.orders:
        own.append(left_BTKE)
        left_BTKE = left_BTKE - values_BTHE[..., layer.heads_of(order), :].detach()
    removed_BTHE = values_BTHE.detach() - torch.cat(own, dim=-2)
    return removed_BTHE / occurrences_BTH.clamp_min(1)[..., None]


def initialise_host(host: Host, vectors: TokenVectors) -> None:
    """Put the host into the rows' coordinates: embedding = token vectors, W_V of each memory = the same map for each order.

    Directions of the width that the vectors do not reach keep their random start.
    """
    reached = min(vectors.to_width_DC.shape)
    with torch.no_grad():
        embedding_VD = vectors.vectors_VC @ vectors.to_width_DC.T * EMBEDDING_SCALE
        host.embedding.weight[:, :reached] = embedding_VD[:, :reached]
        share = VALUE_GAIN * EMBEDDING_SCALE / max(1, len(host.memory_layers))
        for layer in host.memory_layers:
            value: Tensor = host.memories[str(layer)].value.weight  # type: ignore[union-attr,assignment]
            value.copy_(vectors.to_width_DC.repeat(1, value.shape[1] // vectors.to_width_DC.shape[1]) * share)
