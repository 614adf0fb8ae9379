"""Conjunctions of labels that a feature may stand for: `D3 is mine and E4 is empty`, found by beam search.

Rows are kept as bits, so that counting where three labels hold together is an `and` and a population count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from saes.scoring.columns import Columns
from saes.scoring.scores import fired

MOST = 3
"""Labels of a conjunction at most."""
GAIN = 0.01
"""F1 that a further label must add: a longer name has to be worth its words."""
BEAM = 8
"""Conjunctions of each length that are built on."""


@dataclass(frozen=True)
class Candidate:
    """A conjunction with its best F1 as a description of a feature, on the rows it was searched on.

    Attributes:
        columns: Which labels, ascending.
        f1: The best over thresholds above zero.
        threshold: Where.
    """

    columns: tuple[int, ...]
    f1: float
    threshold: float


def holds(columns: Columns, conjunction: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """`[row]` whether all labels hold, and whether all are defined (None where everything is)."""
    chosen = list(conjunction)
    known = None if columns.defined is None else np.logical_and.reduce(columns.defined[:, chosen], axis=1)
    return np.logical_and.reduce(columns.positive[:, chosen], axis=1), known


class Search:
    """The conjunctions that describe features best, on one set of rows.

    Rows where a label of the conjunction is not defined count as rows where it does not hold.
    """

    def __init__(self, features: sparse.csc_array, columns: Columns) -> None:
        self._features, self._columns = features, columns
        self._packed = _packed(columns.positive)  # [column, word]
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def of(self, feature: int, starts: np.ndarray) -> list[Candidate]:
        """Candidates of one to three labels, best first.

        Args:
            feature: Which.
            starts: Single labels to begin with, best first; the first `BEAM` are used.
        """
        rows, values = fired(self._features, feature)
        if len(rows) == 0:
            return []
        order = np.argsort(-values, kind="stable")
        rows, values = rows[order], values[order]
        ends = np.flatnonzero(np.diff(values, append=-np.inf))
        shown = self._columns.positive[rows]  # [fired, column]
        found: dict[tuple[int, ...], Candidate] = {}
        beam: list[tuple[tuple[int, ...], np.ndarray]] = [((int(c),), shown[:, c]) for c in starts[:BEAM]]
        for conjunction, mask in beam:
            curve = _best(mask[:, None], ends, self._totals(())[[conjunction[0]]])
            found[conjunction] = Candidate(conjunction, float(curve[0][0]), float(values[ends[curve[1][0]]]))
        for _ in range(MOST - 1):
            grown: list[tuple[float, tuple[int, ...], np.ndarray]] = []
            for conjunction, mask in beam:
                both = shown[mask]  # rows where the conjunction fails cannot be hits of a longer one
                f1, end = _best_within(both, np.flatnonzero(mask), ends, self._totals(conjunction))
                f1[list(conjunction)] = 0
                for column in np.argsort(-f1)[:BEAM]:
                    longer = tuple(sorted((*conjunction, int(column))))
                    if f1[column] > found[conjunction].f1 + GAIN and longer not in found:
                        found[longer] = Candidate(longer, float(f1[column]), float(values[ends[end[column]]]))
                        grown.append((float(f1[column]), longer, mask & shown[:, column]))
            grown.sort(key=lambda g: -g[0])
            beam = [(conjunction, mask) for _, conjunction, mask in grown[:BEAM]]
        return sorted(found.values(), key=lambda c: (-c.f1, len(c.columns), c.columns))

    def _totals(self, conjunction: tuple[int, ...]) -> np.ndarray:
        """`[column]` rows where the conjunction and each column hold."""
        if conjunction not in self._known:
            bits = self._packed
            if conjunction:
                bits = bits & np.bitwise_and.reduce(self._packed[list(conjunction)], axis=0)
            self._known[conjunction] = np.bitwise_count(bits).sum(1, dtype=np.int64)
        return self._known[conjunction]


def _packed(positive: np.ndarray) -> np.ndarray:
    """`[row, column]` bool -> `[column, word]` uint64, padded with zeros."""
    octets = np.packbits(positive.T, axis=1)
    words = np.zeros((len(octets), -(-octets.shape[1] // 8)), np.uint64)
    words.view(np.uint8)[:, : octets.shape[1]] = octets
    return words


def _best(hits: np.ndarray, ends: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best F1 `[column]` over the runs of equal values that end at `ends`, and which run, of `hits [fired, column]`."""
    true = hits.cumsum(0, dtype=np.int32)[ends]
    curve = 2 * true / ((ends + 1.0)[:, None] + totals)
    best = curve.argmax(0)
    return curve[best, np.arange(len(best))], best


def _best_within(
    hits: np.ndarray, place: np.ndarray, ends: np.ndarray, totals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `_best`, where `hits [some, column]` are the rows at `place` of those that fired and the others are no hits."""
    if len(place) == 0:
        return np.zeros(hits.shape[1]), np.zeros(hits.shape[1], np.int64)
    # F1 is best at a hit, hence at the end of a run that holds one of these rows.
    run = np.searchsorted(ends, place)
    last = np.flatnonzero(np.diff(run, append=len(ends)))
    true = hits.cumsum(0, dtype=np.int32)[last]
    curve = 2 * true / ((ends[run[last]] + 1.0)[:, None] + totals)
    best = curve.argmax(0)
    return curve[best, np.arange(len(best))], run[last][best]
