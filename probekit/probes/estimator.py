"""`Estimator`: what all probes share. scikit-learn's protocol, without importing scikit-learn."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from probekit.probes.arrays import as_vector


class Estimator:
    """A read-out of one target from activations `[n, d]`.

    Attributes:
        family: The name it goes by.
        grid_parameter: The parameter that a search chooses from `grid`, if there is one.
        default_grid: That grid, where it does not depend on the data.
        classes_: The class labels in order; absent for continuous targets.
    """

    family: ClassVar[str]
    grid_parameter: ClassVar[str | None] = None
    default_grid: ClassVar[tuple[float, ...]] = ()

    classes_: np.ndarray

    def grid(self, X: np.ndarray | Tensor, y: Any) -> tuple[float, ...]:
        """Values of `grid_parameter` that a search on these data should try."""
        return self.default_grid

    def fit(self, X: np.ndarray | Tensor, y: Any) -> Self:
        """Fit one target: `X [n, d]`, `y [n]`."""
        raise NotImplementedError

    def predict_log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Log-probabilities `[n, class]`."""
        raise NotImplementedError

    def predict_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Probabilities `[n, class]`."""
        probabilities: np.ndarray = np.exp(self.predict_log_proba(X))
        return probabilities

    def predict(self, X: np.ndarray | Tensor) -> np.ndarray:
        """The most likely class of each row `[n]`."""
        index = self.predict_log_proba(X).argmax(1)  # first, as it says where the probe is not fitted
        found: np.ndarray = self.classes_[index]
        return found

    def score(self, X: np.ndarray | Tensor, y: object) -> float:
        """Accuracy, or R2 for continuous targets."""
        predicted = self.predict(X)
        labels = as_vector(y, len(predicted))
        if hasattr(self, "classes_"):
            return float(np.mean(predicted == labels))
        residual = np.square(labels - predicted).sum()
        return float(1 - residual / np.square(labels - labels.mean()).sum())

    def save(self, path: str | Path) -> Path:
        """Write the fitted probe, with any that it holds, as one safetensors file: the old one stays or the new one is whole.

        Args:
            path: The file; its folder is made where it is missing.

        Raises:
            IsADirectoryError: `path` is a folder.
            ValueError: the probe is not fitted.
            TypeError: a class that is not probekit's, or a parameter that cannot be written (a function, say).
        """
        from probekit.probes.estimator_files import write_probe

        return write_probe(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote; `load_probe` reads one of any family.

        Raises:
            FileNotFoundError, IsADirectoryError: no such file, or a folder.
            ValueError: no saved probe (a pickle is never opened), a damaged one, or one of another class.
        """
        from probekit.probes.estimator_files import load_probe

        found = load_probe(path)
        if not isinstance(found, cls):
            name = type(found).__name__
            raise ValueError(f"{path} holds a {name}, no {cls.__name__}: use {name}.load or load_probe")
        return found

    @classmethod
    def _parameters(cls) -> list[str]:
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # of object's own __init__
        parameters = inspect.signature(cls.__init__).parameters.values()
        return [each.name for each in parameters if each.name != "self" and each.kind not in several]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters."""
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **parameters: object) -> Self:
        """Set constructor parameters; unknown names raise."""
        for name, value in parameters.items():
            if name not in self._parameters():
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {self._parameters()}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> object:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        regressor = getattr(self, "kind", None) == "continuous"
        return Tags(
            estimator_type="regressor" if regressor else "classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=None if regressor else ClassifierTags(),
            regressor_tags=RegressorTags() if regressor else None,
            input_tags=InputTags(),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"
