"""`Moments`: what ridge, LDA and difference in means need of the data, summed in one pass with nothing stored."""

from __future__ import annotations

import numpy as np


class Moments:
    """Sums over rows of activations X and labels Y, in float64, that closed-form probes are solved from.

    Every field is a plain sum over rows, so two `Moments` of disjoint rows merge by adding, in any order, and the
    result is that of one pass over all rows (up to float64 rounding, about 1e-15 of each sum).

    Class labels enter as indicators: an indicator's sum is the number of examples of the class, and its product with
    X is the sum of the class's activations. Continuous labels enter as they are. `k` below is the number of classes,
    or 1 for continuous labels.

    Args:
        width: d, the number of activation dimensions.
        targets: t, the number of label columns.
        classes: How many classes each target has; 0 for continuous labels.

    Attributes:
        n: Number of rows summed.
        left_out: Number of rows left out because a label of theirs is not defined (-1, or NaN). One undefined target
            leaves out the row for all targets, because X^T X is shared between them: make separate `Moments` for
            targets that are defined on different rows.
        x_sum: `[d]` sum of X.
        xx: `[d, d]` X^T X, not centred.
        y_sum: `[t, k]` sum of Y: the class counts, or the sum of each continuous target.
        yy: `[t, k]` sum of Y^2 (for classes the same as `y_sum`).
        xy: `[t, k, d]` Y^T X: the sum of X over each class, or the product with each continuous target.
    """

    def __init__(self, width: int, targets: int = 1, classes: int = 0) -> None:
        if width < 1 or targets < 1 or classes < 0 or classes == 1:
            raise ValueError(
                f"Moments needs width >= 1, targets >= 1 and classes 0 (continuous) or >= 2; "
                f"got width={width}, targets={targets}, classes={classes}"
            )
        k = classes or 1
        self.classes = classes
        self.n = 0
        self.left_out = 0
        self.x_sum = np.zeros(width)
        self.xx = np.zeros((width, width))
        self.y_sum = np.zeros((targets, k))
        self.yy = np.zeros((targets, k))
        self.xy = np.zeros((targets, k, width))

    def update(self, X: np.ndarray, Y: np.ndarray) -> Moments:
        """Add rows.

        Args:
            X: `[n, d]` activations of any float dtype; summed in float64.
            Y: `[n]` or `[n, t]`: integer class indices (-1 where not defined) if the `Moments` has classes, otherwise
                floats (NaN where not defined).

        Raises:
            ValueError: shapes or class indices do not fit, or X is not finite.
        """
        X = np.asarray(X)
        Y = np.asarray(Y)
        Y = Y[:, None] if Y.ndim == 1 else Y
        targets, _, width = self.xy.shape
        if X.ndim != 2 or X.shape[1] != width or Y.shape != (len(X), targets):
            raise ValueError(f"Moments of width {width} and {targets} targets got X {X.shape} and Y {Y.shape}")
        if self.classes and not np.issubdtype(Y.dtype, np.integer):
            raise ValueError(f"these Moments have {self.classes} classes, so Y must be integer indices, got {Y.dtype}")
        defined = (Y >= 0 if self.classes else ~np.isnan(Y)).all(axis=1)
        if self.classes and len(Y) and Y.max() >= self.classes:
            raise ValueError(f"class index {Y.max()} in Y, but these Moments have {self.classes} classes")
        if not defined.all():
            X, Y = X[defined], Y[defined]
            self.left_out += int((~defined).sum())
        if not len(X):
            return self
        X = X.astype(np.float64)
        sums = X.sum(axis=0)
        if not np.isfinite(sums).all():
            rows = np.flatnonzero(~np.isfinite(X).all(axis=1))
            raise ValueError(f"activations are not finite in rows {rows[:5].tolist()} of this batch")
        # [n, t, k]: an indicator a class, or the value itself.
        Z = (Y[:, :, None] == np.arange(self.classes) if self.classes else Y[:, :, None]).astype(np.float64)
        self.n += len(X)
        self.x_sum += sums
        self.xx += X.T @ X
        self.y_sum += Z.sum(axis=0)
        self.yy += (Z**2).sum(axis=0)
        self.xy += (Z.reshape(len(X), -1).T @ X).reshape(self.xy.shape)
        return self

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows, as a new object."""
        if self.xy.shape != other.xy.shape or self.classes != other.classes:
            raise ValueError(
                f"cannot merge moments of shape [target, class, width] {self.xy.shape} and {other.xy.shape}"
            )
        targets, _, width = self.xy.shape
        both = Moments(width, targets, self.classes)
        for field in ("n", "left_out", "x_sum", "xx", "y_sum", "yy", "xy"):
            setattr(both, field, getattr(self, field) + getattr(other, field))
        return both

    def mean(self) -> np.ndarray:
        """`[d]` mean of X."""
        self._need_rows()
        return self.x_sum / self.n

    def covariance(self) -> np.ndarray:
        """`[d, d]` covariance of X, divided by n."""
        mean = self.mean()
        return self.xx / self.n - np.outer(mean, mean)

    def cross_covariance(self) -> np.ndarray:
        """`[t, k, d]` covariance of each class indicator, or each continuous target, with X, divided by n."""
        covariance: np.ndarray = self.xy / self.n - (self.y_sum / self.n)[:, :, None] * self.mean()
        return covariance

    def class_means(self) -> np.ndarray:
        """`[t, k, d]` mean of X over each class; NaN for a class with no example."""
        if not self.classes:
            raise ValueError("these Moments are of continuous labels: there are no classes to average over")
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.xy / self.y_sum[:, :, None]

    def within_covariance(self, target: int = 0) -> np.ndarray:
        """`[d, d]` pooled covariance of X about its class mean, divided by n: what LDA whitens with."""
        means = self.class_means()[target]
        counts = self.y_sum[target]
        seen = counts > 0
        self._need_rows()
        within: np.ndarray = (self.xx - (means[seen].T * counts[seen]) @ means[seen]) / self.n
        return within

    def _need_rows(self) -> None:
        if not self.n:
            raise ValueError(f"these Moments hold no rows ({self.left_out} were left out for an undefined label)")
