"""Board reconstruction: can the labels be told from the features that are precise detectors of them?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from saes.features import SparseFeatures
from saes.scoring.columns import ColumnName, Labels
from saes.scoring.feature_scores import drawn_figures, halves
from saes.scoring.scores import fired, precise_thresholds

LEAST = 10
"""Rows with the label on which a feature must have said yes before it counts as a detector."""


@dataclass(frozen=True, repr=False)
class Reconstruction:
    """Labels predicted from precise features, on sequences that chose neither features nor thresholds.

    Attributes:
        names: `[column]` what each asks.
        detectors: `[column]` features that detect it.
        precision, recall, f1: `[column]`; precision is NaN where nothing is predicted.
        mean_f1: Mean of `f1` over columns that hold somewhere; a column without detectors counts 0.
        low, high: 95 % interval of `mean_f1`, from a bootstrap over sequences.
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


def reconstruct(features: SparseFeatures, labels: Labels, *, precision: float = 0.95, seed: int = 0) -> Reconstruction:
    """Predict that a label holds where any of its detectors fires.

    A feature is a detector of a label when, on one half of the sequences, there is a threshold from which its yes is right
    in at least `precision` of the rows (and in at least ten); the prediction is scored on the other half.

    Source: Karvonen et al. 2024 (arXiv 2408.00113), section 3.2. There thresholds are tenths of a feature's maximum; here
    any value the feature takes may be one, and rows whose prefix was seen while choosing are dropped.

    Args:
        features: From `encode`.
        labels: Label sets of classes, or a data set with some.
        precision: Of a detector.
        seed: Of the halving of the sequences.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision must be above 0 and at most 1, got {precision}")
    choose, report, _ = halves(features, labels, seed)
    threshold = precise_thresholds(choose.features, choose.columns, precision, LEAST)
    columns = report.columns
    predicted = np.zeros(columns.positive.shape, bool)
    for feature in np.flatnonzero(np.isfinite(threshold).any(1)).tolist():
        rows, values = fired(report.features, feature)
        detected = np.flatnonzero(np.isfinite(threshold[feature]))
        predicted[rows[:, None], detected] |= values[:, None] >= threshold[feature, detected]
    if columns.defined is not None:
        predicted &= columns.defined
    _, cluster = np.unique(report.sequence, return_inverse=True)
    of_sequence = sparse.csr_array((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))))
    counted = (predicted & columns.positive, predicted, columns.positive)
    sums = np.stack([of_sequence @ part.astype(np.float64) for part in counted], axis=2)  # [sequence, column, 3]
    true, said, held = np.moveaxis(sums.sum(0), 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(held > 0, 2 * true / (said + held), np.nan)
        low, high = np.quantile(np.nanmean(drawn_figures(sums, seed)["f1"], axis=1), [0.025, 0.975])
        return Reconstruction(
            names=columns.names,
            detectors=np.isfinite(threshold).sum(0),
            precision=true / said,
            recall=true / held,
            f1=f1,
            mean_f1=float(np.nanmean(f1)),
            low=float(low),
            high=float(high),
        )
