"""Board reconstruction: can the labels be told from the features that are precise detectors of them?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from saes.features import SparseFeatures
from saes.scoring.columns import ColumnName, Labels
from saes.scoring.feature_scores import drawn_figures, ends, halves, known_mean
from saes.scoring.scores import fired, precise_thresholds

LEAST = 10
"""Rows with the label on which a feature must have said yes before it counts as a detector."""


@dataclass(frozen=True, repr=False)
class Reconstruction:
    """Labels predicted from precise features, on sequences that chose neither features nor thresholds.

    Attributes:
        names: `[column]` what each asks.
        detectors: `[column]` features that detect it.
        precision, recall, f1: `[column]`; precision is NaN where nothing is predicted, F1 where the rows show one class only.
        mean_f1: Mean of `f1` over the other columns; a column without detectors counts 0.
        low, high: 95 % interval of `mean_f1`, from a bootstrap over groups; a draw leaves out columns that it never holds.
    """

    names: tuple[ColumnName, ...]
    detectors: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    mean_f1: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"Reconstruction(F1 {self.mean_f1:.3f} [{self.low:.3f}, {self.high:.3f}] over {len(self.names)} labels)"


def reconstruct(
    features: SparseFeatures,
    labels: Labels,
    *,
    precision: float = 0.95,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Reconstruction:
    """Predict that a label holds where any of its detectors fires.

    A feature is a detector of a label when, on one half of the sequences, there is a threshold from which its yes is right
    in at least `precision` of the rows (and in at least ten); the prediction is scored on the other half.

    Source: Karvonen et al. 2024 (arXiv 2408.00113), section 3.2. There thresholds are tenths of a feature's maximum; here
    any value the feature takes may be one, and rows whose prefix was seen while choosing are dropped.

    Args:
        features: From `encode`.
        labels: Label sets of classes, or a data set with some.
        precision: Of a detector.
        groups: `[sequence]`, sequences that must stay in one half; a data set brings its own.
        seed: Of the halving of the sequences.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision must be above 0 and at most 1, got {precision}")
    choose, report, _ = halves(features, labels, seed, groups)
    threshold = precise_thresholds(choose.features, choose.columns, precision, LEAST)
    columns = report.columns
    predicted = np.zeros(columns.positive.shape, bool)
    for feature in np.flatnonzero(np.isfinite(threshold).any(1)).tolist():
        rows, values = fired(report.features, feature)
        detected = np.flatnonzero(np.isfinite(threshold[feature]))
        predicted[rows[:, None], detected] |= values[:, None] >= threshold[feature, detected]
    if columns.defined is not None:
        predicted &= columns.defined
    cluster = report.cluster
    of_group = sparse.csr_array((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))))
    counted = (predicted & columns.positive, predicted, columns.positive)
    sums = np.stack([of_group @ part.astype(np.float64) for part in counted], axis=2)  # [group, column, 3]
    true, said, held = np.moveaxis(sums.sum(0), 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(report.occurs, 2 * true / (said + held), np.nan)
        low, high = ends(known_mean(drawn_figures(sums[:, report.occurs], seed)["f1"])[:, None])
        return Reconstruction(
            names=columns.names,
            detectors=np.isfinite(threshold).sum(0),
            precision=true / said,
            recall=true / held,
            f1=f1,
            mean_f1=float(known_mean(f1)),
            low=float(low[0]),
            high=float(high[0]),
        )
