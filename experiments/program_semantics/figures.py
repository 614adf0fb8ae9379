"""Figures of the experiment; nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.report.style import LEGEND, MARGIN, SERIES_COLORS, SERIES_DASHES, SERIES_SYMBOLS, SOURCE_STYLES, arrange

GREY = SOURCE_STYLES["shuffled"]["color"]
SOURCES = {"model": "probe", "control_task": "control task", "random_weights": "random weights"}  # fmt: skip


def line(fig: go.Figure, frame: pd.DataFrame, x: str, name: str, number: int, y: str = "value") -> None:
    """A line with intervals `low` and `high`."""
    fig.add_scatter(
        x=frame[x], y=frame[y], name=name, mode="lines+markers",
        line={"color": SERIES_COLORS[number % 8], "dash": SERIES_DASHES[number % 6]},
        marker={"symbol": SERIES_SYMBOLS[number % 6], "size": 7},
        error_y={"array": frame.high - frame[y], "arrayminus": frame[y] - frame.low, "thickness": 1, "width": 2},
    )  # fmt: skip


def over_training(written: pd.DataFrame, accuracy: pd.DataFrame) -> go.Figure:
    """Generative accuracy, and probe accuracy (`label_set`, `step`, `value`, ...), over the step."""
    fig = go.Figure()
    line(fig, written.sort_values("step"), "step", "right programs", 0, y="rate")
    for number, (label, part) in enumerate(accuracy.groupby("label_set", sort=False), start=1):
        line(fig, part.sort_values("step"), "step", f"probe: {label}", number)
    steps = sorted(written.step)[::2]
    fig.update_xaxes(type="log", title="training step", tickvals=steps, ticktext=[f"{step:,}" for step in steps])
    fig.update_yaxes(title="accuracy", range=[0, 1.02])
    arrange(fig, height=430, legend=LEGEND, margin=MARGIN | {"t": 80})
    return fig


def against_each_other(written: pd.DataFrame, accuracy: pd.DataFrame) -> go.Figure:
    """A point a model: right programs against probe accuracy."""
    rate = written.set_index("step").rate
    fig = go.Figure()
    for number, (label, part) in enumerate(accuracy.groupby("label_set", sort=False), start=1):
        fig.add_scatter(
            x=part.value, y=rate.loc[part.step], text=[f"step {step:,}" for step in part.step], name=label, mode="markers",
            marker={"color": SERIES_COLORS[number % 8], "symbol": SERIES_SYMBOLS[number % 6], "size": 8},
            hovertemplate="%{text}: probe %{x:.3f}, right programs %{y:.3f}<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(title="probe accuracy")
    fig.update_yaxes(title="right programs", rangemode="tozero")
    arrange(fig, height=400, legend=LEGEND, margin=MARGIN | {"t": 60})
    return fig


def by_layer(frame: pd.DataFrame, sites: Mapping[str, str]) -> go.Figure:
    """Accuracy over the sites: a line a source; those that know no site are level.

    Args:
        frame: Accuracies of one label set (`source`, `site`, `value`, `low`, `high`).
        sites: Names on the axis by site, in order.
    """
    fig, ends = go.Figure(), list(sites)
    for source, name in SOURCES.items():
        part = frame[frame.source == source]
        if not len(part):
            continue
        style = SOURCE_STYLES[source]
        if part.site.isna().all():
            part = pd.concat([part.assign(site=site) for site in (ends[0], ends[-1])])
        part = part[part.site.isin(list(sites))]
        fig.add_scatter(
            x=part.site.map(dict(sites)), y=part.value, name=name, mode="lines+markers",
            line={"color": style["color"], "dash": style["dash"]}, marker={"symbol": style["symbol"] or "circle", "size": 8},
            error_y={"array": part.high - part.value, "arrayminus": part.value - part.low, "thickness": 1, "width": 2},
        )  # fmt: skip
    for number, (name, part) in enumerate(frame[frame.source == "baseline"].groupby("site", sort=False)):
        if name != "random weights":  # drawn by layer
            fig.add_scatter(
                x=[sites[ends[0]], sites[ends[-1]]], y=[part.value.iloc[0]] * 2, name=f"no model: {name}", mode="lines",
                line={"color": SERIES_COLORS[(5 + number) % 8], "dash": "dashdot", "width": 1.5},
            )  # fmt: skip
    majority = frame[frame.source == "majority"].value
    if len(majority):
        fig.add_hline(y=float(majority.iloc[0]), line={"color": GREY, "dash": "dot", "width": 1})
    fig.update_xaxes(title="read after block", type="category", categoryorder="array", categoryarray=list(sites.values()))  # fmt: skip
    fig.update_yaxes(title="accuracy", range=[0, 1.02])
    arrange(fig, height=400, legend=LEGEND, margin=MARGIN | {"t": 60})
    return fig


def intervention(meanings: pd.DataFrame, baselines: Sequence[str]) -> go.Figure:
    """True minus permuted, and what is left of it after each baseline, a row a meaning and label set."""
    rows = meanings.iloc[::-1]
    names = [f"{label}:<br>{meaning}" for label, meaning in zip(rows.label_set, rows.meaning, strict=True)]
    fig = go.Figure()
    for number, (name, value, low, high) in enumerate(
        (
            ("hidden states", "difference", "low", "high"),
            *((f"beyond {name}", f"{name}: excess", f"{name}: low", f"{name}: high") for name in baselines),
        )
    ):
        fig.add_scatter(
            x=rows[value], y=names, name=name, mode="markers",
            marker={"color": SERIES_COLORS[number], "symbol": SERIES_SYMBOLS[number], "size": 9},
            error_x={"array": rows[high] - rows[value], "arrayminus": rows[value] - rows[low], "thickness": 1.2},
        )  # fmt: skip
    fig.add_vline(x=0, line={"color": GREY, "dash": "dot", "width": 1})
    fig.update_xaxes(title="true minus permuted, balanced accuracy")
    arrange(fig, height=120 + 42 * len(names), legend=LEGEND, margin=MARGIN | {"t": 50})
    return fig


def pushes(report: pd.DataFrame, chance: pd.DataFrame) -> go.Figure:
    """Each measure of each push with its interval, beside the random pushes."""
    fig = go.Figure()
    names = [f"{row.measure}:<br>{row.pushed}" for row in report.itertuples()]
    told = {(row.pushed, row.measure): name for row, name in zip(report.itertuples(), names, strict=True)}
    fig.add_scatter(
        x=chance.value, y=[told[row.pushed, row.measure] for row in chance.itertuples()], name="random pushes", mode="markers",
        marker={"color": SERIES_COLORS[4], "symbol": "line-ns-open", "size": 9, "opacity": 0.5},
    )  # fmt: skip
    fig.add_scatter(
        x=report.value, y=names, name="the probes' push", mode="markers", marker={"color": SERIES_COLORS[0], "symbol": SERIES_SYMBOLS[0], "size": 10},
        error_x={"array": report.high - report.beyond, "arrayminus": report.beyond - report.low, "thickness": 1.5},
    )  # fmt: skip
    fig.add_vline(x=0, line={"color": GREY, "dash": "dot", "width": 1})
    fig.update_xaxes(title="difference of log odds, nats")
    fig.update_yaxes(autorange="reversed")
    arrange(fig, height=120 + 45 * len(names), legend=LEGEND, margin=MARGIN | {"t": 50})
    return fig


def doses(tried: pd.DataFrame, sites: Mapping[str, str]) -> go.Figure:
    """Following and turning together over strength, a line a site, on the half for choosing, where all of the state is pushed."""
    fig = go.Figure()
    tried = tried[tried.pushed == tried.pushed.iloc[0]]
    tried = tried.assign(both=tried.following + tried.turning)
    for number, (site, name) in enumerate(sites.items()):
        part = tried[tried.site == site].sort_values("strength")
        if not len(part):
            continue
        fig.add_scatter(
            x=part.strength, y=part.both, name=name, mode="lines+markers",
            line={"color": SERIES_COLORS[number % 8], "dash": SERIES_DASHES[number % 6]}, marker={"symbol": SERIES_SYMBOLS[number % 6], "size": 7},
        )  # fmt: skip
    fig.add_hline(y=0, line={"color": GREY, "dash": "dot", "width": 1})
    strengths = sorted(tried.strength.unique())
    fig.update_xaxes(title="strength", type="log", tickvals=strengths, ticktext=[f"{s:g}" for s in strengths])
    fig.update_yaxes(title="following + turning, nats")
    arrange(fig, height=360, legend=LEGEND, margin=MARGIN | {"t": 60})
    return fig


def lengths(frame: pd.DataFrame) -> go.Figure:
    """How many right programs have each length: written, references, and tidied references."""
    fig = go.Figure()
    for number, whose in enumerate(("written", "reference", "tidied")):
        part = frame[frame.whose == whose]
        fig.add_bar(x=part.length, y=part.programs, name=whose, marker_color=SERIES_COLORS[number])
    fig.update_xaxes(title="actions", dtick=1)
    fig.update_yaxes(title="right programs")
    arrange(fig, height=340, legend=LEGEND, margin=MARGIN | {"t": 50}, barmode="group")
    return fig


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """A figure with its interval, for a cell of a table."""
    if np.isnan(value):
        return "–"
    ends = "" if np.isnan(low) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{ends}".replace("-", "−")
