"""The trials of a search for an edit: effect against damage, the frontier joined up and numbered."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from probekit.report.label_places import Label, side_of_each
from probekit.report.number_axis import NumberAxis
from probekit.report.style import LEGEND, MARGIN, SERIES_COLORS, SERIES_SYMBOLS, SOURCE_STYLES, arrange
from probekit.report.wording import plain, with_minus

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probekit.surgery.evaluating.searching import Search

_WIDE = 20.0  # damage that spans this much is shown on a logarithmic axis
_OUTCOMES = ("number", "kind", "effect", "damage")


def plot_search(search: Search) -> go.Figure:
    """A point a trial, by kind of edit; the line joins those that no other beats in both, with the numbers `edit` takes."""
    import plotly.graph_objects as go

    figure = go.Figure()
    front = search.frontier
    x = NumberAxis.of([t["damage"] for t in search.trials], wide=_WIDE)
    y = NumberAxis.of([0.0, *(t["effect"] for t in search.trials)], log=False)
    at = {t["number"]: (x.share(t["damage"]), y.share(t["effect"])) for t in search.trials}
    ends = [at[t["number"]] for t in front]
    sides = side_of_each(
        [Label(at[t["number"]], str(t["number"]), 4) for t in front],
        marks=ends,
        faint=list(at.values()),
        lines=list(pairwise(ends)),
    )
    grey = SOURCE_STYLES["shuffled"]["color"]
    figure.add_scatter(
        x=[t["damage"] for t in front],
        y=[t["effect"] for t in front],
        mode="lines+markers+text",
        marker={"size": 8, "opacity": 0},  # not seen: the text keeps clear of the trials' own
        name="frontier, with numbers of trials",
        line={"color": grey, "dash": "dot", "width": 1.5},
        text=[str(t["number"]) if side else "" for t, side in zip(front, sides, strict=True)],
        textposition=[side or "top center" for side in sides],
        textfont={"size": 12},
        hoverinfo="skip",
    )
    kinds = list(dict.fromkeys(str(t["kind"]) for t in search.trials))
    for i, kind in enumerate(kinds):
        some = [t for t in search.trials if t["kind"] == kind]
        figure.add_scatter(
            x=[t["damage"] for t in some],
            y=[t["effect"] for t in some],
            mode="markers",
            name=kind.replace("_", " "),
            marker={"color": SERIES_COLORS[i], "symbol": SERIES_SYMBOLS[i % len(SERIES_SYMBOLS)], "size": 8},
            text=[_hover(search, trial) for trial in some],
            hovertemplate="%{text}<extra></extra>",
        )
    log = " (log scale)" if x.log else ""
    figure.update_xaxes(
        title_text=f"{plain(search.damage, 40)}, edited beside plain{log}", title_font_size=12, **x.layout()
    )
    figure.update_yaxes(title_text=f"change of {plain(search.behaviour, 40)}", title_font_size=12, **y.layout())
    arrange(figure, height=420, legend=LEGEND, margin=MARGIN | {"t": 60})
    return figure


def _hover(search: Search, trial: Mapping[str, Any]) -> str:
    """Number, settings, effect and damage of a trial, a line each."""
    settings = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.items() if k not in _OUTCOMES]
    lines = [
        f"<b>trial {trial['number']}: {str(trial['kind']).replace('_', ' ')}</b>",
        plain(", ".join(settings), 120),
        f"{plain(search.behaviour, 40)}: {trial['effect']:+.3g}",
        f"{plain(search.damage, 40)}: {trial['damage']:.3g}",
    ]
    return with_minus("<br>".join(line for line in lines if line))
