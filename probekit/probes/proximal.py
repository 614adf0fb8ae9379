"""Accelerated proximal gradient for a batch of independent L1-penalised smooth convex problems."""

from __future__ import annotations

import torch
from torch import Tensor

from probekit.probes.lbfgs import Minimum, Objective


def minimise_l1(
    objective: Objective,
    start: Tensor,
    penalty: Tensor,
    curvature: float,
    *,
    tolerance: float,
    max_iter: int,
) -> Minimum:
    """Minimise `objective + sum(penalty * |x|)` for all problems at once; what has converged leaves the batch.

    FISTA (Beck & Teboulle 2009) with the gradient restart of O'Donoghue & Candes (2015), one momentum a problem. A problem
    has converged when no entry of its proximal gradient exceeds `tolerance`.

    Args:
        objective: Smooth part.
        start: `[problem, D]`.
        penalty: `[problem, D]`, 0 for variables that are not penalised.
        curvature: Upper bound on the smooth part's second derivative along any direction.
    """
    count, device = len(start), start.device
    result = Minimum(
        start.clone(),
        torch.full((count,), torch.inf, dtype=torch.float64, device=device),
        torch.zeros(count, dtype=torch.bool, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
    )
    index = torch.arange(count, device=device)
    x, ahead = start, start
    momentum = torch.ones(count, dtype=start.dtype, device=device)
    for iteration in range(1, max_iter + 1):
        value, gradient, _ = objective(ahead, index)
        moved = ahead - gradient / curvature
        new = moved.sign() * (moved.abs() - penalty / curvature).clamp(min=0)
        residual = curvature * (new - ahead)
        done = residual.abs().amax(1) <= tolerance
        leaving = done if iteration < max_iter else torch.ones_like(done)
        if leaving.any():
            where = index[leaving]
            result.x[where], result.converged[where], result.n_iter[where] = new[leaving], done[leaving], iteration
            result.value[where] = value[leaving] + (penalty * new.abs()).sum(1)[leaving]
            kept = ~leaving
            if not kept.any():
                break
            index, x, ahead, new, penalty, momentum = (a[kept] for a in (index, x, ahead, new, penalty, momentum))
        # Where the momentum points uphill, forget it.
        uphill = ((ahead - new) * (new - x)).sum(1) > 0
        momentum = torch.where(uphill, 1.0, momentum)
        following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        ahead = new + ((momentum - 1) / following)[:, None] * (new - x)
        x, momentum = new, following
    return result
