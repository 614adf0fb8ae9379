"""Figures of an evaluated edit: dose and effect beside the controls, and effect against damage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probekit.report.style import LEGEND, MARGIN, SERIES_COLORS, SERIES_SYMBOLS, SOURCE_STYLES, arrange
from probekit.report.wording import plain

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
    """The behaviour at every strength, with every control; where no strength was chosen, beside the controls as they are."""
    return _dose(report) if report.verdict.chosen is not None else _beside(report)


def _dose(report: EditReport) -> go.Figure:
    name = report.behaviour.name
    figure = _empty("strength", axis_words(report.behaviour, "value"))
    for i, kind in enumerate(_kinds(report)):
        rows = report.rows(measure=name, kind="control", control=kind, part="select")
        lines: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            lines.setdefault(row["condition"].split(",")[0], []).append(row)
        points: list[dict[str, Any] | None] = []
        for line in lines.values():
            points += [*sorted(line, key=lambda row: float(row["strength"])), None]
        _scatter(
            figure, points, "strength", "value", f"controls ({kind})", CONTROL_COLORS[i % len(CONTROL_COLORS)],
            mode="lines+markers", line={"width": 1}, marker={"size": 4, "symbol": SERIES_SYMBOLS[(i + 1) % 6]}, opacity=0.55,
        )  # fmt: skip
    rows = sorted(report.rows(measure=name, kind="edit", part="select"), key=lambda row: float(row["strength"]))
    _level(figure, report, "plain", "plain model", INK, "dot", [float(row["strength"]) for row in rows])
    _level(figure, report, "prompt", "prompt", PROMPT, "dash", [float(row["strength"]) for row in rows])
    _band(figure, [row["strength"] for row in rows], rows)
    _scatter(
        figure, rows, "strength", "value", "edited (select part)", BLUE, mode="lines+markers", line={"width": 2.6},
        marker={"size": 7},
    )  # fmt: skip
    chosen = report.rows(measure=name, condition=report.edited, part="report")
    _scatter(
        figure, chosen, "strength", "value", "strength chosen (report part)", BLUE, mode="markers", errors=True,
        marker={"size": 15, "symbol": "star"},
    )  # fmt: skip
    return figure


def _beside(report: EditReport) -> go.Figure:
    name = report.behaviour.name
    figure = _empty("", axis_words(report.behaviour, "value"))
    figure.update_xaxes(type="category")
    for i, kind in enumerate(_kinds(report)):
        rows = report.rows(measure=name, kind="control", control=kind, part="report")
        _scatter(
            figure, [row | {"x": plain(f"controls ({kind})", 24)} for row in rows], "x", "value", f"controls ({kind})",
            CONTROL_COLORS[i % len(CONTROL_COLORS)], mode="markers", marker={"size": 6, "symbol": SERIES_SYMBOLS[(i + 1) % 6]},
            opacity=0.6,
        )  # fmt: skip
    for kind, label, color, symbol in (
        ("plain", "plain model", INK, "circle-open"), ("edit", "edited", BLUE, "star"), ("prompt", "prompt", PROMPT, "diamond"),
        ("baseline", "baselines", BASELINE, "square"),
    ):  # fmt: skip
        rows = [row | {"x": plain(row["condition"], 24)} for row in report.rows(measure=name, kind=kind, part="report")]
        _scatter(
            figure, rows, "x", "value", label, color, mode="markers", errors=True, marker={"size": 11, "symbol": symbol}
        )
    return figure


def plot_frontier(report: EditReport, side_effect: str | None = None) -> go.Figure:
    """The behaviour against one kind of damage, on the items that are reported.

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
    figure = _empty(axis_words(harm, "effect"), axis_words(report.behaviour, "value"))
    damage = {row["condition"]: row for row in report.rows(measure=harm.name, part="report")}

    def points(**wanted: object) -> list[dict[str, Any]]:
        rows = report.rows(measure=report.behaviour.name, part="report", **wanted)
        return [row | {"damage": damage[row["condition"]]["effect"]} for row in rows]

    if harm.limit is not None:
        at = harm.limit if harm.ratio or harm.less_is_wanted else -harm.limit
        figure.add_shape(
            type="line", x0=at, x1=at, y0=0, y1=1, yref="y domain", line={"color": GREY, "dash": "dash", "width": 1.5}
        )
        figure.add_scatter(
            x=[None], y=[None], mode="lines", name="damage allowed", line={"color": GREY, "dash": "dash", "width": 1.5}
        )  # fmt: skip
    for i, kind in enumerate(_kinds(report)):
        _scatter(
            figure, points(kind="control", control=kind), "damage", "value", f"controls ({kind})",
            CONTROL_COLORS[i % len(CONTROL_COLORS)], mode="markers", marker={"size": 5, "symbol": SERIES_SYMBOLS[(i + 1) % 6]},
            opacity=0.55,
        )  # fmt: skip
    _scatter(figure, points(kind="plain"), "damage", "value", "plain model", INK, mode="markers", marker={"size": 10, "symbol": "circle-open"})  # fmt: skip
    _scatter(figure, points(kind="prompt"), "damage", "value", "prompt", PROMPT, mode="markers", marker={"size": 10, "symbol": "diamond"})  # fmt: skip
    _scatter(figure, points(kind="baseline"), "damage", "value", "baselines", BASELINE, mode="markers", marker={"size": 10, "symbol": "square"})  # fmt: skip
    path = sorted(points(kind="edit"), key=lambda row: float(row["strength"] or 0))
    if report.verdict.chosen is not None:
        _scatter(
            figure, path, "damage", "value", "edited", BLUE, mode="lines+markers+text", line={"width": 2}, marker={"size": 8},
            text=_labels(path), textposition="top center", cliponaxis=False,
        )  # fmt: skip
    chosen = [row for row in path if row["condition"] == report.edited]
    name = "edited" if report.verdict.chosen is None else "strength chosen"
    _scatter(figure, chosen, "damage", "value", name, BLUE, mode="markers", marker={"size": 15, "symbol": "star"})
    return figure


def _labels(path: Sequence[dict[str, Any]]) -> list[str]:
    """The strength of each point, left out where it would lie on another's."""
    x, y = ([row[name] for row in path] for name in ("damage", "value"))
    wide, high = (max(values) - min(values) or 1.0 for values in (x, y))
    said: list[int] = []
    for i in reversed(range(len(path))):
        if all(abs(x[i] - x[j]) > 0.06 * wide or abs(y[i] - y[j]) > 0.08 * high for j in said):
            said.append(i)
    return [f"{row['strength']:g}" if i in said else "" for i, row in enumerate(path)]


def axis_words(measure: MeasureFacts, of: str) -> str:
    """What an axis shows, safe for plotly; in two lines where it is long."""
    unit = (
        measure.unit if of == "value" else "ratio to the plain model" if measure.ratio else f"change in {measure.unit}"
    )
    between = "<br>" if len(measure.name) + len(unit) > 34 else ", "
    return f"{plain(measure.name, 34)}{between}{plain(unit, 34)}"


def _kinds(report: EditReport) -> list[str]:
    return [kind for kind in dict.fromkeys(report.figures["control"]) if kind]


def _empty(x: str, y: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    arrange(figure, height=480, legend=LEGEND, margin=MARGIN | {"t": 90})
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y, title_font_size=12)
    return figure


def _scatter(
    figure: go.Figure, rows: Sequence[dict[str, Any] | None], x: str, y: str, name: str, color: str, *, errors: bool = False, **style: Any
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
        given["error_y"] = {
            "type": "data", "symmetric": False, "color": color, "thickness": 1.6, "width": 5,
            "array": [row["value_high"] - row["value"] for row in known],
            "arrayminus": [row["value"] - row["value_low"] for row in known],
        }  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[None if row is None else row[x] for row in rows],
            y=[None if row is None else row[y] for row in rows],
            name=plain(name, 40),
            customdata=["" if row is None else _hover(row) for row in rows],
            hovertemplate="%{customdata}<extra></extra>",
            **given,
        )
    )


def _hover(row: dict[str, Any]) -> str:
    interval = "" if row["value_low"] != row["value_low"] else f" ({row['value_low']:.3g} to {row['value_high']:.3g})"
    return f"{plain(row['condition'], 60)}: {row['value']:.3g}{interval}"


def _band(figure: go.Figure, x: Sequence[float], rows: Sequence[dict[str, Any]]) -> None:
    """The interval around a line."""
    import plotly.graph_objects as go

    known = [(at, row) for at, row in zip(x, rows, strict=True) if row["value_low"] == row["value_low"]]
    if not known:
        return
    figure.add_trace(
        go.Scatter(
            x=[at for at, _ in known] + [at for at, _ in reversed(known)],
            y=[row["value_high"] for _, row in known] + [row["value_low"] for _, row in reversed(known)],
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
) -> None:
    """A condition without strengths, as a level line."""
    rows = report.rows(measure=report.behaviour.name, kind=kind, part="select")
    if rows and len(x):
        ends = [rows[0] | {"strength": at} for at in (min(x), max(x))]
        _scatter(figure, ends, "strength", "value", name, color, mode="lines", line={"dash": dash, "width": 1.7})
