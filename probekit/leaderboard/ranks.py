"""Families ranked over tasks: mean ranks, whether they differ at all, and by how much they must to count as different."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 2000


@dataclass(frozen=True)
class Ranks:
    """Families over tasks; arrays are `[family]`, best first.

    Attributes:
        families: Their names.
        mean: Of the scores over tasks.
        low, high: 95 % interval of the mean, bootstrapped over tasks.
        rank: Mean rank over tasks, 1 is best, ties share.
        difference: Mean ranks that lie further apart than this differ at the 5 % level (Nemenyi).
        p: Of Friedman's test that all families are the same; NaN for fewer than three families.
        pairs: `[family, family]` p-value of Wilcoxon's signed-rank test of each pair over tasks, after Holm's correction.
        tasks: Tasks that all families have a score for.
    """

    families: tuple[str, ...]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rank: np.ndarray
    difference: float
    p: float
    pairs: np.ndarray
    tasks: int


def rank_families(families: tuple[str, ...], scores: np.ndarray, seed: int = 0) -> Ranks:
    """Rank families by `scores [task, family]`, higher is better; tasks with a NaN are left out.

    Source: Demsar 2006, "Statistical comparisons of classifiers over multiple data sets" (JMLR 7:1-30), section 3.2: Friedman's test,
    then Nemenyi's critical difference; pairs by Wilcoxon's test with Holm's correction.

    Raises:
        ValueError: no task has a score of every family, or there is no family.
    """
    scores = np.asarray(scores, np.float64)
    scores = scores[~np.isnan(scores).any(1)]
    n, k = scores.shape
    if not n or not k:
        raise ValueError("no task has a score of every family: there is nothing to rank")
    ranks = stats.rankdata(-scores, axis=1).mean(0)
    picks = np.random.default_rng([seed, 0xB0A3]).integers(n, size=(DRAWS, n))
    low, high = np.quantile(scores[picks].mean(1), [0.025, 0.975], axis=0) if n > 1 else np.full((2, k), np.nan)
    p = (
        float(stats.friedmanchisquare(*scores.T).pvalue)
        if k > 2 and n > 1 and np.ptp(scores, axis=1).any()
        else float("nan")
    )
    quantile = float(stats.studentized_range.ppf(0.95, k, np.inf)) / np.sqrt(2) if k > 1 else float("nan")
    order = np.lexsort((-scores.mean(0), ranks))
    pairs = _pairs(scores)
    return Ranks(
        tuple(families[i] for i in order),
        scores.mean(0)[order],
        low[order],
        high[order],
        ranks[order],
        quantile * float(np.sqrt(k * (k + 1) / (6 * n))),
        p,
        pairs[np.ix_(order, order)],
        n,
    )


def _pairs(scores: np.ndarray) -> np.ndarray:
    k = scores.shape[1]
    found = np.full((k, k), np.nan)
    asked = list(itertools.combinations(range(k), 2))
    raw = []
    for i, j in asked:
        difference = scores[:, i] - scores[:, j]
        raw.append(float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0)
    worst = 0.0
    for place, which in enumerate(np.argsort(raw, kind="stable")):  # Holm 1979
        worst = max(worst, min(1.0, (len(raw) - place) * raw[which]))
        i, j = asked[which]
        found[i, j] = found[j, i] = worst
    return found


def cliques(ranks: Ranks) -> list[tuple[int, int]]:
    """Runs of families, first and last, that do not differ by the critical difference; none inside another."""
    runs: list[tuple[int, int]] = []
    for start in range(len(ranks.rank)):
        end = int(np.flatnonzero(ranks.rank - ranks.rank[start] <= ranks.difference).max())
        if end > start and not any(first <= start and end <= last for first, last in runs):
            runs.append((start, end))
    return runs
