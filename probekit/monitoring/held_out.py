"""The held-out texts that a monitor is fitted to: which raise the alarm, which belong together, and which part each is in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from probekit.data import Dataset, LabelSet
from probekit.probes.held_out import fold_of_rows, group_codes


def positives(labels: object, n: int, classes: tuple[str, str]) -> np.ndarray:
    """`[n]` bool: which texts are of the alarm class. Labels are matched by what they are called, as a data set calls classes."""
    values: Any = labels.values if isinstance(labels, LabelSet) else labels
    if isinstance(labels, LabelSet) and labels.kind != "continuous":
        column = np.asarray(values).reshape(len(values), -1)[:, 0]
        values = [labels.classes[int(v)] if v >= 0 else None for v in column]
    given = np.asarray(values, dtype=object) if not isinstance(values, np.ndarray) else values.astype(object)
    if given.shape != (n,):
        raise ValueError(f"labels must be one a text, [{n}], got shape {given.shape}")
    found = [str(v.item() if isinstance(v, np.generic) else v) for v in given.tolist()]
    found = [_alike(name, classes) for name in found]
    strange = sorted({name for name in found if name not in classes})
    if strange:
        raise ValueError(
            f"labels has values {strange[:5]} that the probe does not know; its classes are {', '.join(sorted(classes))}"
        )
    positive = np.array([name == classes[1] for name in found])
    if positive.all() or not positive.any():
        raise ValueError(f"labels has one class only ({found[0]!r}): no threshold can be set without texts of both")
    few = min(int(positive.sum()), int((~positive).sum()))
    if few < 3:
        raise ValueError(f"labels has {few} texts of a class; it takes 3 at least, one for each part")
    return positive


def _alike(name: str, classes: tuple[str, str]) -> str:
    """The class that a label stands for: 1, 1.0, True and true are one where the probe has only one of them."""
    if name in classes:
        return name
    for same in (("0", "0.0", "False", "false"), ("1", "1.0", "True", "true")):
        meant = [c for c in classes if c in same]
        if name in same and len(meant) == 1:
            return meant[0]
    return name


def together(groups: object, data: Dataset) -> np.ndarray:
    """`[text]` groups, joined where texts are identical."""
    if groups is None:
        return np.asarray(data.groups)
    return np.asarray(replace(data, groups=group_codes(groups, len(data)), labels={}).groups)


def three_parts(positive: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """`[text]` 0, 1 or 2."""
    part = fold_of_rows(positive.astype(int), groups, 3, seed)
    for k in range(3):
        if len(np.unique(positive[part == k])) < 2:
            raise ValueError(
                f"{len(np.unique(groups))} groups cannot be divided into three parts that show both classes: give finer groups, or "
                "more texts"
            )
    return part
