"""The page of an evaluated edit: says what was found, escapes what comes from data, and opens without a network."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from probekit.report.edit_words import held_to
from probekit.report.edits import edit_page, plot_dose, plot_edit, plot_frontier, question, write_edit_page
from probekit.surgery.evaluating.edit_report import COLUMNS, TEST_COLUMNS, EditReport, MeasureFacts, Verdict
from probekit.surgery.evaluating.effects import Figure
from tests.report.test_page import HOSTILE, Reader

STRENGTHS = (0.0, 1.0, 2.0, 4.0)


def evaluated(
    strengths: bool = True, hostile: str = "", side: bool = True, ruin: float = 1.0, notes: tuple[str, ...] = ()
) -> EditReport:
    """A made-up report of a steered sentiment, with two kinds of control, a prompt and a baseline.

    Args:
        ruin: The perplexity's ratio at the greatest strength.
    """
    rng = np.random.default_rng(0)
    facts = [MeasureFacts(f"sentiment{hostile}", "score", False, False, 40, 20, 20, None, "ab12")]
    if side:
        facts += [MeasureFacts("perplexity", "per token", True, True, 30, 15, 15, 1.05, "cd34"), MeasureFacts("agreement", "share of tokens", False, False, 40, 20, 20, None, "ef56")]  # fmt: skip
    doses = STRENGTHS if strengths else (3.0,)
    chosen = 2.0 if strengths else 3.0

    def named(strength: float) -> str:
        return f"strength {strength:g}" if strengths else "edited"

    conditions: list[tuple[str, str, str, float | None, float]] = [("plain", "plain", "", None, 0.0)]
    conditions += [(named(s), "edit", "", s, 0.2 * s) for s in doses]
    for kind in ("random", f"permuted{hostile}"):
        for i in range(20):
            for s in doses if i < 3 else (chosen,):
                name = f"{kind} {i}" + (f", strength {s:g}" if strengths else "")
                conditions.append((name, "control", kind, s, float(rng.normal() * 0.02 * s)))
    conditions += [("prompt", "prompt", "", None, 0.25), (f"LoRA{hostile}", "baseline", "", None, 0.3)]
    rows = []
    for name, kind, control, strength, effect in conditions:
        for part in ("select", "report") if strengths else ("report",):
            for m in facts:
                change = effect if m is facts[0] else math.exp(0.1 * abs(effect)) if m.ratio else -abs(effect)
                if m.ratio and kind == "edit" and strength == doses[-1]:
                    change *= ruin
                if kind != "plain" and part == "select":
                    change += 0.01  # halves differ
                level = 0.1 + change if not m.ratio else 20 * change
                rows.append((m.name, name, kind, control, strength, part, level, level - 0.05, level + 0.05, change, change - 0.03, change + 0.03, 20, 20, 0))  # fmt: skip
    tests = [(m.name, kind, 20, 1 / 21, -0.1, 0.01, 0.12) for m in facts for kind in ("random", f"permuted{hostile}")]
    words = f"Worth shipping at strength 1 and 2{hostile}."
    return EditReport(
        edit={"name": f"steer {hostile} by +2 standard deviations at blocks.3.hook_resid_post", "kind": "activations"},
        measures=tuple(facts),
        figures={name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)},
        tests={name: [row[i] for row in tests] for i, name in enumerate(TEST_COLUMNS)},
        verdict=Verdict(words, True, True, chosen if strengths else None, (1.0, 2.0) if strengths else ()),
        examples=tuple({"prompt": f"Once {i} {hostile}", "before": f"sad {hostile}", "after": "glad\nand glad"} for i in range(3)),
        scores={},
        parts={},
        notes=(f"Which texts {hostile}", *notes),
        manifest={
            "model": {"name": f"a-model{hostile}", "fingerprint": "0123"},
            "arguments": {"controls": {"random": 20}, "strengths": list(doses), "prompt": f"Be glad. {hostile}"},
            "versions": {"torch": "2"},
        },
    )  # fmt: skip


@pytest.mark.parametrize("strengths", [True, False])
@pytest.mark.parametrize("side", [True, False])
def test_the_page_says_everything_it_has_to(strengths, side):
    report = evaluated(strengths, side=side)
    page = Reader(edit_page(report, command="make it").html())
    wanted = ["What was asked", "The answer", report.verdict.words, "Beside the controls", "p = 0.048", "permuted", "LoRA", "prompt", "plain and edited", "Once 2", "glad", "Which texts", "0123", "make it"]  # fmt: skip
    halved = [
        "At every strength",
        "worth shipping, too: 1",
        "half that chose the strength",
        "half held back",
        "out of 0, 1, 2 and 4",
    ]
    wanted += halved if strengths else ["every figure is of all items"]
    wanted += (
        [f"{'within' if strengths else 'more than'} what is allowed, up to ×\u00a01.05", "agreement"] if side else []
    )
    for words in wanted:
        assert words in page.text, words
    assert question(report) in page.text
    drawings = [d for d in page.data if isinstance(d, dict) and "layout" in d]
    assert len(drawings) == 1 + side


def test_damage_that_rounds_to_its_limit_is_told_with_more_digits():
    limited = MeasureFacts("perplexity", "per token", True, True, 30, 15, 15, 1.05)
    nan = float("nan")
    assert held_to(Figure(1.0532, nan, nan), limited) == "more than what is allowed, up to ×\u00a01.05 (it is 1.0532)"
    assert held_to(Figure(1.2, nan, nan), limited) == "more than what is allowed, up to ×\u00a01.05"
    right = MeasureFacts("accuracy", "share right", False, False, 30, 15, 15, 0.1)
    assert held_to(Figure(-0.05, nan, nan), right) == "within what is allowed, up to 0.1 worse"
    assert held_to(Figure(-0.2, nan, nan), right).startswith("more than")
    assert held_to(Figure(-0.2, nan, nan), replace(right, limit=None)) == ""


def test_nothing_is_fetched():
    html = edit_page(evaluated()).html()
    assert "default-src 'none'" in html
    for _, attributes in Reader(html).elements:
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


@pytest.mark.parametrize("strengths", [True, False])
def test_text_from_data_is_escaped(strengths):
    seen, plain = (
        Reader(edit_page(evaluated(strengths, h), title=h or "x", command=h or "x").html()) for h in (HOSTILE, "")
    )
    assert not seen.has("img")
    assert not any(name.startswith("on") for _, attributes in seen.elements for name in attributes)
    assert HOSTILE in seen.text
    assert [t for t, _ in seen.elements] == [t for t, _ in plain.elements]


def test_the_same_report_gives_the_same_bytes(tmp_path):
    one, two = (write_edit_page(evaluated(), tmp_path / f"{i}.html").read_bytes() for i in range(2))
    assert one == two
    assert evaluated().save_page(tmp_path / "three.html").read_bytes() == one


def test_the_dose_figure_shows_every_control_and_both_halves():
    report = evaluated()
    by_name = {trace.name: trace for trace in plot_dose(report).data if trace.name}
    cloud = by_name["controls (random)"]
    assert sum(x is not None for x in cloud.x) == 3 * 4 + 17
    held, chose = (by_name[f"edited, half {half}"] for half in ("held back", "that chose the strength"))
    for line, part in ((held, "report"), (chose, "select")):
        assert list(line.x) == list(STRENGTHS)
        assert list(line.y) == [report.figure("sentiment", f"strength {s:g}", part=part).value for s in STRENGTHS]
    assert list(held.y) != list(chose.y)
    star = by_name["strength chosen"]
    assert (list(star.x), list(star.y)) == ([2.0], [held.y[2]])  # it lies on the line of its own half
    assert set(by_name["plain model"].y) == {0.0}
    alone = {trace.name: trace for trace in plot_dose(evaluated(False)).data}
    assert len(alone["controls (random)"].x) == 20
    assert {"plain model", "edited", "prompt", "baselines"} <= set(alone)


def test_the_frontier_sets_effect_against_damage():
    report = evaluated()
    figure = plot_frontier(report)
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["strength chosen"].x) == [report.figure("perplexity").value]
    assert list(traces["strength chosen"].y) == [report.figure("sentiment").value]
    assert (list(traces["plain model"].x), list(traces["plain model"].y)) == ([1.0], [0.0])
    assert figure.layout.shapes[0].x0 == 1.05
    other = {trace.name: trace for trace in plot_frontier(report, "agreement").data}
    assert list(other["strength chosen"].x) == [report.figure("agreement").value]
    with pytest.raises(KeyError, match="no measure"):
        plot_frontier(report, "x")
    with pytest.raises(ValueError, match="no side effect"):
        plot_frontier(evaluated(side=False))


def test_ratios_that_span_much_are_shown_on_a_logarithmic_axis():
    assert plot_frontier(evaluated()).layout.xaxis.type is None
    axis = plot_frontier(evaluated(ruin=1e6)).layout.xaxis
    assert axis.type == "log"
    assert axis.title.text.endswith("(log scale)")
    assert axis.range[0] < 0
    assert axis.range[1] > 6
    assert {1, 1e6} <= set(axis.tickvals)
    assert plot_frontier(evaluated(ruin=1e6), "agreement").layout.xaxis.type is None


@pytest.mark.parametrize("strengths", [True, False])
@pytest.mark.parametrize("ruin", [1.0, 1e6])
def test_minus_signs_are_the_same_and_no_jargon_is_left(strengths, ruin):
    report = evaluated(strengths, ruin=ruin, notes=("Strength -2 was chosen on the select part of the items, and its figures are of the report part.",))  # fmt: skip
    said = replace(
        report.verdict, words="Worth it at -2 (-3e-05 to +1). On the select part, strength -0.5 would do, too."
    )
    page = Reader(edit_page(replace(report, verdict=said)).html())
    text = page.text[: page.text.index("Make it again", 400)]
    assert "On the half that chose the strength, strength −0.5 would do, too." in text
    assert "at −2 (−3\u00a0×\u00a010⁻⁵ to +1)" in text
    assert (
        "Strength −2 was chosen on one half of the items, and its figures are of the other half, which was held back."
        in text
    )
    assert not re.search(r"(?<![\w.])-\d|select part|report part|\de[+-]\d", text)
    hovers = [words for d in page.data if "layout" in d for t in d["data"] for words in t.get("customdata", ())]
    assert any("control random 3" in words and "half held back" in words for words in hovers) == strengths
    assert not any(re.search(r"(?<![\w.])-\d", words) for words in hovers)


def test_both_stand_side_by_side():
    figure = plot_edit(evaluated())
    assert figure.layout.xaxis2.title.text.startswith("perplexity")
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert len(names) == len(set(names))
    assert len(figure.layout.shapes) == 1
    assert len(evaluated(side=False).plot().data) > 4


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_in_a_browser(browser, tmp_path, width, scheme):
    hostile = "<img src=x onerror=console.error('run')></script><script>console.error('run')</script>"
    file = write_edit_page(evaluated(hostile=hostile), tmp_path / "a page.html", command="long " * 60)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: requests.append(sent.url))
    page.goto(file.as_uri())
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert page.locator(".plot svg.main-svg").count() >= 2
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = page.evaluate("""() => [...document.querySelectorAll('.plot')].flatMap(plot => {
        const box = plot.getBoundingClientRect();
        return [...plot.querySelectorAll('.xtick text, .ytick text, .xtitle, .ytitle, .legendtext')].filter(text => {
            const t = text.getBoundingClientRect();
            return t.width && (t.left < box.left - 1 || t.right > box.right + 1 || t.top < box.top - 1 || t.bottom > box.bottom + 1);
        }).map(text => text.textContent);
    })""")
    assert cut == []
    collisions = page.evaluate("""() => [...document.querySelectorAll('.plot')].flatMap(plot => {
        const all = [...plot.querySelectorAll('.scatterlayer text, .xtick text, .ytick text, .xtitle, .ytitle, .legendtext')]
            .map(text => [text.textContent, text.getBoundingClientRect()]).filter(([text, box]) => text && box.width);
        return all.flatMap(([text, a], i) => all.slice(0, i).filter(([, b]) =>
            a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1).map(([other]) => `${text} on ${other}`));
    })""")
    assert collisions == []
    assert page.locator(".scatterlayer text").count() >= 3  # strengths at the points
    tables = page.evaluate("""() => [...document.querySelectorAll('.scroll')].filter(box => box.offsetParent).map(box => [
        box.scrollWidth - box.clientWidth, getComputedStyle(box).overflowX, box.querySelector('td').offsetWidth / box.clientWidth])""")
    assert all(hidden == 0 or overflow == "auto" for hidden, overflow, _ in tables)
    assert width > 400 or all(first < 0.5 for *_, first in tables)  # names leave room for numbers
    assert page.locator("img").count() == 0
    page.locator("summary", has_text="plain and edited").click()
    assert page.locator("dd", has_text="Once 2").is_visible()
    assert complaints == []
    context.close()
