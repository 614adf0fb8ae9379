"""Standardised features of one site, in the eigenbasis of their Gram matrix.

In that basis a ridge penalty and a guess of a logistic loss's Hessian are diagonal at once, for every value of the
regularisation, so one eigendecomposition a site serves a whole grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 4096


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each feature; `std` is 1 where a feature does not vary."""

    mean: Tensor  # [d]
    std: Tensor  # [d]

    @classmethod
    def of(cls, X: Tensor) -> Standardisation:
        """Mean and population standard deviation (as scikit-learn's StandardScaler) of `X [n, d]`."""
        # Sums of a few thousand rows are good to their dtype's rounding; those of all rows are kept in float64.
        mean = torch.stack([part.sum(0).double() for part in X.split(CHUNK)]).sum(0) / len(X)
        squares = [(part - mean.to(X.dtype)).square_().sum(0).double() for part in X.split(CHUNK)]
        variance = torch.stack(squares).sum(0) / len(X)
        return cls.of_moments(mean, variance).to(X.dtype)

    @classmethod
    def of_moments(cls, mean: Tensor, variance: Tensor) -> Standardisation:
        # Below a few roundings of the feature's own magnitude there is no variance to speak of.
        noise = (4 * torch.finfo(torch.float32).eps * mean.abs()).square()
        return cls(mean, torch.where(variance > noise, variance, torch.ones_like(variance)).sqrt())

    def to(self, dtype: torch.dtype) -> Standardisation:
        return Standardisation(self.mean.to(dtype), self.std.to(dtype))

    def apply(self, X: Tensor) -> Tensor:
        """`(X - mean) / std`, a new tensor `[n, d]`."""
        return (X - self.mean).div_(self.std)

    def fold(self, weights: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """Weights `[..., d]` and intercept `[...]` on standardised features -> the same on raw features, float64."""
        coef = weights.double() / self.std.double()
        return coef, intercept.double() - coef @ self.mean.double()


@dataclass(frozen=True)
class Eigenbasis:
    """Eigenvectors `[d, r]` and eigenvalues `[r]` (ascending) of the Gram matrix of standardised features.

    With fewer rows than features only the `r < n` directions that the rows span are kept: an L2-penalised optimum has no
    component outside them.
    """

    vectors: Tensor
    values: Tensor

    @classmethod
    def of_rows(cls, X: Tensor) -> Eigenbasis:
        """Basis for standardised rows `X [n, d]`, through the smaller of the two Gram matrices."""
        if len(X) >= X.shape[1]:
            return cls.of_gram(X.T @ X)
        X64 = X.double()
        values, vectors = torch.linalg.eigh(X64 @ X64.T)
        keep = values > 1e-12 * values[-1].clamp(min=1e-300)
        keep[-1] = True  # rows that are all alike still have a basis, of one direction
        values, vectors = values[keep], vectors[:, keep]
        return cls((X64.T @ (vectors / values.clamp(min=1e-300).sqrt())).to(X.dtype), values.to(X.dtype))

    def rotate(self, X: Tensor) -> Tensor:
        """Standardised rows `[n, d]` in this basis with a column of ones for the intercept: `[n, r + 1]`."""
        rows = X.new_empty(len(X), len(self.values) + 1)
        torch.mm(X, self.vectors, out=rows[:, :-1])
        rows[:, -1] = 1
        return rows

    @classmethod
    def of_gram(cls, gram: Tensor) -> Eigenbasis:
        """Basis of a Gram matrix `[d, d]`; all of it, since small eigenvalues may carry the answer."""
        try:
            values, vectors = torch.linalg.eigh(gram)
            found = bool(torch.isfinite(vectors).all())
        except torch.linalg.LinAlgError:  # seen in float32 for matrices of very low rank
            found = False
        if not found:  # of features that do not vary the matrix is rounding alone, and float32 may underflow to NaN
            values, vectors = (part.to(gram.dtype) for part in torch.linalg.eigh(gram.double()))
        return cls(vectors, values.clamp(min=0))
