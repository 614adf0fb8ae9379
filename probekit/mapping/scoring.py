"""How well a map does on test rows: R2 and retrieval, with intervals from a bootstrap over groups.

R2 is the mean over B's dimensions of each one's R2 (scikit-learn's `uniform_average`): a stream has a few dimensions that are
hundreds of times larger than the others, and a figure that weights them by their variance says little of the rest. That one is
there too, as `r2_weighted`.

Retrieval asks for each test row of A which of the test rows of B is its own: the nearest to what the map makes of it. Rows are
taken about B's training mean, each dimension in units of its standard deviation there, and compared by cosine or by distance.
Where several are equally near, the right one counts by its chance among them. Source of the measure: Smith, Turban, Hamblin &
Hammerla 2017 (arXiv 1702.03859), precision at 1 and 5 of mapped word vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from probekit.probes.intervals import cluster_counts, interval
from probekit.probes.metrics import CLASS_METRICS, VALUE_METRICS

Distance = Literal["cosine", "euclidean"]
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")
CANDIDATES = 1000
"""Test rows of B among which the right one is looked for, at most."""
NEAR = (1, 5)
METRICS = ("r2", "r2_weighted", *(f"top_{k}" for k in NEAR))
_LIKE = {name: CLASS_METRICS[0] if name.startswith("top") else VALUE_METRICS[0] for name in METRICS}
_TIED = 1e-6  # similarities closer than this are rounding apart

Figure = tuple[float, float, float]
"""Value, and lower and upper end of its 95 % interval."""


@dataclass(frozen=True)
class RowsTested:
    """Which rows are scored, the same for every pair of sites.

    Attributes:
        cluster: `[row]` 0, 1, ...: the group each row belongs to.
        counts: `[draw, cluster]` of the bootstrap.
        pool: Which of the rows are looked for, and among which.
    """

    cluster: Tensor
    counts: Tensor
    pool: Tensor

    @staticmethod
    def of(group: np.ndarray, n_boot: int, seed: int) -> RowsTested:
        cluster = np.unique(group, return_inverse=True)[1]
        rng = np.random.default_rng([seed, 0xCA9D])
        pool = np.sort(rng.permutation(len(group))[:CANDIDATES])
        counts = cluster_counts(int(cluster.max()) + 1, n_boot, seed)
        return RowsTested(torch.from_numpy(cluster), counts, torch.from_numpy(pool))

    def chance(self, k: int) -> float:
        """Share of rows whose own is among the k nearest by luck."""
        return min(1.0, k / len(self.pool))

    def clusters(self) -> int:
        """Groups that have a row among those looked for."""
        return len(self.cluster[self.pool].unique())

    def added(self, rows: Tensor) -> Tensor:
        """`[cluster, ...]` float64 sums of `[row, ...]`."""
        out = torch.zeros((self.counts.shape[1], *rows.shape[1:]), dtype=torch.float64)
        return out.index_add_(0, self.cluster, rows.double())


class TargetTested:
    """Test rows of B at one site, and everything that does not depend on the map.

    Args:
        Y: `[row, d_b]`.
        mean, std: `[d_b]` of the training rows.
    """

    def __init__(self, rows: RowsTested, Y: Tensor, mean: Tensor, std: Tensor, distance: Distance) -> None:
        self.rows, self.Y, self.mean, self.std, self.distance = rows, Y, mean, std, distance
        centred = Y.double() - Y.double().mean(0)
        spread = centred.square().sum(0)
        noise = len(Y) * (4 * torch.finfo(torch.float32).eps * Y.double().mean(0).abs()).square()
        varies = spread > noise
        even = torch.where(varies, 1 / spread.clamp(min=1e-300), 0.0) / varies.sum().clamp(min=1)
        self.weights = torch.stack([even, varies.double()], 1)  # [d_b, 2]: of r2, of r2_weighted
        self.spread = (spread @ self.weights).unsqueeze(0)  # [1, 2]
        # About the mean of all test rows in every draw: about its own, a draw's spread would be too small by one part in as many
        # as it has clusters, and its R2 too low by as much.
        self.spread_drawn = rows.counts @ rows.added(centred.square() @ self.weights)
        self.candidates = self._prepared(Y[rows.pool])
        pooled = torch.zeros(len(Y), 1)
        pooled[rows.pool] = 1
        self.pooled = rows.added(pooled)  # [cluster, 1]

    def score(self, mapped: Tensor) -> Mapping[str, Figure]:
        """Figures of what a map makes of A's test rows, `[row, d_b]`."""
        rows = self.rows
        error = rows.added((self.Y.double() - mapped.double()).square() @ self.weights)
        hits = torch.zeros(len(self.Y), len(NEAR))
        hits[rows.pool] = self.hits(mapped[rows.pool])
        found = rows.added(hits)
        value = torch.cat(
            [1 - error.sum(0, keepdim=True) / self.spread, found.sum(0, keepdim=True) / self.pooled.sum()], 1
        )
        drawn = torch.cat(
            [1 - (rows.counts @ error) / self.spread_drawn, (rows.counts @ found) / (rows.counts @ self.pooled)], 1
        )
        return as_figures(value[0].numpy(), drawn.numpy(), rows.clusters())

    def hits(self, mapped: Tensor) -> Tensor:
        """`[pool, k of NEAR]`: chance that the right candidate is among the k nearest, 0 or 1 unless there are ties."""
        asked = self._prepared(mapped)
        if self.distance == "cosine":
            near = asked @ self.candidates.T
            slack: Tensor | float = _TIED
        else:
            squares = [part.square().sum(1) for part in (asked, self.candidates)]
            near = 2 * asked @ self.candidates.T - squares[0][:, None] - squares[1]
            slack = _TIED * (squares[0] + squares[1])[:, None]
        own = near.diagonal()[:, None]
        closer = (near > own + slack).sum(1)
        tied = ((near - own).abs() <= slack).sum(1)  # the right one is among them
        return torch.stack([((k - closer) / tied).clamp(0, 1) for k in NEAR], 1)

    def _prepared(self, rows: Tensor) -> Tensor:
        """Rows about the training mean, in units of each dimension's deviation; of length one for cosines."""
        scaled = ((rows.double() - self.mean) / self.std).float()
        if self.distance == "euclidean":
            return scaled
        length = scaled.norm(dim=1, keepdim=True)
        return torch.where(length > 0, scaled / length.clamp(min=1e-30), 0.0)


def as_figures(value: np.ndarray, drawn: np.ndarray, clusters: int) -> dict[str, Figure]:
    """Intervals of `value [metric]` from `drawn [draw, metric]`, for `METRICS` in order; none from a single cluster."""
    drawn = drawn if clusters > 1 else np.full_like(drawn, np.nan)
    out = {}
    for i, name in enumerate(METRICS):
        low, high = interval(_LIKE[name], value[i : i + 1], drawn[:, i : i + 1], np.array([clusters]))
        out[name] = (float(value[i]), float(low[0]), float(high[0]))
    return out
