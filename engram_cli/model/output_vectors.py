"""What follows a gram, in a foreign host's own words: token vectors out of its output embedding.

Our host starts in the coordinates of the rows (statistics.py). A host that was trained already has its own: to make a token more
likely it moves its last states towards that token's output embedding. So rows name tokens by those, centred and whitened under the
corpus's frequencies, the strongest directions first; the memory's value projection then learns how much of each to add.
Shapes: V vocabulary, D width, C = heads of an order * numbers per row.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.model.statistics import TokenVectors

_FLOOR = 1e-6  # of the largest variance: a direction below it tells nothing


def output_vectors(output_VD: Tensor, tokens_T: npt.NDArray[np.integer], size: int, seed: int) -> TokenVectors:
    """Token vectors of `size` numbers, of mean 0 and unit variance over `tokens_T`, turned so that heads hold even shares."""
    frequency_V = torch.from_numpy(np.bincount(tokens_T, minlength=len(output_VD))[: len(output_VD)]).double()
    frequency_V /= frequency_V.sum()
    centred_VD = output_VD.detach().cpu().double()
    centred_VD = centred_VD - frequency_V @ centred_VD
    variance_D, direction_DD = torch.linalg.eigh(centred_VD.T @ (frequency_V[:, None] * centred_VD))
    kept = min(size, int((variance_D > _FLOOR * variance_D[-1]).sum()))
    direction_DC = direction_DD[:, -kept:].flip(1)
    deviation_C = variance_D[-kept:].flip(0).sqrt()
    turn_CC = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))[0].double()[:kept]
    vectors_VC = (centred_VD @ direction_DC / deviation_C) @ turn_CC
    return TokenVectors(vectors_VC.float(), (direction_DC * deviation_C @ turn_CC).float())
