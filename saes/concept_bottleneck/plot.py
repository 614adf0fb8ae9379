"""A bottleneck's figures against the number of concepts, as a plotly figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probekit.report import wording
from probekit.report.style import LEGEND, MARGIN, SERIES_COLORS, SOURCE_STYLES, arrange
from saes.concept_bottleneck.result import CONCEPTS, SOURCES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from saes.concept_bottleneck.result import Bottleneck

STYLES = {
    CONCEPTS: SOURCE_STYLES["model"],
    "dense": SOURCE_STYLES["surface"],
    "random": {"color": SERIES_COLORS[1], "dash": "longdash", "symbol": "triangle-up"},
    "shuffled": SOURCE_STYLES["shuffled"],
    "majority": SOURCE_STYLES["majority"],
}


def plot_bottleneck(bottleneck: Bottleneck, metric: str = "accuracy") -> go.Figure:
    """See `Bottleneck.plot`. A source that does not depend on the number of concepts is a level line."""
    import plotly.graph_objects as go

    frame = bottleneck.to_frame(metric)
    counts = list(bottleneck.heads)
    figure = go.Figure()
    for source, style in STYLES.items():
        rows = frame[frame.source == source]
        if rows.empty:
            continue
        level = bool(rows.concepts.isna().all())
        x = counts if level else rows.concepts.tolist()
        y, low, high = (rows[name].tolist() * (len(x) if level else 1) for name in (metric, "low", "high"))
        figure.add_scatter(
            x=[*x, *x[::-1]], y=[*high, *low[::-1]], mode="lines", fill="toself", fillcolor=style["color"], line_width=0,
            opacity=0.15, hoverinfo="skip", showlegend=False, legendgroup=source,
        )  # fmt: skip
        figure.add_scatter(
            x=x, y=y, customdata=list(zip(low, high, strict=True)), name=SOURCES[source], legendgroup=source,
            mode="lines" if level else "lines+markers", marker={"symbol": style["symbol"] or "circle", "size": 7},
            line={"color": style["color"], "dash": style["dash"]},
            hovertemplate="%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
        )  # fmt: skip
    chosen = frame[(frame.source == CONCEPTS) & (frame.concepts == bottleneck.chosen)]
    figure.add_scatter(
        x=[bottleneck.chosen], y=chosen[metric].tolist(), mode="markers", name="chosen on validation", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 15, "line": {"width": 2}, "color": STYLES[CONCEPTS]["color"]},
    )  # fmt: skip
    arrange(
        figure,
        height=430,
        hovermode="x unified",
        legend=LEGEND,
        margin=MARGIN,
        xaxis={"type": "log", "title_text": "concepts", "tickvals": counts, "ticktext": list(map(str, counts))},
        yaxis={
            "title_text": f"{wording.metric_name(metric)} of {wording.plain(bottleneck.label_set)}",
            "tickformat": ".0%" if wording.is_percent(metric) else "",
        },
    )
    return figure
