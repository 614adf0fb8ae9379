"""From what was measured in each condition to the columns of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probekit.surgery.evaluating.behaviour import Behaviour
from probekit.surgery.evaluating.conditions import Condition, Measured
from probekit.surgery.evaluating.edit_report import COLUMNS, TEST_COLUMNS, MeasureFacts
from probekit.surgery.evaluating.effects import Comparing, Comparison, p_value, wanted
from probekit.surgery.evaluating.generations import Generations
from probekit.surgery.evaluating.verdict import Test

EXAMPLES = 20
"""Texts before and after that a report keeps."""


class BesidePlain:
    """Compares what was measured with the plain model, on one part of the items.

    Args:
        halves: Whether items are in two halves, one to choose on and one to report; else all are reported.
        shown: Parts that figures are wanted of.
    """

    def __init__(
        self,
        measures: Sequence[Behaviour],
        plain: Measured,
        n_boot: int,
        seed: int,
        *,
        halves: bool,
        shown: Sequence[str] = ("select", "report"),
    ) -> None:
        self.parts = tuple(shown) if halves else ("report",)
        self._each = {
            (m.name, part): Comparing(
                m, plain.scores[m.name], plain.weights[m.name], _rows(m, part, halves), n_boot, seed
            )
            for m in measures
            for part in self.parts
        }
        self._known: dict[tuple[int, str], dict[str, Comparison]] = {}

    def __call__(self, measured: Measured, part: str) -> dict[str, Comparison]:
        """By measure."""
        key = (id(measured), part)
        if key not in self._known:
            self._known[key] = {
                name: one.compare(measured.scores[name]) for (name, p), one in self._each.items() if p == part
            }
        return self._known[key]


def _rows(measure: Behaviour, part: str, halves: bool) -> np.ndarray:
    if not halves:
        return np.ones(len(measure), bool)
    return measure.in_select if part == "select" else ~measure.in_select


def tests_of(
    facts: Sequence[MeasureFacts],
    found: Mapping[str, Comparison],
    measured: Mapping[Condition, Measured],
    compare: BesidePlain,
    controls: Mapping[str, Sequence[Condition]],
) -> list[Test]:
    """The edit beside each kind of control: how far in the wanted direction; of side effects, how much damage.

    Args:
        found: The edit, on the part that is reported.
        controls: By kind, each control at the strength that it is held against the edit with.
    """
    each = {kind: [compare(measured[one], "report") for one in taken] for kind, taken in controls.items()}
    out = []
    for i, measure in enumerate(facts):
        sign = 1 if i == 0 else -1
        for kind, beside in each.items():
            effects = [found[measure.name].effect.value, *(one[measure.name].effect.value for one in beside)]
            own, *others = (sign * wanted(measure.less_is_wanted, measure.ratio, effect) for effect in effects)
            out.append(Test(measure.name, kind, p_value(own, others), np.array(effects[1:])))
    return out


def test_columns(tests: Sequence[Test]) -> dict[str, list[Any]]:
    """Columns of `EditReport.tests`."""
    rows = []
    for test in tests:
        known = test.effects[np.isfinite(test.effects)]
        spread = [float(v) for v in np.quantile(known, [0, 0.5, 1])] if len(known) else [float("nan")] * 3
        rows.append((test.measure, test.control, len(test.effects), test.p, *spread))
    return {name: [row[i] for row in rows] for i, name in enumerate(TEST_COLUMNS)}


def figure_columns(measured: Mapping[Condition, Measured], compare: BesidePlain) -> dict[str, list[Any]]:
    """Columns of `EditReport.figures`."""
    rows = []
    for condition, each in measured.items():
        for part in compare.parts:
            for name, found in compare(each, part).items():
                level, effect = found.level, found.effect
                rows.append((
                    name, condition.name, condition.kind, condition.control, condition.strength, part, level.value, level.low,
                    level.high, effect.value, effect.low, effect.high, found.n, found.groups, found.failed,
                ))  # fmt: skip
    return {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}


def examples_of(made: Generations | None, plain: Measured, edited: Measured) -> tuple[dict[str, str], ...]:
    """Texts before and after, of the report part."""
    if made is None or plain.texts is None or edited.texts is None:
        return ()
    shown = np.flatnonzero(~made.in_select)[:EXAMPLES]
    return tuple(
        {"prompt": str(made.items[i]), "before": plain.texts[i], "after": edited.texts[i]} for i in shown.tolist()
    )
