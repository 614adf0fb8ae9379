"""`ConformalSets`: sets of classes (or intervals) that hold the truth as often as promised."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, Self

import numpy as np
from torch import Tensor

from probekit.probes.arrays import as_vector, class_index
from probekit.probes.estimator import Estimator
from probekit.probes.held_out import fit_copy, group_codes, hold_out, is_fitted


class ConformalSets(Estimator):
    """Sets of classes (or intervals) that hold the true label of a new row with probability at least `1 - alpha`.

    Split conformal prediction (Vovk et al. 2005, "Algorithmic Learning in a Random World", chapter 4): held-out rows
    say how strange the true label of a row looks to the probe, and a set holds every label no stranger than nearly all
    of those. The promise needs no trust in the probe, only that the new row was drawn as the held-out ones were; it
    holds on average over rows (marginally), not for each kind of row. With groups, it is for a row of a new group drawn
    as the groups were, each group weighing the same (Lee, Barber & Willett 2023, "Distribution-free inference with
    hierarchical data", arXiv 2306.06342).

    How strange a label looks:
      * `"adaptive"`: the probability of all classes above it (Romano, Sesia & Candes 2020, "Classification with Valid
        and Adaptive Coverage", without their random part). Sets are never empty and grow where the probe is unsure.
      * `"plain"`: one minus its probability (Sadinle, Lei & Wasserman 2019, "Least Ambiguous Set-Valued Classifiers
        with Bounded Error Levels"). The smallest sets on average, some of them empty.
      * for continuous targets: the distance from the prediction.

    `predict`, `predict_proba` and `score` are the probe's own.

    Args:
        probe: An estimator, fitted (then `fit` takes rows it has not seen) or not, as in `CalibratedProbe`.
        alpha: Share of rows whose set may miss their label, between 0 and 1.
        how: `"adaptive"` or `"plain"`.
        class_conditional: Keep the promise for the rows of each class (Vovk 2012, "Conditional validity of inductive
            conformal predictors"), at the price of larger sets. A class with too few held-out rows is in every set.
        held_out: Share of the rows, or groups, that an unfitted probe is not fitted on, above 0 and at most 0.5.
        seed: Of which rows are held out.

    Attributes:
        probe_: The fitted probe.
        quantile_: `[class]` (all alike unless class-conditional), or `[1]` for continuous targets: the greatest
            strangeness that is let in; infinite where every label is.
        held_out_: Indices of the rows of `fit` that set it.
    """

    family: ClassVar[str] = "conformal"

    probe_: Any
    quantile_: np.ndarray
    held_out_: np.ndarray

    def __init__(
        self,
        probe: Estimator,
        alpha: float = 0.1,
        how: Literal["adaptive", "plain"] = "adaptive",
        class_conditional: bool = False,
        held_out: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.probe = probe
        self.alpha = alpha
        self.how = how
        self.class_conditional = class_conditional
        self.held_out = held_out
        self.seed = seed

    def fit(self, X: np.ndarray | Tensor, y: object, *, groups: object = None) -> Self:
        """Fit and calibrate, or calibrate only; rows are held out at random, since the promise rests on that.

        Args:
            X: `[n, d]` activations, or what `probe` takes.
            y: `[n]` labels, or numbers for continuous targets.
            groups: `[n]` labels of groups; none is both fitted and calibrated on. Default: every row its own.

        Raises:
            ValueError: what `probe.fit` raises, or fewer held-out groups than `1 / alpha - 1`, which can promise
                nothing.
        """
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha lies between 0 and 1, got {self.alpha}")
        if self.how not in ("adaptive", "plain"):
            raise ValueError(f"how must be 'adaptive' or 'plain', got {self.how!r}")
        rows = X if isinstance(X, Tensor) else np.asarray(X)
        labels, within = as_vector(y, len(rows)), group_codes(groups, len(rows))
        if is_fitted(self.probe):
            self.probe_, self.held_out_ = self.probe, np.arange(len(rows))
        else:
            train, self.held_out_ = hold_out(None, within, self.held_out, self.seed)
            self.probe_ = fit_copy(self.probe, rows[train], labels[train], within[train])
        within, labels, rows = within[self.held_out_], labels[self.held_out_], rows[self.held_out_]
        count, needed = len(np.unique(within)), int(np.ceil(1 / self.alpha - 1 - 1e-9))
        if count < needed:
            raise ValueError(
                f"{count} held-out groups (without groups: rows) cannot promise alpha={self.alpha}: it takes at least "
                f"{needed}; give more rows, a larger held_out or a larger alpha"
            )
        self.__dict__.pop("classes_", None)
        if not hasattr(self.probe_, "classes_"):
            if self.class_conditional:
                raise ValueError("class_conditional needs classes, and this probe is of a continuous target")
            distance = np.abs(labels - self.probe_.predict(rows))
            self.quantile_ = np.array([conformal_quantile(distance, within, self.alpha)])
            return self
        self.classes_ = self.probe_.classes_
        truth = class_index(labels, self.classes_)
        strange = self._strangeness(rows)[np.arange(len(rows)), truth]
        strange[truth < 0] = np.inf  # no set holds a label the probe does not know: the others pay for it
        if (truth < 0).any():
            names = np.unique(labels[truth < 0])[:5].tolist()
            warnings.warn(
                f"{(truth < 0).sum()} of {len(truth)} held-out rows have labels the probe was not fitted on ({names}): "
                "sets are made larger for the others, and cannot hold these",
                stacklevel=2,
            )
        if self.class_conditional:
            each = [truth == k for k in range(len(self.classes_))]
            self.quantile_ = np.array([conformal_quantile(strange[c], within[c], self.alpha) for c in each])
        else:
            self.quantile_ = np.full(len(self.classes_), conformal_quantile(strange, within, self.alpha))
        if self.class_conditional and np.isinf(self.quantile_).any():
            names = self.classes_[np.isinf(self.quantile_)][:5].tolist()
            warnings.warn(f"too few held-out rows for classes {names}: they are in every set", stacklevel=2)
        return self

    def predict_set(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The classes in each row's set, `[n, class]` bool; for continuous targets lower and upper ends `[n, 2]`."""
        self._need_fit()
        if not hasattr(self, "classes_"):
            middle = self.probe_.predict(X)
            return np.stack([middle - self.quantile_[0], middle + self.quantile_[0]], 1)
        found: np.ndarray = self._strangeness(X) <= self.quantile_
        return found

    def coverage(self, X: np.ndarray | Tensor, y: object) -> float:
        """Share of the rows whose set holds their label."""
        sets = self.predict_set(X)
        labels = as_vector(y, len(sets))
        if not hasattr(self, "classes_"):
            return float(np.mean((sets[:, 0] <= labels) & (labels <= sets[:, 1])))
        truth = class_index(labels, self.classes_)
        return float(np.mean(sets[np.arange(len(sets)), truth] & (truth >= 0)))

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The probe's own prediction `[n]`."""
        self._need_fit()
        return np.asarray(self.probe_.predict(X))

    def predict_log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The probe's own log-probabilities `[n, class]`."""
        self._need_fit()
        return np.asarray(self.probe_.predict_log_proba(X))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "quantile_")

    def _need_fit(self) -> None:
        if not hasattr(self, "quantile_"):
            raise ValueError("this ConformalSets is not fitted yet: call fit first")

    def _strangeness(self, X: np.ndarray | Tensor) -> np.ndarray:
        """`[n, class]` of every label a row could have."""
        proba = np.asarray(self.probe_.predict_proba(X), dtype=np.float64)
        if self.how == "plain":
            return 1 - proba
        order = np.argsort(-proba, axis=1, kind="stable")
        ranked = np.take_along_axis(proba, order, 1)
        above = np.empty_like(proba)
        np.put_along_axis(above, order, np.cumsum(ranked, 1) - ranked, 1)
        return above


def conformal_quantile(strange: np.ndarray, groups: np.ndarray, alpha: float) -> float:
    """The strangeness that that of a new row of a new group exceeds with probability at most `alpha`.

    Of K groups each weighs `1 / (K + 1)`, shared among its rows, and the rest is the new group's, which may be as
    strange as it likes (hierarchical conformal prediction of Lee, Barber & Willett 2023). With every row its own group
    it is the `ceil((n + 1)(1 - alpha))`-th smallest. Infinite where there are too few groups.
    """
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(strange)
    reached = np.cumsum(1 / ((len(sizes) + 1) * sizes[index][order]))
    at = int(np.searchsorted(reached, 1 - alpha - 1e-12))
    return float(strange[order[at]]) if at < len(order) else float("inf")
