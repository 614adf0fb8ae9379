"""`MomentProbe`: logistic regression on first and second moments of a text's tokens."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.probes.base import ConvergenceWarning
from probekit.probes.logistic import LogisticProbe
from probekit.probes.spectrum import Standardisation
from probekit.probes.texts import Texts
from probekit.probes.token_probe import CHUNK, TokenProbe, check_whole


class MomentProbe(TokenProbe):
    """Logistic regression on the mean token of a text and on how its tokens scatter about that mean.

    The covariance is taken in a few dimensions: the leading principal components of what is left of the standardised
    tokens of the training texts when each text's mean is taken away, each scaled to unit variance. That makes the probe
    a compact bilinear form in the tokens: `coef . mean + trace(covariance_coef (cov - I)) + intercept`. A text of n
    tokens has the covariance `(scatter + I) / n`, as if it had one degree of freedom more at the average covariance,
    which is I in these dimensions: a text of one token has the average, and short texts do not stand out as such.

    With `order=1` this is the logistic probe on mean tokens.

    Moments of token features as input of a linear head: Gao et al. 2023, "Tuning Pre-trained Model via Moment
    Probing" (arXiv 2307.11342), who keep second moments small by "multi-head convolutional cross-covariance". Here
    the projection is fixed beforehand (it cannot fit the labels), and `heads` keeps only covariances inside groups of
    components.

    Args:
        rank: Components to take covariances of; fewer where tokens vary in fewer directions.
        order: 1 for means alone, 2 for means and covariances.
        C: Inverse strength of the L2 regularisation, > 0, on standardised moments, as in `LogisticProbe`.
        heads: Groups that the components are dealt out to in turn; covariances between groups are left out, which
            leaves about `rank * (rank / heads + 1) / 2` of them.
        tol, max_iter: As in `LogisticProbe`.

    Attributes:
        coef_: `[output, d]`, on the mean of raw activations.
        covariance_coef_: `[output, rank, rank]`, symmetric, on the covariance; absent with `order=1`.
        projection_: `[d, rank]`: `(x - center_) @ projection_` are the components of a raw token; absent with
            `order=1`.
    """

    family: ClassVar[str] = "moment"
    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)

    coef_: np.ndarray
    covariance_coef_: np.ndarray
    projection_: np.ndarray

    def __init__(
        self, rank: int = 16, order: int = 2, C: float = 1.0, heads: int = 1, tol: float = 1e-4, max_iter: int = 2000
    ) -> None:
        self.rank = rank
        self.order = order
        self.C = C
        self.heads = heads
        self.tol = tol
        self.max_iter = max_iter

    def _fit(self, rows: Tensor, texts: Texts, codes: Tensor, n_classes: int) -> None:
        check_whole(rank=self.rank, heads=self.heads)
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 (means) or 2 (means and covariances), got {self.order!r}")
        center = torch.as_tensor(self.center_).to(rows)
        features = means = texts.means(rows - center)
        d = rows.shape[1]
        for name in ("covariance_coef_", "projection_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        if self.order == 2:
            if len(texts) == len(rows):
                raise ValueError("every text has one token, which has no covariance: use order=1, or pass all tokens")
            projection = _components(rows, texts, means, center, self.rank)
            self.projection_ = projection.cpu().numpy()
            first, second = _pairs(projection.shape[1], self.heads)
            covariances = _covariances((rows - center) @ projection, texts, first, second)
            features = torch.cat([means, covariances - (first == second).to(covariances)], 1)
        probe = LogisticProbe(self.C, tol=self.tol, max_iter=self.max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fit says it, in terms of this probe
            probe.fit(features, codes)
        self.coef_ = np.ascontiguousarray(probe.coef_[:, :d])
        if self.order == 2:
            # Each covariance stands once among the features and twice in the matrix.
            rank, one, other = projection.shape[1], first.numpy(), second.numpy()
            matrix = np.zeros((len(self.coef_), rank, rank), self.coef_.dtype)
            matrix[:, one, other] += probe.coef_[:, d:] / 2
            matrix[:, other, one] += probe.coef_[:, d:] / 2
            self.covariance_coef_ = matrix
        self._set_intercept(torch.from_numpy(probe.intercept_), self.coef_)
        self.converged_, self.n_iter_ = probe.converged_, probe.n_iter_

    def _shares(self, X: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
        shares = self._beyond_center(X, self.coef_)
        if hasattr(self, "covariance_coef_"):
            parts = self._beyond_center(X, self.projection_.T)
            parts = parts - texts.means(parts)[texts.of_row]
            matrix = torch.from_numpy(self.covariance_coef_).to(X.dtype)
            n = texts.lengths[texts.of_row].to(X.dtype)[:, None]
            # What a token adds to the scatter, less what an ordinary one does.
            usual = matrix.diagonal(dim1=1, dim2=2).sum(1) * (n - 1) / n
            shares = shares + torch.stack([((parts @ one) * parts).sum(1) for one in matrix], 1) - usual
        return shares / texts.lengths[texts.of_row, None], self._at_center(self.coef_).to(X.dtype)


def _components(rows: Tensor, texts: Texts, means: Tensor, center: Tensor, rank: int) -> Tensor:
    """Leading directions of the tokens' scatter within texts, `[d, rank]` on raw activations, each of unit variance."""
    std = Standardisation.of(rows).std
    d = rows.shape[1]
    scatter = torch.zeros(d, d, dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        beyond = (rows[part] - center - means[texts.of_row[part]]) / std
        scatter += (beyond.T @ beyond).double()
    values, vectors = torch.linalg.eigh(scatter / (len(rows) - len(texts)))
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    real = values > 1e-6 * values[0].clamp(min=1e-12)
    if not real.any():
        raise ValueError("the tokens of each text are all alike, so there is no covariance: use order=1")
    values, vectors = values[real], vectors[:, real]
    # Eigenvectors have no sign of their own; the largest entry decides, so that every machine finds the same.
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return ((vectors * largest.sign()) / values.sqrt() / std.double()[:, None]).to(rows.dtype)


def _pairs(rank: int, heads: int) -> tuple[Tensor, Tensor]:
    """The pairs of components within a head: two index vectors, first <= second."""
    first, second = torch.triu_indices(rank, rank)
    together = first % heads == second % heads
    return first[together], second[together]


def _covariances(parts: Tensor, texts: Texts, first: Tensor, second: Tensor) -> Tensor:
    """`(scatter + I) / n` of each text's `parts [row, rank]`, for the pairs asked for: `[text, pair]`."""
    parts = parts - texts.means(parts)[texts.of_row]
    found = []
    for i in (
        first.unique().tolist()
    ):  # one component with its others at a time: the products of all would be many rows wide
        found.append(texts.sums(parts[:, i, None] * parts[:, second[first == i]]))
    scatter = torch.cat(found, 1)
    return (scatter + (first == second).to(scatter)) / texts.lengths[:, None]
