"""Rows fitted to whole distributions, by conjugate gradients: for the few grams that many tokens follow (rows_from_counts.py).

Shapes: P places, V vocabulary, M numbers of a row.
"""

import torch
from torch import Tensor

from engram_cli.model.ratio_kernels import larger_variance

_STEPS, _STEP = 8, 1.5  # steps, and the most that a step changes a logit


def fit_logits(start_PV: Tensor, p_PV: Tensor, vectors_VM: Tensor) -> Tensor:
    """The r of each place for which softmax(start + u . r) is closest to p in cross-entropy, [P, M].

    Nonlinear conjugate gradients (Polak and Ribiere 1969), each step as long as the curvature says, but no longer than moves a
    logit by _STEP: far from the end the curvature is too small. vectors_VM may be bf16, which products are then computed in.
    """
    rows_PM = torch.zeros(len(p_PV), vectors_VM.shape[1])
    logits_PV, now_PV, change_PV = start_PV.clone(), torch.empty_like(p_PV), torch.empty_like(p_PV)
    direction_PM, before_PM = rows_PM, torch.ones_like(rows_PM)
    for _ in range(_STEPS):
        torch.softmax(logits_PV, dim=1, out=now_PV)
        gradient_PM = (torch.sub(p_PV, now_PV, out=change_PV).to(vectors_VM.dtype) @ vectors_VM).float()
        turned_P1 = (gradient_PM * (gradient_PM - before_PM)).sum(1, keepdim=True) / before_PM.square().sum(1, keepdim=True)
        direction_PM = gradient_PM + turned_P1.clamp_min(0) * direction_PM
        along_P1 = (gradient_PM * direction_PM).sum(1, keepdim=True)
        direction_PM = torch.where(along_P1 > 0, direction_PM, gradient_PM)
        change_PV.copy_(direction_PM.to(vectors_VM.dtype) @ vectors_VM.T)
        curvature_P1 = torch.empty(len(p_PV), 1)
        larger_variance(now_PV.numpy(), p_PV.numpy(), change_PV.numpy(), curvature_P1.numpy()[:, 0])
        length_P1 = (gradient_PM * direction_PM).sum(1, keepdim=True) / curvature_P1.clamp_min(1e-12)
        length_P1 = torch.minimum(length_P1, _STEP / change_PV.abs().amax(1, keepdim=True).clamp_min(1e-12))
        rows_PM = rows_PM + length_P1 * direction_PM
        logits_PV.addcmul_(length_P1, change_PV)
        before_PM = gradient_PM.where(gradient_PM.abs().amax(1, keepdim=True) > 0, torch.ones(()))
    return rows_PM
