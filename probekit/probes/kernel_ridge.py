"""Kernel ridge: the control that says whether *linear* is what matters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import numpy as np
from torch import Tensor

from probekit.probes.arrays import as_rows
from probekit.probes.estimator import Estimator
from probekit.probes.ridge import RidgeProbe
from probekit.probes.spectrum import Standardisation

CHUNK = 8192  # rows whose features are in memory at a time when predicting
SAMPLE = 500  # rows that the kernel's width is guessed from


class KernelRidgeProbe(Estimator):
    """`RidgeProbe` on features of a Gaussian kernel, `exp(-||x - x'||^2 / (2 width^2))`, of standardised activations.

    It is a control, not a probe of what a model represents. Where it reads a label no better than a linear probe, what
    is readable is readable linearly; where it does much better, the label is there but not along a direction, and
    directions found for it (and edits along them) do not hold all of it.

    The kernel is approximated by the rows' similarities to some of them, the landmarks (Nystroem features, Williams &
    Seeger 2001, "Using the Nystrom method to speed up kernel machines", by scikit-learn), which is exact when all rows
    are landmarks. Features are standardised before the ridge, as everywhere in `RidgeProbe`, which also gives
    probabilities.

    Args:
        alpha: Penalty of the ridge, >= 0, on standardised features.
        landmarks: Number of landmarks, drawn from the rows; all of them where there are fewer. Memory:
            `8 * n * landmarks` bytes.
        width: Of the kernel, in standard deviations of the activations; None: the median distance between rows.
        kind: `"classes"`, `"continuous"`, or `"auto"`: floating-point `y` is continuous, anything else classes.
        seed: Of the landmarks.

    Attributes:
        width_: The kernel's width.
        nystroem_: scikit-learn's fitted `Nystroem`.
        ridge_: The fitted `RidgeProbe` on its features.
        classes_: The class labels in order; absent for continuous targets.
        n_features_in_: d.
    """

    family: ClassVar[str] = "kernel_ridge"
    grid_parameter: ClassVar[str | None] = "alpha"
    default_grid: ClassVar[tuple[float, ...]] = RidgeProbe.default_grid

    width_: float
    ridge_: RidgeProbe
    n_features_in_: int

    def __init__(
        self,
        alpha: float = 1.0,
        landmarks: int = 512,
        width: float | None = None,
        kind: Literal["auto", "classes", "continuous"] = "auto",
        seed: int = 0,
    ) -> None:
        self.alpha = alpha
        self.landmarks = landmarks
        self.width = width
        self.kind = kind
        self.seed = seed

    def fit(self, X: np.ndarray | Tensor, y: np.ndarray | Tensor | list[object]) -> Self:
        """Fit one target.

        Args:
            X: `[n, d]` activations.
            y: `[n]` class labels, or numbers for continuous targets.

        Raises:
            ValueError: as `RidgeProbe.fit`; landmarks or a width that are not positive.
        """
        from sklearn.kernel_approximation import Nystroem

        if self.landmarks < 1:
            raise ValueError(f"landmarks must be at least 1, got {self.landmarks}")
        if self.width is not None and not self.width > 0:
            raise ValueError(f"width must be positive (or None, to guess it from the rows), got {self.width}")
        # The features divide by square roots of small eigenvalues, which float32 would drown in rounding.
        rows = as_rows(X).cpu().double()
        standardisation = Standardisation.of(rows)
        standard = standardisation.apply(rows).numpy()
        self.width_ = float(self.width) if self.width is not None else _median_distance(standard, self.seed)
        self.nystroem_ = Nystroem(
            kernel="rbf",
            gamma=1 / (2 * self.width_**2),
            n_components=min(int(self.landmarks), len(rows)),
            random_state=self.seed,
        ).fit(standard)
        self._standardisation, self.n_features_in_ = standardisation, rows.shape[1]
        self.ridge_ = RidgeProbe(self.alpha, self.kind).fit(self.nystroem_.transform(standard), y)
        self.__dict__.pop("classes_", None)
        if hasattr(self.ridge_, "classes_"):
            self.classes_ = self.ridge_.classes_
        return self

    def decision_function(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Scores `[n]` for two classes (positive means `classes_[1]`) and continuous targets, else `[n, class]`."""
        return np.concatenate([self.ridge_.decision_function(part) for part in self._features(X)])

    def predict_log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Log-probabilities `[n, class]`, as `RidgeProbe` makes them of its scores."""
        return np.concatenate([self.ridge_.predict_log_proba(part) for part in self._features(X)])

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The most likely class of each row `[n]`, or the value of a continuous target."""
        return np.concatenate([self.ridge_.predict(part) for part in self._features(X)])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "ridge_")

    def _features(self, X: np.ndarray | Tensor) -> Iterator[np.ndarray]:
        if not hasattr(self, "ridge_"):
            raise ValueError("this KernelRidgeProbe is not fitted yet: call fit first")
        rows = as_rows(X, width=self.n_features_in_).cpu()
        for part in rows.split(CHUNK):
            yield self.nystroem_.transform(self._standardisation.apply(part.double()).numpy())


def _median_distance(rows: np.ndarray, seed: int) -> float:
    """Median distance between two rows (of some of them); 1 where rows are alike."""
    from scipy.spatial.distance import pdist

    if len(rows) > SAMPLE:
        rows = rows[np.random.default_rng(seed).choice(len(rows), SAMPLE, replace=False)]
    median = float(np.median(pdist(rows))) if len(rows) > 1 else 0.0
    return median if median > 0 else 1.0
