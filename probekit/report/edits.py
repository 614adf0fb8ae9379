"""The page of an evaluated edit: what it was meant to change, whether it does, what it breaks, and how to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.report import blocks, wording
from probekit.report import edit_words as words
from probekit.report.blocks import Block, Page
from probekit.report.edit_figures import plot_dose, plot_edit, plot_frontier
from probekit.report.edit_frames import (
    change_table,
    control_table,
    half_table,
    items_table,
    others_table,
    strength_table,
)
from probekit.report.edit_words import question

if TYPE_CHECKING:
    from probekit.surgery.evaluating.edit_report import EditReport

__all__ = ["edit_page", "plot_dose", "plot_edit", "plot_frontier", "question", "write_edit_page"]

_TILES = 4  # side effects that get a tile; all are in the table

_READING = {
    "change": "Edited less plain on the same items, with its 95 % interval; of perplexity, edited over plain (× 1: unchanged).",
    "controls": "The same edit along other directions (or other edits) made the same way: least, median and greatest change.",
    "p": "Share of the controls, and the edit itself, that go as far in the wanted direction; of a side effect, that damage as much. "
    "With 20 controls it cannot be below 0.048.",
    "the two halves": "The items are split by group. The strength is chosen on one half and reported on the other, which was held "
    "back, so that the choice cannot flatter the figures. The halves differ by chance; at the strength chosen, the half that chose "
    "it is flattered, too.",
    "groups": "Items that belong together (the same text, the same author) are in one group: they stand in one half, and "
    "intervals come from drawing whole groups anew.",
    "no score": "Items that a scorer could not score. They are left out of pairs and never counted as zero.",
    "damage allowed": "A strength beyond it is chosen only where all are beyond it.",
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
    own = wording.with_minus(str(report.edit["name"]))
    page = Page(title or own[:1].upper() + own[1:], own if title and title != own else "")
    page.heading("What was asked").text(question(report)).text(words.halves(report))
    page.heading("The answer").add(blocks.text(words.retold(report.verdict.words), strong=True), _tiles(report))
    page.heading("Effect and damage").add(_figures(report))
    page.add(blocks.table(change_table(report), _change_caption(report)))
    page.add(blocks.details("How to read it", blocks.facts(_READING)))
    if report.tests["p"]:
        page.add(
            blocks.heading("Beside the controls", 3), blocks.table(control_table(report), _control_caption(report))
        )
    if report.verdict.chosen is not None:
        page.add(blocks.heading("At every strength", 3), _strengths(report))
    if report.rows(kind="prompt") or report.rows(kind="baseline"):
        caption = f"Changes with their 95{wording.SPACE}% intervals, on the {words.held_words(report)}."
        page.add(
            blocks.heading("Other ways to the same end", 3),
            blocks.table(others_table(report), caption.replace("the all", "all")),
        )
    if report.examples:
        page.heading("Texts before and after").add(*_examples(report))
    page.heading("Notes").add(blocks.notes([words.retold(note) for note in report.notes]))
    digest = "The digest changes when the items or the settings of a measure do."
    page.heading("Which items were used where").add(blocks.table(items_table(report), digest))
    return page.add(*_make_again(report, command))


def _tiles(report: EditReport) -> Block:
    p = report.p()
    items = [_tile(report, report.behaviour.name, [f"p = {words.p_words(p)} against controls"] if p == p else [])]
    if report.verdict.chosen is not None:
        also = [words.strength(s) for s in report.verdict.worth if s != report.verdict.chosen]
        tried = f"out of {wording.join_words([words.strength(s) for s in words.strengths(report)])}"
        worth = f"worth shipping, too: {wording.join_words(also)}" if also else ""
        none = "" if report.verdict.worth else "not shown to be worth shipping"
        detail = "\n".join(line for line in (tried, worth, none) if line)
        items.append({"name": "strength chosen", "value": words.strength(report.verdict.chosen), "detail": detail})
    limited = sorted(report.side_effects, key=lambda measure: measure.limit is None)
    for measure in limited[:_TILES]:
        said = words.held_to(report.figure(measure.name), measure)
        items.append(_tile(report, measure.name, [said] if said else []))
    return blocks.tiles(items)


def _tile(report: EditReport, name: str, lines: list[str]) -> dict[str, str]:
    """A measure: its change, from where to where, and what else there is to say."""
    measure, effect = report.measure(name), report.figure(name)
    plain, edited = words.levels(*(report.figure(name, c, of="value").value for c in ("plain", report.edited)))
    between = words.interval(effect, measure)
    detail = [f"95{wording.SPACE}%: {between}" if between else "", f"from {plain} to {edited} {wording.shorten(measure.unit, 40)}"]  # fmt: skip
    return {
        "name": wording.shorten(name, 60),
        "value": words.change(effect, measure),
        "detail": "\n".join(line for line in (*detail, *lines) if line),
    }


def _figures(report: EditReport) -> Block:
    split = report.verdict.chosen is not None
    plain = words.level(report.figure(report.behaviour.name, "plain", of="value").value)
    base = f"The plain model, at {plain}, is the dotted line."
    if split:
        first = (
            f"What the edit changes at every strength, beside the plain model on the same items. Solid, with its 95{wording.SPACE}% "
            f"interval: the {words.held_words(report)}, and the star is the strength chosen. Dashed: the {words.chose_words(report)}. "
            f"The two differ by chance, and at the strength chosen also because it was chosen for doing well on one {words.halved(report)[0]}. "
            f"{base}{_some_controls(report)}"
        )
    else:
        first = f"What each way changes, with 95{wording.SPACE}% intervals, and every control. {base}"
    dose = blocks.figure(plot_dose(report), first)
    if not report.side_effects:
        return dose
    strengths = " Numbers at the points are strengths." if split else ""
    second = f"Effect against damage, {'on the ' if split else 'on '}{words.held_words(report)}.{strengths} What is worth having lies far from "
    return blocks.columns(
        dose, blocks.figure(plot_frontier(report), second + "the plain model vertically and near it horizontally.")
    )


def _some_controls(report: EditReport) -> str:
    """Which controls have a line, and which a point only."""
    rows = report.rows(measure=report.behaviour.name, kind="control", part="report")
    elsewhere = any(row["strength"] != report.verdict.chosen for row in rows)
    if not rows:
        return ""
    return (
        " Some controls were measured at every strength, all at the one chosen."
        if elsewhere
        else " Controls were measured at the strength chosen."
    )


def _change_caption(report: EditReport) -> str:
    where = (
        "All items"
        if report.verdict.chosen is None
        else f"The {words.held_words(report)}, at strength {words.strength(report.verdict.chosen)}"
    )
    return f"{where}. Change: edited less plain; of perplexity, edited over plain."


def _control_caption(report: EditReport) -> str:
    return (
        f"The change that the edit makes, and the least, median and greatest of those that {words.controls(report)} make. p: the share "
        "of controls, and the edit itself, that go as far."
    )


def _strengths(report: EditReport) -> Block:
    """All measures at a glance, and each with its intervals on both halves."""
    strong = [i for i, s in enumerate(words.strengths(report)) if s == report.verdict.chosen]
    glance = f"Changes on the {words.held_words(report)}; the strength chosen is marked."
    tabs = {"at a glance": blocks.table(strength_table(report), glance, strong=strong)}
    for number, measure in enumerate(report.measures, 1):
        name = wording.shorten(measure.name, 40)
        name = f"{name} ({number})" if name in tabs else name
        both = f"Changes with their 95{wording.SPACE}% intervals. The strength (marked) was chosen by the columns on the right."
        tabs[name] = blocks.table(half_table(report, measure), both, strong=strong)
    return blocks.tabs(tabs)


def _examples(report: EditReport) -> list[Block]:
    each = []
    for example in report.examples:
        same = example["before"] == example["after"]
        after = "(the same)" if same else example["after"]
        each.append(blocks.facts({"prompt": example["prompt"], "plain": example["before"], "edited": after}))
    which = "" if report.verdict.chosen is None else f" to prompts of the {words.held_words(report)}"
    other = sum(example["before"] != example["after"] for example in report.examples)
    said = f"What the plain model and the edited one say{which}; {other} of {len(each)} texts differ."
    return [blocks.text(said), blocks.details(f"{len(each)} texts, plain and edited", *each)]


def _make_again(report: EditReport, command: str | None) -> list[Block]:
    out = [blocks.heading("Make it again")]
    if command:
        out.append(blocks.code(command))
    model = report.manifest.get("model", {})
    facts: dict[str, Any] = {
        "edit": wording.with_minus(str(report.edit["name"])),
        "model": ", ".join(f"{k} {v}" for k, v in dict(model).items()),
    }
    for name, value in dict(report.manifest.get("arguments", {})).items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{count} {kind}" for kind, count in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(words.strength(one) if isinstance(one, float) else str(one) for one in value)
        if value not in (None, "", []):
            facts[name] = value
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in dict(report.manifest.get("versions", {})).items())
    whole = json.dumps({"edit": report.edit, **report.manifest}, indent=2, default=str, ensure_ascii=False)
    return [*out, blocks.facts(facts), blocks.details("The whole manifest", blocks.code(whole))]
