"""One probe of many sites at once: their features side by side, or a probe a site and a probe of those probes."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from probekit.probes.arrays import as_rows, encode_classes
from probekit.probes.base import log_proba
from probekit.probes.estimator import Estimator
from probekit.probes.held_out import fold_of_rows, group_codes
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
