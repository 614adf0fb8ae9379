"""Label sets as yes/no columns beside the rows of a feature store: what features are scored against."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from probekit.activations import prefix_hashes
from probekit.data import Dataset, LabelSet
from probekit.data.dataset import as_groups

if TYPE_CHECKING:
    from saes.features import SparseFeatures

Labels: TypeAlias = "Dataset | LabelSet | Sequence[LabelSet]"


@dataclass(frozen=True)
class ColumnName:
    """One yes/no question: does `target` of `label_set` show `class_`?

    Attributes:
        shared: Whether another label set has a column that would read the same, so that the text must name the label set.
    """

    label_set: str
    target: str
    class_: str
    shared: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        said = f"{self.target} is {self.class_}"
        return f"{self.label_set}: {said}" if self.shared else said


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


def class_label_sets(data: Dataset) -> list[LabelSet]:
    """Label sets of a data set that features can be scored against."""
    return [found for found in map(data.label_set, data.labels) if found.kind != "continuous"]


def columns_of(labels: Labels, sequence: np.ndarray, item: np.ndarray, *, whole: bool = False) -> Columns:
    """One column a target and class; for two classes one a target, whose positive class is the second.

    Args:
        labels: Label sets of classes, or a data set, all of whose label sets of classes are taken.
        sequence: `[row]` index into label sets that belong to sequences.
        item: `[row]` index into label sets that belong to tokens.
        whole: Whether label sets must end where rows without gaps do, as no sequences or tokens can follow.

    Raises:
        ValueError: no label set; a continuous one asked for by itself; label sets of another length than the rows need.
    """
    if isinstance(labels, Dataset):
        chosen = class_label_sets(labels)
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
        check_aligned(found, rows, whole)
        values = found.values[rows]
        classes = [1] if len(found.classes) == 2 else range(len(found.classes))
        for class_ in classes:
            positive.append(values == class_)
            defined.append(values >= 0)
            names += [ColumnName(found.name, target, found.classes[class_]) for target in found.targets]
    known = np.concatenate(defined, 1)
    return Columns(
        _told_apart(names), np.ascontiguousarray(np.concatenate(positive, 1)), None if known.all() else known
    )


def check_aligned(labels: LabelSet, rows: np.ndarray, whole: bool) -> None:
    """Refuse a label set of another length than `rows` (which of its values each row has) need.

    Args:
        whole: Whether rows without gaps are all there are, so that labels must end where they do.
    """
    last = int(rows.max(initial=-1))
    ends_there = whole and len(np.unique(rows)) == last + 1
    if last >= len(labels) or (ends_there and last + 1 != len(labels)):
        raise ValueError(
            f"label set {labels.name!r} has {len(labels):,} values, but the features go up to {labels.level} {last:,}: they are of "
            "other data"
        )


def has_every_row(features: SparseFeatures) -> bool:
    """Whether the features are of arrays, or of a store that kept every row; False where nothing is known."""
    source = getattr(getattr(features, "manifest", None), "source", None)
    if source is None:
        return False
    return not source.get("tokens") or (source.get("every") == 1 and not source.get("selection"))


def _told_apart(names: Sequence[ColumnName]) -> tuple[ColumnName, ...]:
    """Columns of different label sets that read the same get the names of their label sets in front."""
    sets = Counter(str(name) for name in dict.fromkeys(names))
    return tuple(replace(name, shared=sets[str(name)] > 1) for name in names)


def columns_at(features: SparseFeatures, labels: Labels) -> Columns:
    """`columns_of` at the rows of features, after a check that the labels are of the same data.

    Features that were encoded from arrays, or from a store that kept every row, hold all rows there are, unless they have gaps (texts
    that were cut); of those from a store it is known which tokens each row saw, so that a data set of other tokens is refused.

    Raises:
        ValueError: as `columns_of`; a data set of other sequences.
    """
    if isinstance(labels, Dataset):
        check_same_data(labels, features)
    whole = has_every_row(features) and not isinstance(labels, Dataset)
    return columns_of(labels, features.sequence, features.item, whole=whole)


def check_same_data(data: Dataset, features: SparseFeatures) -> None:
    """Refuse a data set that features were not encoded from: fewer sequences, or, where that is known, other tokens."""
    source = getattr(getattr(features, "manifest", None), "source", None)
    captured = bool((source or {}).get("tokens"))
    sequence, position = features.sequence, features.position
    same = int(sequence.max(initial=-1)) < len(data)
    if same and captured and data.tokens is not None:
        lengths = np.array([len(tokens) for tokens in data.tokens])
        same = bool((position < lengths[sequence]).all())
        if same:
            there = (np.cumsum(lengths) - lengths)[sequence] + position
            same = np.array_equal(prefix_hashes(np.concatenate(data.tokens), lengths)[there], features.prefix)
    if not same:
        raise ValueError(
            f"data set {data.name!r} ({len(data):,} sequences) is not what the features were encoded from: pass the data that "
            "was captured, with its labels"
        )


def groups_of(features: SparseFeatures, labels: Labels | None, groups: Any = None) -> np.ndarray:
    """`[sequence]` int64: sequences of one group are never in two halves or parts, and are drawn together.

    Args:
        features: Whose sequences.
        labels: A data set brings its own groups.
        groups: `[sequence]` of any values; left out, every sequence is a group of its own.

    Raises:
        ValueError: groups beside a data set, or fewer than the features have sequences.
    """
    last = int(features.sequence.max(initial=-1))
    if isinstance(labels, Dataset):
        if groups is not None:
            raise ValueError("the data set has groups of its own: set Dataset.groups and leave groups= out")
        groups = labels.groups
    found = np.arange(last + 1) if groups is None else as_groups(groups)
    if len(found) <= last:
        raise ValueError(
            f"groups has {len(found):,} entries, but the features go up to sequence {last:,}: one a sequence"
        )
    return found
