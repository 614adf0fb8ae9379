"""Multi-layer perceptrons: what can be read when the read-out need not be linear."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from probekit.probes.arrays import as_rows, as_vector, encode_classes
from probekit.probes.base import ConvergenceWarning, log_proba
from probekit.probes.estimator import Estimator
from probekit.probes.held_out import group_codes, hold_out
from probekit.probes.spectrum import Standardisation

IMPROVEMENT = 1e-3  # of the held-out loss that is worth going on for: nats, or squared standard deviations
STEPS = 16  # an epoch of few rows has so many steps all the same


class MLPProbe(Estimator):
    """A perceptron with one or two hidden layers of rectified units on standardised activations.

    Hewitt & Liang 2019 ("Designing and interpreting probes with control tasks") show what to mind: such probes
    read more, but also learn more by heart, so compare selectivities and not only accuracies.

    Training (Adam, by scikit-learn's `MLPClassifier` and `MLPRegressor`) is stopped where the loss on rows held out
    from the training set has not improved for `patience` epochs, and the weights of the best epoch are kept. The
    held-out rows teach the weights nothing. Continuous targets are standardised inside.

    Args:
        width: Number of units of a hidden layer.
        layers: Number of hidden layers, 1 or 2.
        alpha: Strength of the L2 penalty, as scikit-learn's (divided by the number of rows of a batch).
        seed: Of the first weights, of the order of the rows and of which are held out.
        kind: `"classes"`, `"continuous"`, or `"auto"`: floating-point `y` is continuous, anything else classes.
        held_out: Share of the rows, or of the groups, that decide when to stop, above 0 and at most 0.5.
        patience: Epochs without improvement after which training stops.
        max_iter: Epochs after which it is given up (`converged_` is then False, with a warning).
        batch: Rows of a step; None: 200, or fewer so that an epoch has 16 steps, but at least 16.

    Attributes:
        weights_: A matrix `[in, out]` a layer, on standardised activations.
        offsets_: `[out]` a layer.
        loss_: Held-out loss of the weights kept: log-loss in nats, or squared error in units of the target's variance.
        converged_: Whether training stopped by itself.
        n_iter_: Epochs trained; `best_iter_`: those of the weights kept.
        held_out_: Indices of the rows that decided when to stop.
        classes_: The class labels in order; absent for continuous targets.
        n_features_in_: d.
    """

    family: ClassVar[str] = "mlp"
    grid_parameter: ClassVar[str | None] = "alpha"
    default_grid: ClassVar[tuple[float, ...]] = (1e-2, 1e-1, 1e0, 1e1)

    weights_: list[np.ndarray]
    offsets_: list[np.ndarray]
    loss_: float
    converged_: bool
    n_iter_: int
    best_iter_: int
    held_out_: np.ndarray
    n_features_in_: int

    def __init__(
        self,
        width: int = 64,
        layers: int = 1,
        alpha: float = 0.1,
        seed: int = 0,
        kind: Literal["auto", "classes", "continuous"] = "auto",
        held_out: float = 0.15,
        patience: int = 20,
        max_iter: int = 500,
        batch: int | None = None,
    ) -> None:
        self.width = width
        self.layers = layers
        self.alpha = alpha
        self.seed = seed
        self.kind = kind
        self.held_out = held_out
        self.patience = patience
        self.max_iter = max_iter
        self.batch = batch

    def fit(self, X: np.ndarray | Tensor, y: object, *, groups: object = None) -> Self:
        """Fit one target.

        Args:
            X: `[n, d]` activations.
            y: `[n]` class labels, or numbers for continuous targets.
            groups: `[n]` labels of groups (texts, say), each either trained on or held out; default: every row its own.

        Raises:
            ValueError: shapes, NaN or infinite values, one class only, parameters out of range, or rows (groups) too
                few to hold some out.
        """
        self._check()
        rows = as_rows(X).cpu()
        within = group_codes(groups, len(rows))
        classes: np.ndarray | None = None
        if self._is_continuous(y):
            labels = as_vector(y, len(rows)).astype(np.float64)
            if np.ptp(labels) == 0:
                raise ValueError(f"y is {labels[0]} in every row: there is nothing to predict")
            train, self.held_out_ = hold_out(None, within, self.held_out, self.seed)
            middle, spread = labels[train].mean(), labels[train].std() or 1.0
            labels = (labels - middle) / spread
        else:
            codes, classes = encode_classes(y, len(rows))
            labels, (middle, spread) = codes.numpy(), (0.0, 1.0)
            train, self.held_out_ = hold_out(labels, within, self.held_out, self.seed)
        self._standardisation = Standardisation.of(rows[train])
        standard = self._standardisation.apply(rows)
        self._train(standard[train].numpy(), labels[train], standard[self.held_out_], labels[self.held_out_], classes)
        self.weights_[-1], self.offsets_[-1] = self.weights_[-1] * spread, self.offsets_[-1] * spread + middle
        self.n_features_in_ = rows.shape[1]
        self.__dict__.pop("classes_", None)
        if classes is not None:
            self.classes_ = classes
        if not self.converged_:
            warnings.warn(
                f"the MLP still improved on its held-out rows after {self.n_iter_} epochs ({self.get_params()}); raise "
                "max_iter, or lower batch so that an epoch has more steps",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _check(self) -> None:
        if self.layers not in (1, 2):
            raise ValueError(f"layers must be 1 or 2, got {self.layers}")
        for name in ("width", "patience", "max_iter", *(() if self.batch is None else ("batch",))):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")
        if self.kind not in ("auto", "classes", "continuous"):
            raise ValueError(f"kind must be 'auto', 'classes' or 'continuous', got {self.kind!r}")

    def _is_continuous(self, y: object) -> bool:
        if self.kind == "auto":
            return y.dtype.is_floating_point if isinstance(y, Tensor) else np.asarray(y).dtype.kind == "f"
        return self.kind == "continuous"

    def _train(
        self, X: np.ndarray, y: np.ndarray, X_held: Tensor, y_held: np.ndarray, classes: np.ndarray | None
    ) -> None:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.utils import check_random_state

        batch = self.batch if self.batch is not None else max(16, min(200, len(X) // STEPS))
        network: Any = (MLPRegressor if classes is None else MLPClassifier)(
            hidden_layer_sizes=(self.width,) * self.layers,
            alpha=self.alpha,
            batch_size=min(batch, len(X)),
            max_iter=self.max_iter + 1,  # each call of partial_fit is one epoch; it warns by itself at its last
            random_state=check_random_state(self.seed),  # one stream: a number would start each epoch's shuffle anew
        )
        known = {} if classes is None else {"classes": np.arange(len(classes))}
        truth = torch.from_numpy(y_held)
        best = mark = np.inf
        marked = 0
        self.converged_ = False
        for epoch in range(1, self.max_iter + 1):
            network.partial_fit(X, y, **known)
            scores = _forward(X_held, network.coefs_, network.intercepts_)
            if classes is None:
                loss = float((scores[:, 0].double() - truth).square().mean())
            else:
                loss = float(-log_proba(scores).gather(1, truth[:, None]).mean())
            if loss < best:
                best, self.best_iter_ = loss, epoch
                self.weights_ = [w.copy() for w in network.coefs_]
                self.offsets_ = [b.copy() for b in network.intercepts_]
            if loss < mark - IMPROVEMENT:
                mark, marked = loss, epoch
            elif epoch - marked >= self.patience:
                self.converged_ = True
                break
        self.n_iter_, self.loss_ = epoch, best

    def predict_log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Log-probabilities `[n, class]`."""
        scores = self._scores(X)
        if not hasattr(self, "classes_"):
            raise ValueError("a probe of a continuous target has no probabilities; use predict")
        found: np.ndarray = log_proba(scores).numpy()
        return found

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The most likely class of each row `[n]`, or the value of a continuous target."""
        scores = self._scores(X)
        if not hasattr(self, "classes_"):
            values: np.ndarray = scores[:, 0].numpy()
            return values
        found: np.ndarray = self.classes_[log_proba(scores).argmax(1).numpy()]
        return found

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    def _scores(self, X: np.ndarray | Tensor) -> Tensor:
        if not hasattr(self, "weights_"):
            raise ValueError("this MLPProbe is not fitted yet: call fit first")
        rows = as_rows(X, width=self.n_features_in_).cpu()
        standardisation = self._standardisation.to(rows.dtype)
        return _forward(standardisation.apply(rows), self.weights_, self.offsets_)


def _forward(rows: Tensor, weights: list[np.ndarray], offsets: list[np.ndarray]) -> Tensor:
    """Scores `[n, output]` of standardised rows, one output for two classes and continuous targets, or one a class."""
    for layer, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        rows = rows.clamp(min=0) if layer else rows
        rows = rows @ torch.from_numpy(weight).to(rows.dtype) + torch.from_numpy(offset).to(rows.dtype)
    return rows
