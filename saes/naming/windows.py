"""Windows of text that a language model is shown: where a feature fires, and where nothing of it is seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saes.features import SparseFeatures
from saes.naming.contexts import Contexts
from saes.naming.intervention import one_a_sequence
from saes.naming.judging import firing_rows, hard_rows
from saes.scoring.feature_scores import Half
from saes.scoring.scores import fired

BEFORE, AFTER = 20, 11
"""Tokens shown around a row: windows of 32, as in Paulo et al. 2024."""
LEAST = 5
"""Sequences with a window of each kind that a feature is asked about from; twice as many that fire to explain it by."""
STRONGEST, ACROSS = 5, 5
"""Firing windows that an explanation is made from: the strongest, and some of all strengths from the threshold on."""
HARD, SILENT = 5, 3
"""Contrasting windows that it is made from: a nearest feature fires at the row, or any row."""


@dataclass(frozen=True)
class Window:
    """A row among its neighbours, with what the feature does there.

    Attributes:
        row: Which row it stands for, of all.
        fires: Whether the feature fires at the row. Where not, its activation is zero at every token of the window.
        tokens: Texts of the tokens.
        activations: `[token]` float32.
    """

    row: int
    fires: bool
    tokens: tuple[str, ...]
    activations: np.ndarray


@dataclass(frozen=True)
class Kinds:
    """Rows of a half whose windows say clearly whether the feature fires, as `[row]` numbers within the half.

    Attributes:
        firing: Its activation is at least the threshold.
        hard: It is zero all over the window, and one of the nearest features fires at the row.
        silent: It is zero all over the window.
    """

    firing: np.ndarray
    hard: np.ndarray
    silent: np.ndarray

    def without(self, sequences: np.ndarray, half: Half) -> Kinds:
        """Those of other sequences."""
        return Kinds(
            *(rows[~np.isin(half.sequence[rows], sequences)] for rows in (self.firing, self.hard, self.silent))
        )

    def enough(self, half: Half, firing: int) -> bool:
        """Whether so many sequences have a firing window and `LEAST` a silent one."""
        sequences = [len(np.unique(half.sequence[rows])) for rows in (self.firing, self.silent)]
        return sequences[0] >= firing and sequences[1] >= LEAST


class FeatureWindows:
    """Windows of one feature in both halves.

    A feature fires from the median of its activations above zero on, of the half to choose from. A window with weaker
    activations only is of neither kind and never asked about. Windows of one kind in one question are of different
    sequences.

    Args:
        feature: Which.
        choose, report: The halves.
        features: All rows.
        contexts: Their texts.
        neighbours: `[feature, n]` nearest features.
        seed: Of what is drawn.
    """

    def __init__(
        self,
        feature: int,
        choose: Half,
        report: Half,
        features: SparseFeatures,
        contexts: Contexts,
        neighbours: np.ndarray,
        seed: int,
    ) -> None:
        self.feature, self.choose, self.report = feature, choose, report
        self._contexts, self._neighbours = contexts, neighbours
        self._column: np.ndarray = features.matrix[:, [feature]].toarray()[:, 0]
        self._rng = np.random.default_rng([seed, 0x1A6E, feature])
        strength = fired(choose.features, feature)[1]
        strength = strength[strength > 0]
        self.threshold = float(np.median(strength)) if len(strength) else np.inf

    def drawn(self, count: int) -> tuple[list[Window], list[Window], list[Window]] | None:
        """Windows to explain by, to choose among explanations by, and to judge by; None where there are too few.

        Those to choose by are of other sequences than those to explain by, half of `count` that fire and as many that do
        not; those to judge by are of the other half of the sequences, `count` of each. Of the silent ones, half are hard
        where there are so many.
        """
        found, held_out = self._kinds(self.choose), self._kinds(self.report)
        if not found.enough(self.choose, 2 * LEAST) or not held_out.enough(self.report, LEAST):
            return None
        shown = self._to_explain(found)
        rest = found.without(self.choose.sequence[shown], self.choose)
        if not rest.enough(self.choose, LEAST):
            return None
        to_choose = self._to_ask(rest, self.choose, max(count // 2, LEAST))
        to_judge = self._to_ask(held_out, self.report, count)
        return (self._windows(self.choose, shown, found), to_choose, to_judge)

    def _kinds(self, half: Half) -> Kinds:
        first, stop = self._contexts.span(half.rows, BEFORE, AFTER)
        active = np.append(0, np.cumsum(self._column > 0))
        empty = active[stop] == active[first]
        firing = np.sort(firing_rows(half, self.feature, self.threshold))
        hard = hard_rows(half, self.feature, self._neighbours)
        return Kinds(firing, hard[empty[hard]], np.flatnonzero(empty))

    def _to_explain(self, kinds: Kinds) -> np.ndarray:
        """Firing rows, strongest first, then contrasting ones; at most half of the sequences of either."""
        sequence, values = self.choose.sequence, self._column[self.choose.rows]
        by_strength = kinds.firing[np.argsort(-values[kinds.firing], kind="stable")]
        _, first = np.unique(sequence[by_strength], return_index=True)
        most = len(first) // 2
        top = by_strength[np.sort(first)[: min(STRONGEST, most)]]
        others = kinds.firing[~np.isin(sequence[kinds.firing], sequence[top])]
        across = one_a_sequence(others, sequence, min(ACROSS, most - len(top)), self._rng)
        most = len(np.unique(sequence[kinds.silent])) // 2
        hard = one_a_sequence(kinds.hard, sequence, min(HARD, most), self._rng)
        others = kinds.silent[~np.isin(sequence[kinds.silent], sequence[hard])]
        silent = one_a_sequence(others, sequence, min(SILENT, most - len(hard)), self._rng)
        firing = np.concatenate([top, across])
        firing = firing[np.argsort(-values[firing], kind="stable")]
        return np.concatenate([firing, hard, silent])

    def _to_ask(self, kinds: Kinds, half: Half, count: int) -> list[Window]:
        """Up to `count` firing and `count` silent windows, in random order."""
        firing = one_a_sequence(kinds.firing, half.sequence, count, self._rng)
        hard = one_a_sequence(kinds.hard, half.sequence, count // 2, self._rng)
        others = kinds.silent[~np.isin(half.sequence[kinds.silent], half.sequence[hard])]
        silent = one_a_sequence(others, half.sequence, count - len(hard), self._rng)
        return self._windows(half, self._rng.permutation(np.concatenate([firing, hard, silent])), kinds)

    def _windows(self, half: Half, rows: np.ndarray, kinds: Kinds) -> list[Window]:
        fires = np.isin(rows, kinds.firing)
        windows = []
        for row, yes in zip(half.rows[rows].tolist(), fires.tolist(), strict=True):
            context = self._contexts.of(row, BEFORE, AFTER)
            windows.append(Window(row, yes, context.tokens, self._column[context.rows]))
        return windows
