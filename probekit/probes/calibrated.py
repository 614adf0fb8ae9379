"""Probabilities that mean what they say, and sets of labels that hold the true one as often as promised."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
from torch import Tensor

from probekit.probes.arrays import as_vector, class_index, encode_classes
from probekit.probes.base import LOG_FLOOR
from probekit.probes.calibration import isotonic_of, temperature_of
from probekit.probes.estimator import Estimator
from probekit.probes.held_out import fit_copy, group_codes, hold_out, is_fitted


class CalibratedProbe(Estimator):
    """A probe whose probabilities are corrected on rows that it was not fitted on.

    `"temperature"` divides log-probabilities by one number, the one of least log-loss (Guo et al. 2017, "On Calibration
    of Modern Neural Networks", section 4.2): the order of the classes stays as it is. `"isotonic"` takes any increasing
    function of a class's log-odds against the rest (Zadrozny & Elkan 2002, "Transforming classifier scores into
    accurate multiclass probability estimates"), class by class, scaled to sum to one where there are more than two. It
    needs many more rows, some hundreds at least, and says no probability nearer to 0 or 1 than `1 / (rows + 2)`, which
    is as much as so many rows can tell.

    Args:
        probe: An estimator with classes. If it is fitted, `fit` takes rows that it has *not* seen, all of which
            calibrate. If not, `fit` holds out some rows and fits a copy on the others; `probe` itself is never changed.
        method: `"temperature"` or `"isotonic"`.
        held_out: Share of the rows, or of the groups, that calibrate an unfitted probe, above 0 and at most 0.5.
        seed: Of which rows are held out.

    Attributes:
        probe_: The fitted probe.
        temperature_: `"temperature"`: above 1 where the probe was too sure.
        maps_: `"isotonic"`: scikit-learn's `IsotonicRegression`, one a class (for two classes that of `classes_[1]`).
        held_out_: Indices of the rows of `fit` that calibrated.
    """

    family: ClassVar[str] = "calibrated"

    probe_: Any
    temperature_: float
    maps_: list[Any]
    held_out_: np.ndarray

    def __init__(
        self,
        probe: Estimator,
        method: Literal["isotonic", "temperature"] = "temperature",
        held_out: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.probe = probe
        self.method = method
        self.held_out = held_out
        self.seed = seed

    def fit(self, X: np.ndarray | Tensor, y: object, *, groups: object = None) -> Self:
        """Fit and calibrate, or calibrate only.

        Args:
            X: `[n, d]` activations, or what `probe` takes.
            y: `[n]` class labels.
            groups: `[n]` labels of groups; none is both fitted and calibrated on. Default: every row its own.

        Raises:
            ValueError: what `probe.fit` raises; a probe of a continuous target; a label that a fitted probe does not
                know; for `"isotonic"`, a class without a held-out row.
        """
        if self.method not in ("isotonic", "temperature"):
            raise ValueError(f"method must be 'isotonic' or 'temperature', got {self.method!r}")
        rows = X if isinstance(X, Tensor) else np.asarray(X)
        labels = as_vector(y, len(rows))
        if is_fitted(self.probe):
            self.probe_, self.held_out_ = self.probe, np.arange(len(rows))
        else:
            codes = encode_classes(labels, len(rows))[0].numpy()
            within = group_codes(groups, len(rows))
            train, self.held_out_ = hold_out(codes, within, self.held_out, self.seed)
            self.probe_ = fit_copy(self.probe, rows[train], labels[train], within[train])
        if not hasattr(self.probe_, "classes_"):
            raise ValueError(
                "calibration is of class probabilities, and this probe is of a continuous target: ConformalSets gives "
                "it intervals"
            )
        self.classes_ = self.probe_.classes_
        truth = class_index(labels[self.held_out_], self.classes_)
        if (truth < 0).any():
            strange = np.unique(labels[self.held_out_][truth < 0])[:5].tolist()
            raise ValueError(f"y has labels {strange} that the probe does not know; it knows {self.classes_.tolist()}")
        log_proba = _floored(self.probe_, rows[self.held_out_])
        if self.method == "temperature":
            self.temperature_ = temperature_of(log_proba, np.eye(log_proba.shape[1])[truth])
        else:
            self.maps_ = self._isotonic(log_proba, truth)
        return self

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The most likely class of each row `[n]`, after calibration."""
        index = self.predict_log_proba(X).argmax(1)
        found: np.ndarray = self.classes_[index]
        return found

    def predict_log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Calibrated log-probabilities `[n, class]`."""
        if not hasattr(self, "probe_"):
            raise ValueError("this CalibratedProbe is not fitted yet: call fit first")
        log_proba = _floored(self.probe_, X)
        if self.method == "temperature":
            return _log_softmax(log_proba / self.temperature_)
        odds = _log_odds(log_proba)
        if len(self.maps_) == 1:
            second = self.maps_[0].predict(odds[:, 1])
            found = np.stack([1 - second, second], 1)
        else:
            found = np.stack([fitted.predict(odds[:, k]) for k, fitted in enumerate(self.maps_)], 1)
        calibrated: np.ndarray = np.log(found / found.sum(1, keepdims=True))
        return calibrated

    def _isotonic(self, log_proba: np.ndarray, truth: np.ndarray) -> list[Any]:
        empty = [name for k, name in enumerate(self.classes_.tolist()) if not (truth == k).any()]
        if empty:
            raise ValueError(
                f"no held-out row shows class {empty[0]!r}: isotonic calibration needs every class among them (and "
                "some hundreds of rows); give more rows or method='temperature'"
            )
        odds = _log_odds(log_proba)
        wanted = [1] if log_proba.shape[1] == 2 else range(log_proba.shape[1])
        return [isotonic_of(odds[:, k], truth == k) for k in wanted]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import log_softmax

    found: np.ndarray = np.maximum(log_softmax(logits, axis=1), LOG_FLOOR)
    return found


def _floored(probe: Any, rows: np.ndarray | Tensor) -> np.ndarray:
    """Log-probabilities `[n, class]` in float64, none of them minus infinity (as a tree's are)."""
    found: np.ndarray = np.maximum(np.asarray(probe.predict_log_proba(rows), dtype=np.float64), LOG_FLOOR)
    return found


def _log_odds(log_proba: np.ndarray) -> np.ndarray:
    """Each class against all others, `[n, class]`."""
    from scipy.special import logsumexp

    others = [logsumexp(np.delete(log_proba, k, 1), axis=1) for k in range(log_proba.shape[1])]
    odds: np.ndarray = log_proba - np.stack(others, 1)
    return odds
