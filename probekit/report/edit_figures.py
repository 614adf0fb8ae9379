"""Figures of an evaluated edit: dose and effect beside the controls, and effect against damage."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from probekit.report import edit_words as words
from probekit.report.label_places import Label, side_of_each
from probekit.report.number_axis import NumberAxis
from probekit.report.style import LEGEND, MARGIN, SERIES_COLORS, SERIES_SYMBOLS, SOURCE_STYLES, arrange
from probekit.report.wording import plain, with_minus
from probekit.surgery.evaluating.effects import Figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probekit.surgery.evaluating.edit_report import EditReport, MeasureFacts

BLUE, GREY, INK = (
    SOURCE_STYLES["model"]["color"],
    SOURCE_STYLES["shuffled"]["color"],
    SOURCE_STYLES["majority"]["color"],
)
CONTROL_COLORS = (GREY, SERIES_COLORS[3], SERIES_COLORS[5], SERIES_COLORS[7])
PROMPT, BASELINE = SERIES_COLORS[1], SERIES_COLORS[2]


def plot_edit(report: EditReport) -> go.Figure:
    """Dose and effect beside the controls, and, where damage was measured, effect against damage, side by side."""
    from plotly.subplots import make_subplots

    each = [plot_dose(report)] + ([plot_frontier(report)] if report.side_effects else [])
    figure = make_subplots(rows=1, cols=len(each), horizontal_spacing=0.1)
    seen: set[str] = set()
    for col, panel in enumerate(each, start=1):
        for trace in panel.data:
            if trace.name in seen:
                trace.showlegend = False
            elif trace.showlegend is not False:
                seen.add(trace.name)
            figure.add_trace(trace, row=1, col=col)
        figure.update_xaxes(panel.layout.xaxis, row=1, col=col)
        figure.update_yaxes(panel.layout.yaxis, row=1, col=col)
        for shape in panel.layout.shapes:
            figure.add_shape(shape, row=1, col=col)
    arrange(figure, height=440, legend=LEGEND, margin=MARGIN | {"t": 70})
    return figure


def plot_dose(report: EditReport) -> go.Figure:
    """The change of the behaviour at every strength, beside the controls; where no strength was chosen, each way a row.

    Both halves of the items are shown: the one held back, where the star lies on the line, and the one that chose the strength.
    """
    return _dose(report) if report.verdict.chosen is not None else _beside(report)


def _dose(report: EditReport) -> go.Figure:
    name = report.behaviour.name
    figure = _empty(words.strength_axis(report), axis_words(report.behaviour))
    shown: list[dict[str, Any]] = []
    for i, kind in enumerate(_kinds(report)):
        rows = report.rows(measure=name, kind="control", control=kind, part="report")
        lines: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            lines.setdefault(row["condition"].split(",")[0], []).append(row)
        points: list[dict[str, Any] | None] = []
        for line in lines.values():
            points += [*sorted(line, key=lambda row: float(row["strength"])), None]
        _scatter(
            figure, report, points, "strength", "effect", f"controls ({kind})", CONTROL_COLORS[i % len(CONTROL_COLORS)],
            mode="lines+markers", line={"width": 1}, marker={"size": 4, "symbol": SERIES_SYMBOLS[(i + 1) % 6]}, opacity=0.55,
        )  # fmt: skip
        shown += rows
    at = words.strengths(report)
    shown += _level(figure, report, "plain", "plain model", INK, "dot", at)
    shown += _level(figure, report, "prompt", "prompt", PROMPT, "dash", at)
    chose, held = (
        sorted(report.rows(measure=name, kind="edit", part=part), key=lambda row: float(row["strength"]))
        for part in ("select", "report")
    )
    _scatter(
        figure, report, chose, "strength", "effect", f"edited, {words.chose_words(report)}", BLUE, mode="lines+markers",
        line={"width": 1.5, "dash": "dash"}, marker={"size": 7, "symbol": "circle-open"},
    )  # fmt: skip
    _band(figure, [row["strength"] for row in held], held)
    _scatter(
        figure, report, held, "strength", "effect", f"edited, {words.held_words(report)}", BLUE, mode="lines+markers",
        line={"width": 2.6}, marker={"size": 7},
    )  # fmt: skip
    chosen = [row for row in held if row["condition"] == report.edited]
    _scatter(
        figure, report, chosen, "strength", "effect", "strength chosen", BLUE, mode="markers", errors=True,
        marker={"size": 15, "symbol": "star"},
    )  # fmt: skip
    ends = [end for row in held for end in (row["low"], row["high"])]
    _set_axis(figure, "y", report.behaviour, [row["effect"] for row in (*shown, *chose, *held)] + ends)
    return figure


def _beside(report: EditReport) -> go.Figure:
    """A row each for the edit, the prompt, the baselines and every kind of control."""
    name = report.behaviour.name
    figure = _empty(axis_words(report.behaviour), "")
    ways = [("edit", "edited", BLUE, "star"), ("prompt", "prompt", PROMPT, "diamond"), ("baseline", "baselines", BASELINE, "square")]  # fmt: skip
    names: list[str] = []
    shown: list[dict[str, Any]] = []
    for kind, label, color, symbol in ways:
        rows = report.rows(measure=name, kind=kind, part="report")
        rows = [row | {"y": -float(len(names) + i)} for i, row in enumerate(rows)]
        names += ["edited" if kind == "edit" else row["condition"] for row in rows]
        _scatter(
            figure, report, rows, "effect", "y", label, color, mode="markers", errors=True, showlegend=False,
            marker={"size": 15 if kind == "edit" else 11, "symbol": symbol},
        )  # fmt: skip
        shown += rows
    for i, kind in enumerate(_kinds(report)):
        rows = report.rows(measure=name, kind="control", control=kind, part="report")
        spread = [0.6 * (0.618 * j % 1 - 0.5) for j in range(len(rows))]  # beside each other, so that each is seen
        rows = [row | {"y": -len(names) + up} for row, up in zip(rows, spread, strict=True)]
        names.append(f"controls ({kind})")
        _scatter(
            figure, report, rows, "effect", "y", f"controls ({kind})", CONTROL_COLORS[i % len(CONTROL_COLORS)], mode="markers",
            marker={"size": 6, "symbol": SERIES_SYMBOLS[(i + 1) % 6]}, opacity=0.6, showlegend=False,
        )  # fmt: skip
        shown += rows
    level = [row | {"y": y} for row in report.rows(measure=name, kind="plain", part="report") for y in (0.5, 0.5 - len(names))]  # fmt: skip
    _scatter(figure, report, level, "effect", "y", "plain model", INK, mode="lines", line={"dash": "dot", "width": 1.7})
    ends = [end for row in shown if row["kind"] != "control" for end in (row["low"], row["high"])]
    _set_axis(figure, "x", report.behaviour, [row["effect"] for row in (*shown, *level)] + ends)
    figure.update_yaxes(
        tickvals=[-float(i) for i in range(len(names))], ticktext=[_in_lines(name, 17, 2) for name in names],
        range=[0.5 - len(names), 0.5], showgrid=False,
    )  # fmt: skip
    return figure


def plot_frontier(report: EditReport, side_effect: str | None = None) -> go.Figure:
    """The change of the behaviour against one kind of damage, on the items held back.

    Args:
        side_effect: Which; the first that has a limit, or the first, unless named.

    Raises:
        KeyError: no such side effect.
        ValueError: no side effect was measured.
    """
    if not report.side_effects:
        raise ValueError("no side effect was measured, so there is no damage to set the effect against")
    limited = [m for m in report.side_effects if m.limit is not None]
    harm = report.measure(side_effect) if side_effect is not None else (limited or list(report.side_effects))[0]
    figure = _empty(axis_words(harm), axis_words(report.behaviour))
    damage = {row["condition"]: row for row in report.rows(measure=harm.name, part="report")}

    def points(**wanted: object) -> list[dict[str, Any]]:
        rows = report.rows(measure=report.behaviour.name, part="report", **wanted)
        return [
            row | {"damage": damage[row["condition"]]["effect"], "beside": damage[row["condition"]]} for row in rows
        ]

    everything = points()
    limit = [] if harm.limit is None else [harm.limit if harm.ratio or harm.less_is_wanted else -harm.limit]
    x = _set_axis(figure, "x", harm, [row["damage"] for row in everything] + limit)
    y = _set_axis(figure, "y", report.behaviour, [row["effect"] for row in everything])
    for at in limit:
        line = {"color": GREY, "dash": "dash", "width": 1.5}
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="y domain", line=line)
        figure.add_scatter(x=[None], y=[None], mode="lines", name="damage allowed", line=line)

    def scatter(rows: list[dict[str, Any]], name: str, color: str, **style: Any) -> None:
        _scatter(figure, report, rows, "damage", "effect", name, color, **style)

    for i, kind in enumerate(_kinds(report)):
        scatter(
            points(kind="control", control=kind), f"controls ({kind})", CONTROL_COLORS[i % len(CONTROL_COLORS)], mode="markers",
            marker={"size": 5, "symbol": SERIES_SYMBOLS[(i + 1) % 6]}, opacity=0.55,
        )  # fmt: skip
    ways = (("plain", "plain model", INK, "circle-open"), ("prompt", "prompt", PROMPT, "diamond"), ("baseline", "baselines", BASELINE, "square"))  # fmt: skip
    for kind, label, color, symbol in ways:
        scatter(points(kind=kind), label, color, mode="markers", marker={"size": 10, "symbol": symbol})
    path = sorted(points(kind="edit"), key=lambda row: float(row["strength"] or 0))
    chosen = [row for row in path if row["condition"] == report.edited]
    if report.verdict.chosen is None:
        scatter(chosen, "edited", BLUE, mode="markers", marker={"size": 15, "symbol": "star"})
        return figure
    sides = _sides(path, report.edited, everything, limit, x, y)
    others = [row if row["condition"] != report.edited else row | {"strength": None} for row in path]
    scatter(
        path, f"edited, {words.held_words(report)}", BLUE, mode="lines+markers+text", line={"width": 2}, marker={"size": 8},
        text=["" if row["strength"] is None or not sides[row["condition"]] else words.strength(row["strength"]) for row in others],
        textposition=[sides[row["condition"]] or "top center" for row in path], textfont={"size": 12}, cliponaxis=False,
    )  # fmt: skip
    scatter(
        chosen, "strength chosen", BLUE, mode="markers+text", marker={"size": 15, "symbol": "star"}, textfont={"size": 12}, cliponaxis=False,
        text=[words.strength(row["strength"]) if sides[row["condition"]] else "" for row in chosen],
        textposition=[sides[row["condition"]] or "top center" for row in chosen],
    )  # fmt: skip
    return figure


def _sides(
    path: Sequence[dict[str, Any]],
    edited: str,
    everything: Sequence[dict[str, Any]],
    limit: Sequence[float],
    x: NumberAxis,
    y: NumberAxis,
) -> dict[str, str]:
    """On which side of its point each strength is written, by condition; empty where there is no room."""
    at = {row["condition"]: (x.share(row["damage"]), y.share(row["effect"])) for row in everything}
    first = sorted(path, key=lambda row: (row["condition"] != edited, -abs(row["strength"])))
    radius = {row["condition"]: 7.5 if row["condition"] == edited else 4 for row in path}
    labels = [Label(at[c], words.strength(row["strength"]), radius[c]) for row in first for c in [row["condition"]]]
    lines = [(at[a["condition"]], at[b["condition"]]) for a, b in pairwise(path)]
    lines += [((x.share(one), 0.0), (x.share(one), 1.0)) for one in limit]
    found = side_of_each(
        labels,
        marks=[at[row["condition"]] for row in everything if row["kind"] != "control"],
        faint=[at[row["condition"]] for row in everything if row["kind"] == "control"],
        lines=lines,
    )
    return {row["condition"]: side for row, side in zip(first, found, strict=True)}


def axis_words(measure: MeasureFacts) -> str:
    """What an axis of changes shows, safe for plotly, in a few lines where it is long."""
    what, unit = (measure.name, "edited over plain") if measure.ratio else (f"change of {measure.name}", measure.unit)
    one = f"{what}, {unit}"
    return _in_lines(one, 38, 1) if len(one) <= 38 else f"{_in_lines(what, 38, 2)}<br>{_in_lines(unit, 38, 1)}"


def _in_lines(text: str, wide: int, most: int) -> str:
    """A text in so many lines at most, safe for plotly."""
    lines = textwrap.wrap(" ".join(text.split()), wide, break_on_hyphens=False) or [""]
    lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return "<br>".join(plain(line, wide) for line in lines if line)


def _kinds(report: EditReport) -> list[str]:
    return [kind for kind in dict.fromkeys(report.figures["control"]) if kind]


def _empty(x: str, y: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    arrange(figure, height=480, legend=LEGEND, margin=MARGIN | {"t": 60})
    figure.update_xaxes(title_text=x, title_font_size=12)
    figure.update_yaxes(title_text=y, title_font_size=12)
    return figure


def _set_axis(figure: go.Figure, which: str, measure: MeasureFacts, values: Sequence[float]) -> NumberAxis:
    """Ends of an axis of effects: ratios that span much are shown on a logarithmic one, which its title says."""
    axis = NumberAxis.of(values, log=None if measure.ratio else False)
    update = figure.update_xaxes if which == "x" else figure.update_yaxes
    update(**axis.layout())
    if axis.log:
        title = (figure.layout.xaxis if which == "x" else figure.layout.yaxis).title.text
        update(title_text=f"{title} (log scale)")
    return axis


def _scatter(
    figure: go.Figure, report: EditReport, rows: Sequence[dict[str, Any] | None], x: str, y: str, name: str, color: str, *,
    errors: bool = False, **style: Any
) -> None:  # fmt: skip
    """Points of rows of the frame; None breaks the line."""
    if not rows:
        return
    import plotly.graph_objects as go

    given = dict(style)
    given["marker"] = {"color": color, **given.get("marker", {})}
    if "line" in given:
        given["line"] = {"color": color, **given["line"]}
    if errors:
        known = [row for row in rows if row is not None]
        given["error_x" if x == "effect" else "error_y"] = {
            "type": "data", "symmetric": False, "color": color, "thickness": 1.6, "width": 5,
            "array": [row["high"] - row["effect"] for row in known],
            "arrayminus": [row["effect"] - row["low"] for row in known],
        }  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[None if row is None else row[x] for row in rows],
            y=[None if row is None else row[y] for row in rows],
            name=plain(name, 40),
            customdata=["" if row is None else _hover(report, row) for row in rows],
            hovertemplate="%{customdata}<extra></extra>",
            **given,
        )
    )


def _hover(report: EditReport, row: dict[str, Any]) -> str:
    """What a point is, its change and its score, and the damage it is set against, a line each."""
    measure = report.measure(row["measure"])
    said = {"plain": "plain model", "control": f"control {row['condition']}"}.get(row["kind"], row["condition"])
    which = words.chose_words(report) if row["part"] == "select" else words.held_words(report)
    lines = [f"<b>{plain(with_minus(said), 60)}</b> ({which})"]
    for one in (row, row.get("beside")):
        if one is not None:
            facts = report.measure(one["measure"])
            effect = words.change_and_interval(Figure(one["effect"], one["low"], one["high"]), facts)
            lines.append(f"{plain(facts.name, 40)}: {effect}{'' if facts.ratio else f' {plain(facts.unit, 30)}'}")
    level = words.level(row["value"])
    return "<br>".join([*lines, f"{plain(measure.name, 40)} itself: {level}"])


def _band(figure: go.Figure, x: Sequence[float], rows: Sequence[dict[str, Any]]) -> None:
    """The interval around a line."""
    import plotly.graph_objects as go

    known = [(at, row) for at, row in zip(x, rows, strict=True) if row["low"] == row["low"]]
    if not known:
        return
    figure.add_trace(
        go.Scatter(
            x=[at for at, _ in known] + [at for at, _ in reversed(known)],
            y=[row["high"] for _, row in known] + [row["low"] for _, row in reversed(known)],
            fill="toself",
            mode="lines",
            line={"width": 0},
            fillcolor=f"{BLUE}33",
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _level(
    figure: go.Figure, report: EditReport, kind: str, name: str, color: str, dash: str, x: Sequence[float]
) -> list[dict[str, Any]]:
    """A condition without strengths, as a level line; returns what it shows."""
    rows = report.rows(measure=report.behaviour.name, kind=kind, part="report")
    if not rows or not x:
        return []
    room = 0.04 * (max(x) - min(x)) or 0.5
    ends = [rows[0] | {"strength": at} for at in (min(x) - room, max(x) + room)]
    _scatter(figure, report, ends, "strength", "effect", name, color, mode="lines", line={"dash": dash, "width": 1.7})
    return rows
