"""Logistic regression, binary and multinomial, for all targets and penalties of a site in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probekit.probes.base import LinearProbe
from probekit.probes.lbfgs import Minimum, minimise
from probekit.probes.logistic_loss import LogisticLoss, PenaltyMetric
from probekit.probes.proximal import minimise_l1
from probekit.probes.solution import Solution, class_gap, deviation_of_rows, overall_mean, units
from probekit.probes.spectrum import Eigenbasis, Standardisation


class LogisticProbe(LinearProbe):
    """Logistic regression: sum of log-losses plus `||w||^2 / (2 C)`, or `||w||_1 / C`, on standardised features.

    `C` means what it means in scikit-learn's `LogisticRegression` after a `StandardScaler`, intercept unpenalised; with
    more than two classes the model is the symmetric multinomial one.

    With the L2 penalty the features are rotated once into the eigenbasis of their Gram matrix (into the space of the
    rows, when these are fewer), where one preconditioned L-BFGS serves all targets and values of `C`. The L1 penalty
    needs the features as they are, and many more iterations.

    Args:
        C: Inverse strength of the regularisation, > 0.
        penalty: `"l2"` or `"l1"`.
        tol: Largest entry of the gradient of the mean loss at which a problem counts as solved, as in scikit-learn (with
            the L2 penalty in the eigenbasis of the features, where entries are no smaller as a rule). Where float32
            cannot reach it, the solver stops when the loss no longer changes beyond rounding.
        max_iter: Iterations after which a problem is given up (`converged_` is then False, with a warning).
    """

    family: ClassVar[str] = "logistic"
    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)

    def __init__(
        self, C: float = 1.0, penalty: Literal["l2", "l1"] = "l2", tol: float = 1e-4, max_iter: int = 2000
    ) -> None:
        self.C = C
        self.penalty = penalty
        self.tol = tol
        self.max_iter = max_iter

    def _takes_masks(self, n: int, d: int) -> bool:
        return self.penalty == "l2" and n >= d

    def _solve(self, X: Tensor, Y: Tensor, n_classes: int | None, grid: Sequence[float]) -> Solution:
        if n_classes is None:
            raise ValueError("logistic probes read classes: for continuous targets use RidgeProbe")
        if not all(C > 0 for C in grid):
            raise ValueError(f"C must be positive, got {list(grid)}")
        if self.penalty not in ("l2", "l1"):
            raise ValueError(f"penalty must be 'l2' or 'l1', got {self.penalty!r}")
        g, t = len(grid), Y.shape[1]
        target = torch.arange(t, device=X.device).repeat(g)
        strength = 1 / torch.tensor(list(grid), dtype=torch.float64, device=X.device).repeat_interleave(t)
        strength /= (Y >= 0).sum(0)[target]  # beside the mean loss
        standardisation = Standardisation.of(X)
        solve = self._solve_l2 if self.penalty == "l2" else self._solve_l1
        rows = standardisation.apply(X)
        found, weights, intercept, means, counts = solve(rows, Y, n_classes, strength, target)
        outputs = weights.shape[1]
        coef, intercept = standardisation.fold(weights.view(g, t, outputs, -1), intercept.view(g, t, outputs))
        std, vectors = standardisation.std.double(), units(coef)
        gap = class_gap(coef, means * std, counts)
        kept = None if bool((Y >= 0).all()) else Y >= 0
        deviation = deviation_of_rows(rows, kept, vectors * std)
        centre = overall_mean(means, counts) * std + standardisation.mean.double()  # [t, d], of each target's own rows
        mean = torch.einsum("gtod,td->gto", vectors, centre)
        done, steps = found.converged.view(g, t), found.n_iter.view(g, t)
        return Solution(coef, intercept, coef.new_ones(g, t), gap, deviation, mean, done, steps)

    def _solve_l2(
        self, X: Tensor, Y: Tensor, n_classes: int, strength: Tensor, target: Tensor
    ) -> tuple[Minimum, Tensor, Tensor, Tensor, Tensor]:
        """`(minimum, weights [problem, output, d], intercept [problem, output], class means [t, class, d], counts)`."""
        basis = Eigenbasis.of_rows(X)
        metric = None if bool((Y >= 0).all()) else PenaltyMetric.of_targets(X, Y >= 0, basis)
        loss = LogisticLoss(basis.rotate(X), basis.values, Y, n_classes, strength, target, metric)
        found = minimise(loss, loss.start(), loss.precondition, tolerance=self.tol, max_iter=self.max_iter)
        v = found.x.view(len(target), n_classes - 1, -1).double()
        if n_classes > 2:  # the last class's scores were zero; the symmetric solution has mean zero
            v = torch.cat([v, torch.zeros_like(v[:, :1])], 1)
            v = v - v.mean(1, keepdim=True)
        means, counts = loss.class_means()
        vectors = basis.vectors.T.double()
        return found, v[..., :-1] @ vectors, v[..., -1], means @ vectors, counts

    def _solve_l1(
        self, X: Tensor, Y: Tensor, n_classes: int, strength: Tensor, target: Tensor
    ) -> tuple[Minimum, Tensor, Tensor, Tensor, Tensor]:
        """As `_solve_l2`."""
        values = Eigenbasis.of_rows(X).values
        rows = torch.cat([X, X.new_ones(len(X), 1)], 1)
        loss = LogisticLoss(rows, torch.zeros_like(X[0]), Y, n_classes, torch.zeros_like(strength), target)
        start = loss.start().view(len(target), n_classes - 1, -1)
        if n_classes > 2:  # every class has its own penalised weights
            start = torch.cat([start, torch.zeros_like(start[:, :1])], 1)
        outputs = start.shape[1]

        def objective(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if outputs == 1:
                return loss(x, index)
            w = x.view(len(index), outputs, -1)
            value, gradient, size = loss((w[:, :-1] - w[:, -1:]).flatten(1), index)
            gradient = gradient.view(len(index), outputs - 1, -1)
            return value, torch.cat([gradient, -gradient.sum(1, keepdim=True)], 1).flatten(1), size

        penalty = strength.to(X.dtype)[:, None, None].repeat(1, outputs, X.shape[1] + 1)
        penalty[..., -1] = 0
        bound = 0.25 if outputs == 1 else 0.5  # of diag(p) - p p' (Bohning 1992)
        curvature = bound * max(float(values[-1]) / len(X), 1.0)
        found = minimise_l1(
            objective, start.flatten(1), penalty.flatten(1), curvature, tolerance=self.tol, max_iter=self.max_iter
        )
        w = found.x.view(len(target), outputs, -1).double()
        intercept = w[..., -1] - (w[..., -1].mean(1, keepdim=True) if outputs > 1 else 0)
        return found, w[..., :-1], intercept, *loss.class_means()
