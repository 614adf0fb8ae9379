"""`LinearProbe`: what all linear probes share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from probekit.activations.moments import Moments
from probekit.probes.arrays import as_rows, as_vector, encode_classes
from probekit.probes.direction import Direction, unit_vector
from probekit.probes.estimator import Estimator
from probekit.probes.solution import Solution
from probekit.probes.summary import Summary


class ConvergenceWarning(UserWarning):
    """A solver stopped before it met its tolerance."""


class LinearProbe(Estimator):
    """A linear read-out of one target from activations `[n, d]`.

    A family of probes is one subclass with one method, `_solve`, for all targets and a whole grid of its parameter.

    Attributes:
        coef_: `[output, d]` weights on raw activations. There is one output for two classes (positive towards
            `classes_[1]`) and for continuous targets, and one a class otherwise.
        intercept_: `[output]`.
        classes_: The class labels in order; absent for continuous targets.
        scale_: Scores times this are logits; 1 where the family fits logits itself.
        gap_: `[output]` distance of a class's mean from the others' along its direction, in units of the activations; NaN for
            continuous targets.
        deviation_, mean_: `[output]` standard deviation of the training rows along the same direction, and the coordinate of
            their mean.
        converged_, n_iter_: Whether the solver met its tolerance, and its number of iterations.
        n_features_in_: d.
        site_, target_: Where the probe was fitted and on what, if known.
    """

    coef_: np.ndarray
    intercept_: np.ndarray
    scale_: float
    gap_: np.ndarray
    deviation_: np.ndarray
    mean_: np.ndarray
    converged_: bool
    n_iter_: int
    n_features_in_: int
    site_: str | None
    target_: str | None

    def _solve(self, X: Tensor, Y: Tensor, n_classes: int | None, grid: Sequence[float]) -> Solution:
        """Fit all targets `Y [n, t]` for all values of `grid_parameter`; `n_classes` is None for continuous targets."""
        raise NotImplementedError

    def _takes_masks(self, n: int, d: int) -> bool:
        """Whether `_solve` takes rows that are left out (-1) of some targets only; else such targets are solved apart."""
        return False

    def _is_continuous(self, y: object) -> bool:
        return False

    # Fitting

    def fit(self, X: np.ndarray | Tensor, y: np.ndarray | Tensor | Sequence[object]) -> Self:
        """Fit one target.

        Args:
            X: `[n, d]` activations, float32 unless they are float64.
            y: `[n]` labels: strings, integers, booleans (any class labels), or numbers for continuous targets.

        Raises:
            ValueError: NaN or infinite values, shapes that do not fit, one class only, hardly more rows than classes.
        """
        rows = as_rows(X)
        if self._is_continuous(y):
            values = as_vector(y, len(rows)).astype(np.float64)
            if np.ptp(values) == 0:
                raise ValueError(f"y is {values[0]} in every row: there is nothing to predict")
            Y, n_classes, classes = torch.from_numpy(values)[:, None], None, None
        else:
            codes, classes = encode_classes(y, len(rows))
            Y, n_classes = codes[:, None], len(classes)
        solution = self._solve(rows, Y.to(rows.device), n_classes, [self._grid_value()])
        self._take(solution, 0, 0, rows.dtype, classes)
        warn_unconverged(self, solution)
        return self

    def fit_many(self, X: np.ndarray | Tensor, Y: np.ndarray | Tensor) -> list[Self]:
        """Fit all targets in one pass over the activations.

        Args:
            X: `[n, d]` activations.
            Y: `[n, t]` integer class indices, -1 where a row is left out of a target; for continuous targets floats,
                NaN where left out.

        Returns:
            `t` fitted probes, each the same as `fit` on the rows of its target. `classes_` are the class indices that
            occur in the target.

        Raises:
            ValueError: as `fit`; names the columns that have one class only.
        """
        from probekit.probes.grid import fit_grid

        array = Y.detach().cpu().numpy() if isinstance(Y, Tensor) else np.asarray(Y)
        if array.ndim != 2:
            raise ValueError(f"Y must be [row, target], got shape {array.shape}; one target goes through fit")
        if self._is_continuous(array):
            stack = fit_grid(self, X, array, [self._grid_value()], kind="continuous")
            stack = stack.select(0)
            return [cast(Self, stack.probe(t, like=self)) for t in range(array.shape[1])]
        if array.dtype.kind not in "iu":
            raise TypeError(f"Y must hold integer class indices, got dtype {array.dtype}; fit takes any labels")
        present = [np.unique(column[column >= 0]) for column in array.T]
        single = [t for t, classes in enumerate(present) if len(classes) < 2]
        if single:
            raise ValueError(f"targets {single[:10]} have one class only (or no labelled row): nothing to tell apart")
        stack = fit_grid(self, X, array, [self._grid_value()], n_classes=int(array.max()) + 1).select(0)
        return [cast(Self, stack.probe(t, like=self, classes=classes)) for t, classes in enumerate(present)]

    def _grid_value(self) -> float:
        return float(getattr(self, self.grid_parameter)) if self.grid_parameter else 0.0

    def _take(self, solution: Solution, g: int, t: int, dtype: torch.dtype, classes: np.ndarray | None) -> None:
        self.coef_ = solution.coef[g, t].to("cpu", dtype).numpy()
        self.intercept_ = solution.intercept[g, t].to("cpu", dtype).numpy()
        self.scale_ = float(solution.scale[g, t])
        self.gap_, self.deviation_, self.mean_ = (
            values[g, t].cpu().numpy() for values in (solution.gap, solution.deviation, solution.mean)
        )
        self.converged_ = bool(solution.converged[g, t])
        self.n_iter_ = int(solution.n_iter[g, t])
        self.n_features_in_ = self.coef_.shape[1]
        self.site_ = self.target_ = None
        if classes is not None:
            self.classes_ = classes

    # Reading

    def decision_function(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Scores `[n]` for two classes (positive means `classes_[1]`) and continuous targets, else `[n, class]`."""
        scores: np.ndarray = self._scores(X).numpy()
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Log-probabilities `[n, class]`."""
        self._need_classes("probabilities")
        found: np.ndarray = log_proba(self._scores(X) * self.scale_).numpy()
        return found

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The most likely class of each row `[n]`, or the value of a continuous target."""
        scores = self._scores(X)
        if not hasattr(self, "classes_"):
            values: np.ndarray = scores[:, 0].numpy()
            return values
        index = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
        found: np.ndarray = self.classes_[index.numpy()]
        return found

    def direction(self, class_: object = None, against: object = None) -> Direction:
        """The unit vector the probe reads along, in raw activation space.

        Its scale and mean are those of the training rows, its gap that of the class means there, and its center is where the
        score is zero (where there are classes).

        Args:
            class_: Which class the vector points to, against the mean of the others. Needed with more than two classes;
                with two, the default is `classes_[1]`.
            against: One class in place of all the others: the boundary between the two. Its scale and gap are not known then.
        """
        self._need_fit()
        labels = self.classes_.tolist() if hasattr(self, "classes_") else []
        if class_ is not None and not labels:
            raise ValueError("a probe of a continuous target has one direction: leave class_ out")
        if class_ is None and len(labels) > 2:
            raise ValueError(f"this probe has {len(labels)} classes: name the one to point to, class_= one of {labels}")
        for named in (class_, against):
            if named is not None and named not in labels:
                raise ValueError(f"no class {named!r}; the classes are {labels}")
        k = labels.index(class_) if class_ is not None else len(labels) - 1
        weights, offsets = (torch.from_numpy(a).double() for a in (self.coef_, self.intercept_))
        sign, row = 1, k
        if len(weights) > 1:
            seen = torch.isfinite(offsets)  # a class that training never saw is not among the others
            if not seen[k]:
                raise ValueError(f"training never saw class {labels[k]!r}: the probe has no direction to it")
            other = seen if against is None else [labels.index(against)]
            vector, offset = weights[k] - weights[other].mean(0), offsets[k] - offsets[other].mean()
        else:
            sign, row = (-1 if labels and k == 0 else 1), 0
            vector, offset = sign * weights[0], sign * offsets[0]
        provenance: dict[str, object] = {"family": self.family, **self.get_params(), "target": self.target_}
        if labels:
            provenance["class"] = str(labels[k])
        if against is not None:
            provenance["against"] = str(against)
        length = float(vector.norm())
        center = -float(offset) / length if labels and length > 0 else None
        scale, gap, mean = (float(values[row]) for values in (self.deviation_, self.gap_, self.mean_))
        if against is not None and len(weights) > 1:
            scale = gap = mean = np.nan
        return Direction(
            unit_vector(vector),
            self.site_,
            scale if scale > 0 and np.isfinite(scale) else None,
            _known(gap) if labels else None,
            _known(center),
            _known(sign * mean),
            provenance=provenance,
        )

    def _scores(self, X: np.ndarray | Tensor) -> Tensor:
        self._need_fit()
        rows = as_rows(X, width=self.n_features_in_).cpu()
        coef, intercept = (torch.as_tensor(a).to(rows.dtype) for a in (self.coef_, self.intercept_))
        return rows @ coef.T + intercept

    def _need_fit(self) -> None:
        if not hasattr(self, "coef_"):
            raise ValueError(f"this {type(self).__name__} is not fitted yet: call fit first")

    def _need_classes(self, what: str) -> None:
        self._need_fit()
        if not hasattr(self, "classes_"):
            raise ValueError(f"a probe of a continuous target has no {what}; use predict")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coef_")


class ClosedFormProbe(LinearProbe):
    """A probe that follows from sums over rows, so it can also be fitted from statistics that were streamed."""

    def _solve(self, X: Tensor, Y: Tensor, n_classes: int | None, grid: Sequence[float]) -> Solution:
        return self._solve_summary(Summary.of_rows(X, Y, n_classes), grid)

    def _solve_summary(self, summary: Summary, grid: Sequence[float]) -> Solution:
        raise NotImplementedError

    @classmethod
    def from_moments(cls, moments: Moments, target: int = 0, **parameters: object) -> Self:
        """Fit one target from streamed statistics; the same answer as `fit` on the rows themselves.

        Args:
            moments: Sums over rows of activations and labels.
            target: Column of the labels.
            parameters: The constructor's.
        """
        probe = cls(**parameters)
        summary = Summary.of_moments(moments)
        classes = None
        if summary.class_counts is not None:
            classes = np.flatnonzero(summary.class_counts[target].numpy())
            if len(classes) < 2:
                raise ValueError(f"target {target} has one class only in these Moments: there is nothing to tell apart")
            summary = summary.of_target(target, classes)
        probe._take(
            probe._solve_summary(summary, [probe._grid_value()]),
            0,
            target if classes is None else 0,
            torch.float64,
            classes,
        )
        return probe


def _known(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def log_proba(logits: Tensor) -> Tensor:
    """Logits `[..., output]` -> log-probabilities `[..., class]`; one output means two classes.

    A class that training never saw has logit -inf; its log-probability is reported as log(1e-12), so that a single such
    row does not make a mean infinite.
    """
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=-1)
        if torch.isinf(logits).any():  # a constant target: +inf or -inf
            logits = logits.nan_to_num(posinf=1e30, neginf=-1e30)
    return torch.log_softmax(logits, dim=-1).clamp(min=LOG_FLOOR)


LOG_FLOOR = float(np.log(1e-12))


def warn_unconverged(probe: LinearProbe, solution: Solution, where: str = "", stacklevel: int = 3) -> None:
    """One warning for all the probes of a solution that did not converge."""
    failed = int((~solution.converged).sum())
    if failed:
        parameters: Mapping[str, object] = probe.get_params()
        warnings.warn(
            f"{failed} of {solution.converged.numel()} {probe.family} probes{where} did not meet their tolerance in "
            f"{int(solution.n_iter.max())} iterations ({parameters}); raise max_iter, strengthen the regularisation, "
            "or pass float64 activations",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
