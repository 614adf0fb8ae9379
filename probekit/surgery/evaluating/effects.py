"""How much a measured behaviour changed: means, paired differences and ratios with bootstrap intervals, and p-values.

Two models are compared on the same items, so every draw of the bootstrap takes the same groups of items for both (Efron &
Tibshirani 1993, chapters 6 and 13). The counts of the draws are the same for every condition of an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from probekit.probes.intervals import LEVEL, cluster_counts, paired_interval
from probekit.surgery.evaluating.behaviour import Behaviour

_ROUNDING = 1e-12
FEWEST_GROUPS = 10
"""With fewer groups a percentile interval is too short to be relied on."""


@dataclass(frozen=True)
class Figure:
    """A value with the ends of its 95 % interval; NaN where not defined."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


NO_FIGURE = Figure(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Comparison:
    """A behaviour in one condition, beside the plain model on the same items.

    Attributes:
        level: Mean score (weighted by tokens where items have them); a perplexity where scores are log-likelihoods.
        effect: Difference of the means, edited less plain; or the ratio, edited over plain.
        n: Items with a score in both.
        groups: Groups these items are of.
        failed: Items without a score in this condition.
    """

    level: Figure
    effect: Figure
    n: int
    groups: int
    failed: int


class Comparing:
    """Compares conditions with the plain model on some items of a behaviour.

    Args:
        behaviour: Whose groups and way of comparing count.
        plain: `[item]` scores of the plain model.
        weights: `[item]` what each item counts in a mean.
        rows: `[item]` bool: which items count.
        n_boot, seed: Draws of the bootstrap.
    """

    def __init__(
        self, behaviour: Behaviour, plain: np.ndarray, weights: np.ndarray, rows: np.ndarray, n_boot: int, seed: int
    ) -> None:
        self.ratio = behaviour.compare == "ratio"
        self.bounded = behaviour.unit_range
        self.rows = np.flatnonzero(rows)
        self.plain = plain[self.rows]
        self.weights = weights[self.rows]
        self.group = np.unique(behaviour.groups[self.rows], return_inverse=True)[1]
        self._boot = (n_boot, seed)

    @cached_property
    def _counts(self) -> np.ndarray:
        """`[draw, group]` how often each group is drawn."""
        groups = int(self.group.max()) + 1 if len(self.group) else 0
        counts: np.ndarray = cluster_counts(groups, *self._boot).numpy() if groups else np.zeros((0, 0))
        return counts

    def compare(self, scores: np.ndarray) -> Comparison:
        """One condition's `[item]` scores (of all items) beside the plain model's."""
        here = scores[self.rows]
        both = np.isfinite(here) & np.isfinite(self.plain)
        effect = self._mean(np.where(both, here - np.where(both, self.plain, 0), np.nan))
        effect = self._widened(effect, int(both.sum()), -1.0)
        level = self._widened(self._mean(here), int(np.isfinite(here).sum()), 0.0)
        if self.ratio:
            level, effect = (Figure(*np.exp([f.value, f.low, f.high]).tolist()) for f in (level, effect))
        return Comparison(
            level, effect, int(both.sum()), len(np.unique(self.group[both])), int((~np.isfinite(here)).sum())
        )

    def _mean(self, values: np.ndarray) -> Figure:
        """Weighted mean of `[item]` values, those that are NaN left out, and its interval over groups."""
        known = np.isfinite(values) & (self.weights > 0)
        if not known.any():
            return NO_FIGURE
        weights = np.where(known, self.weights, 0)
        groups = self._counts.shape[1]
        sums = np.stack(
            [np.bincount(self.group, part, groups) for part in (np.where(known, values, 0) * weights, weights)], 1
        )
        value = float(sums[:, 0].sum() / sums[:, 1].sum())
        if (
            len(np.unique(self.group[known])) < 2
        ):  # every draw is the sample itself, which says nothing about another one
            return Figure(value, float("nan"), float("nan"))
        drawn = self._counts @ sums
        drawn[:, 0][np.abs(drawn[:, 0]) < _ROUNDING * np.abs(sums[:, 0]).sum()] = (
            0  # differences that cancel are no difference
        )
        draws = np.where(drawn[:, 1] > 0, drawn[:, 0] / np.where(drawn[:, 1] > 0, drawn[:, 1], 1), np.nan)
        low, high = paired_interval(draws)
        return Figure(value, min(low, value), max(high, value))

    def _widened(self, figure: Figure, n: int, least: float) -> Figure:
        """Where all items agree, resampling says nothing: the exact binomial's end for as many groups (Clopper & Pearson 1934).

        Scores in 0..1 only: 20 answers all right are 0.83 to 1, not 1 to 1; 20 that all stay the same are a change of -0.17 to 0.17.
        """
        if not self.bounded or figure.low != figure.high or n == 0:
            return figure
        groups = len(np.unique(self.group))
        slack = 1 - ((1 - LEVEL) / 2) ** (1 / groups)
        return Figure(figure.value, max(figure.low - slack, least), min(figure.high + slack, 1.0))


def wanted(behaviour_less: bool, ratio: bool, effect: float) -> float:
    """An effect counted towards what is wanted: positive is good; a ratio as its logarithm."""
    change = float(np.log(effect)) if ratio else effect
    return -change if behaviour_less else change


def p_value(own: float, controls: Sequence[float]) -> float:
    """Share of the controls (and the edit itself) that are at least as extreme: `(1 + k) / (1 + n)`.

    Source: Phipson & Smyth 2010, "Permutation p-values should never be zero", for the ones that are added. A control that could
    not be measured counts as extreme.

    Args:
        own: How extreme the edit is, larger is more.
        controls: How extreme each control is.
    """
    if not len(controls) or not np.isfinite(own):
        return float("nan")
    others = np.asarray(controls, np.float64)
    return float((1 + (~(others < own)).sum()) / (1 + len(others)))
