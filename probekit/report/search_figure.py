"""The trials of a search for an edit: effect against damage, the frontier joined up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probekit.report.style import SERIES_COLORS, SERIES_SYMBOLS, arrange

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probekit.surgery.evaluating.searching import Search


def plot_search(search: Search) -> go.Figure:
    """A point a trial, by kind of edit; the line joins those that no other beats in both."""
    import plotly.graph_objects as go

    figure = go.Figure()
    front = search.frontier
    figure.add_scatter(
        x=[t["damage"] for t in front],
        y=[t["effect"] for t in front],
        mode="lines",
        name="frontier",
        line={"color": "#8a919c", "dash": "dot", "width": 1.5},
        hoverinfo="skip",
    )
    kinds = list(dict.fromkeys(str(t["kind"]) for t in search.trials))
    for i, kind in enumerate(kinds):
        some = [t for t in search.trials if t["kind"] == kind]
        settings = [
            ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in t.items() if k != "kind")
            for t in some
        ]
        figure.add_scatter(
            x=[t["damage"] for t in some],
            y=[t["effect"] for t in some],
            mode="markers",
            name=kind.replace("_", " "),
            marker={"color": SERIES_COLORS[i], "symbol": SERIES_SYMBOLS[i % len(SERIES_SYMBOLS)], "size": 8},
            text=settings,
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_xaxes(title_text=f"{search.damage}, edited beside plain")
    figure.update_yaxes(title_text=f"change of {search.behaviour}")
    arrange(figure, height=420)
    return figure
