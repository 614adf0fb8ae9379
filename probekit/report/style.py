"""Colours, the plotly template and the axis of layers.

Colours are told apart by people who are colour-blind; dashes tell the lines apart where colour is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probekit.report import wording

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# Okabe & Ito's palette, darkened where a thin line on white would be faint.
SOURCE_STYLES: dict[str, dict[str, str]] = {
    "model": {"color": "#0068b0", "dash": "solid", "symbol": "circle"},
    "surface": {"color": "#00805d", "dash": "dash", "symbol": "square"},
    "random_weights": {"color": "#c2497f", "dash": "dashdot", "symbol": "diamond"},
    "control_task": {"color": "#c26a00", "dash": "longdash", "symbol": "triangle-up"},
    "shuffled": {"color": "#6d7480", "dash": "dot", "symbol": "x"},
    "majority": {"color": "#22262b", "dash": "2px,3px", "symbol": ""},
}
SERIES_COLORS = ("#0068b0", "#c26a00", "#00805d", "#c2497f", "#6d7480", "#7a5195", "#3a9bc1", "#9a8a00")
SERIES_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SERIES_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")

# What each colour becomes on a dark page; the page's script swaps them.
DARK = {
    "#0068b0": "#5ab4f0",
    "#00805d": "#2fc49a",
    "#c2497f": "#f08cba",
    "#c26a00": "#f2a33a",
    "#6d7480": "#a3abb8",
    "#22262b": "#e6e9ee",
    "#7a5195": "#b99ad6",
    "#3a9bc1": "#7fd3ef",
    "#9a8a00": "#e3d64f",
}

SCALE = "Cividis"  # made to look the same with and without colour blindness


def template(dark: bool = False) -> dict[str, Any]:
    """The plotly template (`layout.template`) as plain data."""
    ink, line, grid = ("#e6e9ee", "#4a515c", "#2c323a") if dark else ("#22262b", "#b9c0ca", "#e6e9ee")
    axis = {
        "gridcolor": grid,
        "linecolor": line,
        "tickcolor": line,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 8},
    }
    clear = "rgba(0,0,0,0)"
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": ink},
            "paper_bgcolor": clear if dark else "#ffffff",
            "plot_bgcolor": clear if dark else "#ffffff",
            "colorway": [DARK[c] if dark else c for c in SERIES_COLORS],
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
            "legend": {"font": {"size": 12}, "bgcolor": clear},
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        }
    }


LEGEND = {
    "orientation": "h",
    "x": 0,
    "xref": "container",
    "y": 1,
    "yref": "container",
    "yanchor": "top",
    "itemwidth": 30,
}
MARGIN = {"l": 8, "r": 16, "t": 40, "b": 52}  # plotly widens them where labels need more


def arrange(figure: go.Figure, **layout: Any) -> None:
    """Lay a figure out in this package's template. Plotly merges templates slowly, so it is put in place first."""
    figure.layout.template = template()
    figure.update_layout(**layout)


def site_axis(places: Sequence[str]) -> dict[str, Any]:
    """The axis of layers: names are categories, so that plotly leaves some out where there is no room for all."""
    flat = max(map(len, wording.site_ticks(places)), default=0) <= 3
    return {
        "type": "category",
        "title_text": wording.axis_title(places),
        "tickangle": 0 if flat else -45,
        "tickfont_size": 11 if len(places) > 16 else 12,
        "range": [-0.5, len(places) - 0.5],
    }


def site_ticks(places: Sequence[str]) -> list[str]:
    """Names on that axis."""
    return [wording.plain(tick) for tick in wording.site_ticks(places)]
