"""Ridge regression on classes or on continuous values, for a whole grid of penalties from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from probekit.probes.base import ClosedFormProbe
from probekit.probes.solution import Solution, centred, class_gap, units
from probekit.probes.summary import Summary


class RidgeProbe(ClosedFormProbe):
    """Least squares with an L2 penalty: `sum (y - score)^2 + alpha * ||w||^2` on standardised features.

    Classes are coded -1 / +1, one output a class (one in all for two classes), and the largest score wins, as in
    scikit-learn's `RidgeClassifier`; continuous targets as in its `Ridge`. `alpha` means what it means there after a
    `StandardScaler`.

    Scores of a regression on classes are no logits. `predict_proba` multiplies them by one positive number a target,
    the slope that linear discriminant analysis gives them from the class means and the within-class variance of the
    scores, corrected for overfitting as in generalised cross-validation (Golub, Heath, Wahba 1979, with the trace of the
    hat matrix). It leaves the order of the classes as it is.

    Args:
        alpha: Penalty, >= 0.
        kind: `"classes"`, `"continuous"`, or `"auto"`: floating-point `y` is continuous, anything else classes.
    """

    family: ClassVar[str] = "ridge"
    grid_parameter: ClassVar[str | None] = "alpha"
    default_grid: ClassVar[tuple[float, ...]] = (1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5)

    def __init__(self, alpha: float = 1.0, kind: Literal["auto", "classes", "continuous"] = "auto") -> None:
        self.alpha = alpha
        self.kind = kind

    def _is_continuous(self, y: object) -> bool:
        if self.kind not in ("auto", "classes", "continuous"):
            raise ValueError(f"kind must be 'auto', 'classes' or 'continuous', got {self.kind!r}")
        if self.kind == "auto":
            return y.dtype.is_floating_point if isinstance(y, Tensor) else np.asarray(y).dtype.kind == "f"
        return self.kind == "continuous"

    def _solve_summary(self, summary: Summary, grid: Sequence[float]) -> Solution:
        alphas = torch.tensor(list(grid), dtype=torch.float64, device=summary.mean.device)
        if not (torch.isfinite(alphas) & (alphas >= 0)).all():
            raise ValueError(f"alpha must be a number that is not negative, got {list(grid)}")
        if summary.class_counts is not None:
            assert summary.class_means is not None
            share = summary.class_counts / summary.n
            outputs = slice(1, 2) if share.shape[1] == 2 else slice(None)
            cross = 2 * (summary.class_counts[..., None] * summary.class_means)[:, outputs]
            offset = (2 * share - 1)[:, outputs]
        else:
            assert summary.cross is not None
            assert summary.target_mean is not None
            cross, offset = summary.cross[:, None], summary.target_mean[:, None]
        basis, standardisation = summary.basis, summary.standardisation
        # Without a penalty, directions that are zero up to rounding get no weight (the minimum-norm solution).
        values = basis.values
        void = values <= values[-1] * len(values) * torch.finfo(torch.float64).eps
        shrink = torch.where(
            void, 0.0, 1 / (values + alphas[:, None]).clamp(min=torch.finfo(torch.float64).tiny)
        )  # [g, r]
        rotated = summary.rotated(cross) * shrink[:, None, None]  # [g, t, output, r]
        coef, intercept = standardisation.fold(rotated @ basis.vectors.T, offset.expand(rotated.shape[:-1]))
        g, t = coef.shape[:2]
        if summary.class_counts is None:
            scale = coef.new_ones(g, t)
            gap = coef.new_full(coef.shape[:3], torch.nan)  # there are no classes
        else:
            assert summary.class_means is not None
            leverage = ((values * shrink).sum(-1) + 1) / summary.n  # [g], of an average row
            scale = self._logit_scale(summary, coef, leverage.clamp(max=1 - 1e-6))
            gap = class_gap(coef, summary.class_means, summary.class_counts)
        done = torch.ones(g, t, dtype=torch.bool)
        along = summary.along(units(coef))
        return Solution(coef, intercept, scale, gap, *along, done, torch.ones(g, t, dtype=torch.int64))

    @staticmethod
    def _logit_scale(summary: Summary, coef: Tensor, leverage: Tensor) -> Tensor:
        """`[g, t]`: LDA's slope for the scores of rows left out, from the scores of the rows fitted."""
        assert summary.class_means is not None
        weights = centred(coef)
        classes = weights.shape[2]
        apart = torch.einsum("gtkd,tkd->gt", weights, summary.class_means - summary.class_means.mean(1, keepdim=True))
        within = summary.spread_within(weights).sum(-1) / summary.n
        # A row pulls its own score towards its code by the leverage h; left out, score' = (score - h * code) / (1 - h).
        # Centred codes of a class against the others contribute (classes - 1) in sum, or half of that for one output.
        pull = leverage[:, None] * (1.0 if coef.shape[2] == 1 else 2.0 * (classes - 1))
        slope = (apart - pull).clamp(min=1e-3 * apart.abs()) * (1 - leverage[:, None]) / within.clamp(min=1e-12)
        return slope.clamp(min=1e-6, max=1e6)
