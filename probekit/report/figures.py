"""Plotly figures of a finished sweep. Every function takes numbers that exist already and arranges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.report import wording
from probekit.report.scores import Score, Scores, values
from probekit.report.style import SCALE, SERIES_COLORS, SERIES_DASHES, SERIES_SYMBOLS, SOURCE_STYLES, template
from probekit.report.wording import plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probekit.probes import SweepResult

LEGEND = {"orientation": "h", "x": 0, "xref": "container", "y": 1, "yref": "container", "yanchor": "top", "itemwidth": 30}
MARGIN = {"l": 8, "r": 16, "t": 40, "b": 52}  # plotly widens them where labels need more


def plot_sweep(
    result: SweepResult | Scores, metric: str | None = None, *, names: Sequence[str] | None = None, data: str = "test"
) -> go.Figure:
    """Score by layer with 95 % intervals, beside every control, the best layer marked; a facet a label set.

    Args:
        metric: What to show; accuracy (R² for continuous labels) unless named.
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
        rows=len(names), cols=1, vertical_spacing=0.45 / len(names) if facets else 0.0,
        subplot_titles=[plain(name, 60) for name in names] if facets else None,
    )  # fmt: skip
    seen: set[str] = set()
    for row, (name, shown) in enumerate(zip(names, chosen, strict=True), start=1):
        _add_layers(figure, row, scores, name, shown, data, seen)
    arrange(figure, height=90 + 310 * len(names) if facets else 430, hovermode="x unified", legend=LEGEND,
        margin=MARGIN | {"t": 70 if facets else 40},
    )  # fmt: skip
    return figure


def _add_layers(figure: go.Figure, row: int, scores: Scores, name: str, metric: str, data: str, seen: set[str]) -> None:
    places = scores.sites(name)
    for rank, (source, style) in reversed(list(enumerate(SOURCE_STYLES.items()))):  # the model is drawn last, on top
        line = scores.line(name, metric, source, data)
        if line is not None:
            label = wording.source_name(source, metric)
            _add_line(figure, row, places, line, label, style, metric, seen, rank=10 * rank, band=0.2 if source == "model" else 0.1)
    line = scores.line(name, metric, "model", data)
    if data == "test" and line is not None:
        best = scores.best(name)
        main = metric == scores.metric(name)  # ties are ties of the main metric
        marks = [("cannot be told apart from the best", best.tied if main else (), "circle-open", 13), ("best layer", (best.site,), "star", 15)]
        for rank, (label, marked, symbol, size) in enumerate(marks):
            _add_marks(figure, row, places, line, [s for s in marked if s in places], label, symbol, size, seen, rank=2 - rank)
    _label_axes(figure, row, places, metric)


def arrange(figure: go.Figure, **layout: Any) -> None:
    """Lay a figure out in this package's template. Plotly merges templates slowly, so it is put in place first."""
    figure.layout.template = template()
    figure.update_layout(**layout)


def _label_axes(figure: go.Figure, row: int, places: Sequence[str], metric: str) -> None:
    figure.update_xaxes(row=row, col=1, **site_axis(places))
    figure.update_yaxes(title_text=wording.metric_name(metric), tickformat=".0%" if wording.is_percent(metric) else "", row=row, col=1)


def site_axis(places: Sequence[str]) -> dict[str, Any]:
    """The axis of layers: names are categories, so that plotly leaves some out where there is no room for all."""
    flat = max(map(len, wording.site_ticks(places)), default=0) <= 3
    return {"type": "category", "title_text": wording.axis_title(places), "tickangle": 0 if flat else -45, "tickfont_size": 11 if len(places) > 16 else 12, "range": [-0.5, len(places) - 0.5]}


def _ticks(places: Sequence[str]) -> list[str]:
    return [plain(tick) for tick in wording.site_ticks(places)]


def _add_line(
    figure: go.Figure, row: int, places: Sequence[str], line: Sequence[Score], label: str, style: dict[str, str], metric: str,
    seen: set[str], rank: int, band: float,
) -> None:  # fmt: skip
    """A line through the scores of a source, over a band for its interval."""
    import plotly.graph_objects as go

    ticks = _ticks(places)
    known = [(t, s) for t, s in zip(ticks, line, strict=True) if not np.isnan([s.low, s.high]).any()]
    if known:
        figure.add_trace(
            go.Scatter(
                x=[t for t, _ in known] + [t for t, _ in reversed(known)], y=[s.high for _, s in known] + [s.low for _, s in reversed(known)],
                fill="toself", mode="lines", line={"width": 0}, fillcolor=f"{style['color']}{round(255 * band):02x}", hoverinfo="skip",
                legendgroup=label, showlegend=False,
            ),
            row=row, col=1,
        )  # fmt: skip
    main = style["dash"] == "solid"
    figure.add_trace(
        go.Scatter(
            x=ticks, y=values(line), name=label, legendgroup=label, legendrank=1000 + rank, showlegend=label not in seen,
            customdata=[f"{wording.format_score(s.value, metric)}  {wording.format_interval(s.low, s.high, metric)}" for s in line],
            mode="lines+markers" if style["symbol"] else "lines", line={"color": style["color"], "dash": style["dash"], "width": 2.6 if main else 1.7},
            marker={"color": style["color"], "symbol": style["symbol"] or "circle", "size": 7 if main else 6},
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        ),
        row=row, col=1,
    )  # fmt: skip
    seen.add(label)


def _add_marks(
    figure: go.Figure, row: int, places: Sequence[str], line: Sequence[Score], marked: Sequence[str], label: str, symbol: str, size: int,
    seen: set[str], rank: int,
) -> None:  # fmt: skip
    import plotly.graph_objects as go

    if not marked:
        return
    color, ticks = SOURCE_STYLES["model"]["color"], _ticks(places)
    figure.add_trace(
        go.Scatter(
            x=[ticks[places.index(s)] for s in marked], y=[line[places.index(s)].value for s in marked], mode="markers",
            name=label, legendgroup=label, legendrank=1000 + rank, showlegend=label not in seen, hoverinfo="skip",
            marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 1.6, "color": color}},
        ),
        row=row, col=1,
    )  # fmt: skip
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
            "color": SERIES_COLORS[i % len(SERIES_COLORS)], "dash": SERIES_DASHES[i % len(SERIES_DASHES)],
            "symbol": SERIES_SYMBOLS[i % len(SERIES_SYMBOLS)],
        }  # fmt: skip
        label = "test items of the same data" if data == "test" else plain(data, 40)
        _add_line(figure, 1, places, scores.line(name, metric, "model", data) or [], label, style, metric, set(), rank=i, band=0.12)
    _label_axes(figure, 1, places, metric)
    arrange(figure, height=380, hovermode="x unified", margin=MARGIN, legend=LEGEND)
    return figure


def plot_heatmap(result: SweepResult | Scores, name: str | None = None, metric: str | None = None) -> go.Figure:
    """Test scores as colours, layers across: a row a target of the label set `name`, or a row a label set without one."""
    scores = Scores.of(result)
    if name is not None:
        metric = scores.metric(name, metric)
        return _heatmap(scores.table(name, metric), scores.targets(name), scores.sites(name), metric)
    metric = metric or scores.metric(scores.label_sets[0])
    rows = [n for n in scores.label_sets if metric in scores.metrics(n)]
    if not rows:
        raise KeyError(f"no label set has a metric {metric!r}")
    places = scores.sites()
    found = [[scores.at(row, metric, "model", site) or Score() for site in places] for row in rows]
    return _heatmap(np.array([values(line) for line in found]), rows, places, metric)


def _heatmap(table: np.ndarray, rows: list[str], places: list[str], metric: str) -> go.Figure:
    import plotly.graph_objects as go

    height = 30 if len(rows) <= 12 else 22 if len(rows) <= 24 else 12
    every = -(-len(rows) // 80)  # with hundreds of targets only some are named
    low, high = color_range(table)
    few = len(rows) <= 24 and len(places) <= 13
    figure = go.Figure(
        go.Heatmap(
            z=table, x=_ticks(places), y=list(range(len(rows))), zmin=low, zmax=high, colorscale=SCALE, xgap=1, ygap=1,
            text=[[_cell(v, metric) for v in row] for row in table], texttemplate="%{text}" if few else None, textfont={"size": 11},
            hovertext=[[f"{plain(row)}, {plain(wording.site_name(site))}" for site in places] for row in rows],
            hovertemplate="%{hovertext}: %{text}<extra></extra>", colorbar=_colorbar(wording.metric_name(metric), wording.is_percent(metric)),
        )
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, **site_axis(places))
    figure.update_yaxes(
        autorange="reversed", showgrid=False, tickvals=list(range(0, len(rows), every)),
        ticktext=[plain(r, 26) for r in rows[::every]], tickfont={"size": 9 if height < 20 else 12},
    )  # fmt: skip
    arrange(figure, height=92 + height * len(rows), margin=MARGIN | {"t": 34})
    return figure


def _cell(value: float, metric: str) -> str:
    if np.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if wording.is_percent(metric) else f"{value:.2f}"


def _colorbar(title: str, percent: bool) -> dict[str, Any]:
    """A bar above the picture, where a narrow page has room for it."""
    return {
        "orientation": "h", "x": 0, "xanchor": "left", "xpad": 0, "y": 1, "yref": "container", "yanchor": "top", "ypad": 0, "len": 1.0,
        "thickness": 9, "outlinewidth": 0, "title": {"text": f"{title}  ", "side": "right", "font": {"size": 12}},
        "tickformat": ".0%" if percent else "", "ticklen": 3, "tickfont": {"size": 11}, "nticks": 6,
    }  # fmt: skip


def color_range(table: np.ndarray) -> tuple[float, float]:
    """Ends of the colour scale: the range of the data, at least a tenth wide so that noise is not painted as contrast."""
    if np.isnan(table).all():
        return 0.0, 1.0
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    return min(low, high - 0.1), high


def plot_confusion(counts: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """Confusion matrix. Colour is the share of the true class; the number in a cell is that share, the count is on hover.

    Args:
        counts: `[true class, predicted class]` items.
        classes: Names in index order.
    """
    import plotly.graph_objects as go

    counts = np.asarray(counts)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"counts must be [{len(classes)}, {len(classes)}] for {len(classes)} classes, got shape {counts.shape}")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    index = list(range(len(classes)))
    few = len(classes) <= 10
    names = [plain(c, 22) for c in classes]
    figure = go.Figure(
        go.Heatmap(
            z=share, x=index, y=index, zmin=0, zmax=1, colorscale=SCALE, xgap=2, ygap=2, customdata=[[f"{c:,}" for c in row] for row in counts],
            text=[[f"{100 * s:.1f} %" for s in row] for row in share], texttemplate="%{text}" if few else None, textfont={"size": 12},
            hovertemplate="true %{y}, predicted %{x}: %{text} of the true class, %{customdata} items<extra></extra>",
            colorbar=_colorbar("share of the true class", True),
        )
    )  # fmt: skip
    every = -(-len(classes) // 40)
    ticks = {"tickvals": index[::every], "ticktext": names[::every], "showgrid": False}
    figure.update_xaxes(title_text="predicted", tickangle=0 if len(names) * max(map(len, names)) <= 36 else -45, **ticks)
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
    x, y, n = np.asarray(confidence, float), np.asarray(accuracy, float), np.asarray(n, float)
    known = n > 0
    x, y, n = x[known], y[known], n[known]
    share = n / max(n.sum(), 1.0)
    low = float(min(x.min(initial=1.0), y.min(initial=1.0), 0.5)) - 0.03
    ends = [max(0.0, low), 1.0]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.76, 0.24], vertical_spacing=0.05)
    figure.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", name="as sure as right", line={"color": quiet, "dash": "dot", "width": 1.5}, hoverinfo="skip"),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=x, y=y, mode="lines+markers", name="probe", line={"color": color, "width": 2.2}, marker={"size": 8}, customdata=[f"{int(k):,}" for k in n],
            hovertemplate="sure %{x:.1%}, right %{y:.1%} (%{customdata} items)<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        go.Bar(
            x=x, y=share, width=0.02, marker={"color": color, "opacity": 0.75}, showlegend=False, customdata=[f"{int(k):,}" for k in n],
            hovertemplate="%{customdata} items<extra></extra>",
        ),
        row=2, col=1,
    )  # fmt: skip
    percent = {"tickformat": ".0%"}
    figure.update_xaxes(range=[ends[0], 1.015], row=1, col=1, **percent)
    figure.update_xaxes(range=[ends[0], 1.015], title_text="how sure the probe is", row=2, col=1, **percent)
    figure.update_yaxes(range=[ends[0], 1.03], title_text="how often right", row=1, col=1, **percent)
    figure.update_yaxes(title_text="items", rangemode="tozero", nticks=3, row=2, col=1, **percent)
    arrange(figure, height=400, bargap=0, margin=MARGIN, legend=LEGEND)
    return figure
