"""Heat maps and confusion matrices, calibration: tables of numbers as colours, and how far a probe can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.report import wording
from probekit.report.scores import Score, Scores, values
from probekit.report.style import LEGEND, MARGIN, SCALE, SOURCE_STYLES, arrange, site_axis, site_ticks
from probekit.report.wording import plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probekit.probes.result import SweepResult


def plot_heatmap(result: SweepResult | Scores, name: str | None = None, metric: str | None = None) -> go.Figure:
    """Test scores as colours, layers across: a row a target of the label set `name`; without one, a row a label set."""
    scores = Scores.of(result)
    if name is not None:
        metric = scores.metric(name, metric)
        return heatmap(scores.table(name, metric), scores.targets(name), scores.sites(name), metric)
    metric = metric or scores.metric(scores.label_sets[0])
    rows = [n for n in scores.label_sets if metric in scores.metrics(n)]
    if not rows:
        raise KeyError(f"no label set has a metric {metric!r}")
    places = scores.sites()
    found = [[scores.at(row, metric, "model", site) or Score() for site in places] for row in rows]
    return heatmap(np.array([values(line) for line in found]), rows, places, metric)


def heatmap(table: np.ndarray, rows: list[str], places: list[str], metric: str) -> go.Figure:
    """A table `[row, site]` of one metric as colours."""
    import plotly.graph_objects as go

    height = 30 if len(rows) <= 12 else 22 if len(rows) <= 24 else 12
    every = -(-len(rows) // 80)  # with hundreds of targets only some are named
    low, high = color_range(table)
    few = len(rows) <= 24 and len(places) <= 13
    figure = go.Figure(
        go.Heatmap(
            z=table,
            x=site_ticks(places),
            y=list(range(len(rows))),
            zmin=low,
            zmax=high,
            colorscale=SCALE,
            xgap=1,
            ygap=1,
            text=[[_cell(v, metric) for v in row] for row in table],
            texttemplate="%{text}" if few else None,
            textfont={"size": 11},
            hovertext=[[f"{plain(row)}, {plain(wording.site_name(site))}" for site in places] for row in rows],
            hovertemplate="%{hovertext}: %{text}<extra></extra>",
            colorbar=_colorbar(wording.metric_name(metric), wording.is_percent(metric)),
        )
    )
    figure.update_xaxes(showgrid=False, **site_axis(places))
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        tickvals=list(range(0, len(rows), every)),
        ticktext=[plain(r, 26) for r in rows[::every]],
        tickfont={"size": 9 if height < 20 else 12},
    )
    arrange(figure, height=92 + height * len(rows), margin=MARGIN | {"t": 34})
    return figure


def _cell(value: float, metric: str) -> str:
    if np.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if wording.is_percent(metric) else f"{value:.2f}"


def _colorbar(title: str, percent: bool) -> dict[str, Any]:
    """A bar above the picture, where a narrow page has room for it."""
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "xpad": 0,
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "ypad": 0,
        "len": 1.0,
        "thickness": 9,
        "outlinewidth": 0,
        "title": {"text": f"{title}  ", "side": "right", "font": {"size": 12}},
        "tickformat": ".0%" if percent else "",
        "ticklen": 3,
        "tickfont": {"size": 11},
        "nticks": 6,
    }


def color_range(table: np.ndarray) -> tuple[float, float]:
    """Ends of the colour scale: the range of the data, at least 0.1 wide: noise is not painted as contrast."""
    if np.isnan(table).all():
        return 0.0, 1.0
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    return min(low, high - 0.1), high


def plot_confusion(counts: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """Confusion matrix. Colour and number are the share of the true class; the count is on hover.

    Args:
        counts: `[true class, predicted class]` items.
        classes: Names in index order.
    """
    import plotly.graph_objects as go

    counts = np.asarray(counts)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"counts must be [{len(classes)}, {len(classes)}] for {len(classes)} classes, got shape {counts.shape}"
        )
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    index = list(range(len(classes)))
    few = len(classes) <= 10
    names = [plain(c, 22) for c in classes]
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=index,
            y=index,
            zmin=0,
            zmax=1,
            colorscale=SCALE,
            xgap=2,
            ygap=2,
            customdata=[[f"{c:,}" for c in row] for row in counts],
            text=[[f"{100 * s:.1f} %" for s in row] for row in share],
            texttemplate="%{text}" if few else None,
            textfont={"size": 12},
            hovertemplate="true %{y}, predicted %{x}: %{text} of the true class, %{customdata} items<extra></extra>",
            colorbar=_colorbar("share of the true class", True),
        )
    )
    every = -(-len(classes) // 40)
    ticks = {"tickvals": index[::every], "ticktext": names[::every], "showgrid": False}
    figure.update_xaxes(
        title_text="predicted", tickangle=0 if len(names) * max(map(len, names)) <= 36 else -45, **ticks
    )
    figure.update_yaxes(title_text="true", autorange="reversed", **ticks)
    arrange(figure, height=110 + min(480, max(180, 34 * len(classes))), margin=MARGIN | {"t": 34})
    return figure


def plot_calibration(confidence: Sequence[float], accuracy: Sequence[float], n: Sequence[int]) -> go.Figure:
    """Reliability diagram: how often the probe is right when it says it is this sure, and how often it says so.

    Args:
        confidence: `[bin]` mean probability of the predicted class.
        accuracy: `[bin]` share of items of the bin that were right.
        n: `[bin]` items.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    color, quiet = SOURCE_STYLES["model"]["color"], SOURCE_STYLES["shuffled"]["color"]
    items = np.asarray(n, float)
    x, y = (np.asarray(each, float)[items > 0] for each in (confidence, accuracy))
    items = items[items > 0]
    share = items / max(items.sum(), 1.0)
    counts = [wording.format_count(k) for k in items]
    left = max(0.0, float(x.min(initial=0.5)) - 0.03)
    bottom = min(left, max(0.0, float(y.min(initial=1.0)) - 0.03))
    ends = [left, 1.0]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.76, 0.24], vertical_spacing=0.05)
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="as sure as right",
            line={"color": quiet, "dash": "dot", "width": 1.5},
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name="probe",
            line={"color": color, "width": 2.2},
            marker={"size": 8},
            customdata=counts,
            hovertemplate="sure %{x:.1%}, right %{y:.1%} (%{customdata} items)<extra></extra>",
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Bar(
            x=x,
            y=share,
            width=0.02,
            marker={"color": color, "opacity": 0.75},
            showlegend=False,
            customdata=counts,
            hovertemplate="%{customdata} items<extra></extra>",
        ),
        row=2,
        col=1,
    )
    percent = {"tickformat": ".0%"}
    figure.update_xaxes(range=[ends[0], 1.015], row=1, col=1, **percent)
    figure.update_xaxes(range=[ends[0], 1.015], title_text="how sure the probe is", row=2, col=1, **percent)
    figure.update_yaxes(range=[bottom, 1.03], title_text="how often right", row=1, col=1, **percent)
    figure.update_yaxes(title_text="items", rangemode="tozero", nticks=3, row=2, col=1, **percent)
    arrange(figure, height=400, bargap=0, margin=MARGIN, legend=LEGEND)
    return figure
