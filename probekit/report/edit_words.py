"""Words and numbers of the page of an evaluated edit, the same in its text, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from probekit.report import wording
from probekit.report.wording import SPACE, with_minus
from probekit.surgery.evaluating.edit_report import number, numbers

if TYPE_CHECKING:
    from probekit.surgery.evaluating.edit_report import EditReport, MeasureFacts
    from probekit.surgery.evaluating.effects import Figure

_UNIT = re.compile(r"\b(?:by|to) [+-]?[\d.e+-]+ (standard deviations|row lengths)")
_BEFORE = {  # words of reports and verdicts that a reader of the page has not met
    "the select part of the items": "one half of the items",
    "of the report part": "of the other half, which was held back",
    "the select part": "the half that chose the strength",
    "the report part": "the half held back",
}


def question(report: EditReport) -> str:
    """What was asked, in plain text."""
    behaviour, model = report.behaviour, report.manifest.get("model", {})
    name = model.get("name", "") if isinstance(model, Mapping) else ""
    less = "lower" if behaviour.less_is_wanted else "raise"
    words = f"Does this edit{f' of {name}' if name else ''} {less} “{wording.shorten(behaviour.name, 60)}” ({behaviour.unit})"
    others = [f"“{wording.shorten(m.name, 60)}”" for m in report.side_effects]
    words += f", and what does it do to {wording.join_words(others)}?" if others else "?"
    if report.tests["control"]:
        words += f" It is compared with {controls(report)}: the same edit along other directions, or other edits, at the same strength."
    return (
        f"{words} Changes are paired: edited less plain on the same items (of a perplexity, edited over plain), with 95{SPACE}% "
        "intervals over groups of items."
    )


def halves(report: EditReport) -> str:
    """How the items were split, and what is shown of which part; said once, where the page begins."""
    if report.verdict.chosen is None:
        return "No strength was chosen, so every figure is of all items."
    tried = wording.join_words([strength(s) for s in strengths(report)])
    one, other = halved(report)
    split = "into two halves" if one == "half" else "in two"
    return (
        f"The items were split {split}. The {one} that chose the strength tried {tried}, and {strength(report.verdict.chosen)} came "
        f"out. The {other} held back had no say in that, so its figures are not flattered by the choice: every figure on this page is "
        "of it, unless it says otherwise."
    )


def halved(report: EditReport) -> tuple[str, str]:
    """What the two parts of the items are called: `half` where the behaviour's are about as large."""
    behaviour = report.behaviour
    return ("half", "half") if abs(behaviour.select - behaviour.report) <= 0.2 * behaviour.items else ("part", "part")


def chose_words(report: EditReport) -> str:
    """The items that the strength was chosen on."""
    return f"{halved(report)[0]} that chose the strength"


def held_words(report: EditReport) -> str:
    """The items that are reported; all where no strength was chosen."""
    return "all items" if report.verdict.chosen is None else f"{halved(report)[1]} held back"


def retold(text: str) -> str:
    """A verdict or a note as the page tells it: minus signs as in its tables, parts of the items by what they did."""
    for before, after in _BEFORE.items():
        text = text.replace(before, after).replace(before[:1].upper() + before[1:], after[:1].upper() + after[1:])
    return with_minus(text).replace("p = ", f"p{SPACE}={SPACE}")


def controls(report: EditReport) -> str:
    """`20 controls (random)`, every kind."""
    counts = dict(zip(report.tests["control"], report.tests["controls"], strict=True))
    return wording.join_words([f"{count} controls ({wording.shorten(kind, 40)})" for kind, count in counts.items()])


def strengths(report: EditReport) -> list[float]:
    """Strengths that were tried, in order."""
    return sorted({row["strength"] for row in report.rows(kind="edit") if row["strength"] is not None})


def strength(value: float) -> str:
    return with_minus(f"{value:g}")


def strength_axis(report: EditReport) -> str:
    """`strength, standard deviations`, where the edit's name tells the unit."""
    unit = _UNIT.search(str(report.edit["name"]))
    return f"strength, {unit[1]}" if unit else "strength"


def level(value: float) -> str:
    """A score."""
    return with_minus(number(value))


def levels(*values: float) -> list[str]:
    """Scores that are read together."""
    return [with_minus(words) for words in numbers(values)]


def change(effect: Figure, measure: MeasureFacts) -> str:
    """`+0.31`; of a ratio, `× 1.02`."""
    return _three(effect, measure)[0]


def interval(effect: Figure, measure: MeasureFacts) -> str:
    """`+0.22 to +0.40`; nothing where there is none."""
    return "" if effect.low != effect.low else " to ".join(_three(effect, measure)[1:])


def change_and_interval(effect: Figure, measure: MeasureFacts) -> str:
    return f"{change(effect, measure)} ({interval(effect, measure)})".replace(" ()", "")


def changes(values: list[float], measure: MeasureFacts, *, apart: bool = False) -> list[str]:
    """Effects that are read together: to the same place, unless they may be of different sizes (`apart`)."""
    sign: Literal["", "+"] = "" if measure.ratio else "+"
    each = [numbers([value], sign)[0] for value in values] if apart else numbers(values, sign)
    return [with_minus(words) for words in each]


def _three(effect: Figure, measure: MeasureFacts) -> list[str]:
    value, low, high = changes([effect.value, effect.low, effect.high], measure)
    return [f"×{SPACE}{value}" if measure.ratio and value != "–" else value, low, high]


def column(measure: MeasureFacts) -> str:
    """A measure's name over or beside its changes."""
    return wording.shorten(measure.name, 40) + (", ratio" if measure.ratio else "")


def allowed(measure: MeasureFacts) -> str:
    """The most damage that was allowed: `up to × 1.05`, `up to 0.1 worse`; a dash for no limit."""
    if measure.limit is None:
        return "–"
    return f"up to ×{SPACE}{measure.limit:g}" if measure.ratio else f"up to {level(measure.limit)} worse"


def held_to(effect: Figure, measure: MeasureFacts) -> str:
    """Whether the damage is within what was allowed, with more digits where three hide it; nothing without a limit."""
    if measure.limit is None:
        return ""
    harm = effect.value if measure.ratio or measure.less_is_wanted else -effect.value
    if harm <= measure.limit:
        return f"within what is allowed, {allowed(measure)}"
    exactly = f" (it is {with_minus(f'{harm:.5g}')})" if number(harm) == number(measure.limit) else ""
    return f"more than what is allowed, {allowed(measure)}{exactly}"


def p_words(p: float) -> str:
    """Two digits of a p-value."""
    return "–" if p != p else f"{p:.2g}"
