"""Logistic probes on the few dimensions that tell the classes apart best, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.probes.base import LinearProbe
from probekit.probes.logistic import LogisticProbe
from probekit.probes.solution import Solution
from probekit.probes.spectrum import Standardisation


class KSparseProbe(LinearProbe):
    """A `LogisticProbe` on the `k` dimensions with the greatest standardised difference of class means.

    Gurnee et al. 2023, "Finding Neurons in a Haystack: Case Studies with Sparse Probing" (arXiv 2305.01610), whose
    simplest ranking this is, on differences measured in standard deviations, so that a dimension of large scale is not
    preferred. How accuracy grows with `k` says whether a concept sits on few dimensions of this basis (neurons, SAE
    features) or is spread over many; in the residual stream the basis itself means little.

    With more than two classes, dimensions are ranked by the share of their variance that lies between the classes,
    which for two classes is the same order (and that of the ANOVA F). All outputs read the same `k`. Dimensions are
    chosen one by one: two that only tell together, as in XOR, are not found.

    Args:
        k: Number of dimensions, from 1 to d.
        C: Inverse strength of the regularisation, as in `LogisticProbe`.
        tol, max_iter: of `LogisticProbe`.
    """

    family: ClassVar[str] = "k_sparse"
    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = LogisticProbe.default_grid

    def __init__(self, k: int = 8, C: float = 1.0, tol: float = 1e-4, max_iter: int = 2000) -> None:
        self.k = k
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    @property
    def dimensions_(self) -> np.ndarray:
        """The dimensions that the probe reads, ascending: `k` of them, fewer where chosen ones do not vary."""
        self._need_fit()
        return np.flatnonzero((self.coef_ != 0).any(0))

    def _solve(self, X: Tensor, Y: Tensor, n_classes: int | None, grid: Sequence[float]) -> Solution:
        if n_classes is None:
            raise ValueError("k-sparse probes read classes: for continuous targets use RidgeProbe")
        d = X.shape[1]
        if int(self.k) != self.k or not 1 <= self.k <= d:
            raise ValueError(f"k must be a whole number from 1 to {d}, the width of the activations; got {self.k}")
        ranking = between_classes(X, Y, n_classes).argsort(dim=1, descending=True, stable=True)
        inner = LogisticProbe(self.C, tol=self.tol, max_iter=self.max_iter)
        parts = []
        for t, chosen in enumerate(ranking[:, : int(self.k)]):
            part = inner._solve(X[:, chosen], Y[:, t : t + 1], n_classes, grid)
            coef = part.coef.new_zeros(*part.coef.shape[:3], d)
            coef[..., chosen] = part.coef
            parts.append(replace(part, coef=coef))
        return Solution(**{name: torch.cat([getattr(p, name) for p in parts], 1) for name in vars(parts[0])})


def between_classes(X: Tensor, Y: Tensor, n_classes: int) -> Tensor:
    """Share of each dimension's variance that lies between the classes (eta squared), `[t, d]` float64.

    Args:
        X: `[n, d]` activations.
        Y: `[n, t]` class indices, none left out.
    """
    rows = Standardisation.of(X).apply(X)
    share = torch.zeros(Y.shape[1], X.shape[1], dtype=torch.float64, device=X.device)
    for k in range(n_classes):
        member = (k == Y).to(rows.dtype)  # [n, t]
        count = member.sum(0).double().clamp(min=1)[:, None]
        share += (member.T @ rows).double().square() / count
    return share / len(X)
