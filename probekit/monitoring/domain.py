"""Is a text like those the monitor was fitted to? Distances of its activation, as p-values.

The scores know nothing of the classes: a text of either class is at home, and one of neither is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 5
MOST = 1000  # reference texts that are kept: more make files large and distances hardly better
LEVEL = 0.05


@dataclass(frozen=True)
class Domain:
    """Two distances of a text's activation from those of some reference texts, and their ranks among held-out ones.

    The activation is the mean over a text's own tokens, whatever the monitor pools: the last token of a text is often a full stop, which
    says little of where the text is from. Every dimension is divided by its standard deviation first; a few dimensions of the residual
    stream are so large that distances would be theirs alone.

    * Mahalanobis distance to the mean of all reference texts, with their covariance shrunk to a multiple of the identity
      (Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"); one mean for all classes, as
      in Kamoi & Kobayashi 2020 (arXiv 2003.00402).
    * Distance to the k-th nearest reference text, all of them scaled to length 1 (Sun et al. 2022, "Out-of-Distribution Detection with
      Deep Nearest Neighbors", arXiv 2204.06507).

    The p-value of a distance is its rank among the `ranked` texts, which were not among the reference texts: of texts drawn as
    those were, at most a share `p` get a p-value of `p` or less (conformal p-values; Bates et al. 2023, "Testing for outliers
    with conformal p-values", section 2). So no threshold is ever chosen. It cannot be below `1 / (ranked + 1)`.

    Attributes:
        mean: `[d]` of the scaled reference texts.
        scale: `[d]` what activations are divided by.
        axes: `[axis, d]` orthonormal: where reference texts vary.
        variance: `[axis]` of the shrunk covariance along each.
        floor: Its variance in every other direction.
        reference: `[text, d]` scaled reference texts, of length 1.
        ranked: `[text, 2]` Mahalanobis and neighbour distances of the texts that are ranked among.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    floor: float
    reference: np.ndarray
    ranked: np.ndarray

    @classmethod
    def fit(cls, reference: np.ndarray, ranked: np.ndarray, seed: int = 0) -> Domain:
        """From the activations of reference texts `[n, d]`, two at least, and of texts to rank among `[m, d]`."""
        from sklearn.covariance import ledoit_wolf_shrinkage

        rows = np.asarray(reference, np.float64)
        if len(rows) > MOST:
            rows = rows[np.random.default_rng(seed).choice(len(rows), MOST, replace=False)]
        scale = rows.std(0)
        scale = np.where(
            scale > 1e-6 * np.sqrt(np.square(rows).mean(0)), scale, 1.0
        )  # what does not vary but for rounding
        rows = rows / scale
        mean = rows.mean(0)
        centred = rows - mean
        shrunk = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
        floor = shrunk * float(np.square(centred).mean())  # mean variance of a dimension
        _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
        kept = sizes > 1e-9 * max(sizes[0], 1e-300)
        variance = (1 - shrunk) * np.square(sizes[kept]) / len(rows) + floor
        mean, scale, axes = (each.astype(np.float32) for each in (mean, scale, axes[kept]))
        empty = cls(mean, scale, axes, variance, floor, _unit(rows.astype(np.float32)), np.zeros((0, 2)))
        return cls(**{**vars(empty), "ranked": empty.distances(ranked)})

    def distances(self, activations: np.ndarray) -> np.ndarray:
        """`[n, 2]` float64: Mahalanobis distance, and distance to the k-th nearest neighbour, of activations `[n, d]`."""
        from sklearn.neighbors import NearestNeighbors

        rows = np.asarray(activations, np.float32) / self.scale
        centred = rows - self.mean
        along = (centred @ self.axes.T).astype(np.float64)
        beside = np.maximum(np.square(centred, dtype=np.float64).sum(1) - np.square(along).sum(1), 0)
        square = (np.square(along) / self.variance).sum(1)
        if len(self.axes) < centred.shape[1] and self.floor > 0:
            square = square + beside / self.floor
        near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(self.reference)), algorithm="brute").fit(self.reference)
        return np.stack([np.sqrt(square), near.kneighbors(_unit(rows))[0][:, -1]], 1)

    def p_values(self, activations: np.ndarray) -> np.ndarray:
        """`[n, 3]`: by Mahalanobis distance, by the nearest neighbours, and by both together.

        Together: a text is as strange as the stranger of its two ranks among the ranked texts and itself, and that is ranked again;
        all of them are treated alike, so that the promise holds for it, too.
        """
        return rank_p_values(self.distances(activations), self.ranked)

    @property
    def smallest(self) -> float:
        """The smallest p-value that so few ranked texts can give."""
        return 1 / (len(self.ranked) + 1)


def rank_p_values(distances: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """`[n, 3]` conformal p-values of distances `[n, 2]` among those of `ranked [m, 2]`: each by itself, and both together."""
    m = len(ranked)
    at_least = (ranked[None] >= distances[:, None]).sum(1)  # [n, 2]
    own = m - at_least  # how many are less strange
    below = (ranked[None] < ranked[:, None]).sum(1)  # [m, 2]
    others = below[None] + (distances[:, None] < ranked[None])  # [n, m, 2]: the text itself is among them
    # The stranger of the two ranks decides, the other breaks ties.
    mine = own.max(1) * (m + 2) + own.min(1)
    theirs = others.max(2) * (m + 2) + others.min(2)
    both = (theirs >= mine[:, None]).sum(1)
    found: np.ndarray = (1 + np.column_stack([at_least, both])) / (m + 1)
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled
