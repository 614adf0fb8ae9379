"""The experiment's page: the error of each way, by layer and strength, and boards with a disc turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edits as ways
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

import probekit as pk
from probekit.report import Page, Position, position_boards
from probekit.report.style import SOURCE_STYLES
from probekit.testbeds import othello

SHOWN = 3


def write(
    path: Path,
    summary: Mapping[str, Any],
    model: pk.Model,
    lines: dict[str, ways.Lines],
    cases: othello.Cases,
    sites: Sequence[str],
    strength: float,
) -> None:
    results = summary["results"]
    page = Page("One disc turned inside othello-mini", "Which moves does the model hold legal afterwards?")
    page.text(
        "Error: moves that the model puts among the likeliest n but are not legal on the board with the disc turned, plus legal ones "
        "that it leaves out; n is the number of legal moves there. Settings were chosen on cases from other random games."
    )
    page.figure(errors(results), "Mean over the published cases; bars are 95 % intervals over cases, random directions span least to most.")  # fmt: skip
    page.table(table(results))
    page.heading("How strongly?")
    page.figure(doses(summary["curves"]), "On the cases that settings are chosen on. Strength 1 is the mirror image at the probe's boundary.")  # fmt: skip
    page.heading("Boards")
    page.add(boards(model, lines, cases, sites, strength))
    page.heading("Details")
    page.table(pd.DataFrame([{"what": k, "value": str(summary[k])} for k in ("model", "versions", "seed")]))
    page.write(path)


def errors(results: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    names = list(results)[::-1]
    low = [results[n].get("least", results[n]["low"]) for n in names]
    high = [results[n].get("most", results[n]["high"]) for n in names]
    at = [results[n]["error"] for n in names]
    fig = go.Figure(
        go.Bar(
            x=at,
            y=names,
            orientation="h",
            marker_color=SOURCE_STYLES["model"]["color"],
            error_x={
                "array": np.subtract(high, at),
                "arrayminus": np.subtract(at, low),
                "thickness": 1.2,
                "color": "#8a919c",
            },
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
    )
    fig.update_xaxes(title="error, moves a case", rangemode="tozero")
    fig.update_yaxes(automargin=True)
    fig.update_layout(height=90 + 42 * len(names), margin={"t": 10})
    return fig


def doses(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """Error against strength: a line a layer, and one for all layers."""
    fig = go.Figure()
    each = [*curves["probe direction, one layer"], *curves["probe direction, all layers"]]
    groups: dict[str, list[tuple[float, float]]] = {}
    for one in each:
        groups.setdefault(short(one["sites"]), []).append((one["strength"], one["error"]))
    shades = ["#c9d6e6", "#a8bfd9", "#86a7cb", "#6490be", "#4278b1", "#1f5f9f", "#c26a00"]
    for (name, points), shade in zip(groups.items(), shades, strict=False):
        x, y = zip(*sorted(points), strict=True)
        fig.add_scatter(x=x, y=y, name=name, mode="lines+markers", line={"color": shade})
    fig.update_xaxes(title="strength", type="log", tickvals=sorted({x for p in groups.values() for x, _ in p}))
    fig.update_yaxes(title="error, moves a case", rangemode="tozero")
    fig.update_layout(height=380, legend={"orientation": "h", "y": 1.2, "x": 0})
    return fig


def table(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    rows = []
    for name, one in results.items():
        where = one.get("sites")
        rows.append(
            {
                "": name,
                "error": f"{one['error']:.2f}",
                "95 % interval": f"{one['low']:.2f} to {one['high']:.2f}",
                "without any error": f"{100 * one['perfect']:.1f} %" if "perfect" in one else "–",
                "chosen": "–" if where is None else f"{short(where)}, strength {one['strength']:g}",
            }
        )
    return pd.DataFrame(rows)


def boards(
    model: pk.Model, lines: dict[str, ways.Lines], cases: othello.Cases, sites: Sequence[str], strength: float
) -> Any:
    """The first cases in which turning the disc changes the legal moves most."""
    change = (cases.before != cases.after).sum(1)
    some = cases.take(np.argsort(-change, kind="stable")[:SHOWN])
    edit = ways.reflect(model, lines, some, sites, strength)
    plain = probabilities(model, some)
    with edit.applied(model):
        edited = probabilities(model, some)
    shown = []
    for i in range(len(some)):
        game = othello.replay(some.moves[i : i + 1, : some.length[i]])
        square = int(some.square[i])
        discs = [
            "black" if int(game.black[0, -1]) >> s & 1 else "white" if int(game.white[0, -1]) >> s & 1 else None
            for s in range(64)
        ]
        turned = list(discs)
        turned[square] = "white" if discs[square] == "black" else "black"
        mover = "black" if game.black_to_move[0, -1] else "white"
        name = othello.SQUARE_NAMES[square]
        shown += [
            Position(
                f"Game {i + 1}, {mover} to move: the true board", discs, plain[i], on_squares(some.before[i]), square
            ),
            Position(
                f"Game {i + 1}: {name} turned inside the model", turned, edited[i], on_squares(some.after[i]), square
            ),
        ]
    return position_boards(
        shown,
        "Squares are as orange as the model holds a move there likely; rings are the moves that the rules allow on the board "
        "drawn; the frame marks the disc that is turned. Cases with the most changed legal moves are shown.",
    )


def probabilities(model: pk.Model, cases: othello.Cases) -> np.ndarray:
    """`[case, 64]` probability of each square as the next move."""
    tokens = torch.from_numpy(cases.tokens)
    with torch.no_grad():
        logits = model.hf(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    last = logits[np.arange(len(cases)), cases.length - 1].softmax(-1).numpy()
    found = np.zeros((len(cases), 64))
    found[:, othello.tokens_to_squares(np.arange(1, othello.VOCABULARY))] = last[:, 1:]
    return found


def on_squares(tokens: np.ndarray) -> np.ndarray:
    """`[61]` bool over tokens as `[64]` over squares."""
    found = np.zeros(64, bool)
    found[othello.tokens_to_squares(np.flatnonzero(tokens))] = True
    return found


def short(sites: Sequence[str]) -> str:
    """`after block 3`, or `after blocks 0 to 5`."""
    layers = [site.split(".")[1] for site in sites]
    return f"after block {layers[0]}" if len(layers) == 1 else f"after blocks {layers[0]} to {layers[-1]}"
