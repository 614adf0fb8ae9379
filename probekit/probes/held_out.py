"""Rows held out by whole groups, so that a part of what is given can judge a probe fitted on the rest."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.data.splits import split_items
from probekit.probes.estimator import Estimator


def group_codes(groups: object, n: int) -> np.ndarray:
    """The group of each row as a number `[n]`; without groups (None) every row is its own.

    Raises:
        ValueError: not one label a row.
    """
    if groups is None:
        return np.arange(n)
    names = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups must be one label a row, [{n}], got shape {names.shape}")
    codes: np.ndarray = np.unique(names, return_inverse=True)[1]
    return codes


def fold_of_rows(codes: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, `[n]` from 0: whole groups, each class spread over the folds as evenly as groups allow.

    There are fewer folds than asked for where there are fewer groups, or fewer rows of the commonest class.

    Args:
        codes: `[n]` class indices.
        groups: `[n]` group indices, as `group_codes` gives.

    Raises:
        ValueError: fewer than two groups, or no class with two rows.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    count = len(np.unique(groups))
    if count < 2:
        raise ValueError(
            f"all {len(groups)} rows are of one group: nothing can be held out; give finer groups, or more rows"
        )
    if np.bincount(codes).max() < 2:
        raise ValueError(f"{len(codes)} rows of {len(codes)} classes: nothing can be held out; give more rows a class")
    folds = max(2, min(folds, count, int(np.bincount(codes).max())))
    kind = StratifiedKFold if count == len(groups) else StratifiedGroupKFold
    fold = np.zeros(len(codes), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a rare class cannot be in every fold; callers look at what is there
        parts = kind(folds, shuffle=True, random_state=seed).split(np.zeros((len(codes), 1)), codes, groups)
        for number, (_, rows) in enumerate(parts):
            fold[rows] = number
    return fold


def is_fitted(probe: object) -> bool:
    """Whether an estimator has learned values, by scikit-learn's rule: attributes that end with an underscore."""
    return any(name.endswith("_") and not name.startswith("_") for name in vars(probe))


def fit_copy(probe: Estimator, X: np.ndarray | Tensor, y: np.ndarray, groups: np.ndarray) -> Any:
    """A fitted copy; the groups are given to estimators whose `fit` takes them."""
    from sklearn.base import clone

    copy: Any = clone(probe)
    more = {"groups": groups} if "groups" in inspect.signature(copy.fit).parameters else {}
    return copy.fit(X, y, **more)


def hold_out(codes: np.ndarray | None, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows to fit on and of those held out; no group is in both.

    Args:
        codes: `[n]` class indices: classes are then held out evenly, and one that would be held out altogether is not;
            None: groups are drawn at random.
        groups: `[n]` group indices.
        share: Of the rows, about; above 0 and at most 0.5.

    Raises:
        ValueError: fewer than two groups, a share out of range, or classes so rare that none can be held out.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"held_out is a share of the rows, above 0 and at most 0.5; got {share}")
    if codes is None:
        split = split_items(np.arange(len(groups)), groups, seed, (1 - share, 0.0, share))
        return split.train, split.test
    fold = fold_of_rows(codes, groups, round(1 / share), seed)
    # One large group can be a fold by itself: of those that show most classes, the one nearest to the share.
    away = [(-len(np.unique(codes[fold == one])), abs(float((fold == one).mean()) - share)) for one in np.unique(fold)]
    held = fold == min(range(len(away)), key=away.__getitem__)
    lost = np.setdiff1d(codes[held], codes[~held])
    held &= ~np.isin(groups, groups[np.isin(codes, lost)])
    if not held.any():
        raise ValueError(
            f"nothing can be held out of {len(codes)} rows in {len(np.unique(groups))} groups without taking a whole "
            "class away: give more rows a class, or finer groups"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def mean_over_folds(loss: Tensor, held: np.ndarray) -> Tensor:
    """The loss on all rows that were held out: `[..., fold]` means of each fold -> `[...]`; inf where a fold has none.

    Args:
        held: `[row, fold]` bool, which rows each fold holds out.
    """
    counts = torch.from_numpy(held.sum(0).astype(np.float64))
    return torch.nan_to_num((loss * counts).sum(-1) / counts.sum(), nan=torch.inf)
