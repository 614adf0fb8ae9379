"""Figures and page of the experiment; nothing is computed here but means over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probekit.report import Page, board_accuracy
from probekit.report.style import SOURCE_STYLES

NAMES = {"trained": "trained", "random_weights": "random weights"}


def by_layer(series: Mapping[str, pd.DataFrame], title: str, *, top: float | None = None) -> go.Figure:
    """Lines over layers; each frame has layer, mean, min, max (of seeds, or the ends of an interval)."""
    fig = go.Figure()
    styles = (*(SOURCE_STYLES[s] for s in ("model", "random_weights", "surface", "control_task")),)
    for (name, frame), style in zip(series.items(), styles, strict=False):
        fig.add_scatter(
            x=frame.layer,
            y=frame["mean"],
            name=name,
            mode="lines+markers",
            line={"color": style["color"], "dash": style["dash"]},
            marker={"symbol": style["symbol"], "size": 8},
            error_y={"array": frame["max"] - frame["mean"], "arrayminus": frame["mean"] - frame["min"], "thickness": 1},
        )
    fig.update_xaxes(title="after block", dtick=1)
    fig.update_yaxes(title=title, range=None if top is None else [0, top])
    fig.update_layout(height=340, legend={"orientation": "h", "y": 1.18, "x": 0})
    return fig


def over_seeds(layers: pd.DataFrame, value: str) -> dict[str, pd.DataFrame]:
    grouped = layers.groupby(["source", "layer"])[value].agg(["mean", "min", "max"]).reset_index()
    return {text: grouped[grouped.source == source] for source, text in NAMES.items()}


def boards(asked: pd.DataFrame, question: str) -> np.ndarray:
    """`[layer, row, column]` share of the seeds that tell a square (either colour); NaN where it was not asked."""
    part = asked[(asked.source == "trained") & (asked.question == question)]
    by_seed = part.groupby(["layer", "square", "seed"]).told.max()
    share = by_seed.groupby(["layer", "square"]).mean()
    found = np.full((int(part.layer.max()) + 1, 8, 8), np.nan)
    for (layer, square), value in share.items():
        found[layer, int(square[1]) - 1, "ABCDEFGH".index(square[0])] = value
    return found


def write_page(
    file: Path,
    layers: pd.DataFrame,
    asked: pd.DataFrame,
    squares: pd.DataFrame,
    probes: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
) -> Path:
    page = Page(
        "What SAE features of othello-mini know, layer by layer", "SAEs from other first weights at every layer"
    )
    page.heading("Squares told by one feature")
    page.text(
        "Share of the seeds whose SAE has a feature above the threshold (0.7 for colour, 0.8 for stability), measured on games "
        "that did not choose the feature."
    )
    for question in asked.question.unique():
        found = boards(asked, question)
        page.heading(question[0].upper() + question[1:], 3)
        page.add(board_accuracy(found, [f"after block {i}" for i in range(len(found))], metric="share of seeds"))
    page.heading("The board from features")
    for value, text in (("coverage", "coverage (mean best F1)"), ("reconstruction", "board reconstruction (F1)")):
        page.figure(by_layer(over_seeds(layers, value), text, top=1), f"{text}: mean of the seeds, from least to most.")
    page.heading("Features and probes")
    features = squares[squares.label == "mine"].groupby(["source", "layer", "seed"]).auroc.mean().reset_index()
    probe = probes[probes.label_set == "mine"].sort_values("layer")
    lines = {f"best feature, {name}": frame for name, frame in over_seeds(features, "auroc").items()}
    lines["linear probe"] = probe.rename(columns={"value": "mean", "low": "min", "high": "max"})
    page.figure(
        by_layer(lines, "AUROC"),
        "Mine or theirs on filled squares, mean over squares. Bars: from least to most over seeds; for the probe 95 % intervals.",
    )
    page.heading("Neurons that read along a probe's direction")
    neurons = tables["neurons"].reset_index()
    counts = {
        "towards mine": neurons.mine,
        "towards theirs": neurons.theirs,
        "random directions, half": neurons.chance / 2,
    }
    page.figure(
        by_layer(
            {n: pd.DataFrame({"layer": neurons.layer, "mean": c, "min": c, "max": c}) for n, c in counts.items()},
            "neurons a square, cosine above 0.2",
        )
    )
    for name, table in tables.items():
        flat = table.reset_index()
        flat.columns = [
            " ".join(str(p) for p in c if p != "") if isinstance(c, tuple) else str(c) for c in flat.columns
        ]
        page.heading(name.replace("_", " ").capitalize(), 3).table(flat.replace(NAMES))
    page.write(file)
    return file.resolve()
