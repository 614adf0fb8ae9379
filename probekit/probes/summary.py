"""`Summary`: the sums over rows from which ridge, LDA and difference in means follow in closed form.

Gathered from rows in memory here, or from streamed `probekit.activations.Moments`; both are float64 and centred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from probekit.activations.moments import Moments
from probekit.probes.spectrum import Eigenbasis, Standardisation

CHUNK = 8192  # rows turned into float64 at a time


@dataclass(frozen=True)
class Summary:
    """Statistics of `n` rows of width `d` and their `t` targets, all float64."""

    n: int
    mean: Tensor  # [d]
    variance: Tensor  # [d], population
    scatter: Tensor | None  # [d, d] centred Gram matrix; None where there are fewer rows than features:
    rows: Tensor | None  # [n, d] centred rows instead
    class_counts: Tensor | None  # [t, class]
    class_means: Tensor | None  # [t, class, d] about `mean`
    target_mean: Tensor | None  # [t] of continuous targets
    cross: Tensor | None  # [t, d] sum of (y - mean y) (x - mean x)

    @classmethod
    def of_rows(cls, X: Tensor, Y: Tensor, n_classes: int | None) -> Summary:
        """Two passes over `X [n, d]`; `Y [n, t]` has no row left out."""
        n, d = X.shape
        mean = torch.stack([chunk.double().sum(0) for chunk in X.split(CHUNK)]).sum(0) / n
        wide = n < d
        rows = X.double() - mean if wide else None
        scatter = None if wide else X.new_zeros(d, d, dtype=torch.float64)
        sums = X.new_zeros(Y.shape[1] * (n_classes or 1), d, dtype=torch.float64)
        variance = torch.zeros_like(mean)
        for x, y in zip(X.split(CHUNK), Y.split(CHUNK), strict=True):
            x = x.double() - mean
            variance += x.square().sum(0)
            if scatter is not None:
                scatter += x.T @ x
            weights = y if n_classes is None else _indicators(y, n_classes).flatten(1)
            sums += weights.T.to(x) @ x
        common = {"n": n, "mean": mean, "variance": variance / n, "scatter": scatter, "rows": rows}
        if n_classes is None:
            return cls(**common, class_counts=None, class_means=None, target_mean=Y.mean(0).to(mean), cross=sums)
        counts = torch.stack([(k == Y).sum(0) for k in range(n_classes)], 1).to(mean)
        means = sums.view(Y.shape[1], n_classes, d) / counts[..., None]
        return cls(**common, class_counts=counts, class_means=means, target_mean=None, cross=None)

    @classmethod
    def of_moments(cls, moments: Moments) -> Summary:
        """From statistics summed while activations streamed by."""
        if moments.n < 2:
            raise ValueError(f"these Moments hold {moments.n} labelled rows; a probe needs at least two")
        n = moments.n
        mean = torch.from_numpy(moments.mean())
        scatter = torch.from_numpy(moments.covariance()) * n
        common = {
            "n": n,
            "mean": mean,
            "variance": scatter.diagonal().clamp(min=0) / n,
            "scatter": scatter,
            "rows": None,
        }
        if not moments.classes:
            cross = torch.from_numpy(moments.cross_covariance()[:, 0]) * n
            target_mean = torch.from_numpy(moments.y_sum[:, 0] / n)
            return cls(**common, class_counts=None, class_means=None, target_mean=target_mean, cross=cross)
        means = torch.from_numpy(moments.class_means()) - mean
        counts = torch.from_numpy(moments.y_sum)
        return cls(**common, class_counts=counts, class_means=means, target_mean=None, cross=None)

    def of_target(self, target: int, classes: Sequence[int] | np.ndarray) -> Summary:
        """The same rows with one target and some of its classes only."""
        assert self.class_counts is not None
        assert self.class_means is not None
        columns = torch.as_tensor(classes, device=self.mean.device)
        counts, means = self.class_counts[target][columns], self.class_means[target][columns]
        return replace(self, class_counts=counts[None], class_means=means[None])

    @property
    def standardisation(self) -> Standardisation:
        return Standardisation.of_moments(self.mean, self.variance)

    @property
    def basis(self) -> Eigenbasis:
        """Of the standardised features; found once."""
        # No functools.cached_property: that of Python 3.11 has one lock for all objects, and sites side by side would queue.
        found = vars(self).get("_basis")
        if found is None:
            std = self.standardisation.std
            if self.scatter is not None:
                found = Eigenbasis.of_gram(self.scatter / std / std[:, None])
            else:
                assert self.rows is not None
                found = Eigenbasis.of_rows(self.rows / std)
            vars(self)["_basis"] = found
        return found

    def rotated(self, vectors: Tensor) -> Tensor:
        """Centred vectors `[..., d]` (class means, cross products) in the coordinates of `basis`, `[..., r]`."""
        return (vectors / self.standardisation.std) @ self.basis.vectors

    def spread(self, weights: Tensor) -> Tensor:
        """Sum of squares of `weights [..., d]` times the centred rows, `[...]`."""
        if self.scatter is not None:
            return ((weights @ self.scatter) * weights).sum(-1)
        assert self.rows is not None
        return (weights @ self.rows.T).square().sum(-1)

    def along(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Standard deviation of the rows along unit vectors `[..., d]`, and the coordinate of their mean, both `[...]`."""
        return (self.spread(units).clamp(min=0) / self.n).sqrt(), units @ self.mean

    def spread_within(self, weights: Tensor) -> Tensor:
        """The same within classes: `weights [g, t, output, d]` -> `[g, t, output]`."""
        assert self.class_means is not None
        assert self.class_counts is not None
        between = torch.einsum("gtod,tkd->gtok", weights, self.class_means).square() * self.class_counts[:, None]
        return (self.spread(weights) - between.sum(-1)).clamp(min=0)


def _indicators(Y: Tensor, n_classes: int) -> Tensor:
    """Class indices `[n, t]` -> `[n, t, class]` float64."""
    return (Y[..., None] == torch.arange(n_classes, device=Y.device)).double()
