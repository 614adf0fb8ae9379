"""A comparison of features and probes as plotly figures: three panels, together or one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probekit.report.style import LEGEND, MARGIN, SERIES_COLORS, SOURCE_STYLES, arrange

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from saes.comparing.comparison import Comparison

BLUE, ORANGE, GREY = SERIES_COLORS[0], SERIES_COLORS[1], SOURCE_STYLES["shuffled"]["color"]


def plot_comparison(comparison: Comparison) -> go.Figure:
    """See `Comparison.plot`."""
    from plotly.subplots import make_subplots

    each = panels(comparison)
    figure = make_subplots(rows=1, cols=len(each), horizontal_spacing=0.09, subplot_titles=list(each))
    for col, panel in enumerate(each.values(), start=1):
        for trace in panel.data:
            figure.add_trace(trace, row=1, col=col)
        figure.update_xaxes(panel.layout.xaxis, row=1, col=col)
        figure.update_yaxes(panel.layout.yaxis, row=1, col=col)
    arrange(figure, height=460, legend=LEGEND, margin=MARGIN | {"t": 90})
    figure.update_annotations(font_size=14)
    return figure


def panels(comparison: Comparison) -> dict[str, go.Figure]:
    """The three figures by what they ask."""
    return {
        "How many features is the probe worth?": _curve(comparison),
        "One feature a label": _labels(comparison),
        "Do the directions agree?": _cosines(comparison),
    }


def _curve(comparison: Comparison) -> go.Figure:
    """AUROC by number of features, beside the dense probe."""
    figure = _empty("features", "AUROC, mean over labels")
    estimates = comparison.sparse.estimates
    on_features = [name for name in estimates if name != "dense"]
    ticks = [name.split()[0] for name in on_features]
    for name, style, probes in (
        ("probes on features", SOURCE_STYLES["model"], on_features),
        ("dense probe", SOURCE_STYLES["surface"], ["dense"] * len(on_features) if "dense" in estimates else []),
    ):
        if not probes:
            continue
        means = [estimates[probe].mean() for probe in probes]
        y, ends = [float(m.value[0]) for m in means], [m.interval() for m in means]
        low, high = [float(e[0][0]) for e in ends], [float(e[1][0]) for e in ends]
        figure.add_scatter(
            x=[*ticks, *ticks[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=style["color"], line_width=0,
            opacity=0.15, hoverinfo="skip", showlegend=False, mode="lines",
        )  # fmt: skip
        figure.add_scatter(
            x=ticks, y=y, name=name, mode="lines+markers" if name != "dense probe" else "lines",
            customdata=list(zip(low, high, strict=True)), marker={"symbol": style["symbol"], "size": 7},
            line={"color": style["color"], "dash": style["dash"]},
            hovertemplate="%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
        )  # fmt: skip
    figure.update_xaxes(type="category")
    return figure


def _labels(comparison: Comparison) -> go.Figure:
    """Each label's best feature, and what precise features tell of it together."""
    figure = _empty("labels, best first", "F1", range=[-0.03, 1.03])
    _add_sorted(figure, comparison.best.f1, comparison, "F1 of the best feature", BLUE, "circle")
    _add_sorted(figure, comparison.reconstruction.f1, comparison, "F1 from precise detectors", ORANGE, "square")
    return figure


def _cosines(comparison: Comparison) -> go.Figure:
    """How near each probe's direction comes to a decoder vector, beside random directions."""
    figure = _empty("labels, nearest first", "cosine, absolute", range=[-0.03, 1.03])
    _add_sorted(
        figure, np.abs(comparison.overlap.cosine), comparison, "cosine with the nearest feature", BLUE, "circle"
    )
    figure.add_scatter(
        x=[1, max(len(comparison.names), 2)], y=[comparison.overlap.chance] * 2, mode="lines", name="by chance",
        line={"color": GREY, "dash": "dot"},
    )  # fmt: skip
    return figure


def _empty(x: str, y: str, range: list[float] | None = None) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    arrange(figure, height=380, legend=LEGEND, margin=MARGIN)
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y, range=range)
    return figure


def _add_sorted(
    figure: go.Figure, values: np.ndarray, comparison: Comparison, name: str, color: str, symbol: str
) -> None:
    order = np.argsort(-np.nan_to_num(values, nan=-1.0), kind="stable")
    figure.add_scatter(
        x=np.arange(1, len(values) + 1), y=values[order], name=name, mode="markers",
        text=[str(comparison.names[i]) for i in order], hovertemplate="%{text}: %{y:.3f}",
        marker={"color": color, "symbol": symbol, "size": 4 if symbol == "square" else 7},
    )  # fmt: skip
    figure.update_xaxes(dtick=max(1, len(values) // 8))
