"""The experiment's page: how much each kind of direction moves, what it moves, and what disentangling does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import directions as kinds
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from summary import SAME, Measured, words
from summary import figure as number

from probekit.report import Page, blocks
from probekit.report.style import LEGEND, MARGIN, SERIES_COLORS, SERIES_DASHES, arrange

BLUE, ORANGE, QUIET = SERIES_COLORS[0], SERIES_COLORS[1], SERIES_COLORS[4]
MOST_RANDOM = 6
"""Random directions that the heat map shows."""


def write(
    path: Path, m: Measured, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any], shown: Sequence[str]
) -> None:
    page = Page(f"Directions of {facts['model']} after block {facts['site'].split('.')[1]}", "What do they move?")
    page.text(
        f"Every direction is added and subtracted at the last token of {facts['rows measured']} sequences of {facts['groups measured']} "
        f"groups (games, or texts about one thing) that no direction and no probe was found on. “Same length” is a step of "
        f"{number(facts['same length'], 3)}, a quarter of how far activations there lie from their mean. In brackets, 95 % intervals from a "
        "bootstrap over groups."
    )
    page.heading("How much moves")
    page.add(
        blocks.tabs(
            {
                "at the same length": blocks.figure(strip(tables["each"], tables["movement"], shown), "Divergence of the next token from the plain model's, in nats. A dot is a direction, a diamond the mean of its kind with its interval."),
                "in standard deviations": blocks.figure(doses(tables["movement"], shown), "Mean of each kind, for steps of 1, 2 and 4 standard deviations of the data along the direction."),
            }
        )
    )  # fmt: skip
    length = [c for c in tables["movement"].columns if c.startswith((f"KL, {SAME}", "times", "errors"))]
    said = words(tables["movement"].drop(columns=["least", "most"]), 2)
    page.table(
        said[["kind", *(c for c in length if c in said)]],
        "At the same length; beside random directions, even and with the covariance of the data."
        + (" Errors: of the legal moves, more a position than without the step." if "errors" in said else ""),
    )
    page.table(
        said[[c for c in said if c not in length]],
        "Standard deviation of the data along the directions, and the divergence for steps of 1, 2 and 4 of them.",
    )
    page.heading("What moves")
    page.figure(
        heat(m, shown),
        f"Change of each label's reading by a probe after block {facts['later'].split('.')[1]}, in standard deviations of that reading, "
        "for half the difference of a step forth and a step back of the same length. A frame marks the label a direction is meant for.",
    )
    page.table(
        words(tables["selectivity"], 2).drop(columns="directions"),
        "The own label is the one a direction is meant for; for kinds that are meant for none, the one it moves most on the other half of "
        "the sequences. Selectivity: its change over the mean change of the others; medians over directions. Any label: the same for "
        "each label in turn, what to compare a label with that was not chosen. Carried: the own label's change if the step reached the "
        "later site as it is.",
    )
    if len(tables["behaviour"]):
        page.table(
            words(tables["behaviour"][tables["behaviour"].kind.isin(shown)]),
            "The same of what the next token says (a move there, if the square is empty; words of praise, offence, agreement): change of the "
            "log odds in nats. Labelled directions count where the next token can say their label.",
        )
    page.heading("Disentangled")
    page.figure(
        dumbbells(tables["disentangling"]),
        "Mean over labels of the change of the own label, and of what was projected out (one other label, or all others), before and after.",
    )
    page.table(
        disentangling_table(tables["disentangling"]),
        "Ratios after over before: of the own label's change, of the change of what was projected out, and of the divergence of the next "
        "token. Falls, more selective: of how many labels.",
    )
    said = tables["behaviour"]
    if len(said):
        page.table(
            words(said[said.kind.isin((kinds.MEANS, kinds.PROBE, *kinds.DISENTANGLED))]),
            "What the next token says, before and after: change of the log odds in nats, as above.",
        )
    page.add(blocks.details("Label by label", blocks.table(words(tables["disentangling_by_label"]))))
    page.heading("Do unsupervised directions find the labels?")
    page.add(blocks.tabs({f"with the {base}": blocks.figure(aligned(part), "Largest |cosine| with a labelled direction. The lines are what 95 % of random vectors stay below.") for base, part in tables["alignment"].groupby("with", sort=False)}))  # fmt: skip
    page.heading("Jacobian directions of one input")
    page.table(
        words(tables["transfer"], 2),
        "Each added to every input. KL: for directions of one input, in the other inputs. Same change: correlation over the vocabulary "
        "of what a direction changes in two inputs.",
    )
    page.heading("Next moves" if m.judge.world.legal is not None else "Next tokens")
    page.table(
        tables["promoted"], "What a step makes likelier and less likely, the most first, of those that are not rare."
    )
    page.heading("Labels")
    page.table(words(tables["labels"]))
    page.heading("Every direction")
    page.add(blocks.details("Table", blocks.table(words(tables["each"]))))
    page.heading("Details")
    page.table(pd.DataFrame([{"what": k, "value": rounded(v)} for k, v in facts.items()]))
    page.write(path)


def rounded(value: Any) -> str:
    """As text, numbers with three digits."""
    if isinstance(value, list):
        return ", ".join(rounded(v) for v in value)
    return number(value, 3) if isinstance(value, float) else str(value)


def strip(each: pd.DataFrame, movement: pd.DataFrame, shown: Sequence[str]) -> go.Figure:
    figure = go.Figure()
    figure.add_scatter(
        x=each.KL, y=each.kind, mode="markers", name="a direction",
        marker={"color": BLUE, "size": 7, "opacity": 0.45}, text=each.direction,
        hovertemplate="%{text}: %{x:.3g} nats<extra></extra>",
    )  # fmt: skip
    value = movement[f"KL, {SAME}"]
    figure.add_scatter(
        x=value, y=movement.kind, mode="markers", name="mean",
        marker={"color": ORANGE, "size": 11, "symbol": "diamond"},
        error_x={"array": movement[f"KL, {SAME} high"] - value, "arrayminus": value - movement[f"KL, {SAME} low"], "color": ORANGE},
        hovertemplate="%{y}, mean: %{x:.3g} nats<extra></extra>",
    )  # fmt: skip
    ticks = [c * 10.0**e for e in range(-5, 2) for c in (1, 2, 5)]
    figure.update_xaxes(title_text="nats", type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks])
    figure.update_yaxes(categoryorder="array", categoryarray=list(shown)[::-1])
    arrange(figure, height=110 + 40 * len(shown), margin=MARGIN, legend=LEGEND)
    return figure


def doses(movement: pd.DataFrame, shown: Sequence[str]) -> go.Figure:
    figure = go.Figure()
    steps = [c for c in movement.columns if c.startswith("KL, ") and c.endswith(" sd")]
    x = [float(c.split()[1]) for c in steps]
    for i, kind in enumerate(shown):
        row = movement[movement.kind == kind].iloc[0]
        figure.add_scatter(
            x=x, y=[row[c] for c in steps], name=kind, mode="lines+markers",
            line={"color": SERIES_COLORS[i % len(SERIES_COLORS)], "dash": SERIES_DASHES[i % len(SERIES_DASHES)]},
        )  # fmt: skip
    figure.update_xaxes(title_text="standard deviations", type="log", tickvals=x)
    figure.update_yaxes(title_text="nats", type="log", dtick=1)
    arrange(figure, height=460, margin=MARGIN | {"t": 90}, legend=LEGEND)
    return figure


def heat(m: Measured, shown: Sequence[str]) -> go.Figure:
    """Directions down, labels across; the first few random ones."""
    some = [f for kind in shown for f in m.of(kind)[: MOST_RANDOM if kind in (kinds.RANDOM, kinds.SPECTRUM) else None]]
    some.sort(key=lambda f: shown.index(f.kind))
    short = {kinds.MEANS: "means: ", kinds.PROBE: "probe: "}
    names = [
        (short.get(f.kind, "") + f.name).replace(kinds.SPECTRUM, "covariance").replace(kinds.RANDOM, "random")
        for f in some
    ]
    table = np.stack([m.moved(f, SAME)[0] for f in some])
    labels = m.judge.world.labels
    figure = go.Figure(
        go.Heatmap(
            z=table, x=list(range(len(labels))), y=list(range(len(some))), zmid=0, colorscale="RdBu_r", xgap=1, ygap=1,
            customdata=[[f"{name}, {label}" for label in labels] for name in names],
            text=[[f"{v + 0.0:.1f}".replace("-0.0", "0.0") for v in row] for row in table], texttemplate="%{text}", textfont={"size": 10},
            hovertemplate="%{customdata}: %{z:.2f}<extra></extra>", showscale=False,
        )
    )  # fmt: skip
    for row, f in enumerate(some):
        if f.own is not None:
            figure.add_shape(type="rect", x0=f.own - 0.5, x1=f.own + 0.5, y0=row - 0.5, y1=row + 0.5, line={"color": "#22262b", "width": 1.5})  # fmt: skip
    for row in np.flatnonzero(np.diff([shown.index(f.kind) for f in some])):
        figure.add_shape(type="line", x0=-0.5, x1=len(labels) - 0.5, y0=row + 0.5, y1=row + 0.5, line={"color": "#22262b", "width": 2})  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(labels))), ticktext=list(labels), side="top", tickangle=-45, showgrid=False
    )
    figure.update_yaxes(
        tickvals=list(range(len(some))), ticktext=names, autorange="reversed", showgrid=False, tickfont={"size": 11}
    )
    arrange(figure, height=130 + 19 * len(some), margin={"l": 8, "r": 90, "t": 110, "b": 8})
    return figure


def dumbbells(table: pd.DataFrame) -> go.Figure:
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=("own label", "projected out")
    )
    for column, key in enumerate(("own", "out"), start=1):
        for when, colour, symbol in (("before", QUIET, "circle"), ("after", BLUE, "diamond")):
            value = table[f"{key} {when}"]
            figure.add_scatter(
                x=value, y=table.kind, mode="markers", name=when, legendgroup=when, showlegend=column == 1,
                marker={"color": colour, "size": 10, "symbol": symbol},
                error_x={"array": table[f"{key} {when} high"] - value, "arrayminus": value - table[f"{key} {when} low"], "color": colour},
                hovertemplate=f"%{{y}}, {when}: %{{x:.2f}}<extra></extra>", row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(rangemode="tozero", title_text="standard deviations of the reading")
    figure.update_yaxes(autorange="reversed")
    arrange(figure, height=150 + 38 * len(table), margin=MARGIN | {"t": 70}, legend=LEGEND)
    return figure


def disentangling_table(table: pd.DataFrame) -> pd.DataFrame:
    said = words(table, 2)
    return said[["kind", "own ratio", "out ratio", "falls", "selectivity before", "selectivity after", "more selective", "kl ratio"]]  # fmt: skip


def aligned(part: pd.DataFrame) -> go.Figure:
    figure = go.Figure(
        go.Bar(
            x=part.direction, y=part.cosine, marker_color=BLUE, text=part.label, textposition="none", name="largest |cosine|",
            hovertemplate="%{x}: %{y:.2f}, %{text}<extra></extra>",
        )
    )  # fmt: skip
    for name, dash, said in (("random 95 %", "dot", "random"), ("covariance 95 %", "dash", "random, with the data's covariance")):  # fmt: skip
        figure.add_scatter(
            x=part.direction, y=part[name], mode="lines", name=said, line={"color": ORANGE, "dash": dash, "width": 2}
        )
    figure.update_yaxes(title_text="|cosine|", rangemode="tozero")
    figure.update_xaxes(tickangle=-45)
    arrange(figure, height=380, margin=MARGIN, legend=LEGEND)
    return figure
