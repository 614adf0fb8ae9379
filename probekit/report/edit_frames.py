"""Tables of the page of an evaluated edit, as data frames of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probekit.report import edit_words as words
from probekit.report import wording

if TYPE_CHECKING:
    import pandas as pd

    from probekit.surgery.evaluating.edit_report import EditReport, MeasureFacts


def change_table(report: EditReport) -> pd.DataFrame:
    """A row a measure at the strength reported; columns that say nothing are left out."""
    import pandas as pd

    rows = []
    for measure in report.measures:
        plain, edited = (report.figure(measure.name, name, of="value").value for name in ("plain", report.edited))
        effect = report.figure(measure.name)
        found = report.rows(measure=measure.name, condition=report.edited, part="report")[0]
        before, after = words.levels(plain, edited)
        rows.append(
            {
                "": measure.name,
                "plain": before,
                "edited": after,
                "change": words.change(effect, measure),
                "95 % interval": words.interval(effect, measure),
                "allowed": words.allowed(measure),
                "unit": measure.unit,
                "items": f"{found['n']:,}",
                "groups": f"{found['groups']:,}",
                "no score": f"{found['failed']:,}",
            }
        )
    frame = pd.DataFrame(rows)
    idle = {
        "allowed": all(measure.limit is None for measure in report.measures),
        "groups": (frame["groups"] == frame["items"]).all(),
        "no score": (frame["no score"] == "0").all(),
    }
    return frame.drop(columns=[name for name, left_out in idle.items() if left_out])


def control_table(report: EditReport) -> pd.DataFrame:
    """A row a measure and kind of control, at the strength reported."""
    import pandas as pd

    rows = []
    for measure, kind, count, p, *spread in zip(*report.tests.values(), strict=True):
        facts = report.measure(measure)
        own, low, median, high = words.changes([report.figure(measure).value, *spread], facts, apart=facts.ratio)
        rows.append(
            {
                "": words.column(facts),
                "controls": f"{count} {kind}",
                "edit": own,
                "p": words.p_words(p),
                "least": low,
                "median": median,
                "greatest": high,
            }
        )
    frame = pd.DataFrame(rows)
    return frame if len(set(report.tests["control"])) > 1 else frame.drop(columns="controls")


def strength_table(report: EditReport) -> pd.DataFrame:
    """A row a strength, a column a measure: the changes, of the items held back."""
    import pandas as pd

    rows = {name: _by_strength(report, name) for name in (m.name for m in report.measures)}
    table = {"strength": [words.strength(s) for s in words.strengths(report)]}
    for measure in report.measures:
        effects = words.changes([row["effect"] for row in rows[measure.name]], measure, apart=True)
        name = words.column(measure)
        table[f"{name} ({len(table)})" if name in table else name] = effects
    return pd.DataFrame(table)


def half_table(report: EditReport, measure: MeasureFacts) -> pd.DataFrame:
    """A row a strength: one measure's change with its interval on the items held back, and on those that chose."""
    import pandas as pd

    held, chose = words.held_words(report), words.chose_words(report)
    rows = []
    for row in _by_strength(report, measure.name):
        line = {"strength": words.strength(row["strength"])}
        for part, said in (("report", held), ("select", chose)):
            effect = report.figure(measure.name, row["condition"], part=part)
            line[said] = words.change(effect, measure)
            line[f"95 % interval{' ' * (part == 'select')}"] = words.interval(effect, measure)
        rows.append(line)
    return pd.DataFrame(rows)


def _by_strength(report: EditReport, measure: str) -> list[dict[str, Any]]:
    rows = report.rows(measure=measure, kind="edit", part="report")
    return sorted(rows, key=lambda row: float(row["strength"]))


def others_table(report: EditReport) -> pd.DataFrame:
    """A row a measure, a column each for the edit, prompting and the baselines."""
    import pandas as pd

    kinds = ("prompt", "baseline")
    names = [report.edited, *dict.fromkeys(row["condition"] for kind in kinds for row in report.rows(kind=kind))]
    rows = []
    for measure in report.measures:
        row = {"": measure.name}
        for name in names:
            effect = report.figure(measure.name, name)
            row["this edit" if name == report.edited else wording.shorten(name, 40)] = words.change_and_interval(
                effect, measure
            )
        rows.append(row)
    return pd.DataFrame(rows)


def items_table(report: EditReport) -> pd.DataFrame:
    """How many items of each measure chose, and how many are reported."""
    import pandas as pd

    split = report.verdict.chosen is not None
    rows = [
        {
            "": m.name, "items": f"{m.items:,}", "chose the strength": f"{m.select:,}" if split else "0",
            "held back, and reported" if split else "reported": f"{m.report:,}" if split else f"{m.items:,}", "digest": m.digest,
        }
        for m in report.measures
    ]  # fmt: skip
    return pd.DataFrame(rows)
