"""A comparison of features and probes as a plotly figure."""

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

    figure = make_subplots(
        rows=1, cols=3, horizontal_spacing=0.09,
        subplot_titles=("How many features is the probe worth?", "One feature a label", "Do the directions agree?"),
    )  # fmt: skip
    _add_curve(figure, comparison)
    _add_sorted(figure, 2, comparison.scores.f1[comparison.scores.best_feature, np.arange(len(comparison.names))],
                comparison, "F1 of the best feature", BLUE, "circle")  # fmt: skip
    _add_sorted(figure, 2, comparison.reconstruction.f1, comparison, "F1 from precise detectors", ORANGE, "square")
    _add_sorted(
        figure, 3, np.abs(comparison.overlap.cosine), comparison, "cosine with the nearest feature", BLUE, "circle"
    )
    n = len(comparison.names)
    figure.add_scatter(
        x=[1, max(n, 2)], y=[comparison.overlap.chance] * 2, mode="lines", name="by chance",
        line={"color": GREY, "dash": "dot"}, row=1, col=3,
    )  # fmt: skip
    arrange(figure, height=460, legend=LEGEND, margin=MARGIN | {"t": 90})
    figure.update_annotations(font_size=14)
    figure.update_yaxes(title_text="AUROC, mean over labels", row=1, col=1)
    figure.update_yaxes(title_text="F1", range=[-0.03, 1.03], row=1, col=2)
    figure.update_yaxes(title_text="cosine, absolute", range=[-0.03, 1.03], row=1, col=3)
    figure.update_xaxes(title_text="labels, best first", row=1, col=2)
    figure.update_xaxes(title_text="labels, nearest first", row=1, col=3)
    return figure


def _add_curve(figure: go.Figure, comparison: Comparison) -> None:
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
            opacity=0.15, hoverinfo="skip", showlegend=False, mode="lines", row=1, col=1,
        )  # fmt: skip
        figure.add_scatter(
            x=ticks, y=y, name=name, mode="lines+markers" if name != "dense probe" else "lines",
            customdata=list(zip(low, high, strict=True)), marker={"symbol": style["symbol"], "size": 7},
            line={"color": style["color"], "dash": style["dash"]},
            hovertemplate="%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})", row=1, col=1,
        )  # fmt: skip
    figure.update_xaxes(type="category", title_text="features", row=1, col=1)


def _add_sorted(
    figure: go.Figure, col: int, values: np.ndarray, comparison: Comparison, name: str, color: str, symbol: str
) -> None:
    order = np.argsort(-np.nan_to_num(values, nan=-1.0), kind="stable")
    figure.add_scatter(
        x=np.arange(1, len(values) + 1), y=values[order], name=name, mode="markers",
        text=[str(comparison.names[i]) for i in order], hovertemplate="%{text}: %{y:.3f}",
        marker={"color": color, "symbol": symbol, "size": 5}, row=1, col=col,
    )  # fmt: skip
