"""95 % intervals from a bootstrap that resamples whole clusters (sequences, or groups of them).

Rows of one sequence resemble each other, so that rows are not resampled but the clusters they came in. A draw gives
each cluster a multinomial count; every draw of every target's metric is one matrix product of those counts with the
per-cluster sums of `metrics.py` (Efron & Tibshirani 1993, chapters 6 and 13; Field & Welsh 2007 for clusters).

The same counts serve every site, so that the difference of two sites is bootstrapped in pairs.

Placement values and other linearised sums leave out the bootstrap's second order, which is of the size 1 / clusters;
up to `EXACT_WORK` weighted ranks the exact statistic is redrawn instead. `tests/probes/test_intervals.py` measures both
against the full bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probekit.probes.metrics import Metric, Predictions

LEVEL = 0.95
FEWEST = 3  # clusters below which resampling says nothing of a figure without bounds (R2 of two rows is the same in most draws)
EXACT_WORK = 4_000_000  # draws x targets x rows up to which rank statistics are redrawn exactly


@dataclass(frozen=True)
class Estimate:
    """A metric of every target with its bootstrap draws.

    Attributes:
        value: `[target]`.
        draws: `[draw, target]`.
        clusters: `[target]`, the number of clusters with a defined item.
    """

    metric: Metric
    value: np.ndarray
    draws: np.ndarray
    clusters: np.ndarray

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """`[target]` lower and upper ends."""
        return interval(self.metric, self.value, self.draws, self.clusters)

    def mean(self) -> Estimate:
        """The mean over those targets for which the metric is defined, as an estimate of one target."""
        fewest = np.array([self.clusters.min(initial=np.iinfo(np.int64).max)])
        return Estimate(self.metric, _nan_mean(self.value[None]), _nan_mean(self.draws)[:, None], fewest)


def _nan_mean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def cluster_counts(n_clusters: int, n_boot: int, seed: int) -> Tensor:
    """`[draw, cluster]` float64: how often each cluster is drawn, each draw as many as there are."""
    rng = np.random.default_rng([seed, 0xB007])
    picks = rng.integers(n_clusters, size=(n_boot, n_clusters)) + np.arange(n_boot)[:, None] * n_clusters
    counts = np.bincount(picks.ravel(), minlength=n_boot * n_clusters).reshape(n_boot, n_clusters)
    return torch.from_numpy(counts.astype(np.float64))


def bootstrap(metric: Metric, predictions: Predictions, cluster: Tensor, counts: Tensor) -> Estimate:
    """One metric with its draws.

    Args:
        cluster: `[n]` cluster of each row, `0 <= cluster < counts.shape[1]`.
        counts: `[draw, cluster]` from `cluster_counts`; pass the same to everything that is to be compared.
    """
    n_clusters = counts.shape[1]
    sums = metric.sums(predictions, cluster, n_clusters)  # [cluster, target, k]
    full = sums.sum(0)
    value = metric.value(full, full)
    rows, targets = predictions.truth.shape
    columns = targets if predictions.log_proba is None else predictions.member[0].numel()
    if metric.redraw is not None and len(counts) * columns * rows <= EXACT_WORK:
        draws = metric.redraw(predictions, counts[:, cluster])
    else:
        draws = metric.value((counts @ sums.flatten(1)).unflatten(-1, sums.shape[1:]), full)
    if n_clusters < 2:  # every draw is the sample itself, which says nothing about another sample
        draws = torch.full_like(draws, torch.nan)
    present = torch.zeros((n_clusters, targets), dtype=torch.bool)
    item, target = predictions.defined.nonzero(as_tuple=True)
    present[cluster[item], target] = True
    return Estimate(metric, value.numpy(), draws.numpy(), present.sum(0).numpy())


def interval(
    metric: Metric, value: np.ndarray, draws: np.ndarray, clusters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of each column of `draws` `[draw, target]`.

    Two corrections. Draws of a metric that resampling biases upwards (the calibration error) are shifted so that their
    mean is the value. Where every draw is 1 (or 0) resampling says nothing, and the end of the exact binomial interval
    for as many clusters is taken (Clopper & Pearson 1934): 20 clusters all right are 0.83 to 1, not 1 to 1.
    """
    tail = (1 - LEVEL) / 2
    if metric.recentre:
        draws = np.maximum(draws + (value - _nan_mean(draws.T)), 0.0)
    ordered = np.sort(draws, 0)  # NaN draws (no such class among the drawn clusters) go last and are left out
    count = np.maximum((~np.isnan(ordered)).sum(0), 1)
    low, high = (_quantile(ordered, count, q) for q in (tail, 1 - tail))
    if metric.unit_range:
        slack = 1 - tail ** (1 / np.maximum(clusters, 1))
        low = np.where((value >= 1) & (low >= 1), 1 - slack, low)
        high = np.where((value <= 0) & (high <= 0), slack, high)
    undefined = np.isnan(value) | (~np.asarray(metric.unit_range) & (np.asarray(clusters) < FEWEST))
    return np.where(undefined, np.nan, np.minimum(low, value)), np.where(undefined, np.nan, np.maximum(high, value))


def _quantile(ordered: np.ndarray, count: np.ndarray, q: float) -> np.ndarray:
    position = (count - 1) * q
    floor = np.floor(position).astype(np.int64)
    ceiling = np.minimum(floor + 1, count - 1)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[floor, columns], ordered[ceiling, columns]
    between: np.ndarray = low + (high - low) * (position - floor)
    return between


def paired_interval(difference: np.ndarray) -> tuple[float, float]:
    """Ends of the percentile interval of draws of a difference, `[draw]`."""
    known = difference[~np.isnan(difference)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
