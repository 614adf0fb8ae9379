"""What goes into a probe: activations and labels, checked once, as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def as_rows(X: object, name: str = "X", width: int | None = None) -> Tensor:
    """Activations `[n, d]` as a float32 tensor (float64 stays float64), checked.

    Raises:
        TypeError: not numbers.
        ValueError: not two-dimensional, empty, of another width than `width`, or with NaN or infinite values (names
            the first rows).
    """
    if isinstance(X, Tensor):
        rows = X.detach()
    else:
        array = np.asarray(X)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name} must be an array of numbers [row, feature], got dtype {array.dtype}")
        if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
            array = array.copy()  # torch takes neither negative strides nor, without a warning, read-only memory
        rows = torch.from_numpy(array)
    if rows.ndim != 2:
        hint = (
            "; one row is X[None]"
            if rows.ndim == 1
            else "; several sites go through fit_grid"
            if rows.ndim == 3
            else ""
        )
        raise ValueError(f"{name} must be [row, feature], got shape {tuple(rows.shape)}{hint}")
    if 0 in rows.shape:
        raise ValueError(f"{name} is empty: shape {tuple(rows.shape)}")
    if width is not None and rows.shape[1] != width:
        raise ValueError(f"{name} has {rows.shape[1]} features, this probe was fitted on {width}")
    if rows.dtype != torch.float64:
        rows = rows.to(torch.float32)
    # A sum meets every value and costs one pass; only when it is not finite is it worth looking for the place.
    if not torch.isfinite(rows.sum()):
        bad = (~torch.isfinite(rows)).any(1).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{name} has NaN or infinite values in {len(bad)} of {len(rows)} rows (first: {bad[:5].tolist()}); "
                "drop those rows, or capture in a wider dtype if float16 overflowed"
            )
    return rows


def as_vector(y: object, n: int) -> np.ndarray:
    """Labels `[n]` of any type as a numpy array, checked for length and missing values."""
    labels: np.ndarray
    if isinstance(y, Tensor):
        labels = y.detach().cpu().numpy()
    else:  # a list of words with a NaN among them would become words, NaN too
        mixed = isinstance(y, list | tuple) and 0 < sum(isinstance(v, str) for v in y) < len(y)
        labels = np.array(y, dtype=object) if mixed else np.asarray(y)
    if labels.ndim != 1:
        raise ValueError(
            f"y must be one label a row [n], got shape {labels.shape}; for many targets at once use fit_many"
        )
    if len(labels) != n:
        raise ValueError(f"X has {n} rows, y has {len(labels)} labels")
    if labels.dtype.kind == "f":
        missing = ~np.isfinite(labels)
    elif labels.dtype.kind == "O":
        missing = np.array([v is None or (isinstance(v, float) and not np.isfinite(v)) for v in labels])
    else:
        missing = np.zeros(n, bool)
    if missing.any():
        where = np.flatnonzero(missing)[:5].tolist()
        raise ValueError(
            f"y has {missing.sum()} missing or infinite labels (first rows: {where}); leave those rows out"
        )
    return labels


def encode_classes(y: object, n: int) -> tuple[Tensor, np.ndarray]:
    """Labels `[n]` (strings, integers, booleans, whole floats) -> class indices `[n]` int64 and the sorted classes.

    Raises:
        ValueError: one class only, continuous values, or hardly more rows than classes.
    """
    labels = as_vector(y, n)
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels)):
        raise ValueError("y is continuous (it has fractional values): use RidgeProbe, or turn it into classes first")
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in labels})
        raise TypeError(f"y mixes labels of types {kinds}, which have no common order; make them all strings") from None
    if len(classes) < 2:
        raise ValueError(f"y has one class only ({classes.tolist()[0]!r}): there is nothing to tell apart")
    if len(classes) > 2 and n < 2 * len(classes):
        raise ValueError(
            f"y has {len(classes)} classes for {n} rows, fewer than two examples a class: "
            "these look like identifiers or continuous values (for which there is RidgeProbe)"
        )
    return torch.from_numpy(codes.astype(np.int64).reshape(-1)), classes


def as_targets(Y: object, n: int, n_classes: int | None) -> Tensor:
    """Targets `[n, t]` checked: integer class indices with -1 where left out (`n_classes` given), or float64 with NaN there.

    Raises:
        ValueError: wrong shape, class indices out of range, infinite values, or a target without any labelled row.
    """
    targets = Y.detach().cpu() if isinstance(Y, Tensor) else torch.from_numpy(np.array(Y))
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.ndim != 2 or len(targets) != n or targets.shape[1] == 0:
        raise ValueError(f"Y must be [row, target] with {n} rows, got shape {tuple(targets.shape)}")
    if n_classes is None:
        targets = targets.to(torch.float64)
        if torch.isinf(targets).any():
            raise ValueError("Y has infinite values; NaN marks a row that is left out")
        labelled = ~targets.isnan()
    else:
        if targets.dtype.is_floating_point:
            raise TypeError(f"Y must hold integer class indices (got {targets.dtype}); -1 leaves a row out")
        low, high = int(targets.min()), int(targets.max())
        if low < -1 or high >= n_classes:
            raise ValueError(
                f"Y has class indices {low}..{high}, but there are {n_classes} classes: 0..{n_classes - 1}"
            )
        targets = targets.to(torch.int16 if n_classes < 2**15 else torch.int64)  # narrow: compared with every class
        labelled = targets >= 0
    empty = (labelled.sum(0) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"targets {empty[:10]} have no labelled row at all; drop them before fitting")
    return targets


def class_index(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Place of each label in `classes`, -1 where it is not there."""
    place = {label: k for k, label in enumerate(classes.tolist())}
    return np.array([place.get(label, -1) for label in labels.tolist()])
