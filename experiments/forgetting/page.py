"""The experiment's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probekit.report import Page
from probekit.report.style import SERIES_COLORS, SERIES_SYMBOLS

CAPTIONS = {
    "forgetting": "Accuracy on held-out items, and the forget gap: of what tuning gave above guessing, the share that random labels took away (1: all of it, 0: nothing). The perplexity of WikiText-2 is a ratio to the tuned model's.",
    "across tasks, forgotten": "Forget gap of the task in the column after the task in the row was tuned on random labels; 95 % intervals are in the table.",
    "across tasks, right labels again": "The same after tuning on right labels: what one task's tuning does to the others without any forgetting.",
    "across tasks, erased": "The same after LEACE at every layer in place of random labels.",
    "what a probe reads": "Accuracy of a linear probe at the last token, on the test items, at the site that validation chose; of erased models, the highest of all sites.",
    "erasing": "LEACE at every layer, fitted layer by layer, at the last token; perplexity with it at every token.",
    "read on other items": "LEACE at every layer, at the last token; the probe is fitted on items that no eraser has seen.",
    "predictors": "What is known beforehand against the forget gap on held-out items, over the tasks.",
}


def write(
    path: Path, tables: Mapping[str, pd.DataFrame], curves: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]
) -> None:
    page = Page("What random labels make a model forget", "SmolLM2-135M, six tasks of two answers")
    page.text(
        "The model is tuned on the right answers of six tasks, then, in a copy for each task, on random answers to the same items. "
        "Held-out items share no city, number, word or text with those; intervals are 95 %, over what items are about."
    )
    if "across tasks, forgotten" in tables:
        page.figure(matrix(tables["across tasks, forgotten"]), CAPTIONS["across tasks, forgotten"])
    for title, table in tables.items():
        page.heading(title[:1].upper() + title[1:])
        if title == "what a probe reads":
            page.figure(probe_lines(curves), "Accuracy of the probe by site; 0.5 is guessing.")
        page.table(table, CAPTIONS.get(title, ""))
    page.heading("Details")
    page.table(pd.DataFrame([{"what": k, "value": str(v)} for k, v in facts.items()]))
    page.write(path)


def matrix(frame: pd.DataFrame) -> go.Figure:
    """Tasks forgotten against tasks measured."""
    names = [c for c in frame.columns if c != "task"]
    # "0.87 (0.64 to 1.10)" or "–"
    values = frame[names].map(lambda cell: float(str(cell).partition(" ")[0].replace("–", "nan"))).to_numpy(float)
    fig = go.Figure(
        go.Heatmap(
            z=values, x=names, y=frame["task"], zmin=-1, zmax=1, zmid=0, colorscale="RdBu", reversescale=True,
            text=np.where(np.isfinite(values), np.char.mod("%.2f", values), ""), texttemplate="%{text}", colorbar={"title": "forget gap"},
            customdata=frame[names].to_numpy(str), hovertemplate="%{y} forgotten, %{x} measured: %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_yaxes(autorange="reversed", title="forgotten", automargin=True)
    fig.update_xaxes(title="measured", automargin=True)
    return fig.update_layout(height=430)


def probe_lines(curves: Mapping[str, pd.DataFrame]) -> go.Figure:
    """A panel a task, a line a condition."""
    names = list(curves)
    columns = 2
    fig = make_subplots(
        rows=-(-len(names) // columns), cols=columns, subplot_titles=names, shared_yaxes=True, vertical_spacing=0.09, horizontal_spacing=0.06,
    )  # fmt: skip
    conditions = list(dict.fromkeys(c for frame in curves.values() for c in frame["condition"]))
    seen: set[str] = set()
    for i, name in enumerate(names):
        for j, condition in enumerate(conditions):
            frame = curves[name][curves[name]["condition"] == condition]
            if frame.empty:
                continue
            layers = [0 if "resid_pre" in site else int(site.split(".")[1]) + 1 for site in frame["site"]]
            fig.add_scatter(
                x=layers, y=frame["value"], name=condition, legendgroup=condition, showlegend=condition not in seen, mode="lines+markers",
                line={"color": SERIES_COLORS[j % len(SERIES_COLORS)]},
                marker={"symbol": SERIES_SYMBOLS[j % len(SERIES_SYMBOLS)], "size": 6},
                hovertemplate=f"{condition}, after block %{{x}}: %{{y:.2f}}<extra>{name}</extra>",
                row=i // columns + 1, col=i % columns + 1,
            )  # fmt: skip
            seen.add(condition)
    fig.add_hline(y=0.5, line={"dash": "dot", "color": "#8a919c"})
    fig.update_yaxes(range=[0.3, 1.02])
    fig.update_xaxes(title="blocks passed", row=-(-len(names) // columns))
    return fig.update_layout(
        height=230 * -(-len(names) // columns) + 60, legend={"orientation": "h", "y": 1.06, "yanchor": "bottom", "x": 0}
    )
