"""Plotly figures of a finished sweep. Every function takes numbers that exist already and arranges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.report import wording
from probekit.report.style import SCALE, SERIES_COLORS, SERIES_DASHES, SOURCE_STYLES, template
from probekit.report.wording import plain

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probekit.probes import SweepResult

DEFAULT_METRICS = ("accuracy", "r2", "auroc", "spearman")


def label_sets(frame: pd.DataFrame) -> list[str]:
    """Names of the label sets of a tidy sweep frame, in order."""
    return list(dict.fromkeys(frame["label_set"]))


def metrics(frame: pd.DataFrame, label_set: str) -> list[str]:
    """Metrics reported for the probes of a label set, the one to show first in front."""
    names = list(dict.fromkeys(frame.loc[(frame.label_set == label_set) & (frame.source == "model"), "metric"]))
    if not names:
        raise KeyError(f"no scores for label set {label_set!r}; there are: {', '.join(label_sets(frame)) or 'none'}")
    first = next((m for m in DEFAULT_METRICS if m in names), names[0])
    return [first, *(m for m in names if m != first)]


def sites(frame: pd.DataFrame, label_set: str | None = None) -> list[str]:
    """Sites that were probed, in order."""
    rows = frame[(frame.source == "model") & ((frame.label_set == label_set) | (label_set is None))]
    return list(dict.fromkeys(rows["site"]))


def scores(frame: pd.DataFrame, label_set: str, metric: str, source: str = "model", data: str = "test") -> pd.DataFrame:
    """Rows of one source for a label set as a whole: the mean over its targets where there are several."""
    rows = frame[(frame.label_set == label_set) & (frame.metric == metric) & (frame.source == source) & (frame.data == data)]
    return rows[rows.target == "mean"] if (rows.target == "mean").any() else rows


def plot_sweep(
    result: SweepResult, metric: str | None = None, *, names: Sequence[str] | None = None, data: str = "test"
) -> go.Figure:
    """Score by layer with 95 % intervals, beside every control, the best layer marked; a facet a label set.

    Args:
        metric: What to show; accuracy (R² for continuous labels) unless named.
        names: Label sets to show; all unless named.
        data: `"test"`, or the name of an out-of-distribution set.
    """
    from plotly.subplots import make_subplots

    frame = result.to_frame()
    names = list(names) if names is not None else label_sets(frame)
    shown = {name: metric or metrics(frame, name)[0] for name in names}
    for name, chosen in shown.items():
        if chosen not in metrics(frame, name):
            raise KeyError(f"label set {name!r} has no metric {chosen!r}; it has: {', '.join(metrics(frame, name))}")
    facets = len(names) > 1
    figure = make_subplots(
        rows=len(names), cols=1, vertical_spacing=0.18 / max(1, len(names) - 1) if facets else 0.0,
        subplot_titles=[plain(name, 60) for name in names] if facets else None,
    )  # fmt: skip
    seen: set[str] = set()
    for row, name in enumerate(names, start=1):
        _add_layers(figure, row, result, frame, name, shown[name], data, seen)
    figure.update_layout(
        template=template(), height=430 if not facets else 90 + 300 * len(names), hovermode="x unified",
        legend={"orientation": "h", "x": 0, "y": 1.0, "yref": "container", "yanchor": "top", "xref": "container", "itemwidth": 30},
        margin={"l": 8, "r": 16, "t": 40, "b": 8},
    )  # fmt: skip
    return figure


def _add_layers(
    figure: go.Figure, row: int, result: SweepResult, frame: pd.DataFrame, name: str, metric: str, data: str, seen: set[str]
) -> None:
    places = sites(frame, name)
    ticks = [plain(t) for t in wording.site_ticks(places)]
    for source, style in reversed(SOURCE_STYLES.items()):  # the model is drawn last, on top
        line = scores(frame, name, metric, source, data)
        if line.empty:
            continue
        by_site = line.drop_duplicates("site").set_index("site")
        if set(by_site.index) & set(places):
            by_site = by_site.reindex(places)
        else:  # a control that knows no layer is the same at all of them
            by_site = line.iloc[[0] * len(places)]
        _add_line(figure, row, ticks, by_site, wording.source_name(source, metric), style, metric, seen, band=0.2 if source == "model" else 0.1)
    model = scores(frame, name, metric, "model", data).drop_duplicates("site").set_index("site").reindex(places)
    best = result.best(name)
    if data == "test" and best.site in places and metric == metrics(frame, name)[0]:
        _mark_best(figure, row, ticks, places, model, best, metric, seen)
    figure.update_xaxes(type="category", title_text=wording.axis_title(places), row=row, col=1, tickangle=0 if _short(ticks) else -45)
    figure.update_yaxes(title_text=wording.metric_name(metric), tickformat=".0%" if wording.is_percent(metric) else "", row=row, col=1)


def _short(ticks: Sequence[str]) -> bool:
    return max(map(len, ticks), default=0) <= 3


def _add_line(
    figure: go.Figure, row: int, ticks: list[str], line: pd.DataFrame, label: str, style: dict[str, str], metric: str,
    seen: set[str], band: float,
) -> None:  # fmt: skip
    import plotly.graph_objects as go

    low, high = line["low"].to_numpy(float), line["high"].to_numpy(float)
    if not np.isnan(low).all():
        known = ~(np.isnan(low) | np.isnan(high))
        xs = [t for t, k in zip(ticks, known, strict=True) if k]
        figure.add_trace(
            go.Scatter(
                x=xs + xs[::-1], y=[*high[known], *low[known][::-1]], fill="toself", mode="lines", line={"width": 0},
                fillcolor=f"{style['color']}{round(255 * band):02x}", hoverinfo="skip", legendgroup=label, showlegend=False,
            ),
            row=row, col=1,
        )  # fmt: skip
    texts = [
        f"{wording.format_score(v, metric)}  {wording.format_interval(a, b, metric)}"
        for v, a, b in zip(line["value"].to_numpy(float), low, high, strict=True)
    ]
    main = style["dash"] == "solid"
    figure.add_trace(
        go.Scatter(
            x=ticks, y=line["value"].to_numpy(float), name=label, legendgroup=label, showlegend=label not in seen, customdata=texts,
            mode="lines+markers" if style["symbol"] != "line-ew" else "lines",
            line={"color": style["color"], "dash": style["dash"], "width": 2.6 if main else 1.7},
            marker={"color": style["color"], "symbol": style["symbol"], "size": 7 if main else 6},
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        ),
        row=row, col=1,
    )  # fmt: skip
    seen.add(label)


def _mark_best(
    figure: go.Figure, row: int, ticks: list[str], places: list[str], model: pd.DataFrame, best: Any, metric: str, seen: set[str]
) -> None:
    import plotly.graph_objects as go

    color = SOURCE_STYLES["model"]["color"]
    tied = [s for s in best.tied if s in places and s != best.site]
    marks = [("cannot be told apart from the best", tied, "circle-open", 13), ("best layer", [best.site], "star", 15)]
    for label, chosen, symbol, size in marks:
        if not chosen:
            continue
        figure.add_trace(
            go.Scatter(
                x=[ticks[places.index(s)] for s in chosen], y=[float(model.loc[s, "value"]) for s in chosen], mode="markers",
                name=label, legendgroup=label, showlegend=label not in seen, hoverinfo="skip",
                marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 1.6, "color": color}},
            ),
            row=row, col=1,
        )  # fmt: skip
        seen.add(label)


def plot_transfer(result: SweepResult, name: str, metric: str | None = None) -> go.Figure:
    """Score by layer of the same probes on the test items and on every out-of-distribution set, a line each."""
    from plotly.subplots import make_subplots

    frame = result.to_frame()
    metric = metric or metrics(frame, name)[0]
    places = sites(frame, name)
    ticks = [plain(t) for t in wording.site_ticks(places)]
    figure = make_subplots()
    seen: set[str] = set()
    kinds = list(dict.fromkeys(frame.loc[(frame.label_set == name) & (frame.source == "model"), "data"]))
    for i, data in enumerate(kinds):
        line = scores(frame, name, metric, "model", data).drop_duplicates("site").set_index("site").reindex(places)
        style = {
            "color": SERIES_COLORS[i % len(SERIES_COLORS)], "dash": SERIES_DASHES[i % len(SERIES_DASHES)],
            "symbol": ("circle", "square", "diamond", "triangle-up", "x", "star")[i % 6],
        }  # fmt: skip
        label = "test items of the same data" if data == "test" else plain(data, 40)
        _add_line(figure, 1, ticks, line, label, style, metric, seen, band=0.12)
    figure.update_xaxes(type="category", title_text=wording.axis_title(places), tickangle=0 if _short(ticks) else -45)
    figure.update_yaxes(title_text=wording.metric_name(metric), tickformat=".0%" if wording.is_percent(metric) else "")
    figure.update_layout(
        template=template(), height=380, hovermode="x unified", margin={"l": 8, "r": 16, "t": 40, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yref": "container", "yanchor": "top", "xref": "container"},
    )  # fmt: skip
    return figure


def plot_heatmap(result: SweepResult, name: str | None = None, metric: str | None = None) -> go.Figure:
    """Test scores as colours, layers across: a row a target of the label set `name`, or a row a label set without one."""
    frame = result.to_frame()
    if name is None:
        rows = label_sets(frame)
        metric = metric or metrics(frame, rows[0])[0]
        tables = {row: scores(frame, row, metric) for row in rows if metric in metrics(frame, row)}
    else:
        metric = metric or metrics(frame, name)[0]
        chosen = frame[(frame.label_set == name) & (frame.metric == metric) & (frame.source == "model") & (frame.data == "test")]
        tables = {str(t): chosen[chosen.target == t] for t in dict.fromkeys(chosen.target) if t != "mean"}
    places = sites(frame, name)
    values = np.array([t.drop_duplicates("site").set_index("site")["value"].reindex(places).to_numpy(float) for t in tables.values()])
    return _heatmap(values, list(tables), places, metric)


def _heatmap(values: np.ndarray, rows: list[str], places: list[str], metric: str) -> go.Figure:
    import plotly.graph_objects as go

    height = 22 if len(rows) > 12 else 30
    if len(rows) > 24:
        height = 14
    every = -(-len(rows) // 80)
    full = [[wording.site_name(s) for s in places] for _ in rows]
    low, high = color_range(values)
    few = len(rows) <= 24 and len(places) <= 13
    texts = [[_cell(v, metric) for v in row] for row in values]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=[plain(t) for t in wording.site_ticks(places)], y=list(range(len(rows))), zmin=low, zmax=high, colorscale=SCALE, xgap=1, ygap=1,
            text=texts, texttemplate="%{text}" if few else None, textfont={"size": 11}, customdata=full,
            hovertext=[[plain(r)] * len(places) for r in rows],
            hovertemplate="%{hovertext}, %{customdata}: %{text}<extra></extra>",
            colorbar=_colorbar(wording.metric_name(metric), wording.is_percent(metric)),
        )
    )  # fmt: skip
    ticks = [plain(t) for t in wording.site_ticks(places)]
    figure.update_xaxes(type="category", title_text=wording.axis_title(places), showgrid=False, tickangle=0 if _short(ticks) else -45)
    figure.update_yaxes(
        autorange="reversed", showgrid=False, tickvals=list(range(0, len(rows), every)),
        ticktext=[plain(r, 26) for r in rows[::every]], tickfont={"size": 10 if height < 20 else 12},
    )  # fmt: skip
    figure.update_layout(template=template(), height=130 + height * len(rows), margin={"l": 8, "r": 16, "t": 66, "b": 8})
    return figure


def _cell(value: float, metric: str) -> str:
    if np.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if wording.is_percent(metric) else f"{value:.2f}"


def _colorbar(title: str, percent: bool) -> dict[str, Any]:
    """A bar above the picture, where a narrow page has room for it."""
    return {
        "orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "yref": "container", "len": 1.0, "thickness": 9, "outlinewidth": 0,
        "title": {"text": title, "side": "top", "font": {"size": 12}}, "tickformat": ".0%" if percent else "", "ticklen": 3,
        "tickfont": {"size": 11}, "nticks": 6,
    }  # fmt: skip


def color_range(values: np.ndarray) -> tuple[float, float]:
    """Ends of the colour scale: the range of the data, at least a tenth wide so that noise is not painted as contrast."""
    if np.isnan(values).all():
        return 0.0, 1.0
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
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
    figure.update_xaxes(title_text="predicted", tickangle=0 if len(classes) <= 4 and max(map(len, names)) <= 10 else -45, **ticks)
    figure.update_yaxes(title_text="true", autorange="reversed", **ticks)
    figure.update_layout(template=template(), height=170 + min(480, max(180, 34 * len(classes))), margin={"l": 8, "r": 16, "t": 66, "b": 8})
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
    figure.update_layout(
        template=template(), height=400, bargap=0, margin={"l": 8, "r": 16, "t": 40, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yref": "container", "yanchor": "top", "xref": "container"},
    )  # fmt: skip
    return figure
