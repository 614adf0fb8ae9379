"""`TokenProbe`: what probes share that read one label of a whole text from the activations of all its tokens."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from probekit.probes.arrays import as_rows, encode_classes
from probekit.probes.base import ConvergenceWarning, log_proba
from probekit.probes.estimator import Estimator
from probekit.probes.lbfgs import Minimum, minimise
from probekit.probes.logistic import LogisticProbe
from probekit.probes.texts import Texts

CHUNK = 4096

# (token scores [row, k]) -> (text scores [text, output], (their gradient [text, output]) -> that of the token scores)
Pool = Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]


class TokenProbe(Estimator):
    """A read-out of one label of a text from the activations of its tokens.

    Wherever rows are taken, `sequence [row]` goes with them: the number 0..n-1 of the text a row is a token of. Rows
    of one text need not stand together, but all of them must be there; answers come one a text, in the order of the
    numbers.

    A family is one subclass with `_fit` and `_shares`.

    Attributes:
        classes_: The class labels in order.
        center_: `[d]` the mean token of training. Shares are counted from it, so that an ordinary token has none.
        intercept_: `[output]`, for raw activations. There is one output for two classes, positive towards
            `classes_[1]`, and one a class otherwise.
        converged_, n_iter_: Whether the solver met its tolerance, and its number of iterations.
        n_features_in_: d.
    """

    center_: np.ndarray
    intercept_: np.ndarray
    converged_: bool
    n_iter_: int
    n_features_in_: int

    def _fit(self, rows: Tensor, texts: Texts, codes: Tensor, n_classes: int) -> None:
        """Set everything learned from sorted rows `[row, d]` and class indices `[text]`; `center_` is set already."""
        raise NotImplementedError

    def _shares(self, X: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
        """From sorted rows: what each says beyond the mean token `[row, output]`, and the score of a text of nothing
        else `[output]`. A text's score is the sum of the shares of its rows and that constant."""
        raise NotImplementedError

    def fit(self, X: np.ndarray | Tensor, y: Any, *, sequence: Any = None) -> Self:
        """Fit one label a text.

        Args:
            X: `[row, d]` activations of all tokens of all texts, float32 unless they are float64.
            y: `[text]` class labels: strings, integers or booleans.
            sequence: `[row]` integers, the text of each row. The order of a text's tokens is that of
                its rows.

        Raises:
            TypeError: no `sequence`, or not integers; `X` not numbers.
            ValueError: NaN or infinite values, lengths that do not fit, texts without rows, one class only.
        """
        rows = as_rows(X)
        texts = Texts.of(sequence, len(rows), rows.device)
        codes, classes = encode_classes(self._labels(y, texts), len(texts))
        self.__dict__.pop("classes_", None)  # should this fit fail, the probe is not a mixture of two
        rows = texts.sort(rows)
        mean = torch.stack([part.sum(0).double() for part in rows.split(CHUNK)]).sum(0) / len(rows)
        self.center_ = mean.to("cpu", rows.dtype).numpy()
        self._fit(rows, texts, codes.to(rows.device), len(classes))
        self.n_features_in_ = rows.shape[1]
        self.classes_ = classes
        if not self.converged_:
            warnings.warn(
                f"this {self.family} probe did not meet its tolerance in {self.n_iter_} iterations "
                f"({self.get_params()}); raise max_iter, strengthen the regularisation (lower C), or pass float64 "
                "activations",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def decision_function(self, X: np.ndarray | Tensor, *, sequence: Any = None) -> np.ndarray:
        """Scores `[text]` for two classes (positive means `classes_[1]`), else `[text, class]`."""
        scores = self._scores(X, sequence).numpy()
        found: np.ndarray = scores[:, 0] if scores.shape[1] == 1 else scores
        return found

    def predict_log_proba(self, X: np.ndarray | Tensor, *, sequence: Any = None) -> np.ndarray:
        """Log-probabilities `[text, class]`."""
        found: np.ndarray = log_proba(self._scores(X, sequence)).numpy()
        return found

    def predict_proba(self, X: np.ndarray | Tensor, *, sequence: Any = None) -> np.ndarray:
        """Probabilities `[text, class]`."""
        found: np.ndarray = np.exp(self.predict_log_proba(X, sequence=sequence))
        return found

    def predict(self, X: np.ndarray | Tensor, *, sequence: Any = None) -> np.ndarray:
        """The most likely class of each text `[text]`."""
        log_proba_of_text = self.predict_log_proba(X, sequence=sequence)
        found: np.ndarray = self.classes_[log_proba_of_text.argmax(1)]
        return found

    def score(self, X: np.ndarray | Tensor, y: object, *, sequence: Any = None) -> float:
        """Accuracy over texts, `y [text]`."""
        rows, texts = self._read(X, sequence)
        labels = self._labels(y, texts)
        return float(np.mean(self.predict(rows, sequence=sequence) == labels))

    def token_scores(self, X: np.ndarray | Tensor, sequence: Any) -> np.ndarray:
        """Each token's share in its text's answer: `[row]` for two classes (positive speaks for `classes_[1]`), else
        `[row, class]`, in the order of the rows.

        The shares of a text sum up to its `decision_function`. What a text of ordinary tokens would score (the
        intercept above all) is no token's doing and is spread evenly over them.
        """
        rows, texts = self._read(X, sequence)
        shares, constant = self._shares(texts.sort(rows), texts)
        found: np.ndarray = texts.unsort(shares + (constant / texts.lengths[:, None])[texts.of_row]).numpy()
        return found[:, 0] if found.shape[1] == 1 else found

    def _scores(self, X: np.ndarray | Tensor, sequence: object) -> Tensor:
        rows, texts = self._read(X, sequence)
        shares, constant = self._shares(texts.sort(rows), texts)
        return texts.sums(shares) + constant

    def _read(self, X: np.ndarray | Tensor, sequence: object) -> tuple[Tensor, Texts]:
        if not hasattr(self, "classes_"):
            raise ValueError(f"this {type(self).__name__} is not fitted yet: call fit first")
        rows = as_rows(X, width=self.n_features_in_).cpu()
        return rows, Texts.of(sequence, len(rows))

    def _labels(self, y: object, texts: Texts) -> Any:
        count = len(y) if hasattr(y, "__len__") else None
        if count is not None and count != len(texts):
            hint = "; y is one label a text, not a token" if count == len(texts.of_row) else ""
            raise ValueError(f"sequence numbers {len(texts)} texts, y has {count} labels{hint}")
        return y

    def _beyond_center(self, X: Tensor, weights: np.ndarray) -> Tensor:
        """`(X - center_)` times `weights [k, d]`, `[row, k]`, a few thousand rows at a time."""
        center, columns = (torch.as_tensor(a).to(X.dtype) for a in (self.center_, weights.T))
        return torch.cat([(part - center) @ columns for part in X.split(CHUNK)])

    def _set_intercept(self, at_center: Tensor, coef: np.ndarray) -> None:
        """From the score of a text of mean tokens `[output]`, and what a shift of all adds to it `[output, d]`."""
        if len(at_center) > 1:  # a shift of all classes says nothing
            at_center = at_center - at_center.mean()
        self.intercept_ = at_center.double().cpu().numpy() - coef.astype(np.float64) @ self.center_.astype(np.float64)

    def _at_center(self, coef: np.ndarray) -> Tensor:
        """The score of a text of mean tokens `[output]`, float64."""
        return torch.from_numpy(self.intercept_ + coef.astype(np.float64) @ self.center_.astype(np.float64))


def check_whole(**parameters: int) -> None:
    """Raise unless all are whole numbers from 1."""
    for name, value in parameters.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {value!r}")


def mean_pooled(means: Tensor, codes: Tensor, C: float) -> tuple[Tensor, Tensor]:
    """Where training starts: `(coef [output, d], intercept [output])` of a logistic probe on the texts' mean tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start need not be exact
        probe = LogisticProbe(C).fit(means, codes)
    return torch.from_numpy(probe.coef_).to(means.device), torch.from_numpy(probe.intercept_).to(means.device)


def train(
    rows: Tensor,
    codes: Tensor,
    pool: Pool,
    weights: Tensor,
    intercept: Tensor,
    penalty: Tensor,
    scale: Tensor,
    *,
    tolerance: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, Minimum]:
    """Minimise mean log-loss over texts plus `penalty * weights^2 / 2` by L-BFGS, from a given start.

    Pooling makes the loss one of many minima; the one found is that below the start.

    Args:
        rows: `[row, d]` centred.
        codes: `[text]` class indices.
        pool: From token scores `rows @ (weights * scale).T` to text scores, and its backward pass.
        weights: `[k, d]` start; `intercept` `[output]`; one output stands for two classes.
        penalty: `[k, 1]`, beside the *mean* loss.
        scale: `[k, d]` of each weight.
    """
    k, d = weights.shape
    texts, outputs = len(codes), len(intercept)
    observed = torch.nn.functional.one_hot(codes, max(outputs, 2)).to(rows.dtype)

    def objective(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w, b = x[0, : k * d].view(k, d), x[0, k * d :]
        scores, back = pool(rows @ (w * scale).T)
        logits = scores + b
        if outputs == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        log_p = torch.log_softmax(logits, 1)
        pulled = penalty * w
        value = -(log_p * observed).sum(dtype=torch.float64) / texts + 0.5 * (pulled * w).sum(dtype=torch.float64)
        residual = (log_p.exp() - observed)[:, -outputs:] / texts
        gradient = (back(residual).T @ rows) * scale + pulled
        size = value + logits.abs().amax(1).mean(dtype=torch.float64)
        return value[None], torch.cat([gradient.flatten(), residual.sum(0)])[None], size[None]

    # About the loss's curvature for features of unit size. Without it a strong penalty on some weights stalls the rest.
    curvature = torch.cat([(0.25 + penalty).expand(k, d).flatten(), penalty.new_full((outputs,), 0.25)])

    def precondition(gradient: Tensor, index: Tensor) -> Tensor:
        return gradient / curvature

    start = torch.cat([weights.flatten(), intercept])[None].to(rows.dtype)
    found = minimise(objective, start, precondition, tolerance=tolerance, max_iter=max_iter)
    return found.x[0, : k * d].view(k, d), found.x[0, k * d :], found
