"""The page of an evaluated edit: what it was meant to change, whether it does, what it breaks, and how to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.report import blocks, wording
from probekit.report.blocks import Block, Page
from probekit.report.edit_figures import plot_dose, plot_edit, plot_frontier

if TYPE_CHECKING:
    import pandas as pd

    from probekit.surgery.evaluating.edit_report import EditReport, MeasureFacts
    from probekit.surgery.evaluating.effects import Figure

__all__ = ["edit_page", "plot_dose", "plot_edit", "plot_frontier", "write_edit_page"]

_READING = {
    "change": "Edited less plain on the same items, with its 95 % interval; of perplexity, edited over plain.",
    "controls": "The same edit along other directions (or other edits) made the same way: least, median and greatest change.",
    "p": "Share of the controls, and the edit itself, that go as far in the wanted direction; of a side effect, that damage as much.",
    "select, report": "Two parts of the items, split by group. The strength is chosen on the first and reported on the second.",
    "no score": "Items that a scorer could not score. They are left out of pairs and never counted as zero.",
    "damage allowed": "A strength beyond it is not chosen, whatever it changes.",
}


def write_edit_page(
    report: EditReport, path: str | os.PathLike[str], *, title: str | None = None, command: str | None = None
) -> Path:
    """Write the page of an evaluated edit: one self-contained HTML file that opens without a network.

    Args:
        path: The file to write; a folder gets `index.html`.
        title: Title of the page; what the edit does unless given.
        command: The command line that makes the page again, with a button to copy it.
    """
    return edit_page(report, title=title, command=command).write(path)


def edit_page(report: EditReport, *, title: str | None = None, command: str | None = None) -> Page:
    """The page that `write_edit_page` writes, to add blocks to."""
    own = str(report.edit["name"])
    page = Page(title or own[:1].upper() + own[1:], own if title and title != own else "")
    page.heading("What was asked").text(question(report))
    page.heading("The answer").add(blocks.text(report.verdict.words, strong=True), _tiles(report))
    page.heading("Effect and damage").add(_figures(report))
    page.add(blocks.table(change_table(report), _change_caption(report)))
    if report.tests["p"]:
        caption = "The changes that the controls make, and the share of them that go as far (p)."
        page.add(blocks.heading("Beside the controls", 3), blocks.table(control_table(report), caption))
    if report.verdict.chosen is not None:
        page.add(blocks.heading("At every strength", 3), *_doses(report))
    if report.rows(kind="prompt") or report.rows(kind="baseline"):
        page.add(
            blocks.heading("Other ways to the same end", 3),
            blocks.table(others_table(report), "On the items that are reported."),
        )
    if report.examples:
        page.heading("Texts before and after").add(_examples(report))
    page.heading("Which items were used where").add(blocks.table(items_table(report)))
    page.heading("Notes").add(blocks.notes(report.notes))
    page.add(blocks.details("How to read it", blocks.facts(_READING)))
    return page.add(*_make_again(report, command))


def question(report: EditReport) -> str:
    """What was asked, in plain text."""
    behaviour, model = report.behaviour, report.manifest.get("model", {})
    name = model.get("name", "") if isinstance(model, Mapping) else ""
    less = "lower" if behaviour.less_is_wanted else "raise"
    words = f"Does this edit{f' of {name}' if name else ''} {less} “{wording.shorten(behaviour.name, 60)}” ({behaviour.unit})"
    others = [f"“{wording.shorten(m.name, 60)}”" for m in report.side_effects]
    words += f", and what does it do to {wording.join_words(others)}?" if others else "?"
    kinds = _kinds(report)
    if kinds:
        counted = [f"{count} controls ({wording.shorten(kind, 40)})" for kind, count in kinds.items()]
        words += f" It is compared with {wording.join_words(counted)} made the same way at the same strength."
    return (
        words
        + f" Every figure has a 95{wording.SPACE}% interval over groups of items, and changes are paired item by item."
    )


def _tiles(report: EditReport) -> Block:
    behaviour = report.behaviour
    effect, p = report.figure(behaviour.name), report.p()
    items = [
        {
            "name": behaviour.name,
            "value": _change(effect, behaviour),
            "detail": f"{_interval(effect)}\n{_p_words(p)}".strip(),
        }
    ]
    if report.verdict.chosen is not None:
        worth = wording.join_words([f"{s:g}" for s in report.verdict.worth])
        detail = f"within the damage allowed on the select part: {worth}" if worth else "none is worth shipping"
        items.append({"name": "strength chosen", "value": f"{report.verdict.chosen:g}", "detail": detail})
    for measure in report.side_effects[:4]:
        effect = report.figure(measure.name)
        allowed = "" if measure.limit is None else f"\nallowed: {measure.limit:.3g}"
        items.append(
            {
                "name": measure.name,
                "value": f"{f'×{wording.SPACE}' if measure.ratio else ''}{_change(effect, measure)}",
                "detail": f"{_interval(effect)}{allowed}".strip(),
            }
        )
    return blocks.tiles(
        [{key: wording.shorten(value, 60) if key == "name" else value for key, value in item.items()} for item in items]
    )


def _figures(report: EditReport) -> Block:
    dose = blocks.figure(
        plot_dose(report),
        "The behaviour at every strength, on the select part, with its 95 % interval; lines of the controls are some of them. The "
        "star is the strength chosen, on the items held back for it."
        if report.verdict.chosen is not None
        else "The edited model, the plain one and every control, with 95 % intervals.",
    )
    if not report.side_effects:
        return dose
    strengths = " Numbers at the points are strengths." if report.verdict.chosen is not None else ""
    words = f"Effect against damage on the items that are reported.{strengths} What is worth having lies far from the plain model "
    return blocks.columns(dose, blocks.figure(plot_frontier(report), words + "vertically and near it horizontally."))


def change_table(report: EditReport) -> pd.DataFrame:
    """A row a measure at the strength reported."""
    import pandas as pd

    rows = []
    for measure in report.measures:
        plain, edited = (report.figure(measure.name, name, of="value") for name in ("plain", report.edited))
        effect = report.figure(measure.name)
        found = report.rows(measure=measure.name, condition=report.edited, part="report")[0]
        rows.append(
            {
                "": measure.name,
                "unit": measure.unit,
                "plain": _number(plain.value),
                "edited": _number(edited.value),
                "change": _change(effect, measure),
                "95 % interval": _interval(effect),
                "items": f"{found['n']:,}",
                "groups": f"{found['groups']:,}",
                "no score": f"{found['failed']:,}",
            }
        )
    return pd.DataFrame(rows)


def control_table(report: EditReport) -> pd.DataFrame:
    """A row a measure and kind of control, at the strength reported."""
    import pandas as pd

    rows = []
    for measure, kind, count, p, low, median, high in zip(*report.tests.values(), strict=True):
        facts = report.measure(measure)
        rows.append(
            {
                "": measure,
                "controls": f"{kind}",
                "number": f"{count}",
                "edit": _change(report.figure(measure), facts),
                "least": _number(low),
                "median": _number(median),
                "greatest": _number(high),
                "p": _number(p),
            }
        )
    return pd.DataFrame(rows)


def _change_caption(report: EditReport) -> str:
    where = (
        "all items"
        if report.verdict.chosen is None
        else f"the items that are reported, at strength {report.verdict.chosen:g}"
    )
    return f"On {where}. Change: edited less plain; of perplexity, edited over plain."


def _doses(report: EditReport) -> list[Block]:
    import pandas as pd

    conditions = sorted({(row["strength"], row["condition"]) for row in report.rows(kind="edit")})
    rows = []
    for strength, condition in conditions:
        row = {"strength": f"{strength:g}"}
        for measure in report.measures:
            effect = report.figure(measure.name, condition, part="select")
            row[_column(measure)] = f"{_change(effect, measure)} ({_interval(effect)})"
        rows.append(row)
    strong = [i for i, (strength, _) in enumerate(conditions) if strength == report.verdict.chosen]
    caption = "Changes on the select part, where the strength was chosen (marked), with 95 % intervals."
    return [blocks.table(pd.DataFrame(rows), caption, strong=strong)]


def others_table(report: EditReport) -> pd.DataFrame:
    """The edit, prompting and the baselines, a row each, on the report part."""
    import pandas as pd

    names = [
        report.edited,
        *dict.fromkeys(row["condition"] for kind in ("prompt", "baseline") for row in report.rows(kind=kind)),
    ]
    rows = []
    for name in names:
        row = {"": "this edit" if name == report.edited else name}
        for measure in report.measures:
            effect = report.figure(measure.name, name)
            known = effect.value == effect.value
            row[_column(measure)] = f"{_change(effect, measure)} ({_interval(effect)})" if known else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def items_table(report: EditReport) -> pd.DataFrame:
    """How many items of each measure chose, and how many are reported."""
    import pandas as pd

    split = report.verdict.chosen is not None
    rows = [
        {
            "": m.name, "items": f"{m.items:,}", "chosen on": f"{m.select:,}" if split else "0",
            "reported on": f"{m.report:,}" if split else f"{m.items:,}", "digest": m.digest,
        }
        for m in report.measures
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _examples(report: EditReport) -> Block:
    each = []
    for example in report.examples:
        each.append(blocks.facts({"prompt": example["prompt"], "plain": example["before"], "edited": example["after"]}))
    return blocks.details(f"{len(each)} texts, plain and edited", *each)


def _make_again(report: EditReport, command: str | None) -> list[Block]:
    out = [blocks.heading("Make it again")]
    if command:
        out.append(blocks.code(command))
    model = report.manifest.get("model", {})
    facts: dict[str, Any] = {
        "edit": report.edit["name"],
        "model": ", ".join(f"{k} {v}" for k, v in dict(model).items()),
    }
    for name, value in dict(report.manifest.get("arguments", {})).items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{count} {kind}" for kind, count in value.items())
        if value not in (None, "", []):
            facts[name] = value
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in dict(report.manifest.get("versions", {})).items())
    whole = json.dumps({"edit": report.edit, **report.manifest}, indent=2, default=str, ensure_ascii=False)
    return [*out, blocks.facts(facts), blocks.details("The whole manifest", blocks.code(whole))]


def _kinds(report: EditReport) -> dict[str, int]:
    return dict(zip(report.tests["control"], report.tests["controls"], strict=True))


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3g}".replace("-", "−")


def _change(effect: Figure, measure: MeasureFacts) -> str:
    if effect.value != effect.value:
        return "–"
    return f"{effect.value:.3g}" if measure.ratio else f"{effect.value:+.3g}".replace("-", "−")


def _column(measure: MeasureFacts) -> str:
    return wording.shorten(measure.name, 40) + (", ratio" if measure.ratio else "")


def _interval(effect: Figure) -> str:
    return "" if effect.low != effect.low else f"{_number(effect.low)} to {_number(effect.high)}"


def _p_words(p: float) -> str:
    return "" if p != p else f"p = {p:.2g} against controls"
