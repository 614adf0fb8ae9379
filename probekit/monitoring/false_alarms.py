"""The threshold that keeps a rate of false alarms, and what rates were found, with exact intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.probes.conformal import conformal_quantile

LEVEL = 0.95


def negatives_needed(rate: float) -> int:
    """How many texts without the class (or groups of them) it takes to promise a rate: `1 / rate - 1`, rounded up."""
    return math.ceil(1 / rate - 1 - 1e-9)


def threshold_for(rate: float, negatives: np.ndarray, groups: np.ndarray) -> tuple[float, bool]:
    """The score that a new text without the class exceeds with probability at most `rate`, and whether that can be promised.

    Of n held-out negatives the new one's score is equally likely to take any place (split conformal prediction, Vovk et al. 2005,
    section 4.1), so that with the k-th highest as the threshold the rate is `k / (n + 1)` in the mean over draws of the texts. The
    plain share `(k - 1) / n` of the texts that set the threshold would promise too much. With groups it is for a text of a new
    group. Where there are too few for any promise, the highest score is taken.

    Args:
        rate: Between 0 and 1.
        negatives: `[n]` scores.
        groups: `[n]` group of each.
    """
    found = conformal_quantile(negatives, groups, rate)
    if math.isinf(found) and found > 0:
        return float(negatives.max()), False
    return found, True


@dataclass(frozen=True)
class Rate:
    """A share of texts, with its exact binomial interval.

    Attributes:
        hits, n: Texts that raised the alarm, and all.
        value: Their share; NaN of no texts.
        low, high: 95 % interval of Clopper & Pearson 1934. Texts of one group resemble each other: with groups it is that of fewer
            independent texts, see `effective_size`.
    """

    hits: int
    n: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: np.ndarray, groups: np.ndarray) -> Rate:
        """Of `[n]` bool and the group of each."""
        n, k = len(hits), int(hits.sum())
        if n == 0:
            return cls(0, 0, math.nan, 0.0, 1.0)
        effective = effective_size(hits, groups)
        return cls(k, n, k / n, *clopper_pearson(k / n * effective, effective))

    @property
    def rest(self) -> Rate:
        """The share of the other texts: misses where this is recall."""
        return Rate(self.n - self.hits, self.n, 1 - self.value, 1 - self.high, 1 - self.low)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Rate:
        return cls(**facts)

    def __str__(self) -> str:
        if not self.n:
            return "not known (no such texts)"
        return (
            f"{100 * self.value:.3g} % ({self.hits} of {self.n}; 95 %: {100 * self.low:.2g} to {100 * self.high:.3g} %)"
        )


def effective_size(hits: np.ndarray, groups: np.ndarray) -> float:
    """How many independent texts tell as much of a rate as these, which come in groups; from 1 to n.

    As many as vary as much between groups (Kish), times `(t_{n-1} / t_{groups-1})^2` of Student's 97.5 % quantiles, because few
    groups know little of how much they vary (Korn & Graubard 1998, "Confidence intervals for proportions with small expected number
    of positive counts estimated from survey data"). Where nothing is seen to vary (one group, no hit, nothing but hits, or all
    groups alike), that is not defined: then as many as there are groups, as if the texts of each were one and the same.

    Args:
        hits: `[n]` bool, one text at least.
        groups: `[n]` group of each.
    """
    from scipy.stats import t

    n, k = len(hits), int(hits.sum())
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    clusters = len(sizes)
    if clusters == n:
        return float(n)
    # n times the hits above their share: whole numbers, so that 0 is 0
    beyond = n * np.bincount(index, hits).astype(np.int64) - k * sizes
    if not beyond.any():
        return float(clusters)
    variance = float(np.square(beyond / n).sum()) * clusters / (clusters - 1) / n**2
    known = t.ppf((1 + LEVEL) / 2, n - 1) / t.ppf((1 + LEVEL) / 2, clusters - 1)
    return float(min(n, max(1.0, k / n * (1 - k / n) / variance * known**2)))


def clopper_pearson(hits: float, n: float) -> tuple[float, float]:
    """Ends of the exact 95 % interval of a binomial share; hits and n may be fractions."""
    from scipy.stats import beta

    tail = (1 - LEVEL) / 2
    low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits >= n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high


@dataclass(frozen=True)
class Found:
    """What an alarm did on texts that had no part in setting it: false alarms among negatives, recall among positives."""

    threshold: float
    false_alarms: Rate
    recall: Rate

    @classmethod
    def of(cls, threshold: float, scores: np.ndarray, positive: np.ndarray, groups: np.ndarray) -> Found:
        """Of `[n]` scores, classes and groups."""
        hits = scores > threshold
        return cls(threshold, Rate.of(hits[~positive], groups[~positive]), Rate.of(hits[positive], groups[positive]))

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Found:
        return cls(facts["threshold"], Rate.from_json(facts["false_alarms"]), Rate.from_json(facts["recall"]))
