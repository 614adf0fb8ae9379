"""Is a text like those the monitor was fitted to? Distances of its activation, as p-values.

The scores know nothing of the classes: a text of either class is at home, and one of neither is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 5
MOST = 1000  # reference texts that are kept: more make files large and distances hardly better
LEVEL = 0.05
_DIGITS = 9  # that sums of weights are good to: thirds that make up 1 are equal to 1


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
    with conformal p-values", section 2). So no threshold is ever chosen. Ranked texts of one group (author, topic) resemble each
    other: each group counts once, shared among its texts, and the share is that of texts of new groups (Lee, Barber & Willett 2023,
    "Distribution-free inference with hierarchical data", arXiv 2306.06342), as for thresholds (`conformal_quantile`). It cannot be
    below `1 / (groups + 1)`.

    Attributes:
        mean: `[d]` of the scaled reference texts.
        scale: `[d]` what activations are divided by.
        axes: `[axis, d]` orthonormal: where reference texts vary.
        variance: `[axis]` of the shrunk covariance along each.
        floor: Its variance in every other direction.
        reference: `[text, d]` scaled reference texts, of length 1.
        ranked: `[text, 2]` Mahalanobis and neighbour distances of the texts that are ranked among.
        weight: `[text]` what each of them counts: one over the texts of its group.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    floor: float
    reference: np.ndarray
    ranked: np.ndarray
    weight: np.ndarray

    @classmethod
    def fit(
        cls, reference: np.ndarray, ranked: np.ndarray, seed: int = 0, *, groups: np.ndarray | None = None
    ) -> Domain:
        """From the activations of reference texts `[n, d]`, two at least, and of texts to rank among `[m, d]`.

        Args:
            groups: `[m]` group of each text to rank among; each its own, unless given.
        """
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
        empty = cls(mean, scale, axes, variance, floor, _unit(rows.astype(np.float32)), np.zeros((0, 2)), np.zeros(0))
        return cls(**{**vars(empty), "ranked": empty.distances(ranked), "weight": weights_of(groups, len(ranked))})

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
        all of them are treated alike, so that the promise holds for it, too. (With groups of several texts nearly: what else the
        new text's group holds is not seen.)
        """
        return rank_p_values(self.distances(activations), self.ranked, self.weight)

    @property
    def groups(self) -> int:
        """How many groups the ranked texts are of; as many as there are texts where each is its own."""
        return round(float(self.weight.sum()))

    @property
    def smallest(self) -> float:
        """The smallest p-value that so few groups of ranked texts can give."""
        return 1 / (self.groups + 1)


def weights_of(groups: np.ndarray | None, n: int) -> np.ndarray:
    """`[n]` float64: one over the number of texts of the group of each; 1 without groups."""
    if groups is None:
        return np.ones(n)
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / sizes[index])


def rank_p_values(distances: np.ndarray, ranked: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """`[n, 3]` conformal p-values of distances `[n, 2]` among those of `ranked [m, 2]`: each by itself, and both together.

    Args:
        weight: `[m]` what each ranked text counts (`weights_of`); a new one counts 1. All 1, unless given.
    """
    counts = np.ones(len(ranked)) if weight is None else weight
    total = round(float(counts.sum()))
    own = _below(distances, ranked, counts)  # [n, 2] how much is less strange
    # A text itself is among those that others are ranked among.
    others = np.round(_below(ranked, ranked, counts)[None] + (distances[:, None] < ranked[None]), _DIGITS)  # [n, m, 2]
    # The stranger of the two ranks decides, the other breaks ties.
    most, least = own.max(1)[:, None], own.min(1)[:, None]
    theirs = others.max(2)
    both = ((theirs > most) | ((theirs == most) & (others.min(2) >= least))) @ counts
    found: np.ndarray = (1 + np.round(np.column_stack([total - own, both]), _DIGITS)) / (total + 1)
    return found


def _below(values: np.ndarray, ranked: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`[n, 2]` weight of the ranked texts that are less strange than `values [n, 2]`, by each distance."""
    found = np.empty(values.shape)
    for j in range(values.shape[1]):
        order = np.argsort(ranked[:, j])
        summed = np.concatenate([[0.0], np.cumsum(weight[order])])
        found[:, j] = summed[np.searchsorted(ranked[order, j], values[:, j])]
    return np.round(found, _DIGITS)


def _unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled
