"""Fitting all targets of a label set at one site, with each target's own penalty."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from probekit.data import LabelSet
from probekit.probes.base import LinearProbe
from probekit.probes.grid import fit_grid
from probekit.probes.solution import PER_PROBE
from probekit.probes.stack import ProbeStack


def fit_chosen(
    probe: str | LinearProbe,
    X: Tensor,
    Y: np.ndarray,
    X_valid: Tensor,
    Y_valid: np.ndarray,
    grid: Sequence[float] | None,
    labels: LabelSet,
    site: str = "",
) -> ProbeStack:
    """Fit the whole grid on training rows and take, for each target, the value with the least loss on validation.

    The loss is log-loss for classes (a proper score: it still moves where accuracy does not) and squared error for
    continuous labels. A target without a defined validation row gets the middle of the grid.

    Returns:
        A stack `[target]`; `.chosen` `[target]` are the values taken.
    """
    stack = _fit(probe, X, Y, grid, labels)
    loss = stack.loss(X_valid, Y_valid)
    unknown = torch.isnan(loss).all(0)
    choice = torch.where(unknown, len(stack.grid) // 2, torch.nan_to_num(loss, nan=torch.inf).argmin(0))
    return replace(stack.select(choice), sites=(site,) if site else ())


def fit_like(probe: str | LinearProbe, X: Tensor, Y: np.ndarray, chosen: Tensor, labels: LabelSet) -> ProbeStack:
    """Fit other labels of the same kind with the values that were chosen for the real ones.

    Args:
        Y: `[n, target]`, several label sets like `labels` beside each other.
        chosen: `[target]` value for each column of `Y`.
    """
    pieces, columns = [], []
    for value in torch.unique(chosen).tolist():
        at = (chosen == value).nonzero().flatten()
        pieces.append(_fit(probe, X, Y[:, at.numpy()], _grid_of_one(probe, value), labels, named=False).select(0))
        columns.append(at)
    order = torch.argsort(torch.cat(columns))
    joined = {name: torch.cat([getattr(p, name) for p in pieces])[order] for name in PER_PROBE}
    return replace(pieces[0], **joined, targets=tuple(str(i) for i in range(len(order))), chosen=chosen)


def targets_of(stack: ProbeStack, which: slice, targets: Sequence[str]) -> ProbeStack:
    """Some consecutive targets of a stack `[target]`, under other names."""
    names = (*PER_PROBE, "chosen")
    taken = {name: getattr(stack, name)[which] for name in names if getattr(stack, name) is not None}
    return replace(stack, **taken, targets=tuple(targets))


def _fit(
    probe: str | LinearProbe,
    X: Tensor,
    Y: np.ndarray,
    grid: Sequence[float] | None,
    labels: LabelSet,
    named: bool = True,
) -> ProbeStack:
    with warnings.catch_warnings():
        # Constant control targets are expected, and what did not converge is counted and said in the result's notes.
        warnings.simplefilter("ignore")
        return fit_grid(
            probe, X, Y, grid, kind=labels.kind, classes=labels.classes or None, targets=labels.targets if named else ()
        )


def _grid_of_one(probe: str | LinearProbe, value: float) -> list[float] | None:
    from probekit.probes.grid import FAMILIES

    family = FAMILIES[probe]() if isinstance(probe, str) else type(probe)
    return None if family.grid_parameter is None else [value]
