"""One probe of many sites at once: their features side by side, or a probe a site and a probe of those probes."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from probekit.data.splits import split_items
from probekit.probes.arrays import as_rows, encode_classes
from probekit.probes.base import log_proba
from probekit.probes.estimator import Estimator
from probekit.probes.logistic import LogisticProbe


class MultiLayerProbe(Estimator):
    """A logistic read-out of classes from several sites of one width, `X [n, site, d]`.

    `"concatenate"` fits one `LogisticProbe` on all `site * d` features. `"stack"` is stacked generalisation (Wolpert
    1992, "Stacked generalization", Neural Networks 5): a `LogisticProbe` a site, fitted on all folds but one and read
    on that one, and a `LogisticProbe` on the log-odds of all sites that came of it; the probes of the sites are then
    fitted again on all rows. Reading only rows that a site's probe has not seen keeps the combination from trusting the
    site that learns most by heart; whole groups go into a fold, for rows of one text know each other.

    Both are linear in the activations of all sites together, so both have `coef_`.

    Args:
        how: `"concatenate"` or `"stack"`.
        C: Inverse strength of the regularisation of the probe on activations, as in `LogisticProbe`.
        combination_C: The same of the probe that combines the sites (`"stack"` only).
        folds: Number of folds of `"stack"`, at least 2.
        seed: Of the folds.

    Attributes:
        coef_: `[output, site, d]` weights on raw activations; one output for two classes, else one a class.
        intercept_: `[output]`.
        classes_: The class labels in order.
        by_site_: `"stack"`: the fitted probes, one a site.
        combination_: `"stack"`: the probe of their log-odds, which stand site by site (and class by class within a
            site, where there are more than two).
        converged_: Whether all solvers met their tolerance.
    """

    family: ClassVar[str] = "multi_layer"
    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = LogisticProbe.default_grid

    coef_: np.ndarray
    intercept_: np.ndarray
    by_site_: list[LogisticProbe]
    combination_: LogisticProbe
    converged_: bool

    def __init__(
        self,
        how: Literal["concatenate", "stack"] = "concatenate",
        C: float = 1.0,
        combination_C: float = 1.0,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.how = how
        self.C = C
        self.combination_C = combination_C
        self.folds = folds
        self.seed = seed

    def fit(self, X: np.ndarray | Tensor, y: object, *, groups: object = None) -> Self:
        """Fit one target.

        Args:
            X: `[n, site, d]` activations.
            y: `[n]` class labels.
            groups: `[n]` labels of groups (texts, say), each kept in one fold of `"stack"`; default: every row its own.

        Raises:
            ValueError: shapes, NaN or infinite values, one class only, continuous `y`; for `"stack"`, fewer than two
                groups, or a class that is in one fold only.
        """
        if self.how not in ("concatenate", "stack"):
            raise ValueError(f"how must be 'concatenate' or 'stack', got {self.how!r}")
        flat, sites, width = _flat(X)
        codes, classes = encode_classes(y, len(flat))
        if self.how == "concatenate":
            probe = LogisticProbe(self.C).fit(flat, codes)
            self.coef_ = probe.coef_.reshape(-1, sites, width)
            self.intercept_, self.converged_ = probe.intercept_, probe.converged_
            self.__dict__.pop("by_site_", None)
            self.__dict__.pop("combination_", None)
        else:
            self._stack(flat.view(-1, sites, width), codes.numpy(), group_codes(groups, len(flat)))
        self.classes_ = classes
        return self

    def _stack(self, X: Tensor, codes: np.ndarray, groups: np.ndarray) -> None:
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        n, sites, _ = X.shape
        n_classes = int(codes.max()) + 1
        outputs = 1 if n_classes == 2 else n_classes
        fold = fold_of_rows(codes, groups, self.folds, self.seed)
        scores = np.empty((n, sites, outputs))
        everything = np.ones(n, dtype=bool)
        converged = []
        for number in range(int(fold.max()) + 1):
            others, here = fold != number, fold == number
            lacking = np.setdiff1d(np.arange(n_classes), codes[others])
            if len(lacking):
                raise ValueError(
                    f"the class with index {lacking[0]} (in sorted order) is in one fold only, so nothing outside it "
                    "could teach it: stacking needs every class in two groups at least; give finer groups, another "
                    "seed or fewer folds, or use how='concatenate'"
                )
            for site, probe in enumerate(self._fit_sites(X, codes, others)):
                scores[here, site] = probe.decision_function(X[here, site]).reshape(-1, outputs)
                converged.append(probe.converged_)
        self.combination_ = LogisticProbe(self.combination_C).fit(scores.reshape(n, -1), codes)
        self.by_site_ = self._fit_sites(X, codes, everything)
        self.converged_ = all([*converged, self.combination_.converged_, *(p.converged_ for p in self.by_site_)])
        # Log-odds are linear in the activations and the combination in the log-odds: one linear map in all.
        combination = self.combination_.coef_.reshape(-1, sites, outputs)
        weights, offsets = (np.stack([getattr(p, name) for p in self.by_site_]) for name in ("coef_", "intercept_"))
        self.coef_ = np.einsum("osk,skd->osd", combination, weights)
        self.intercept_ = self.combination_.intercept_ + np.einsum("osk,sk->o", combination, offsets)

    def _fit_sites(self, X: Tensor, codes: np.ndarray, rows: np.ndarray) -> list[LogisticProbe]:
        return [LogisticProbe(self.C).fit(X[rows, site], codes[rows]) for site in range(X.shape[1])]

    def decision_function(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Scores `[n]` for two classes (positive means `classes_[1]`), else `[n, class]`."""
        scores: np.ndarray = self._scores(X).numpy()
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Log-probabilities `[n, class]`."""
        found: np.ndarray = log_proba(self._scores(X)).numpy()
        return found

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The most likely class of each row `[n]`."""
        index = self.predict_log_proba(X).argmax(1)
        found: np.ndarray = self.classes_[index]
        return found

    def _scores(self, X: np.ndarray | Tensor) -> Tensor:
        if not hasattr(self, "coef_"):
            raise ValueError("this MultiLayerProbe is not fitted yet: call fit first")
        flat, sites, width = _flat(X)
        if (sites, width) != self.coef_.shape[1:]:
            fitted = " of width ".join(map(str, self.coef_.shape[1:]))
            raise ValueError(f"X has {sites} sites of width {width}, this probe was fitted on {fitted}")
        coef, intercept = (torch.as_tensor(a).to(flat.dtype) for a in (self.coef_, self.intercept_))
        return flat @ coef.flatten(1).T + intercept


def _flat(X: np.ndarray | Tensor) -> tuple[Tensor, int, int]:
    """Activations `[n, site, d]` -> checked rows `[n, site * d]`, number of sites, and d."""
    array = X if isinstance(X, Tensor) else np.asarray(X)
    if array.ndim != 3 or 0 in array.shape:
        hint = "; for one site use LogisticProbe, or X[:, None]" if array.ndim == 2 else ""
        raise ValueError(f"X must be [row, site, feature] and not empty, got shape {tuple(array.shape)}{hint}")
    n, sites, width = array.shape
    return as_rows(array.reshape(n, -1)).cpu(), sites, width


def group_codes(groups: object, n: int) -> np.ndarray:
    """The group of each row as a number `[n]`; without groups (None) every row is its own.

    Raises:
        ValueError: not one label a row.
    """
    if groups is None:
        return np.arange(n)
    names = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups must be one label a row, [{n}], got shape {names.shape}")
    codes: np.ndarray = np.unique(names, return_inverse=True)[1]
    return codes


def fold_of_rows(codes: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, `[n]` from 0: whole groups, each class spread over the folds as evenly as groups allow.

    There are fewer folds than asked for where there are fewer groups, or fewer rows of the commonest class.

    Args:
        codes: `[n]` class indices.
        groups: `[n]` group indices, as `group_codes` gives.

    Raises:
        ValueError: fewer than two groups, or no class with two rows.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    count = len(np.unique(groups))
    if count < 2:
        raise ValueError(
            f"all {len(groups)} rows are of one group: nothing can be held out; give finer groups, or more rows"
        )
    if np.bincount(codes).max() < 2:
        raise ValueError(f"{len(codes)} rows of {len(codes)} classes: nothing can be held out; give more rows a class")
    folds = max(2, min(folds, count, int(np.bincount(codes).max())))
    kind = StratifiedKFold if count == len(groups) else StratifiedGroupKFold
    fold = np.zeros(len(codes), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a rare class cannot be in every fold; callers look at what is there
        parts = kind(folds, shuffle=True, random_state=seed).split(np.zeros((len(codes), 1)), codes, groups)
        for number, (_, rows) in enumerate(parts):
            fold[rows] = number
    return fold


def is_fitted(probe: object) -> bool:
    """Whether an estimator has learned values, by scikit-learn's rule: attributes that end with an underscore."""
    return any(name.endswith("_") and not name.startswith("_") for name in vars(probe))


def fit_copy(probe: Estimator, X: np.ndarray | Tensor, y: np.ndarray, groups: np.ndarray) -> Any:
    """A fitted copy; the groups are given to estimators whose `fit` takes them."""
    from sklearn.base import clone

    copy: Any = clone(probe)
    more = {"groups": groups} if "groups" in inspect.signature(copy.fit).parameters else {}
    return copy.fit(X, y, **more)


def hold_out(codes: np.ndarray | None, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows to fit on and of those held out; no group is in both.

    Args:
        codes: `[n]` class indices: classes are then held out evenly, and one that would be held out altogether is not;
            None: groups are drawn at random.
        groups: `[n]` group indices.
        share: Of the rows, about; above 0 and at most 0.5.

    Raises:
        ValueError: fewer than two groups, a share out of range, or classes so rare that none can be held out.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"held_out is a share of the rows, above 0 and at most 0.5; got {share}")
    if codes is None:
        split = split_items(np.arange(len(groups)), groups, seed, (1 - share, 0.0, share))
        return split.train, split.test
    held = fold_of_rows(codes, groups, round(1 / share), seed) == 0
    lost = np.setdiff1d(codes[held], codes[~held])
    held &= ~np.isin(groups, groups[np.isin(codes, lost)])
    if not held.any():
        raise ValueError(
            f"nothing can be held out of {len(codes)} rows in {len(np.unique(groups))} groups without taking a whole "
            "class away: give more rows a class, or finer groups"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)
