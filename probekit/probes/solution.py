"""What every probe family's solver returns, and the two quantities all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PER_PROBE = ("coef", "intercept", "scale", "gap", "deviation", "mean", "converged", "n_iter")
"""Names of the tensors of a `Solution`, which a `ProbeStack` has too."""


@dataclass
class Solution:
    """Fitted linear probes of one site, on raw activations, for `g` grid values and `t` targets.

    There is one output for two classes (towards class 1) and for continuous targets, and one a class otherwise.
    """

    coef: Tensor  # [g, t, output, d] float64
    intercept: Tensor  # [g, t, output] float64
    scale: Tensor  # [g, t] float64: scores times scale are logits; 1 where the family fits logits itself
    gap: Tensor  # [g, t, output] float64: see `class_gap`; NaN for continuous targets
    deviation: Tensor  # [g, t, output] float64: of the training rows along the unit vector of the (centred) weights
    mean: Tensor  # [g, t, output] float64: coordinate of the training rows' mean along the same vector
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
    overall = overall_mean(class_means, class_counts)[:, None]
    # mean_k - mean_rest = (mean_k - overall) * n / (n - n_k)
    contrast = (class_means - overall) * (n / (n - class_counts).clamp(min=1))[..., None]
    if coef.shape[-2] == 1:
        contrast = contrast[:, 1:]
    return torch.einsum("gtod,tod->gto", units(coef), contrast)


def overall_mean(class_means: Tensor, class_counts: Tensor) -> Tensor:
    """Mean of all rows `[t, d]` from class means `[t, class, d]` and counts `[t, class]`."""
    return (class_means * class_counts[..., None]).sum(1) / class_counts.sum(1)[:, None]


def units(coef: Tensor) -> Tensor:
    """Unit vectors that probes of weights `[g, t, output, d]` read along: the weights themselves, or, with several outputs,
    those of each class against the others. Zero weights stay zero."""
    weights = coef if coef.shape[-2] == 1 else centred(coef)
    return weights / weights.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def deviation_of_rows(rows: Tensor, kept: Tensor | None, weights: Tensor, chunk: int = 4096) -> Tensor:
    """Standard deviation of `rows [n, d]` times `weights [g, t, output, d]`, `[g, t, output]` float64.

    Args:
        kept: `[n, t]` bool, the rows of each target; None where all are.
    """
    g, t, outputs, d = weights.shape
    columns = weights.reshape(-1, d).to(rows.dtype)
    counted = None if kept is None else kept.double().mean(0)  # share of the rows that a target has
    total = torch.zeros(2, g * t * outputs, dtype=torch.float64, device=rows.device)
    origin = rows[:1] @ columns.T  # as good as the mean to take squares about, as far as rounding goes
    for start in range(0, len(rows), chunk):
        along = rows[start : start + chunk] @ columns.T - origin
        if kept is not None:
            along *= kept[start : start + chunk, None, :, None].expand(-1, g, t, outputs).reshape(len(along), -1)
        total[0] += along.sum(0, dtype=torch.float64)
        total[1] += along.square_().sum(0, dtype=torch.float64)
    share: Tensor | float = 1.0 if counted is None else counted[None, :, None].expand(g, t, outputs).reshape(-1)
    mean, square = total / (len(rows) * share)
    return (square - mean.square()).clamp(min=0).sqrt().view(g, t, outputs)
