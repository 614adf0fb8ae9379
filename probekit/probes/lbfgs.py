"""L-BFGS for a batch of independent smooth convex problems, each with its own line search and its own end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (x [a, D], problem index [a]) -> (value [a] float64, gradient [a, D], size [a] of the numbers the value was summed from)
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
# (gradient [a, D], problem index [a]) -> a positive definite guess of the inverse Hessian there times it
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

    Compact representation of Byrd, Nocedal & Schnabel (1994, "Representations of quasi-Newton matrices and their use in
    limited memory methods", theorem 2.2), in coordinates where `precondition` is the identity (it may change between steps);
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
    index, x = torch.arange(count, device=device), start
    value, gradient, size = objective(x, index)
    moved = torch.ones(count, dtype=torch.bool, device=device)
    history = _History.empty(start, memory)
    rounding = 8 * torch.finfo(start.dtype).eps
    for iteration in range(max_iter + 1):
        direction = -history.apply_inverse(gradient, index, precondition)
        slope = _dot(gradient, direction)
        noise = rounding * size
        solved = (gradient.abs().amax(1) <= tolerance) | (-slope <= torch.where(moved, 1e-2, 1.0) * noise)
        finished = solved | ~moved | (iteration == max_iter)
        if finished.any():
            where = index[finished]
            result.x[where], result.value[where] = x[finished], value[finished]
            result.converged[where], result.n_iter[where] = solved[finished], iteration
            kept = ~finished
            if not kept.any():
                break
            index, x, value, gradient, size = (a[kept] for a in (index, x, value, gradient, size))
            direction, slope, noise = (a[kept] for a in (direction, slope, noise))
            history = history.of(kept)
        new_x, value, new_gradient, size, moved = _search(
            objective, index, x, value, gradient, size, direction, slope, noise
        )
        history = history.with_pair(new_x - x, new_gradient - gradient)
        x, gradient = new_x, new_gradient
    return result


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, dtype=torch.float64)


@dataclass
class _History:
    """The last steps and changes of the gradient, oldest first, and their products.

    A pair without positive curvature stands as zeros, which leaves it out.
    """

    steps: Tensor  # [a, m, D]
    changes: Tensor  # [a, m, D]
    products: Tensor  # [a, m, m] float64: step i times change j, for i <= j
    memory: int

    @classmethod
    def empty(cls, x: Tensor, memory: int) -> _History:
        none = x.new_empty(len(x), 0, x.shape[1])
        return cls(none, none, torch.empty(len(x), 0, 0, dtype=torch.float64, device=x.device), memory)

    def of(self, kept: Tensor) -> _History:
        return _History(self.steps[kept], self.changes[kept], self.products[kept], self.memory)

    def with_pair(self, step: Tensor, change: Tensor) -> _History:
        drop = int(self.steps.shape[1] == self.memory)
        usable = (_dot(step, change) > 0).to(step.dtype)[:, None]
        steps = torch.cat([self.steps[:, drop:], (step * usable)[:, None]], 1)
        changes = torch.cat([self.changes[:, drop:], (change * usable)[:, None]], 1)
        products = torch.nn.functional.pad(self.products[:, drop:, drop:], (0, 1, 0, 1))
        products[..., -1] = torch.bmm(steps, changes[:, -1, :, None])[..., 0].double()
        return _History(steps, changes, products, self.memory)

    def apply_inverse(self, gradient: Tensor, index: Tensor, precondition: Preconditioner) -> Tensor:
        """The inverse of the current Hessian approximation, times the gradient."""
        first = precondition(gradient, index)
        m = self.steps.shape[1]
        if m == 0:
            return first
        scaled = precondition(self.changes.flatten(0, 1), index.repeat_interleave(m)).view_as(self.changes)
        metric = torch.bmm(self.changes, scaled.mT).double()
        along_steps = torch.bmm(self.steps, gradient[..., None]).double()
        along_changes = torch.bmm(scaled, gradient[..., None]).double()
        diagonal = self.products.diagonal(dim1=1, dim2=2)
        triangle = self.products + torch.diag_embed((diagonal == 0).double())
        last, size = diagonal[:, -1], metric[:, -1, -1]
        scale = torch.where(last > 0, last / size.clamp(min=1e-300), 1.0)[:, None, None]
        u = torch.linalg.solve_triangular(triangle, along_steps, upper=True)
        right = diagonal[..., None] * u + scale * (torch.bmm(metric, u) - along_changes)
        w = torch.linalg.solve_triangular(triangle.mT, right, upper=False)
        u, w, scale = (part.to(gradient.dtype) for part in (u, w, scale[..., 0]))
        found = scale * (first - torch.bmm(u.mT, scaled)[:, 0]) + torch.bmm(w.mT, self.steps)[:, 0]
        positive = _dot(gradient, found) > 0  # always so, but for rounding
        return torch.where(positive[:, None], found, first)


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

    def acceptable(part: Tensor | slice, step: Tensor, f: Tensor, new_slope: Tensor) -> Tensor:
        lower = f <= value[part] + 1e-4 * step * slope[part]
        level = (f <= value[part] + noise[part]) & (new_slope <= -0.8 * slope[part])
        return (lower | level) & torch.isfinite(f)

    step = torch.ones_like(slope)
    new_x = x + direction
    new_value, new_gradient, new_size = objective(new_x, index)
    new_slope = _dot(new_gradient, direction)
    moved = acceptable(slice(None), step, new_value, new_slope)
    for _ in range(30):
        if moved.all():
            break
        trying = (~moved).nonzero().flatten()
        s, a, end = slope[trying], step[trying], new_slope[trying]
        # Minimum of the parabola through the slopes at both ends where there is one, within a tenth and a half.
        secant = a * s / (s - end)
        a = torch.where(torch.isfinite(secant), secant, 0.1 * a).clamp(0.1 * a, 0.5 * a)
        at = x[trying] + a[:, None].to(x.dtype) * direction[trying]
        f, g, summed = objective(at, index[trying])
        step[trying], new_slope[trying] = a, _dot(g, direction[trying])
        good = acceptable(trying, a, f, new_slope[trying])
        won = trying[good]
        new_x[won], new_value[won], new_gradient[won], new_size[won] = at[good], f[good], g[good], summed[good]
        moved[won] = True
    lost = ~moved
    if lost.any():
        new_x[lost], new_value[lost], new_gradient[lost] = x[lost], value[lost], gradient[lost]
        new_size[lost] = size[lost]
    return new_x, new_value, new_gradient, new_size, moved
