"""Every feature against every label: exact AUROC, best F1, precision, recall and p-values at the cost of the non-zeros.

A feature is zero at almost every row. All those rows tie at the bottom of its ranking, so the ranking against a label is
known from the labels at the rows where the feature fires, and the totals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from saes.scoring.columns import Columns

_ELEMENTS = 1 << 21  # rows x columns worked on at a time


@dataclass(frozen=True)
class Ranking:
    """How each feature ranks each label's rows.

    Attributes:
        auroc: `[feature, column]` float64, NaN where a column shows one class only.
        f1: `[feature, column]` float64, the best over thresholds above zero; 0 for a feature that never fires.
        threshold: `[feature, column]` float32: the feature is taken to say yes from this value on.
    """

    auroc: np.ndarray
    f1: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True)
class AtThreshold:
    """Figures at thresholds that were chosen elsewhere, each `[feature, column]` float64.

    Attributes:
        precision: NaN where the feature never says yes.
        recall: NaN where the label never holds.
        f1: 0 where the feature never says yes.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def rank(features: sparse.csc_array, columns: Columns) -> Ranking:
    """Exact AUROC (ties count one half) and best F1 of every feature for every column.

    Args:
        features: `[row, feature]`, non-negative.
        columns: Labels of the same rows.
    """
    positives, negatives = _totals(columns)
    shape = (features.shape[1], len(columns))
    wins, f1 = (
        np.empty(shape),
        np.zeros(shape),
    )  # wins: pairs of a row with and one without the label in the right order
    threshold = np.full(shape, np.inf, np.float32)
    for feature in range(shape[0]):
        rows, values = fired(features, feature)
        order = np.argsort(-values, kind="stable")
        rows, values = rows[order], values[order]
        ends = np.flatnonzero(np.diff(values, append=-np.inf))  # last row of each run of equal values
        if len(ends) == 0:
            wins[feature] = positives * negatives / 2
            continue
        for part in _parts(len(rows), len(columns)):
            p, n = positives[part], negatives[part]
            true = columns.positive[rows, part].cumsum(0, dtype=np.int32)[ends].astype(np.float64)  # [run, column]
            if columns.defined is None:
                said = (ends + 1.0)[:, None]
                wins[feature, part] = _rank_sum(true, p, ends + 1, len(columns.positive)) - p * (p + 1) / 2
            else:
                said = columns.defined[rows, part].cumsum(0, dtype=np.int32)[ends]
                gained, lost = np.diff(true, axis=0, prepend=0), np.diff(said - true, axis=0, prepend=0)
                at_zero = (p - true[-1]) * (n - said[-1] + true[-1]) / 2
                wins[feature, part] = (gained * (n - said + true + lost / 2)).sum(0) + at_zero
            curve = true / (said + p)
            best = curve.argmax(0)
            f1[feature, part] = 2 * curve[best, np.arange(len(best))]
            threshold[feature, part] = values[ends][best]
    defined = (positives > 0) & (negatives > 0)
    auroc = np.full(shape, np.nan)
    auroc[:, defined] = wins[:, defined] / (positives * negatives)[defined]
    return Ranking(auroc, f1, threshold)


def _rank_sum(true: np.ndarray, positives: np.ndarray, ends: np.ndarray, rows: int) -> np.ndarray:
    """Sum of the mid-ranks of the rows where a label holds, `[column]`; rank 1 is the lowest.

    Args:
        true: `[run, column]` rows with the label down to the end of each run of equal values, from the top.
        positives: `[column]` such rows in all.
        ends: `[run]` rows down to the end of each run; all others are zero and tie below.
        rows: All of them.
    """
    height = rows - (ends + np.append(0, ends[:-1]) - 1) / 2
    at_zero = (rows - ends[-1] + 1) / 2
    sums: np.ndarray = (height - np.append(height[1:], at_zero)) @ true + at_zero * positives
    return sums


def precise_thresholds(features: sparse.csc_array, columns: Columns, precision: float, least: int) -> np.ndarray:
    """`[feature, column]` float32: the lowest threshold from which a feature's yes is right at least that often.

    Args:
        features: `[row, feature]`, non-negative.
        columns: Labels of the same rows.
        precision: Asked for, above 0.
        least: Rows with the label on which the feature must say yes, so that a few coincidences do not count.

    Returns:
        Infinity where no threshold will do.
    """
    threshold = np.full((features.shape[1], len(columns)), np.inf, np.float32)
    for feature in range(features.shape[1]):
        rows, values = fired(features, feature)
        if len(rows) < least:
            continue
        order = np.argsort(-values, kind="stable")
        rows, values = rows[order], values[order]
        ends = np.flatnonzero(np.diff(values, append=-np.inf))
        for part in _parts(len(rows), len(columns)):
            true = columns.positive[rows, part].cumsum(0, dtype=np.int32)[ends]
            if columns.defined is None:
                said = (ends + 1)[:, None]
            else:
                said = columns.defined[rows, part].cumsum(0, dtype=np.int32)[ends]
            good = (true >= precision * said) & (true >= least)
            last = len(ends) - 1 - good[::-1].argmax(0)
            threshold[feature, part] = np.where(good.any(0), values[ends][last], np.inf)
    return threshold


def at_threshold(features: sparse.csc_array, columns: Columns, threshold: np.ndarray) -> AtThreshold:
    """Precision, recall and F1 at given thresholds `[feature, column]`."""
    positives, _ = _totals(columns)
    shape = (features.shape[1], len(columns))
    true, said = np.zeros(shape), np.zeros(shape)
    for feature in range(shape[0]):
        rows, values = fired(features, feature)
        for part in _parts(len(rows), len(columns)):
            yes = values[:, None] >= threshold[feature, part]
            true[feature, part] = (yes & columns.positive[rows, part]).sum(0)
            if columns.defined is not None:
                yes &= columns.defined[rows, part]
            said[feature, part] = yes.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * true / (said + positives)
        return AtThreshold(true / said, true / positives, np.where(said + positives > 0, f1, 0.0))


def p_values(features: sparse.csc_array, columns: Columns, cluster: np.ndarray) -> np.ndarray:
    """`[feature, column]` one-sided: is the label likelier where the feature is higher, beyond chance?

    A score test of the rank sum with rows clustered: `u_c`, a cluster's sum of (label - mean label) x (rank - mean rank),
    has mean zero under independence, and `sum u_c / sqrt(sum u_c^2)` is compared with Student's t. The statistic cannot
    exceed the square root of the number of clusters that bear on it, so that a handful of coincidences is never
    significant, however perfect. (Liang & Zeger 1986, "Longitudinal data analysis using generalized linear models", for
    the variance; Rosner, Glynn & Lee 2003, Biometrics 59:1089, for clustered ranks.)

    Args:
        features: `[row, feature]`, non-negative.
        columns: Labels of the same rows.
        cluster: `[row]` sequence (or group) of each row.
    """
    if np.any(np.diff(cluster) < 0):  # rows of a cluster must lie together
        order = np.argsort(cluster, kind="stable")
        features, columns, cluster = sparse.csc_array(features.tocsr()[order]), columns.of_rows(order), cluster[order]
    first = np.flatnonzero(np.diff(cluster, prepend=cluster[0] - 1))
    cluster = np.repeat(np.arange(len(first)), np.diff(first, append=len(cluster)))
    defined = np.ones((len(cluster), 1), bool) if columns.defined is None else columns.defined
    known = np.maximum(defined.sum(0), 1)  # [column], or [1] where everything is defined
    centred = (columns.positive - columns.positive.sum(0) / known) * defined
    base = np.add.reduceat(centred, first, axis=0)  # [cluster, column]
    base_squared = np.square(base).sum(0)
    result = np.ones((features.shape[1], len(columns)))
    for feature in range(features.shape[1]):
        rows, values = fired(features, feature)
        if len(rows) == 0:
            continue
        height = (stats.rankdata(values) + (len(cluster) - len(rows) - 1) / 2)[
            :, None
        ]  # above the rank that zeros share
        start = np.flatnonzero(np.diff(cluster[rows], prepend=-1))
        touched = cluster[rows[start]]
        for part in _parts(len(rows), len(columns)):
            firing = np.add.reduceat(centred[rows, part] * height, start, axis=0)  # [touched, column]
            shown = slice(None) if columns.defined is None else part
            mean_height = (height * defined[rows][:, shown]).sum(0) / known[shown]
            # u = firing - mean_height * base; firing is zero outside the clusters touched, and base sums to zero
            squares = np.square(firing).sum(0) - 2 * mean_height * (firing * base[touched, part]).sum(0)
            level = mean_height * np.sqrt(base_squared[part])
            spread = np.sqrt(np.maximum(squares + level**2, 0))
            z = np.divide(firing.sum(0), spread, out=np.zeros(firing.shape[1]), where=spread > 1e-6 * level)
            result[feature, part] = stats.t.sf(z, max(len(touched) - 1, 1))
    return result


def fired(features: sparse.csc_array, feature: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows where a feature is above zero, as they are stored, and its activations there."""
    place = slice(features.indptr[feature], features.indptr[feature + 1])
    return features.indices[place], features.data[place]


def _parts(rows: int, columns: int) -> list[slice]:
    step = max(1, _ELEMENTS // max(rows, 1))
    return [slice(start, min(start + step, columns)) for start in range(0, columns, step)]


def _totals(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Rows where each column holds, and where it does not, float64."""
    positives = columns.positive.sum(0).astype(np.float64)
    known = len(columns.positive) if columns.defined is None else columns.defined.sum(0)
    return positives, known - positives
