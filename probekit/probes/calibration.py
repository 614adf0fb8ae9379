"""Temperature and isotonic regression: the two fits behind `CalibratedProbe` and a monitor's calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

WIDEST = 8.0
"""How far from the spread of the log-probabilities the logarithm of a temperature is looked for."""


def temperature_of(log_proba: np.ndarray, wanted: np.ndarray) -> float:
    """The number that log-probabilities are divided by for the least log-loss (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2).

    Args:
        log_proba: `[n, class]`; up to a constant a row.
        wanted: `[n, class]` probabilities that are right: 1 for the true class, or targets between (Platt 1999).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.asarray(log_proba, dtype=np.float64)
    middle = float(np.log(np.ptp(rows, axis=1).mean() or 1.0))

    def loss(log_temperature: float) -> float:
        return float(-(wanted * log_softmax(rows / np.exp(log_temperature), axis=1)).sum(1).mean())

    bounds = (middle - WIDEST, middle + WIDEST)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def isotonic_of(odds: np.ndarray, positive: np.ndarray) -> Any:
    """Any increasing function of log-odds `[n]` to the probability of `positive` `[n]` bool (Zadrozny & Elkan 2002), as scikit-learn's
    `IsotonicRegression`: no probability nearer to 0 or 1 than `1 / (n + 2)`, which is as much as so many rows can tell."""
    from sklearn.isotonic import IsotonicRegression

    margin = 1 / (len(positive) + 2)
    return IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip").fit(odds, positive)
