"""Every feature against every label: exact AUROC, best F1, precision, recall and p-values at the cost of the non-zeros.

A feature is zero at almost every row. All those rows tie at the bottom of its ranking, so the ranking against a label is
known from the labels at the rows where the feature fires, and the totals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from saes.scoring.columns import Columns

_ELEMENTS = 1 << 21  # rows x columns worked on at a time
_CACHED = 1 << 15  # the same where several passes are made over them, so that they stay in the cache


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
    whole = np.asarray(True if columns.defined is None else columns.defined.all(0))
    if whole.any() and not whole.all():
        found = Ranking(*(np.empty((features.shape[1], len(columns)), kind) for kind in (float, float, np.float32)))
        for which in (whole, ~whole):  # what is defined everywhere costs a third of what is not
            ranked = rank(features, columns.of_columns(which))
            for name in ("auroc", "f1", "threshold"):
                getattr(found, name)[:, which] = getattr(ranked, name)
        return found
    positives, negatives = _totals(columns)
    shape = (features.shape[1], len(columns))
    wins = np.tile(
        positives * negatives / 2, (shape[0], 1)
    )  # pairs of a row with and one without the label, rightly ordered
    f1, threshold = np.zeros(shape), np.full(shape, np.inf, np.float32)
    rows = len(columns.positive)
    for feature, part, values, ends, true, said in _downwards(features, columns):
        p, n = positives[part], negatives[part]
        if columns.defined is None:
            wins[feature, part] = _rank_sum(true, p, ends + 1, rows) - p * (p + 1) / 2
        else:
            true, said = true.astype(np.float64), said.astype(np.float64)
            gained, lost = np.diff(true, axis=1, prepend=0), np.diff(said - true, axis=1, prepend=0)
            at_zero = (p - true[:, -1]) * (n - said[:, -1] + true[:, -1]) / 2
            wins[feature, part] = (gained * (n[:, None] - said + true + lost / 2)).sum(1) + at_zero
        f1[feature, part], best = _best_f1(true, said, p)
        threshold[feature, part] = values[best]
    defined = (positives > 0) & (negatives > 0)
    auroc = np.full(shape, np.nan)
    auroc[:, defined] = wins[:, defined] / (positives * negatives)[defined]
    return Ranking(auroc, f1, threshold)


def _downwards(
    features: sparse.csc_array, columns: Columns
) -> Iterator[tuple[int, slice, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """What each feature says of the labels as a threshold goes down its activations, a few columns at a time.

    Yields:
        The feature; the columns; `[run]` its distinct activations, falling; `[run]` the last row, in falling order, that
        reaches each; `[column, run]` int32 rows with the label that reach it; `[column or 1, run]` int32 rows that reach it,
        of those where the label is defined. Columns come first, so that sums run along memory.
    """
    for feature in range(features.shape[1]):
        rows, values = fired(features, feature)
        if len(rows) == 0:
            continue
        order = np.argsort(-values, kind="stable")
        rows, values = rows[order], values[order]
        ends = np.flatnonzero(np.diff(values, append=-np.inf))  # last row of each run of equal values
        positive = columns.positive[rows].view(np.uint8)
        known = None if columns.defined is None else columns.defined[rows].view(np.uint8)
        for part in _parts(len(rows), len(columns), _CACHED):
            said = (ends + 1)[None] if known is None else _reaching(known[:, part], ends)
            yield feature, part, values[ends], ends, _reaching(positive[:, part], ends), said


def _reaching(holds: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """`[column, run]` rows down to the end of each run, from `[row, column]` uint8."""
    counted: np.ndarray = np.ascontiguousarray(holds.T).cumsum(axis=1, dtype=np.int32)
    return counted if len(ends) == counted.shape[1] else counted[:, ends]


def _best_f1(true: np.ndarray, said: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[column]` the best F1 over thresholds, and at which run.

    The curve is drawn in float32, which is four times as fast; where several thresholds come within its rounding of the best,
    float64 decides, and the highest of equals is taken.
    """
    asked = said.astype(np.float32) + np.maximum(positives, 0.5).astype(np.float32)[:, None]
    curve = true.astype(np.float32) / asked
    least = np.maximum(curve.max(1, keepdims=True) * np.float32(1 - 1e-6), np.finfo(np.float32).tiny)
    column, run = np.nonzero(curve >= least)
    reached = (said[0, run] if len(said) == 1 else said[column, run]) + positives[column]
    close = 2 * true[column, run] / reached
    f1, best = np.zeros(len(true)), np.zeros(len(true), np.int64)
    order = np.lexsort((-run, close, column))  # what is written last stays: the greatest, and of equals the first
    f1[column[order]], best[column[order]] = close[order], run[order]
    return f1, best


def _rank_sum(true: np.ndarray, positives: np.ndarray, ends: np.ndarray, rows: int) -> np.ndarray:
    """Sum of the mid-ranks of the rows where a label holds, `[column]`; rank 1 is the lowest.

    Args:
        true: `[column, run]` rows with the label down to the end of each run of equal values, from the top.
        positives: `[column]` such rows in all.
        ends: `[run]` rows down to the end of each run; all others are zero and tie below.
        rows: All of them.
    """
    height = rows - (ends + np.append(0, ends[:-1]) - 1) / 2
    at_zero = (rows - ends[-1] + 1) / 2
    sums: np.ndarray = true @ (height - np.append(height[1:], at_zero)) + at_zero * positives
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
    for feature, part, values, _, true, said in _downwards(features, columns):
        good = (true >= precision * said) & (true >= least)
        last = len(values) - 1 - good[:, ::-1].argmax(1)
        threshold[feature, part] = np.where(good.any(1), values[last], np.inf)
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
    significant, however perfect; and the variance is at least `null_variance`, since of a label that holds nearly everywhere
    the few rows that would speak against it are easily all missed. (Liang & Zeger 1986, "Longitudinal data analysis using generalized linear models", for
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
    size = np.add.reduceat(defined.astype(np.float64), first, axis=0)  # [cluster, column or 1]
    clusters, size_squared = (size > 0).sum(0), np.square(size).sum(0)
    label_variance = np.square(centred).sum(0)
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
            raised = height * defined[rows][:, shown]  # [fired row, column or 1]
            mean_height = raised.sum(0) / known[shown]
            # u = firing - mean_height * base; firing is zero outside the clusters touched, and base sums to zero
            squares = np.square(firing).sum(0) - 2 * mean_height * (firing * base[touched, part]).sum(0)
            level = mean_height * np.sqrt(base_squared[part])
            heights = np.add.reduceat(raised, start, axis=0)  # [touched, column or 1]
            by_cluster = np.square(heights).sum(0) - 2 * mean_height * (heights * size[touched][:, shown]).sum(0)
            null = null_variance(
                label_variance[part],
                np.square(raised).sum(0) - mean_height**2 * known[shown],
                base_squared[part],
                by_cluster + mean_height**2 * size_squared[shown],
                known[shown],
                clusters[shown],
            )
            spread = np.sqrt(np.maximum(squares + level**2, null))
            z = np.divide(firing.sum(0), spread, out=np.zeros(firing.shape[1]), where=spread > 1e-6 * level)
            result[feature, part] = stats.t.sf(z, max(len(touched) - 1, 1))
    return result


def null_variance(
    label: np.ndarray,
    feature: np.ndarray,
    label_by_cluster: np.ndarray,
    feature_by_cluster: np.ndarray,
    rows: np.ndarray,
    clusters: np.ndarray,
) -> np.ndarray:
    """Variance of the sum over rows of (label - mean) x (feature - mean) if the two are independent.

    The greater of two: rows on their own; and whole clusters, where label and feature are alike within each.

    Args:
        label, feature: Sums of squares about the mean, over rows.
        label_by_cluster, feature_by_cluster: Squared sums about the mean of each cluster, summed.
        rows, clusters: How many.
    """
    alone = label * feature / np.maximum(rows, 1)
    together = label_by_cluster * feature_by_cluster * clusters / np.maximum(rows, 1) ** 2
    greater: np.ndarray = np.maximum(alone, together)
    return greater


def fired(features: sparse.csc_array, feature: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows where a feature is above zero, as they are stored, and its activations there."""
    place = slice(features.indptr[feature], features.indptr[feature + 1])
    return features.indices[place], features.data[place]


def _parts(rows: int, columns: int, elements: int | None = None) -> list[slice]:
    step = max(1, (elements or _ELEMENTS) // max(rows, 1))
    return [slice(start, min(start + step, columns)) for start in range(0, columns, step)]


def _totals(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Rows where each column holds, and where it does not, float64."""
    positives = columns.positive.sum(0).astype(np.float64)
    known = len(columns.positive) if columns.defined is None else columns.defined.sum(0)
    return positives, known - positives
