"""`Card`: what one feature does, chosen from its column of the sparse matrix: where it fires most, where as it usually does,
and where its nearest features fire and it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saes.features import SparseFeatures
from saes.scoring.scores import fired

TOP = 8
"""Examples where a feature fires most."""
MIDDLE = 3
"""Examples around the median of its non-zero activations."""
HARD = 3
"""Examples where a nearest feature fires and it does not."""
BINS = 24
"""Of the histogram of non-zero activations, from zero to the greatest."""


@dataclass(frozen=True)
class Example:
    """A row that is shown.

    Attributes:
        row: Which.
        value: Activation of the feature there.
        other: For a hard negative, the nearest feature that fires there; else -1.
        other_value: Its activation.
    """

    row: int
    value: float
    other: int = -1
    other_value: float = 0.0


@dataclass(frozen=True)
class Card:
    """One feature.

    Attributes:
        feature: Its number.
        rows: `[firing row]` int64, ascending: where its activation is above zero.
        values: `[firing row]` float32, the activations there.
        histogram: `[BINS]` int64 counts of `values` between zero and the greatest.
        top: The strongest rows, at most one a sequence, strongest first.
        middle: Rows nearest to the median of `values`, of other sequences than `top` and each other.
        hard: Rows where it is silent, the strongest of each nearest feature, at most one a sequence.
    """

    feature: int
    rows: np.ndarray
    values: np.ndarray
    histogram: np.ndarray
    top: tuple[Example, ...]
    middle: tuple[Example, ...]
    hard: tuple[Example, ...]

    def at(self, rows: slice) -> np.ndarray:
        """`[row]` float32: activations at a range of rows, zeros where it is silent."""
        out = np.zeros(rows.stop - rows.start, np.float32)
        first, stop = np.searchsorted(self.rows, [rows.start, rows.stop])
        out[self.rows[first:stop] - rows.start] = self.values[first:stop]
        return out

    def fires(self, threshold: float) -> np.ndarray:
        """`[n]` rows where its activation is at least `threshold`."""
        fired: np.ndarray = self.rows[self.values >= threshold]
        return fired


def card_of(features: SparseFeatures, feature: int, neighbours: Sequence[int] | np.ndarray = ()) -> Card:
    """Choose what a feature's card shows. Costs its non-zeros and those of its neighbours.

    Args:
        features: From `encode`.
        feature: Which.
        neighbours: Its nearest features, nearest first.
    """
    rows, values = column(features, feature)
    strongest = np.argsort(-values, kind="stable")
    top = _of_different_sequences(features.sequence, rows[strongest], TOP)
    by_distance = np.argsort(np.abs(np.arange(len(rows)) - len(rows) // 2), kind="stable")
    middle = _of_different_sequences(features.sequence, rows[strongest[by_distance]], MIDDLE, top)

    def shown(found: np.ndarray) -> tuple[Example, ...]:
        at = np.searchsorted(rows, found)
        return tuple(Example(int(row), float(values[i])) for row, i in zip(found, at, strict=True))

    return Card(
        feature=int(feature),
        rows=rows,
        values=values,
        histogram=np.histogram(values, BINS, (0, values.max(initial=0) or 1))[0],
        top=shown(top),
        middle=shown(middle),
        hard=_hard(features, rows, neighbours),
    )


def column(features: SparseFeatures, feature: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (int64, ascending) where a feature fires, and its float32 activations there."""
    rows, values = fired(features.matrix, feature)
    rows = rows.astype(np.int64)
    order = np.argsort(rows, kind="stable")
    return rows[order], values[order]


def _of_different_sequences(
    sequence: np.ndarray, rows: np.ndarray, count: int, besides: np.ndarray | Sequence[int] = ()
) -> np.ndarray:
    """The first `count` rows, at most one a sequence, of sequences that `besides` are not of."""
    rows = rows[~np.isin(sequence[rows], sequence[np.asarray(besides, np.int64)])]
    _, first = np.unique(sequence[rows], return_index=True)
    found: np.ndarray = rows[np.sort(first)[:count]]
    return found


def _hard(features: SparseFeatures, fired: np.ndarray, neighbours: Sequence[int] | np.ndarray) -> tuple[Example, ...]:
    found: list[Example] = []
    for other in neighbours:
        if len(found) == HARD:
            break
        rows, values = column(features, int(other))
        silent = ~np.isin(rows, fired, assume_unique=True)
        rows, values = rows[silent], values[silent]
        order = np.argsort(-values, kind="stable")
        taken = [example.row for example in found]
        for row in _of_different_sequences(features.sequence, rows[order], 1, taken):
            found.append(Example(int(row), 0.0, int(other), float(values[np.searchsorted(rows, row)])))
    return tuple(found)
