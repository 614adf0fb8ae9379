"""Rows of activations beside their labels: what the makers of directions and of erasers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from probekit.activations import Activations
from probekit.data import Kind, LabelSet
from probekit.data.dataset import as_groups

Labels: TypeAlias = "LabelSet | Sequence[Any] | np.ndarray"
"""A label set of the data, of tokens or of sequences; or a value for every row of the activations."""


@dataclass(frozen=True)
class Labelled:
    """The labels of the rows of some activations.

    Attributes:
        values: `[row, target]`; int64 class indices with -1 where not defined, or float64 with NaN where not defined.
        kind, classes, targets: As in `LabelSet`.
        name: Of the label set.
    """

    values: np.ndarray
    kind: Kind
    classes: tuple[str, ...]
    targets: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, activations: Activations, labels: Labels) -> Labelled:
        """Labels of every row.

        Raises:
            TypeError: activations or labels of a type that is not known.
            ValueError: labels of another number of items than the activations refer to; values that `LabelSet.from_values`
                refuses.
        """
        if not isinstance(activations, Activations):
            raise TypeError(
                f"activations is a {type(activations).__name__}; it must be an ActivationStore (capture makes one, "
                "ActivationStore.open reads it) or ArrayActivations"
            )
        if isinstance(labels, LabelSet):
            item = activations.item if labels.level == "token" else activations.sequence
            if len(item) and int(item.max()) >= len(labels):
                raise ValueError(
                    f"label set {labels.name!r} has {len(labels):,} {labels.level}s, but the activations refer to "
                    f"{labels.level} {int(item.max()):,}: it is of other data"
                )
        else:
            if isinstance(labels, str):
                raise TypeError(f"labels is the name {labels!r}; give the label set itself, data.label_set({labels!r})")
            labels = LabelSet.from_values("labels", labels, missing="undefined")
            if len(labels) != len(activations):
                raise ValueError(
                    f"{len(labels):,} labels for {len(activations):,} rows of activations: give one a row, or a LabelSet of the "
                    "sequences or tokens"
                )
            item = np.arange(len(labels))
        return cls.at(labels, item)

    @classmethod
    def at(cls, labels: LabelSet, item: np.ndarray) -> Labelled:
        """Labels of the items `[row]` of a label set."""
        values = labels.values[item].astype(np.float64 if labels.kind == "continuous" else np.int64)
        return cls(values, labels.kind, labels.classes, labels.targets, labels.name)

    def target(self, target: int | str) -> Labelled:
        """One target only.

        Raises:
            KeyError: no such target.
        """
        known = self.targets
        if isinstance(target, str) and target not in known:
            raise KeyError(f"label set {self.name!r} has no target {target!r}; it has {_some(known)}")
        number = known.index(target) if isinstance(target, str) else int(target)
        if not 0 <= number < len(known):
            raise KeyError(f"label set {self.name!r} has {len(known)} targets, 0 to {len(known) - 1}, and no {number}")
        return Labelled(self.values[:, [number]], self.kind, self.classes, (known[number],), self.name)

    def pair(self, classes: tuple[str, str] | None) -> tuple[np.ndarray, tuple[str, str]]:
        """Of one target, `[row]` int64: 0 for the first class of a pair, 1 for the second, -1 for any other.

        Args:
            classes: Names; the two there are when None.

        Raises:
            KeyError: no such class.
            ValueError: continuous labels; several classes and none named.
        """
        if self.kind == "continuous":
            raise ValueError(
                f"label set {self.name!r} is continuous and has no classes to take the means of: cut it into classes, or take "
                "the direction of a RidgeProbe"
            )
        if classes is None:
            if len(self.classes) != 2:
                raise ValueError(
                    f"label set {self.name!r} has {len(self.classes)} classes: name the two to go between, "
                    f"classes=(from, to), of {_some(self.classes)}"
                )
            classes = (self.classes[0], self.classes[1])
        if isinstance(classes, str) or len(classes) != 2 or classes[0] == classes[1]:
            raise ValueError(f"classes is a pair of two class names, (from, to), not {classes!r}")
        for name in classes:
            if name not in self.classes:
                raise KeyError(f"label set {self.name!r} has no class {name!r}; it has {_some(self.classes)}")
        codes = np.full(len(self.values), -1, dtype=np.int64)
        for k, name in enumerate(classes):
            codes[self.values[:, 0] == self.classes.index(name)] = k
        return codes, (classes[0], classes[1])

    def defined(self) -> np.ndarray:
        """`[row]` bool: where every target has a label."""
        missing = np.isnan(self.values) if self.kind == "continuous" else self.values < 0
        known: np.ndarray = np.logical_not(missing.any(axis=1))
        return known


def group_of_rows(activations: Activations, groups: object = None) -> np.ndarray:
    """`[row]` int64: the group of each row's sequence.

    Args:
        groups: `[sequence]` of any values; left out, every sequence is a group of its own.

    Raises:
        ValueError: fewer groups than there are sequences.
    """
    sequence = np.asarray(activations.sequence)
    if groups is None:
        return sequence.astype(np.int64)
    found = as_groups(groups)
    if len(found) <= int(sequence.max(initial=-1)):
        raise ValueError(
            f"groups has {len(found):,} entries, but the activations go up to sequence {int(sequence.max()):,}: one a sequence"
        )
    of_rows: np.ndarray = found[sequence]
    return of_rows


def sums_by(activations: Activations, site: str, index: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of activations by a number that each row has, in one pass.

    Args:
        index: `[row]` int64, 0 to `count` - 1; -1 leaves a row out.

    Returns:
        `[count, d]` float64 sums and `[count]` int64 numbers of rows.

    Raises:
        KeyError: the activations lack the site.
        ValueError: NaN or infinite activations.
    """
    sums = np.zeros((count, activations.width(site)))
    for part, values in activations.batches(site):
        chosen = np.flatnonzero(index[part] >= 0)
        if not len(chosen):
            continue
        number = index[part][chosen]
        order = np.argsort(number, kind="stable")
        starts = np.flatnonzero(np.diff(number[order], prepend=-1))
        sums[number[order][starts]] += np.add.reduceat(values[chosen[order]].astype(np.float64), starts, axis=0)
        if not np.isfinite(sums).all():
            row = part.start + int(chosen[np.argmin(np.isfinite(values[chosen]).all(axis=1))])
            raise ValueError(f"activations at {site} are NaN or infinite in row {row}")
    return sums, np.bincount(index[index >= 0], minlength=count)


def data_of(activations: Activations) -> dict[str, str] | None:
    """Name and fingerprint of the data that activations were captured from; None where they do not know."""
    manifest = getattr(activations, "manifest", None)
    if manifest is None:
        return None
    return {
        name: str(getattr(manifest, key, "")) for name, key in (("name", "data"), ("fingerprint", "data_fingerprint"))
    }


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
