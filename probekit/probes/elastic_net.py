"""Logistic regression under the elastic net, and its path from nothing to everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from probekit.probes.arrays import as_rows, encode_classes
from probekit.probes.base import warn_unconverged
from probekit.probes.lbfgs import Minimum
from probekit.probes.logistic import LogisticProbe
from probekit.probes.logistic_loss import LogisticLoss
from probekit.probes.proximal import minimise_l1
from probekit.probes.spectrum import Eigenbasis


@dataclass(frozen=True)
class ElasticNetPath:
    """What the elastic net keeps along the strength of its penalty.

    Attributes:
        Cs: `[C]` in the order given.
        coef: `[C, output, d]` weights on raw activations.
        intercept: `[C, output]`.
        nonzero: `[C]` number of dimensions that some output reads.
        converged: `[C]` whether the solver met its tolerance.
        classes: The class labels in order.
    """

    Cs: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    nonzero: np.ndarray
    converged: np.ndarray
    classes: np.ndarray


class ElasticNetProbe(LogisticProbe):
    """Logistic regression: sum of log-losses plus `(l1_ratio * ||w||_1 + (1 - l1_ratio) * ||w||^2 / 2) / C`, on
    standardised features.

    Zou & Hastie 2005, "Regularization and variable selection via the elastic net" (section 2): sparse as the lasso, but
    features that go together are kept together. `C` and `l1_ratio` mean what they mean in scikit-learn's
    `LogisticRegression(solver="saga")` after a `StandardScaler`; with more than two classes the model is the symmetric
    multinomial one. `coef_` acts on raw activations and keeps its zeros.

    The solver is the accelerated proximal gradient of `LogisticProbe(penalty="l1")`, which serves a whole path in one
    batch.

    Args:
        C: Inverse strength of the regularisation, > 0.
        l1_ratio: From 0 (`LogisticProbe`) to 1 (`LogisticProbe(penalty="l1")`).
        tol: Largest entry of the proximal gradient of the mean loss at which a problem counts as solved.
        max_iter: Iterations after which a problem is given up (`converged_` is then False, with a warning).
    """

    family: ClassVar[str] = "elastic_net"
    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = ()  # see `grid`

    penalty: Literal["l2", "l1"] = "l1"  # which of LogisticProbe's two ways to solve: the one without rotation

    def __init__(self, C: float = 1.0, l1_ratio: float = 0.5, tol: float = 1e-4, max_iter: int = 5000) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.tol = tol
        self.max_iter = max_iter

    def grid(self, X: np.ndarray | Tensor, y: np.ndarray | Tensor | Sequence[object]) -> tuple[float, ...]:
        """Nine values of `C` for a search: ten to the thirds of 1 to 9 times the one up to which no dimension is kept.

        That one depends on the data and on the number of rows, so no fixed grid serves: below it every model is the empty one, whose
        loss on held-out rows is better than that of many an overfitted one, and which ranks nothing (Friedman, Hastie & Tibshirani 2010,
        "Regularization paths for generalized linear models via coordinate descent", section 2.5; also for its least `l1_ratio`, 0.001).

        Args:
            X: `[n, d]` activations.
            y: `[n]` class labels.

        Raises:
            ValueError: as `fit`, or where no dimension tells the classes apart at all.
        """
        rows = as_rows(X).double()
        codes, classes = encode_classes(y, len(rows))
        truth = torch.nn.functional.one_hot(codes.to(rows.device), len(classes)).double()
        spread = rows.std(0, correction=0)
        gradient = (rows - rows.mean(0)).T @ (truth - truth.mean(0)) / torch.where(spread > 0, spread, 1)[:, None]
        largest = float(gradient.abs().max())
        if not largest > 0:
            raise ValueError("no dimension differs between the classes: there is nothing to choose a penalty for")
        return tuple(max(self.l1_ratio, 1e-3) / largest * 10 ** (third / 3) for third in range(1, 10))

    def path(
        self,
        X: np.ndarray | Tensor,
        y: np.ndarray | Tensor | Sequence[object],
        Cs: Sequence[float] | np.ndarray | None = None,
    ) -> ElasticNetPath:
        """Weights along `Cs` (default: `grid`), all solved together; each is what `fit` finds at that `C`.

        Args:
            X: `[n, d]` activations.
            y: `[n]` class labels.
            Cs: Inverse strengths, > 0, in any order.

        Raises:
            ValueError: as `fit`.
        """
        values = np.asarray(self.grid(X, y) if Cs is None else Cs, dtype=np.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"Cs must be a list of numbers, got shape {values.shape}")
        rows = as_rows(X)
        codes, classes = encode_classes(y, len(rows))
        solution = self._solve(rows, codes[:, None].to(rows.device), len(classes), values.tolist())
        warn_unconverged(self, solution, " of the path")
        coef, intercept, converged = (
            getattr(solution, name)[:, 0].cpu().numpy() for name in ("coef", "intercept", "converged")
        )
        return ElasticNetPath(values, coef, intercept, (coef != 0).any(1).sum(1), converged, classes)

    def _solve_l1(
        self, X: Tensor, Y: Tensor, n_classes: int, strength: Tensor, target: Tensor
    ) -> tuple[Minimum, Tensor, Tensor, Tensor, Tensor]:
        if not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio lies between 0 and 1, got {self.l1_ratio}")
        problems, width = len(target), X.shape[1] + 1
        loss = LogisticLoss(
            torch.cat([X, X.new_ones(len(X), 1)], 1),
            torch.zeros_like(X[0]),
            Y,
            n_classes,
            torch.zeros_like(strength),
            target,
        )
        # The loss takes the last of many classes as the origin; here every class has penalised weights of its own.
        start = loss.start().view(problems, n_classes - 1, width)
        if n_classes > 2:
            start = torch.cat([start, torch.zeros_like(start[:, :1])], 1)
        outputs = start.shape[1]
        penalised = X.new_ones(width)
        penalised[-1] = 0  # not the intercept
        strength = strength.to(X.dtype)
        lasso = (self.l1_ratio * strength)[:, None] * penalised.repeat(outputs)
        ridge = ((1 - self.l1_ratio) * strength)[:, None] * penalised.repeat(outputs)

        def smooth(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            w = x.view(len(index), outputs, width)
            free = w if outputs == 1 else w[:, :-1] - w[:, -1:]
            value, gradient, size = loss(free.flatten(1), index)
            if outputs > 1:
                gradient = gradient.view(len(index), outputs - 1, width)
                gradient = torch.cat([gradient, -gradient.sum(1, keepdim=True)], 1).flatten(1)
            pull = ridge[index] * x
            return value + (pull * x).sum(1).to(value.dtype) / 2, gradient + pull, size

        bound = 0.25 if outputs == 1 else 0.5  # of diag(p) - p p' (Bohning 1992)
        largest = max(float(Eigenbasis.of_rows(X).values[-1]) / len(X), 1.0)
        curvature = bound * largest + float(ridge.max())
        found = minimise_l1(smooth, start.flatten(1), lasso, curvature, tolerance=self.tol, max_iter=self.max_iter)
        w = found.x.view(problems, outputs, width).double()
        intercept = w[..., -1] - (w[..., -1].mean(1, keepdim=True) if outputs > 1 else 0)
        return found, w[..., :-1], intercept, *loss.class_means()
