"""Logistic regression, binary and multinomial, for all targets and penalties of a site in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probekit.probes.base import LinearProbe
from probekit.probes.lbfgs import minimise
from probekit.probes.logistic_loss import LogisticLoss, PenaltyMetric
from probekit.probes.solution import Solution, class_gap
from probekit.probes.spectrum import Eigenbasis, Standardisation

class LogisticProbe(LinearProbe):
    """Logistic regression: sum of log-losses plus `||w||^2 / (2 C)` (or `||w||_1 / C`) on standardised features.

    `C` means what it means in scikit-learn's `LogisticRegression` after a `StandardScaler`, intercept unpenalised; with
    more than two classes the model is the symmetric multinomial one.

    Args:
        C: Inverse strength of the regularisation, > 0.
        penalty: `"l2"` or `"l1"`.
        tol: Largest length of the gradient of the mean loss at which a problem counts as solved.
        max_iter: Iterations after which a problem is given up (`converged_` is then False, with a warning).
    """

    family: ClassVar[str] = "logistic"
    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)
    def __init__(
        self, C: float = 1.0, penalty: Literal["l2", "l1"] = "l2", tol: float = 1e-4, max_iter: int = 1000
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
        if min(grid) <= 0:
            raise ValueError(f"C must be positive, got {list(grid)}")
        standardisation = Standardisation.of(X)
        standard = standardisation.apply(X)
        basis = Eigenbasis.of_rows(standard)
        metric = None if bool((Y >= 0).all()) else PenaltyMetric.of_targets(standard, Y >= 0, basis)
        g, t = len(grid), Y.shape[1]
        target = torch.arange(t, device=X.device).repeat(g)
        penalty = 1 / torch.tensor(list(grid), dtype=torch.float64, device=X.device).repeat_interleave(t)
        penalty /= (Y >= 0).sum(0)[target]
        loss = LogisticLoss(basis.rotate(standard), basis.values, Y, n_classes, penalty, target, metric)
        found = minimise(loss, loss.start(), loss.precondition, tolerance=self.tol, max_iter=self.max_iter)
        v = found.x.view(g, t, n_classes - 1, -1).double()
        if n_classes > 2:  # the last class's scores were zero; the symmetric solution has mean zero
            v = torch.cat([v, torch.zeros_like(v[:, :, :1])], 2)
            v = v - v.mean(2, keepdim=True)
        coef, intercept = standardisation.fold(v[..., :-1] @ basis.vectors.T.double(), v[..., -1])
        means, counts = loss.class_means()
        means = means @ basis.vectors.T.double() * standardisation.std.double()
        return Solution(
            coef,
            intercept,
            coef.new_ones(g, t),
            class_gap(coef, means, counts),
            found.converged.view(g, t),
            found.n_iter.view(g, t),
        )
