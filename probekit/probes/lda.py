"""Linear discriminant analysis with shrinkage, for many targets and shrinkages from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from probekit.probes.base import ClosedFormProbe
from probekit.probes.solution import Solution, class_gap, units
from probekit.probes.summary import Summary


class LDAProbe(ClosedFormProbe):
    """Gaussian classes with one covariance, shrunk towards a multiple of the identity on standardised features.

    The covariance is `(1 - shrinkage) * S + shrinkage * trace(S) / d * I` with `S` the pooled within-class covariance (divided
    by n), as in scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)` after a `StandardScaler`;
    class priors are the class frequencies. Scores are logits.

    Every target has another within-class covariance, but they differ from the one total covariance by a matrix of rank
    (classes - 1), so one eigendecomposition and the Woodbury identity serve them all.

    Args:
        shrinkage: 0 (none) to 1 (identity). 0 needs more rows than features plus classes.
    """

    family: ClassVar[str] = "lda"
    grid_parameter: ClassVar[str | None] = "shrinkage"
    default_grid: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.6, 0.9)

    def __init__(self, shrinkage: float = 0.1) -> None:
        self.shrinkage = shrinkage

    def _solve_summary(self, summary: Summary, grid: Sequence[float]) -> Solution:
        if summary.class_counts is None or summary.class_means is None:
            raise ValueError("LDA reads classes, these statistics are of continuous targets: use RidgeProbe")
        shrinkages = torch.tensor(list(grid), dtype=torch.float64, device=summary.mean.device)
        if ((shrinkages < 0) | (shrinkages > 1)).any():
            raise ValueError(f"shrinkage lies between 0 and 1, got {list(grid)}")
        counts, d, n = summary.class_counts, len(summary.mean), summary.n
        classes = counts.shape[1]
        if (shrinkages == 0).any() and n < d + classes:
            raise ValueError(
                f"{n} rows of {d} features and {classes} classes leave the covariance singular: use shrinkage > 0"
            )
        basis, standardisation = summary.basis, summary.standardisation
        means = summary.rotated(summary.class_means)  # [t, class, r]
        within = basis.values.sum() - (counts * means.square().sum(-1)).sum(
            -1
        )  # [t], trace of the within-class scatter
        # n * covariance = A - M' N M: A diagonal [g, t, r], M the class means, N the class counts (both per target).
        keep = 1 - shrinkages[:, None]
        diagonal = keep[..., None] * basis.values + (shrinkages[:, None] * within / d)[..., None]
        diagonal = diagonal.clamp(min=1e-300)  # where the activations do not vary at all, nor do the means
        solved = means / diagonal[:, :, None]  # A^-1 M', [g, t, class, r]
        inner = torch.einsum("gtkr,tjr->gtkj", solved, means)
        downdate = keep[..., None, None] * counts[:, :, None] * inner
        eye = torch.eye(classes, dtype=torch.float64, device=inner.device)
        # (A - M'NM)^-1 M' = A^-1 M' (I - N M A^-1 M')^-1
        weights = n * torch.linalg.solve((eye - downdate).transpose(-1, -2), solved)
        offset = counts.log() - 0.5 * torch.einsum("gtkr,tkr->gtk", weights, means)
        if classes == 2:
            weights, offset = weights[:, :, 1:] - weights[:, :, :1], offset[:, :, 1:] - offset[:, :, :1]
        coef, intercept = standardisation.fold(weights @ basis.vectors.T, offset)
        shape = coef.shape[:2]
        return Solution(
            coef,
            intercept,
            coef.new_ones(shape),
            class_gap(coef, summary.class_means, counts),
            *summary.along(units(coef)),
            torch.ones(shape, dtype=torch.bool),
            torch.ones(shape, dtype=torch.int64),
        )
