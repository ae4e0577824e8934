"""What follows a gram, in a foreign host's own words: token vectors out of its output embedding.

Our host starts in the coordinates of the rows (statistics.py). A host that was trained already has its own: to make a token more
likely it moves its last states towards that token's output embedding. So rows name tokens by those, centred and whitened under
the corpus's frequencies, the strongest directions first. A memory at the host's output begins by adding to the logits a part of
what its rows say, as much as the host does not know without them; one further down has to learn how.
Shapes: V vocabulary, D width, C = heads of an order * numbers per row.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engram_cli.model.carrier import Carrier
from engram_cli.model.statistics import TokenVectors, read_rows

_FLOOR = 1e-6  # of the largest variance: a direction below it tells nothing
_TRUST = 0.4  # share of what rows say that a host hears at first: best of 0.1 to 0.5 for SmolLM2 on the Bible (2026-11-24_host.md)


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
    return TokenVectors(vectors_VC.float(), (direction_DC / deviation_C @ turn_CC).float())


def initialise_output(host: Carrier, output: int, vectors: TokenVectors) -> None:
    """Let a memory at the layer `output`, if there is one, add to the logits a part of what the rows of all orders say."""
    if output in host.memory_layers:
        with torch.no_grad():
            read_rows(host.memories[str(output)], vectors, _TRUST)
