"""Figures of a board: families by rank, scores by what varies, tasks by layer, and the depth at which tasks are read best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probekit.report import wording
from probekit.report.matrices import heatmap
from probekit.report.style import (
    LEGEND,
    MARGIN,
    SERIES_COLORS,
    SERIES_DASHES,
    SERIES_SYMBOLS,
    arrange,
    site_axis,
    site_ticks,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probekit.leaderboard.ranks import Ranks
    from probekit.leaderboard.result import Board

AMOUNTS = {
    "scarcity": "training texts",
    "imbalance": "share of the second class",
    "noise": "share of wrong labels in training",
}
INK = "#22262b"


def said(family: str) -> str:
    """A family's name as people say it, and as no markup."""
    return wording.plain(family.replace("_", " "))


def critical_difference(ranks: Ranks) -> go.Figure:
    """Families along an axis of mean ranks; a bar joins those that do not differ (Demsar 2006, figure 1)."""
    import plotly.graph_objects as go

    from probekit.leaderboard.ranks import cliques

    k = len(ranks.families)
    bars = cliques(ranks)
    figure = go.Figure()
    for line, (first, last) in enumerate(bars):
        height = -0.35 - 0.3 * line
        figure.add_scatter(
            x=[ranks.rank[first] - 0.03, ranks.rank[last] + 0.03], y=[height, height], mode="lines", line={"color": INK, "width": 5},
            hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    below = -0.35 - 0.3 * len(bars)
    right = max(k, 2)
    for i, (family, rank) in enumerate(zip(ranks.families, ranks.rank, strict=True)):
        left = i < (k + 1) // 2  # the better half is named on the left, the best highest
        step = i if left else k - 1 - i
        height = below - 0.35 - 0.45 * step
        end = 0.9 if left else right + 0.1
        figure.add_scatter(
            x=[rank, rank, end], y=[0, height, height], mode="lines", line={"color": SERIES_COLORS[0], "width": 1.5},
            hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        figure.add_annotation(
            x=end, y=height, text=f"{said(family)} {rank:.2f}", showarrow=False, yanchor="bottom",
            xanchor="left" if left else "right",
        )  # fmt: skip
    figure.add_scatter(
        x=ranks.rank, y=[0] * k, mode="markers", marker={"color": SERIES_COLORS[0], "size": 8}, showlegend=False,
        text=list(ranks.families), customdata=np.stack([ranks.mean, ranks.low, ranks.high], 1),
        hovertemplate="%{text}: rank %{x:.2f}, mean %{customdata[0]:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f})<extra></extra>",
    )  # fmt: skip
    if np.isfinite(ranks.difference):
        figure.add_shape(type="line", x0=1, x1=1 + ranks.difference, y0=0.55, y1=0.55, line={"color": INK, "width": 2})
        figure.add_annotation(
            x=1, y=0.6, text=f"critical difference {ranks.difference:.2f}", showarrow=False, xanchor="left", yanchor="bottom",
        )  # fmt: skip
    lowest = below - 0.35 - 0.45 * ((k + 1) // 2)
    figure.update_xaxes(
        title_text="mean rank over tasks (1 is best)", range=[0.85, right + 0.15], side="bottom", dtick=1, showgrid=True
    )
    figure.update_yaxes(visible=False, range=[lowest, 1.1])
    arrange(figure, height=round(150 + 62 * (1.1 - lowest)), margin=MARGIN)
    return figure


def by_amount(board: Board, setting: str, metric: str = "auroc") -> go.Figure:
    """Mean score over tasks by what varies in a setting, a line a family, shaded its 95 % interval over tasks."""
    import plotly.graph_objects as go

    frame = board.by_amount(setting, metric)
    figure = go.Figure()
    for i, (family, part) in enumerate(frame.groupby("family", sort=False)):
        part = part.sort_values("amount")
        style = {"color": SERIES_COLORS[i % len(SERIES_COLORS)], "dash": SERIES_DASHES[i % len(SERIES_DASHES)]}
        x = part.amount.tolist()
        figure.add_scatter(
            x=x + x[::-1], y=[*part.high, *part.low[::-1]], fill="toself", fillcolor=style["color"], opacity=0.1, line_width=0,
            mode="lines", hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        figure.add_scatter(
            x=x, y=part["mean"], name=said(str(family)), mode="lines+markers", line=style,
            marker={"symbol": SERIES_SYMBOLS[i % len(SERIES_SYMBOLS)], "size": 7},
            customdata=np.stack([part.low, part.high, part.tasks], 1),
            hovertemplate="%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f}), %{customdata[2]} tasks",
        )  # fmt: skip
    figure.update_xaxes(
        title_text=AMOUNTS[setting], **({"type": "log", "dtick": 0.30103} if setting == "scarcity" else {})
    )
    if setting == "scarcity":
        sizes = sorted(frame.amount.unique())
        figure.update_xaxes(tickvals=sizes, ticktext=[f"{size:g}" for size in sizes])
    figure.update_yaxes(title_text=f"{wording.metric_name(metric)}, mean over tasks")
    arrange(figure, height=400, legend=LEGEND, margin=MARGIN, hovermode="x unified")
    return figure


def tasks_by_site(board: Board, family: str, metric: str = "auroc") -> go.Figure:
    """Test scores as colours: a row a task, sorted by its best, layers across."""
    names, table = board.heat(family)
    kinds = {row["task"]: row["metric"] for row in board.rows}
    kept = [i for i, name in enumerate(names) if kinds.get(name) == metric]
    order = sorted(kept, key=lambda i: -np.nanmax(table[i]))
    return heatmap(table[order], [names[i] for i in order], list(board.sites), metric)


def best_depths(board: Board, families: Sequence[str]) -> go.Figure:
    """At which site (chosen on validation) how many tasks are read best, a line a family."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for i, family in enumerate(families):
        found = board.best_sites(family).site.value_counts()
        figure.add_bar(
            x=site_ticks(board.sites), y=[int(found.get(site, 0)) for site in board.sites], name=said(family),
            marker_color=SERIES_COLORS[i % len(SERIES_COLORS)], hovertemplate="%{x}: %{y} tasks",
        )  # fmt: skip
    figure.update_xaxes(**site_axis(board.sites))
    figure.update_yaxes(title_text="tasks read best there")
    arrange(figure, height=360, legend=LEGEND, margin=MARGIN, barmode="group", showlegend=True)
    return figure
