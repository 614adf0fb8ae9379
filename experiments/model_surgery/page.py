"""The experiment's page and table: every way to edit beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probekit.report import Page
from probekit.report.style import SERIES_COLORS, SERIES_SYMBOLS
from probekit.surgery import EditReport

KINDS = ("random", "spectrum", "permuted")
"""Of controls: drawn evenly, drawn with the covariance of the data, and found by the same recipe from labels dealt out again."""


def write(
    path: Path,
    reports: Mapping[str, EditReport],
    task: str,
    auroc: float,
    reliability: str,
    shipped: Mapping[str, Any],
) -> None:
    frame = table(reports)
    page = Page(f"Editing {task} out of SmolLM2-135M", "Model surgery, and what else could have been done")
    page.text(
        f"Continuations of unwanted texts are judged by a classifier trained on other texts than the probe (AUROC {auroc:.3f} on yet "
        f"others). Strengths are chosen on half of the prompts, figures come from the other half.\n\n{reliability}"
    )
    page.figure(effect_against_damage(reports), "Behaviour left, against perplexity of WikiText-2; the dashed lines are the aim: half of the behaviour, perplexity up by 5 % at most.")  # fmt: skip
    page.table(
        frame,
        "Behaviour before and after, and the change of each side effect (a ratio for perplexity). Ways with a strength, and the searched one, are reported on the half of the prompts that chose nothing. Intervals are over prompts.",
    )
    page.heading("Shipped, and measured again")
    page.text(
        "The way that leaves least of the behaviour within the damage allowed was exported as a folder; a fresh process without probekit "
        "read it, continued the same prompts and scored the same paragraphs."
    )
    page.table(pd.DataFrame([{"what": key, "value": said(value)} for key, value in shipped.items()]))
    for name, report in reports.items():
        page.heading(name).text(report.verdict.words)
        page.table(
            report.to_frame().query("part == 'report' and kind != 'control'").drop(columns=["part"], errors="ignore")
        )
    page.write(path)


def said(value: Any) -> str:
    """A figure, a name, or what was passed over and why, in words."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {why}" for name, why in value.items()) or "–"
    return "–" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def table(reports: Mapping[str, EditReport]) -> pd.DataFrame:
    """One row a way."""
    rows = []
    for name, report in reports.items():
        behaviour, at = report.behaviour.name, report.verdict.chosen
        row = {
            "way": name,
            "strength": "–" if at is None else f"{at:g}",
            "behaviour, plain": value(report, behaviour, "plain"),
            "behaviour, edited": value(report, behaviour, report.edited),
        } | {f"p ({kind})": p_value(report, kind) for kind in KINDS}
        rows.append(
            row | {measure.name: effect(report, measure.name, report.edited) for measure in report.side_effects}
        )
        if report.rows(kind="prompt"):
            row = {"way": "prompt", "strength": "–", "behaviour, plain": value(report, behaviour, "plain")}
            row |= {"behaviour, edited": value(report, behaviour, "prompt")}
            rows.append(row | {m.name: effect(report, m.name, "prompt") for m in report.side_effects})
    return pd.DataFrame(rows).fillna("–")


def p_value(report: EditReport, kind: str) -> str:
    """Of the behaviour: the share of the controls of a kind, and the edit, that do as much."""
    p = report.p(control=kind)
    return "–" if p != p else f"{p:.3f}"


def value(report: EditReport, measure: str, condition: str) -> str:
    row = report.rows(measure=measure, condition=condition, part="report")[0]
    return f"{row['value']:.3f} ({row['value_low']:.3f} to {row['value_high']:.3f})"


def effect(report: EditReport, measure: str, condition: str) -> str:
    found = report.rows(measure=measure, condition=condition, part="report")
    return f"{found[0]['effect']:.3g}" if found else "–"


def effect_against_damage(reports: Mapping[str, EditReport]) -> go.Figure:
    """A line a way over its strengths, on the prompts that are reported; a large marker at the strength chosen."""
    fig = go.Figure()
    fig.add_vline(x=1.05, line={"dash": "dash", "color": "#8a919c"})
    for i, (name, report) in enumerate(reports.items()):
        behaviour = report.behaviour.name
        plain = report.rows(measure=behaviour, condition="plain", part="report")[0]["value"]
        points = []
        for row in report.rows(measure=behaviour, kind="edit", part="report"):
            harm = report.rows(measure="perplexity", condition=row["condition"], part="report")
            points.append(
                (row["strength"] or 0, harm[0]["effect"], row["value"] / plain, row["condition"] == report.edited)
            )
        points.sort()
        fig.add_scatter(
            x=[p[1] for p in points],
            y=[p[2] for p in points],
            name=name,
            mode="lines+markers",
            line={"color": SERIES_COLORS[i]},
            marker={"symbol": SERIES_SYMBOLS[i % len(SERIES_SYMBOLS)], "size": [13 if p[3] else 6 for p in points]},
            text=[f"strength {p[0]:g}" for p in points],
            hovertemplate="%{text}: %{y:.2f} of the behaviour, perplexity x%{x:.3f}<extra></extra>",
        )
    fig.add_hline(y=0.5, line={"dash": "dash", "color": "#8a919c"})
    fig.update_xaxes(title="perplexity, edited over plain", type="log")
    fig.update_yaxes(title="behaviour left", rangemode="tozero")
    fig.update_layout(height=430, legend={"orientation": "h", "y": 1.15, "x": 0})
    return fig
