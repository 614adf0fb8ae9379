"""`EditReport`: what an edit changes and what it breaks, beside its controls, and what is needed to measure it again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probekit.surgery.evaluating.effects import Figure

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = (
    "measure", "condition", "kind", "control", "strength", "part", "value", "value_low", "value_high", "effect", "low", "high",
    "n", "groups", "failed",
)  # fmt: skip
TEST_COLUMNS = ("measure", "control", "controls", "p", "low", "median", "high")


@dataclass(frozen=True)
class MeasureFacts:
    """What was measured.

    Attributes:
        name, unit: As of the `Behaviour`.
        less_is_wanted: Of the behaviour: whether less of it is what is wanted; of a side effect: whether more is damage.
        ratio: Whether `effect` is edited over plain (perplexities), rather than edited less plain.
        items, select, report: Numbers of items in all and by part.
        limit: Most damage that was allowed: a ratio, or a change for the worse; None for no limit.
        digest: Changes with the items and settings.
    """

    name: str
    unit: str
    less_is_wanted: bool
    ratio: bool
    items: int
    select: int
    report: int
    limit: float | None = None
    digest: str = ""

    @property
    def no_change(self) -> float:
        """The effect of doing nothing."""
        return 1.0 if self.ratio else 0.0


@dataclass(frozen=True)
class Verdict:
    """What it comes to.

    Attributes:
        words: One paragraph.
        works: Whether the change is real, in the wanted direction, beyond what controls do, and within the damage allowed.
        steers: The same without regard to damage.
        chosen: The strength that figures are reported at; None where none was chosen.
        worth: Strengths worth shipping: within the damage allowed, with an interval that excludes no change, on the items that
            chose.
    """

    words: str
    works: bool
    steers: bool
    chosen: float | None = None
    worth: tuple[float, ...] = ()


@dataclass(frozen=True)
class EditReport:
    """What `evaluate` found.

    Attributes:
        edit: What the edit is (`Edit.describe`), at the strength reported.
        measures: The behaviour, then the side effects.
        figures: Columns of `to_frame`.
        tests: Columns of `tests_frame`.
        verdict: What it comes to.
        examples: Texts before and after: `prompt`, `before`, `after`.
        scores: By condition and measure, `[item]` float64, NaN where an item has none.
        parts: By measure, `[item]` bool: which items chose the strength; the others were held back and are reported.
        notes: What else a reader must know.
        manifest: What makes it again: model, arguments, versions.
    """

    edit: Mapping[str, Any]
    measures: tuple[MeasureFacts, ...]
    figures: Mapping[str, list[Any]]
    tests: Mapping[str, list[Any]]
    verdict: Verdict
    examples: tuple[Mapping[str, str], ...]
    scores: Mapping[str, Mapping[str, np.ndarray]]
    parts: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    manifest: Mapping[str, Any]

    @property
    def behaviour(self) -> MeasureFacts:
        return self.measures[0]

    @property
    def side_effects(self) -> tuple[MeasureFacts, ...]:
        return self.measures[1:]

    def measure(self, name: str) -> MeasureFacts:
        """The measure called `name`.

        Raises:
            KeyError: no such measure.
        """
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(f"no measure {name!r}; there are: {', '.join(m.name for m in self.measures)}")

    def to_frame(self) -> pd.DataFrame:
        """A row a measure, condition and part.

        `value` is the mean score with its 95 % interval `value_low`, `value_high` (a perplexity for texts); `effect` the change
        from the plain model on the same items, with `low` and `high`: a difference, or a ratio of perplexities. `kind` is plain,
        edit, control, prompt or baseline; `part` is `select` (the half that chose the strength) or `report` (the half held back,
        or all items where no strength was chosen). `n` items of `groups` groups had a score both ways, `failed` had none in this
        condition.
        """
        import pandas as pd

        return pd.DataFrame({name: self.figures[name] for name in COLUMNS})

    def tests_frame(self) -> pd.DataFrame:
        """A row a measure and kind of control, at the strength reported (each control at its own, where all were measured at every
        strength: `manifest["arguments"]["strengths of controls"]`), on the items held back.

        `p` is the share of controls (and the edit itself) that change the behaviour as far in the wanted direction, or damage as
        much; `low`, `median` and `high` are of the controls' effects.
        """
        import pandas as pd

        return pd.DataFrame({name: self.tests[name] for name in TEST_COLUMNS})

    def rows(self, **wanted: object) -> list[dict[str, Any]]:
        """Rows of the frame whose columns have these values, as dicts."""
        for name in wanted:
            if name not in COLUMNS:
                raise KeyError(f"no column {name!r}; there are: {', '.join(COLUMNS)}")
        each = (
            dict(zip(COLUMNS, row, strict=True)) for row in zip(*(self.figures[name] for name in COLUMNS), strict=True)
        )
        return [row for row in each if all(row[name] == value for name, value in wanted.items())]

    def figure(
        self,
        measure: str,
        condition: str | None = None,
        *,
        part: str = "report",
        of: Literal["effect", "value"] = "effect",
    ) -> Figure:
        """One figure with its interval; of the edit at the strength reported, unless a condition is named.

        Raises:
            KeyError: no such measure or condition.
        """
        self.measure(measure)
        condition = self.edited if condition is None else condition
        found = self.rows(measure=measure, condition=condition, part=part)
        if not found:
            known = dict.fromkeys(self.figures["condition"])
            raise KeyError(f"no condition {condition!r} with part {part!r}; there are: {', '.join(known)}")
        names = ("value", "value_low", "value_high") if of == "value" else ("effect", "low", "high")
        return Figure(*(float(found[0][name]) for name in names))

    @property
    def edited(self) -> str:
        """Name of the condition that is reported: the edit at the strength chosen."""
        for row in self.rows(kind="edit"):
            if self.verdict.chosen is None or row["strength"] == self.verdict.chosen:
                return str(row["condition"])
        raise KeyError("the edit was not measured")

    def p(self, measure: str | None = None, control: str | None = None) -> float:
        """p-value of a measure (the behaviour unless named) against a kind of control (the largest of all unless named)."""
        name = self.behaviour.name if measure is None else self.measure(measure).name
        rows = zip(self.tests["measure"], self.tests["control"], self.tests["p"], strict=True)
        found = [p for m, c, p in rows if m == name and control in (None, c) and p == p]
        return max(found) if found else float("nan")

    def __repr__(self) -> str:
        return f"<EditReport of {self.edit['name']!r}: {self.verdict.words} .summary() reads it out>"

    def summary(self) -> str:
        """A short text for the terminal."""
        lines = [str(self.edit["name"]), "", self.verdict.words, ""]
        width = max(len(m.name) for m in self.measures) + 2
        for measure in self.measures:
            plain, edited = (self.figure(measure.name, name, of="value") for name in ("plain", self.edited))
            before, after = numbers([plain.value, edited.value])
            words = f"  {measure.name:<{width}}{before} to {after} {measure.unit}, "
            words += f"{'ratio' if measure.ratio else 'change'} {shown(self.figure(measure.name), measure.ratio)}"
            lines.append(words)
            for name, control, count, p, low, median, high in zip(*(self.tests[c] for c in TEST_COLUMNS), strict=True):
                if name == measure.name:
                    least, middle, most = numbers([low, median, high], "" if measure.ratio else "+")
                    spread = f"{least} to {most}, median {middle}"
                    lines.append(f"  {'':<{width}}{count} controls ({control}): {spread}; p = {p:.3f}")
        for kind in ("prompt", "baseline"):
            for row in self.rows(measure=self.behaviour.name, kind=kind, part="report"):
                effect = Figure(row["effect"], row["low"], row["high"])
                lines.append(f"  {row['condition']}: change {shown(effect, self.behaviour.ratio)}")
        lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines).rstrip()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.summary())}</pre>"

    def plot(self, **options: Any) -> go.Figure:
        """Dose and effect beside the controls, and effect against damage (`probekit.report.edits.plot_edit`)."""
        from probekit.report.edits import plot_edit

        return plot_edit(self, **options)

    def save_page(self, path: str | Path, **options: Any) -> Path:
        """Write the self-contained HTML page (`probekit.report.edits.write_edit_page`); returns its path."""
        from probekit.report.edits import write_edit_page

        return write_edit_page(self, path, **options)

    def save(self, folder: str | Path) -> Path:
        """Write `report.json` and `scores.safetensors` into `folder`; returns the folder."""
        from probekit.surgery.evaluating.edit_report_files import write_report

        return write_report(self, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> EditReport:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no report there.
            ValueError: a file is damaged, or belongs to another report.
        """
        from probekit.surgery.evaluating.edit_report_files import read_report

        return read_report(Path(folder))


def number(value: float) -> str:
    """A number for people: three digits that tell."""
    if value != value:
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def numbers(values: Sequence[float], sign: Literal["", "+"] = "") -> list[str]:
    """Numbers that are read together, to the same place: three digits of the largest tell.

    Args:
        values: NaN becomes a dash.
        sign: `"+"` writes it before positive ones, too.
    """
    finite = [abs(value) for value in values if math.isfinite(value)]
    digits = 2 - math.floor(math.log10(max(finite))) if finite and max(finite) > 0 else 0
    style = f",.{max(digits, 0)}f" if -4 < digits < 7 else ".3g"
    out = []
    for value in values:
        words = "–" if value != value else "0" if value == 0 else f"{value:{sign}{style}}"
        out.append(words if re.search("[1-9]", words) else words.lstrip("+-"))  # what rounds to zero has no sign
    return out


def shown(figure: Figure, ratio: bool) -> str:
    """An effect with its interval: `+0.31 (+0.22 to +0.40)`, `1.02 (1.01 to 1.04)`."""
    value, low, high = numbers([figure.value, figure.low, figure.high], "" if ratio else "+")
    words = "not defined" if figure.value != figure.value else value
    return words if figure.low != figure.low else f"{words} ({low} to {high})"
