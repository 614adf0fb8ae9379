"""Scores by layer as plotly figures. Every function takes numbers that exist already and arranges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probekit.report import wording
from probekit.report.scores import Score, Scores, values
from probekit.report.style import (
    LEGEND,
    MARGIN,
    SERIES_COLORS,
    SERIES_DASHES,
    SERIES_SYMBOLS,
    SOURCE_STYLES,
    arrange,
    site_axis,
    site_ticks,
)
from probekit.report.wording import plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probekit.probes.result import SweepResult


def plot_sweep(
    result: SweepResult | Scores, metric: str | None = None, *, names: Sequence[str] | None = None, data: str = "test"
) -> go.Figure:
    """Score by layer with 95 % intervals, beside every control, the best layer marked; a facet a label set.

    Args:
        metric: What to show; the headline of the label set (accuracy, AUROC or R²) unless named.
        names: Label sets to show; all unless named.
        data: `"test"`, or the name of an out-of-distribution set.

    Raises:
        KeyError: no such label set, metric or data; names the ones there are.
    """
    from plotly.subplots import make_subplots

    scores = Scores.of(result)
    names = list(names) if names is not None else scores.label_sets
    chosen = [scores.metric(name, metric) for name in names]
    for name in names:
        if data not in scores.data(name):
            raise KeyError(f"label set {name!r} was not scored on {data!r}; it was on: {', '.join(scores.data(name))}")
    facets = len(names) > 1
    figure = make_subplots(
        rows=len(names),
        cols=1,
        vertical_spacing=0.45 / len(names) if facets else 0.0,
        subplot_titles=[plain(name, 60) for name in names] if facets else None,
    )
    seen: set[str] = set()
    for row, (name, shown) in enumerate(zip(names, chosen, strict=True), start=1):
        _add_layers(figure, row, scores, name, shown, data, seen)
    arrange(
        figure,
        height=90 + 310 * len(names) if facets else 430,
        hovermode="x unified",
        legend=LEGEND,
        margin=MARGIN | {"t": 70 if facets else 40},
    )
    return figure


def _add_layers(figure: go.Figure, row: int, scores: Scores, name: str, metric: str, data: str, seen: set[str]) -> None:
    places = scores.sites(name)
    for rank, (source, style) in reversed(list(enumerate(SOURCE_STYLES.items()))):  # the model is drawn last, on top
        line = scores.line(name, metric, source, data)
        if line is not None:
            label = wording.source_name(source, metric)
            _add_line(
                figure,
                row,
                places,
                line,
                label,
                style,
                metric,
                seen,
                rank=10 * rank,
                band=0.2 if source == "model" else 0.1,
            )
    line = scores.line(name, metric, "model", data)
    if data == "test" and line is not None:
        best = scores.best(name)
        main = metric == scores.metric(name)  # ties are ties of the main metric
        marks = [
            ("cannot be told apart from the best", best.tied if main else (), "circle-open", 13),
            ("best layer", (best.site,), "star", 15),
        ]
        for rank, (label, marked, symbol, size) in enumerate(marks):
            _add_marks(
                figure, row, places, line, [s for s in marked if s in places], label, symbol, size, seen, rank=2 - rank
            )
    _label_axes(figure, row, places, metric)


def _label_axes(figure: go.Figure, row: int, places: Sequence[str], metric: str) -> None:
    figure.update_xaxes(row=row, col=1, **site_axis(places))
    figure.update_yaxes(
        title_text=wording.metric_name(metric), tickformat=".0%" if wording.is_percent(metric) else "", row=row, col=1
    )


def _add_line(
    figure: go.Figure,
    row: int,
    places: Sequence[str],
    line: Sequence[Score],
    label: str,
    style: dict[str, str],
    metric: str,
    seen: set[str],
    rank: int,
    band: float,
) -> None:
    """A line through the scores of a source, over a band for its interval."""
    import plotly.graph_objects as go

    ticks = site_ticks(places)
    known = [(t, s) for t, s in zip(ticks, line, strict=True) if not np.isnan([s.low, s.high]).any()]
    if known:
        figure.add_trace(
            go.Scatter(
                x=[t for t, _ in known] + [t for t, _ in reversed(known)],
                y=[s.high for _, s in known] + [s.low for _, s in reversed(known)],
                fill="toself",
                mode="lines",
                line={"width": 0},
                fillcolor=f"{style['color']}{round(255 * band):02x}",
                hoverinfo="skip",
                legendgroup=label,
                showlegend=False,
            ),
            row=row,
            col=1,
        )
    main = style["dash"] == "solid"
    figure.add_trace(
        go.Scatter(
            x=ticks,
            y=values(line),
            name=label,
            legendgroup=label,
            legendrank=1000 + rank,
            showlegend=label not in seen,
            customdata=[
                f"{wording.format_score(s.value, metric)}  {wording.format_interval(s.low, s.high, metric)}"
                for s in line
            ],
            mode="lines+markers" if style["symbol"] else "lines",
            line={"color": style["color"], "dash": style["dash"], "width": 2.6 if main else 1.7},
            marker={"color": style["color"], "symbol": style["symbol"] or "circle", "size": 7 if main else 6},
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        ),
        row=row,
        col=1,
    )
    seen.add(label)


def _add_marks(
    figure: go.Figure,
    row: int,
    places: Sequence[str],
    line: Sequence[Score],
    marked: Sequence[str],
    label: str,
    symbol: str,
    size: int,
    seen: set[str],
    rank: int,
) -> None:
    import plotly.graph_objects as go

    if not marked:
        return
    color, ticks = SOURCE_STYLES["model"]["color"], site_ticks(places)
    figure.add_trace(
        go.Scatter(
            x=[ticks[places.index(s)] for s in marked],
            y=[line[places.index(s)].value for s in marked],
            mode="markers",
            name=label,
            legendgroup=label,
            legendrank=1000 + rank,
            showlegend=label not in seen,
            hoverinfo="skip",
            marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 1.6, "color": color}},
        ),
        row=row,
        col=1,
    )
    seen.add(label)


def plot_transfer(result: SweepResult | Scores, name: str, metric: str | None = None) -> go.Figure:
    """Score by layer of the same probes on the test items and on every out-of-distribution set, a line each."""
    from plotly.subplots import make_subplots

    scores = Scores.of(result)
    metric = scores.metric(name, metric)
    places = scores.sites(name)
    figure = make_subplots()
    for i, data in enumerate(scores.data(name)):
        style = {
            "color": SERIES_COLORS[i % len(SERIES_COLORS)],
            "dash": SERIES_DASHES[i % len(SERIES_DASHES)],
            "symbol": SERIES_SYMBOLS[i % len(SERIES_SYMBOLS)],
        }
        label = "test items of the same data" if data == "test" else plain(data, 40)
        _add_line(
            figure,
            1,
            places,
            scores.line(name, metric, "model", data) or [],
            label,
            style,
            metric,
            set(),
            rank=i,
            band=0.12,
        )
    _label_axes(figure, 1, places, metric)
    arrange(figure, height=380, hovermode="x unified", margin=MARGIN, legend=LEGEND)
    return figure
