"""What every probe family's solver returns, and the two quantities all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Solution:
    """Fitted linear probes of one site, on raw activations, for `g` grid values and `t` targets.

    There is one output for two classes (towards class 1) and for continuous targets, and one a class otherwise.
    """

    coef: Tensor  # [g, t, output, d] float64
    intercept: Tensor  # [g, t, output] float64
    scale: Tensor  # [g, t] float64: scores times scale are logits; 1 where the family fits logits itself
    gap: Tensor  # [g, t, output] float64: see `class_gap`
    converged: Tensor  # [g, t] bool
    n_iter: Tensor  # [g, t] int64


def centred(coef: Tensor) -> Tensor:
    """Weights `[..., output, d]` of each class against the others: one output becomes two, of mean zero."""
    if coef.shape[-2] == 1:
        return torch.cat([-coef / 2, coef / 2], dim=-2)
    return coef - coef.mean(-2, keepdim=True)


def class_gap(coef: Tensor, class_means: Tensor, class_counts: Tensor) -> Tensor:
    """How far a class's mean lies from the mean of all others, along the unit vector of its (centred) weights.

    Args:
        coef: `[g, t, output, d]`.
        class_means: `[t, class, d]` in the same coordinates, up to a common shift.
        class_counts: `[t, class]`.

    Returns:
        `[g, t, output]` in units of the activations.
    """
    n = class_counts.sum(1, keepdim=True)
    overall = (class_means * class_counts[..., None]).sum(1, keepdim=True) / n[..., None]
    # mean_k - mean_rest = (mean_k - overall) * n / (n - n_k)
    contrast = (class_means - overall) * (n / (n - class_counts).clamp(min=1))[..., None]
    if coef.shape[-2] == 1:
        contrast, weights = contrast[:, 1:], coef
    else:
        weights = centred(coef)
    length = weights.norm(dim=-1).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.einsum("gtod,tod->gto", weights, contrast) / length
