"""Maps in closed form from sums over rows, and how good each is on other rows, from sums over those.

Everything here is float64 and centred on the means of the training rows. `S` stands for the source's features, standardised
for ridge and low rank; a penalty then means what it means to the probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from probekit.probes.spectrum import Eigenbasis, Standardisation

Kind = Literal["ridge", "orthogonal", "low_rank"]
KINDS: tuple[Kind, ...] = ("ridge", "orthogonal", "low_rank")
GRID = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)


@dataclass(frozen=True)
class Source:
    """A site of A.

    Attributes:
        n: Training rows.
        mean: `[d_a]` of the training rows.
        scatter: `[d_a, d_a]` sum of outer products of training rows about `mean`.
        valid: The same of validation rows, about the same mean.
    """

    n: int
    mean: Tensor
    scatter: Tensor
    valid: Tensor

    @cached_property
    def inverse_std(self) -> Tensor:
        """`[d_a]` one over the standard deviation; 0 where a feature does not vary, so that its rounding is not taken for signal."""
        return _inverse(self.mean, self.scatter.diagonal() / self.n).sqrt()

    @cached_property
    def basis(self) -> Eigenbasis:
        """Of the standardised features, without directions in which nothing varies."""
        found = Eigenbasis.of_gram(self.scatter * self.inverse_std * self.inverse_std[:, None])
        least = found.values[-1] * len(found.values) * torch.finfo(torch.float64).eps
        kept = found.values > least.clamp(min=1e-300)
        kept[-1] = True
        return Eigenbasis(found.vectors[:, kept].contiguous(), found.values[kept])

    @cached_property
    def valid_rotated(self) -> Tensor:
        """`[r, r]`: `valid`, standardised and in the basis."""
        return self._scaled.T @ self.valid @ self._scaled

    @cached_property
    def _scaled(self) -> Tensor:
        """`[d_a, r]`."""
        return self.basis.vectors * self.inverse_std[:, None]

    def rotated(self, cross: Tensor) -> Tensor:
        """`[r, d_b]`: a cross product `[d_a, d_b]`, standardised and in the basis."""
        return self._scaled.T @ cross

    def unrotated(self, weights: Tensor) -> Tensor:
        """`[d_b, d_a]` matrix on raw activations of weights `[r, d_b]` in the basis."""
        return (self._scaled @ weights).T


@dataclass(frozen=True)
class Target:
    """A site of B.

    Attributes:
        mean, squares: `[d_b]` mean of the training rows, and sum of squares of the training rows about it.
        valid_squares: `[d_b]` sum of squares of the validation rows about the same mean.
        n: Training rows.
    """

    n: int
    mean: Tensor
    squares: Tensor
    valid_squares: Tensor

    @cached_property
    def std(self) -> Tensor:
        """`[d_b]`; 1 where a dimension does not vary."""
        return Standardisation.of_moments(self.mean, self.squares.clamp(min=0) / self.n).std

    @cached_property
    def weights(self) -> Tensor:
        """`[d_b]`: makes every dimension count the same; 0 for one that does not vary."""
        return _inverse(self.mean, self.squares / self.n)

    @property
    def valid_spread(self) -> float:
        return float((self.weights * self.valid_squares).sum())


@dataclass(frozen=True)
class Solution:
    """A fitted map.

    Attributes:
        matrix: `[d_b, d_a]`.
        bias: `[d_b]`.
        valid_r2: On validation, every dimension of B counting the same.
        alpha, rank, scale: Penalty, rank, and length of the columns, for the kinds that have them.
    """

    matrix: Tensor
    bias: Tensor
    valid_r2: float
    alpha: float | None = None
    rank: int | None = None
    scale: float | None = None

    def apply(self, X: Tensor) -> Tensor:
        """`[row, d_b]` of float64 rows `[row, d_a]`."""
        return X @ self.matrix.T + self.bias


def solve(
    kind: Kind, source: Source, target: Target, cross: Tensor, valid: Tensor, grid: Sequence[float], rank: int | None
) -> Solution:
    """The map of one pair of sites.

    Args:
        cross: `[d_a, d_b]` sum of outer products of training rows about their means.
        valid: `[d_a, d_b]` the same of validation rows, about the means of the training rows.
        grid: Penalties to choose from on validation.
        rank: Of a map of low rank; None: chosen on validation.
    """
    if kind == "orthogonal":
        return _orthogonal(source, target, cross, valid)
    rotated, valid_rotated = source.rotated(cross), source.rotated(valid)
    shrinks = 1 / (source.basis.values + torch.tensor(list(grid), dtype=torch.float64)[:, None]).clamp(min=1e-300)
    # The error of every penalty is a quadratic form in its shrinkage, so that the grid costs one matrix product in all.
    weighted = rotated * target.weights
    linear = (weighted * valid_rotated).sum(1)
    quadratic = source.valid_rotated * (weighted @ rotated.T)
    gained = 2 * shrinks @ linear - ((shrinks @ quadratic) * shrinks).sum(1)
    best = int(gained.argmax())
    weights = shrinks[best][:, None] * rotated
    if kind == "ridge":
        matrix = source.unrotated(weights)
        return Solution(matrix, target.mean - matrix @ source.mean, _r2(gained[best], target), float(grid[best]))
    return _low_rank(source, target, rotated, valid_rotated, shrinks[best], float(grid[best]), rank)


def _low_rank(
    source: Source, target: Target, rotated: Tensor, valid: Tensor, shrink: Tensor, alpha: float, rank: int | None
) -> Solution:
    """Reduced-rank (ridge) regression: the map of full rank, projected on the first principal axes of what it predicts.

    Of the rows with the penalty's own put below them, the predictions have the Gram matrix `rotated' shrink rotated`, whose
    eigenvectors are these axes (Izenman 1975; with a penalty Mukherjee & Zhu 2011, "Reduced Rank Ridge Regression and Its
    Kernel Extensions").
    """
    half = shrink.sqrt()[:, None] * rotated
    small = half.shape[0] < half.shape[1]
    values, vectors = torch.linalg.eigh(half @ half.T if small else half.T @ half)
    kept = values > values[-1].clamp(min=1e-300) * len(values) * torch.finfo(torch.float64).eps
    kept[-1] = True
    values, vectors = values[kept].flip(0), vectors[:, kept].flip(1)
    axes = half.T @ (vectors / values.clamp(min=1e-300).sqrt()) if small else vectors  # [d_b, q]
    weights = shrink[:, None] * rotated
    # Gain of every rank at once: what an axis adds, and what it adds together with each one before it.
    onto = weights @ axes
    weighted = axes * target.weights[:, None]
    linear = 2 * (onto * (valid @ weighted)).sum(0)
    together = (onto.T @ source.valid_rotated @ onto) * (axes.T @ weighted)
    gained = linear.cumsum(0) - together.cumsum(0).cumsum(1).diagonal()
    taken = min(rank, len(gained)) if rank is not None else int(gained.argmax()) + 1
    matrix = source.unrotated(onto[:, :taken] @ axes[:, :taken].T)
    bias = target.mean - matrix @ source.mean
    return Solution(matrix, bias, _r2(gained[taken - 1], target), alpha, taken)


def _orthogonal(source: Source, target: Target, cross: Tensor, valid: Tensor) -> Solution:
    """The rotation that brings the centred rows together, and one scale (Schönemann 1966 for the rotation).

    Between spaces of different widths it is the part of a rotation that lies in both: the one that maximises the inner product.
    """
    varies = source.inverse_std > 0
    cross = cross * varies[:, None]
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    turn = left @ right  # [d_a, d_b]
    turned = turn * varies[:, None]
    spread = float(((source.scatter @ turned) * turned).sum())
    scale = float((turn * cross).sum()) / spread if spread > 0 else 0.0
    matrix = scale * turn.T
    moved = matrix @ source.valid
    gained = (target.weights * (2 * (matrix * valid.T).sum(1) - (moved * matrix).sum(1))).sum()
    return Solution(matrix, target.mean - matrix @ source.mean, _r2(gained, target), scale=scale)


def _r2(gained: Tensor, target: Target) -> float:
    spread = target.valid_spread
    return float(gained) / spread if spread > 0 else float("nan")


def _inverse(mean: Tensor, variance: Tensor) -> Tensor:
    """One over each variance; 0 where there is none beyond a few roundings of the mean."""
    noise = (4 * torch.finfo(torch.float32).eps * mean.abs()).square()
    return torch.where(variance > noise, 1 / variance.clamp(min=1e-300), 0.0)
