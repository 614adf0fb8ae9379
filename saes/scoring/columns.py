"""Label sets as yes/no columns beside the rows of a feature store: what features are scored against."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from probekit.data import Dataset, LabelSet

Labels: TypeAlias = "Dataset | LabelSet | Sequence[LabelSet]"


@dataclass(frozen=True)
class ColumnName:
    """One yes/no question: does `target` of `label_set` show `class_`?"""

    label_set: str
    target: str
    class_: str

    def __str__(self) -> str:
        return f"{self.target} is {self.class_}"


@dataclass(frozen=True)
class Columns:
    """Yes/no labels of rows.

    Attributes:
        names: What each column asks.
        positive: `[row, column]` bool; False where not defined.
        defined: `[row, column]` bool, or None where everything is.
    """

    names: tuple[ColumnName, ...]
    positive: np.ndarray
    defined: np.ndarray | None

    def __len__(self) -> int:
        return int(self.positive.shape[1])

    def of_rows(self, rows: np.ndarray) -> Columns:
        """Those of some rows (mask or indices)."""
        return Columns(self.names, self.positive[rows], None if self.defined is None else self.defined[rows])

    def of_columns(self, which: np.ndarray) -> Columns:
        """Some columns (mask); their `defined` is None where all of them are defined everywhere."""
        defined = None if self.defined is None or self.defined[:, which].all() else self.defined[:, which]
        names = tuple(itertools.compress(self.names, which))
        return Columns(names, np.ascontiguousarray(self.positive[:, which]), defined)


def columns_of(labels: Labels, sequence: np.ndarray, item: np.ndarray) -> Columns:
    """One column a target and class; for two classes one a target, whose positive class is the second.

    Args:
        labels: Label sets of classes, or a data set, all of whose label sets of classes are taken.
        sequence: `[row]` index into label sets that belong to sequences.
        item: `[row]` index into label sets that belong to tokens.

    Raises:
        ValueError: no label set; a continuous one asked for by itself; label sets shorter than the rows need.
    """
    if isinstance(labels, Dataset):
        chosen = [found for found in map(labels.label_set, labels.labels) if found.kind != "continuous"]
    else:
        chosen = [labels] if isinstance(labels, LabelSet) else list(labels)
    if not chosen:
        raise ValueError("no label set of classes to score features against: pass a LabelSet, several, or a Dataset")
    names: list[ColumnName] = []
    positive, defined = [], []
    for found in chosen:
        if found.kind == "continuous":
            raise ValueError(
                f"label set {found.name!r} is continuous: features are scored against classes. Read it with a ridge probe, "
                "or cut it into classes first"
            )
        rows = sequence if found.level == "sequence" else item
        if len(rows) and rows.max() >= len(found):
            raise ValueError(
                f"label set {found.name!r} has {len(found):,} values, but the features go up to {found.level} "
                f"{rows.max():,}: they are of other data"
            )
        values = found.values[rows]
        classes = [1] if len(found.classes) == 2 else range(len(found.classes))
        for class_ in classes:
            positive.append(values == class_)
            defined.append(values >= 0)
            names += [ColumnName(found.name, target, found.classes[class_]) for target in found.targets]
    known = np.concatenate(defined, 1)
    return Columns(tuple(names), np.ascontiguousarray(np.concatenate(positive, 1)), None if known.all() else known)
