"""L-BFGS for a batch of independent smooth convex problems, each with its own line search and its own end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (x [a, D], problem index [a]) -> (value [a] float64, gradient [a, D], size [a] of the numbers the value was summed from)
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
# (gradient [a, D], problem index [a]) -> a fixed positive definite inverse Hessian times it
Preconditioner = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Minimum:
    x: Tensor  # [problem, D]
    value: Tensor  # [problem] float64
    converged: Tensor  # [problem] bool
    n_iter: Tensor  # [problem] int64


def minimise(
    objective: Objective,
    start: Tensor,
    precondition: Preconditioner,
    *,
    tolerance: float,
    max_iter: int,
    memory: int = 10,
) -> Minimum:
    """Minimise all problems at once; what has converged leaves the batch.

    A problem has converged when no entry of its gradient exceeds `tolerance`, or when no step lowers its value by more
    than rounding while the decrease still predicted is itself within rounding.

    Two-loop recursion of Nocedal & Wright (2006), algorithm 7.4, in coordinates where `precondition` is the identity;
    steps by backtracking with the approximate Wolfe test of Hager & Zhang (2005), which stays meaningful when values
    differ by less than their rounding.
    """
    count, device = len(start), start.device
    result = Minimum(
        start.clone(),
        torch.full((count,), torch.inf, dtype=torch.float64, device=device),
        torch.zeros(count, dtype=torch.bool, device=device),
        torch.zeros(count, dtype=torch.int64, device=device),
    )
    index = torch.arange(count, device=device)
    x = start
    value, gradient, size = objective(x, index)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # (step, change of gradient, 1 / their product), oldest first
    rounding = 8 * torch.finfo(start.dtype).eps
    for iteration in range(max_iter + 1):
        done = gradient.abs().amax(1) <= tolerance
        direction = -_apply_inverse(gradient, index, pairs, precondition)
        slope = _dot(gradient, direction)
        noise = rounding * size
        flat = -slope <= 1e-2 * noise
        finished = done | flat
        if iteration == max_iter:
            finished = torch.ones_like(finished)
        if finished.any():
            where = index[finished]
            result.x[where], result.value[where] = x[finished], value[finished]
            result.converged[where], result.n_iter[where] = (done | flat)[finished], iteration
            kept = ~finished
            if not kept.any():
                break
            index, x, value, gradient, size = (a[kept] for a in (index, x, value, gradient, size))
            direction, slope, noise = (a[kept] for a in (direction, slope, noise))
            pairs = [(s[kept], y[kept], rho[kept]) for s, y, rho in pairs]
        found = _search(objective, index, x, value, gradient, size, direction, slope, noise)
        new_x, new_value, new_gradient, size, moved = found
        s, y = new_x - x, new_gradient - gradient
        product = _dot(s, y)
        usable = moved & (product > 0)
        # A pair without curvature is left out by making it vanish.
        pairs.append((s, y, torch.where(usable, 1 / product.clamp(min=1e-300), 0.0).to(s.dtype)))
        pairs = pairs[-memory:]
        x, value, gradient = new_x, new_value, new_gradient
        stuck = ~moved
        if stuck.any():
            where = index[stuck]
            result.x[where], result.value[where], result.n_iter[where] = x[stuck], value[stuck], iteration
            result.converged[where] = -slope[stuck] <= noise[stuck]
            kept = moved
            if not kept.any():
                break
            index, x, value, gradient, size = (a[kept] for a in (index, x, value, gradient, size))
            pairs = [(s[kept], y[kept], rho[kept]) for s, y, rho in pairs]
    return result


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, dtype=torch.float64)


def _apply_inverse(
    gradient: Tensor, index: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], precondition: Preconditioner
) -> Tensor:
    q = gradient.clone()
    weights = []
    for s, y, rho in reversed(pairs):
        a = rho * (s * q).sum(1)
        q -= a[:, None] * y
        weights.append(a)
    r = precondition(q, index)
    if pairs:
        s, y, rho = pairs[-1]
        curvature = (y * precondition(y, index)).sum(1)
        scale = torch.where(rho > 0, 1 / (rho * curvature).clamp(min=1e-30), torch.ones_like(rho))
        r *= scale[:, None]
    for (s, y, rho), a in zip(pairs, reversed(weights), strict=True):
        b = rho * (y * r).sum(1)
        r += (a - b)[:, None] * s
    return r


def _search(
    objective: Objective,
    index: Tensor,
    x: Tensor,
    value: Tensor,
    gradient: Tensor,
    size: Tensor,
    direction: Tensor,
    slope: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One step a problem: `(x, value, gradient, size, moved)`. Starts at the full step and shrinks only where that fails."""
    step = torch.ones_like(slope)
    new_x, new_value, new_gradient, new_size = x.clone(), value.clone(), gradient.clone(), size.clone()
    moved = torch.zeros_like(slope, dtype=torch.bool)
    trying = torch.arange(len(x), device=x.device)
    for _ in range(30):
        part = slice(None) if len(trying) == len(x) else trying
        at = x[part] + step[part, None].to(x.dtype) * direction[part]
        f, g, summed = objective(at, index[part])
        new_slope = _dot(g, direction[part])
        s, a, f0 = slope[part], step[part], value[part]
        lower = f <= f0 + 1e-4 * a * s
        level = (f <= f0 + noise[part]) & (new_slope <= -0.8 * s)
        good = (lower | level) & torch.isfinite(f)
        won = trying[good]
        new_x[won], new_value[won], new_gradient[won], new_size[won] = at[good], f[good], g[good], summed[good]
        moved[won] = True
        if good.all():
            break
        trying = trying[~good]
        # Minimum of the cubic's safer half: the secant of the slopes where both are known, else a bisection.
        secant = (a * s / (s - new_slope))[~good]
        low, high = 0.1 * a[~good], 0.5 * a[~good]
        step[trying] = torch.where(torch.isfinite(secant), secant, low).clamp(low, high)
    return new_x, new_value, new_gradient, new_size, moved
