"""What a bottleneck predicts: one class a sequence, or one a row, and what must not be split between train and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.data import Dataset, LabelSet
from saes.scoring.columns import check_aligned, has_every_row

if TYPE_CHECKING:
    from saes.features import SparseFeatures


@dataclass(frozen=True)
class Items:
    """Items with a label.

    Attributes:
        labels: The label set, of one target.
        index: `[item]` number of the sequence, or of the row.
        y: `[item]` int64 class index.
        sequence: `[item]` sequence it is, or lies in.
        prefix: `[item]` uint64 hash of all tokens it could see.
        groups: `[sequence]` of the data set.
        split: `[sequence]` part that the data set gives, or None.
    """

    labels: LabelSet
    index: np.ndarray
    y: np.ndarray
    sequence: np.ndarray
    prefix: np.ndarray
    groups: np.ndarray
    split: np.ndarray | None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def group(self) -> np.ndarray:
        """`[item]`."""
        group: np.ndarray = self.groups[self.sequence]
        return group


def items_of(features: SparseFeatures, labels: LabelSet | Dataset, groups: np.ndarray | None = None) -> Items:
    """The items of encoded features that have a label.

    Raises:
        TypeError: labels of another type.
        ValueError: labels of other data, continuous, of several targets, or defined nowhere; groups that do not fit.
    """
    found, groups, split = _question(labels, groups)
    last = int(features.sequence.max(initial=-1))
    if found.level == "sequence":
        row, index = _last_rows(features), np.unique(features.sequence)
        place = index
    else:
        row = index = np.arange(len(features.sequence))
        place = features.item
    if not len(place):
        raise ValueError("the features have no rows")
    check_aligned(found, place, has_every_row(features) and not isinstance(labels, Dataset))
    if groups is None:
        groups = np.arange(max(len(found) if found.level == "sequence" else 0, last + 1))
    if groups.ndim != 1 or len(groups) <= last:
        raise ValueError(
            f"groups must be [sequence]: got shape {groups.shape}, but the features go up to sequence {last:,}"
        )
    y = found.values[place, 0].astype(np.int64)
    known = y >= 0
    if not known.any():
        raise ValueError(
            f"label set {found.name!r} is defined for none of the {len(y):,} {found.level}s of the features"
        )
    return Items(
        labels=found,
        index=index[known],
        y=y[known],
        sequence=features.sequence[row][known],
        prefix=features.prefix[row][known],
        groups=groups,
        split=split,
    )


def _question(labels: Any, groups: Any) -> tuple[LabelSet, np.ndarray | None, np.ndarray | None]:
    """`(label set, groups, split)`."""
    split = None
    if isinstance(labels, Dataset):
        if groups is not None:
            raise ValueError("the data set has groups of its own: set Dataset.groups and leave groups= out")
        found = [one for one in map(labels.label_set, labels.labels) if one.kind != "continuous"]
        if len(found) != 1:
            names = ", ".join(one.name for one in found) or "none"
            raise ValueError(
                f"a bottleneck predicts one label set of classes; data set {labels.name!r} has {len(found)} ({names}): "
                "pass data.label_set(NAME) and groups=data.groups"
            )
        groups, split, chosen = labels.groups, labels.split, found[0]
    elif isinstance(labels, LabelSet):
        chosen = labels
    else:
        raise TypeError(
            f"labels must be a LabelSet or a Dataset, got {type(labels).__name__}: see LabelSet.from_values"
        )
    if chosen.kind == "continuous":
        raise ValueError(
            f"label set {chosen.name!r} is continuous: a bottleneck predicts classes; cut it into classes first"
        )
    if chosen.values.shape[1] != 1:
        raise ValueError(
            f"label set {chosen.name!r} has {chosen.values.shape[1]} targets: a bottleneck predicts one; make a label set of "
            "the column you mean"
        )
    return chosen, None if groups is None else np.asarray(groups), split


def _last_rows(features: SparseFeatures) -> np.ndarray:
    """`[sequence that has rows]` its row that saw most, in order of sequences."""
    order = np.lexsort((features.position, features.sequence))
    ends = np.flatnonzero(np.diff(features.sequence[order], append=-1))
    last: np.ndarray = order[ends]
    return last
