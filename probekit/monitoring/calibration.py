"""From log-odds to probabilities that mean what they say, and how far they are from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from probekit.probes.calibration import isotonic_of, temperature_of
from probekit.probes.metrics import BINS, bin_of

How = Literal["temperature", "platt", "isotonic"]
HOWS: tuple[str, ...] = get_args(How)


@dataclass(frozen=True)
class Calibration:
    """An increasing function from log-odds to the probability of the alarm class.

    Attributes:
        how: `temperature`, `platt` or `isotonic`.
        slope, offset: The probability is `sigmoid(slope * log-odds + offset)`; with `temperature` the offset is 0 and the slope one
            over the temperature.
        knots: `[2, knot]` of `isotonic`: log-odds and probabilities, with straight lines between them.
    """

    how: str
    slope: float = 1.0
    offset: float = 0.0
    knots: np.ndarray | None = None

    @classmethod
    def fit(cls, how: str, scores: np.ndarray, positive: np.ndarray) -> Calibration:
        """Fit to texts that the probe was not fitted on.

        `temperature`: one number (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2). `platt`: two (Platt
        1999, "Probabilistic Outputs for Support Vector Machines", section 2), for scores that are shifted as well: the largest of
        many scores is, and the classes may not be as frequent as where the probe was fitted. Both are fitted to Platt's targets
        (`(n + 1) / (n + 2)` in the place of 1), so that classes that are told apart without an error do not make every
        probability 0 or 1. `isotonic`: any increasing function (Zadrozny & Elkan 2002), which needs some hundreds of texts; no
        probability nearer to 0 or 1 than `1 / (n + 2)`.

        Args:
            scores: `[n]` log-odds.
            positive: `[n]` bool.
        """
        if how == "isotonic":
            curve = isotonic_of(scores, positive)
            return cls(how, knots=np.stack([curve.X_thresholds_, curve.y_thresholds_]).astype(np.float64))
        if how not in HOWS:
            raise ValueError(f"calibration must be one of {', '.join(HOWS)}, got {how!r}")
        scores = np.asarray(scores, np.float64)
        wanted = _platt_targets(positive)
        if how == "temperature":
            both = np.stack([np.zeros(len(scores)), scores], 1)
            return cls(how, 1 / temperature_of(both, np.stack([1 - wanted, wanted], 1)))
        return cls(how, *_platt(scores, wanted))

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Probability of the alarm class for log-odds of any shape, NaN where they are NaN."""
        from scipy.special import expit

        if self.knots is not None:
            between: np.ndarray = np.interp(scores, *self.knots)
            return between
        found: np.ndarray = expit(self.slope * np.asarray(scores, np.float64) + self.offset)
        return found

    def __str__(self) -> str:
        if self.how == "isotonic":
            return f"isotonic, {self.knots.shape[1]} knots"  # type: ignore[union-attr]
        if self.how == "temperature":
            return f"temperature {1 / self.slope:.3g}"
        return f"Platt scaling, slope {self.slope:.3g}, offset {self.offset:.3g}"


def _platt_targets(positive: np.ndarray) -> np.ndarray:
    """`[n]`: a little under 1 and over 0."""
    positives, n = int(positive.sum()), len(positive)
    wanted: np.ndarray = np.where(positive, (positives + 1) / (positives + 2), 1 / (n - positives + 2))
    return wanted


def _platt(scores: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Slope and offset with the least log-loss."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(parameters[0])  # above 0: a calibration never turns the order around
        logits = slope * scores + parameters[1]
        error = expit(logits) - wanted
        value = np.logaddexp(0, logits) - wanted * logits
        return value.mean(), np.array([(error * scores * slope).mean(), error.mean()])

    scale = float(np.abs(scores).mean()) or 1.0
    best = minimize(loss, [-np.log(scale), 0.0], jac=True, method="L-BFGS-B", bounds=[(-12, 12), (None, None)])
    return float(np.exp(best.x[0])), float(best.x[1])


@dataclass(frozen=True)
class Reliability:
    """How far probabilities can be believed, on texts that had no part in them.

    Attributes:
        error: Expected calibration error: the mean distance, over texts, between how sure a bin of texts is of the likelier class
            and how often it is right; 15 bins of equal width (Guo et al. 2017, section 2).
        log_loss: Mean negative log-probability of the true class, in nats.
        confidence, accuracy, count: `[bin]` of the bins that hold texts.
    """

    error: float
    log_loss: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]

    @classmethod
    def of(cls, probability: np.ndarray, positive: np.ndarray) -> Reliability:
        """Of probabilities `[n]` of the alarm class, and whether each text is of it."""
        sure = np.maximum(probability, 1 - probability)
        right = (probability > 0.5) == positive
        place = bin_of(torch.from_numpy(sure)).numpy()
        count = np.bincount(place, minlength=BINS)
        held = np.flatnonzero(count)
        confidence, accuracy = (np.bincount(place, v, BINS)[held] / count[held] for v in (sure, right))
        truth = np.clip(np.where(positive, probability, 1 - probability), 1e-12, 1)
        error = float((np.abs(confidence - accuracy) * count[held]).sum() / len(sure))
        bins = tuple(map(float, confidence)), tuple(map(float, accuracy)), tuple(map(int, count[held]))
        return cls(error, float(-np.log(truth).mean()), *bins)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Reliability:
        bins = (tuple(facts[name]) for name in ("confidence", "accuracy", "count"))
        return cls(facts["error"], facts["log_loss"], *bins)
