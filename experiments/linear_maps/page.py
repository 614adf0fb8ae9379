"""The experiment's tables as they are read, and its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probekit.mapping import Maps
from probekit.report import Page
from probekit.report.mapping_page import plot_maps
from probekit.report.wording import axis_title, site_name, with_minus

WAYS = {
    "to small": "from the large model to the small one",
    "to large": "from the small model to the large one",
    "to random": "from the large model to random weights",
    "from random": "from random weights to the large model",
}
ENDS = {
    "to small": ("large", "small"),
    "to large": ("small", "large"),
    "to random": ("large", "random"),
    "from random": ("random", "large"),
}
CAPTIONS = {
    "maps": "For each site that is mapped to, the site that validation chose to map from: R² and how often the nearest row is the right one (by cosine), with 95 % intervals over articles and texts; the same of a map that was fitted to shuffled pairs.",
    "probes": "AUROC on test of logistic probes of the model the map leads to, reading the model it leads from through the map; beside it a probe of that model's own and the probe at home. Sites are chosen on validation, with 95 % intervals over texts; of maps fitted to shuffled pairs, at the same sites as the map, the mean, least and most of ten shufflings.",
    "patched": "Perplexity of the model that is mapped to, its stream replaced at one site. Won back: how much of what the mean costs, in log-likelihood.",
}


def shown(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table with each figure and its interval in one cell."""
    return {"maps": _maps, "probes": _probes, "patched": _patched}[name](table)


def _maps(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "maps": [WAYS[way] for way in table.way], "kind": table.kind, "to": table["to"].map(site_name), "from": table["best from"].map(site_name),
            "R²": _cells(table, "r2"), "found first": _cells(table, "top_1"),
            "R², shuffled": _cells(table, "shuffled r2"), "found first, shuffled": _cells(table, "shuffled top_1"),
            "by chance": [f"{chance:.4f}" for chance in table.chance],
        }
    )  # fmt: skip


def _probes(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (task, way, kind), some in table.groupby(["task", "way", "kind"], sort=False):
        by = some.set_index("source")
        cells = dict(zip(by.index, _cells(by, "value", "low", "high"), strict=True))
        rows.append(
            {
                "task": task,
                "maps": WAYS[way],
                "kind": kind,
                "through the map": cells["map"],
                "own probe": cells.get("own", ""),
            }
            | {
                "at home": cells.get("home", ""),
                "read at": site_name(by.site_a["map"]),
                "probe of": site_name(by.site_b["map"]),
            }
        )
    return pd.DataFrame(rows)


def _patched(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (way, kind, site), some in table.groupby(["way", "kind", "site_b"], sort=False):
        by = some.set_index("condition")
        cells = dict(zip(by.index, _cells(by, "perplexity", "low", "high", digits=1), strict=True))
        won = dict(zip(by.index, _cells(by, "recovered", "recovered_low", "recovered_high"), strict=True))
        rows.append(
            {"maps": WAYS[way], "kind": kind, "to": site_name(site), "from": site_name(some.site_a.iloc[0]), "share replaced": f"{by.replaced['mapped']:.2f}"}
            | cells | {"won back": won["mapped"], "won back, shuffled": won["shuffled"]}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _cells(
    table: pd.DataFrame, value: str, low: str | None = None, high: str | None = None, digits: int = 3
) -> list[str]:
    ends = table[low or f"{value} low"], table[high or f"{value} high"]
    return [_said(v, a, b, digits) for v, a, b in zip(table[value], *ends, strict=True)]


def _said(value: float, low: float, high: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    words = f"{value:.{digits}f}" + ("" if np.isnan(low) else f" ({low:.{digits}f} to {high:.{digits}f})")
    return with_minus(words)


def write(
    path: Path, tables: Mapping[str, pd.DataFrame], maps: Mapping[str, Maps], cost: Mapping[str, Any], names: tuple[str, str]
) -> None:  # fmt: skip
    page = Page("Linear maps between two language models", f"{names[0]} and a model trained here: {names[1]}")
    page.text(
        "Two models that share neither data, tokenizer nor width. Rows pair up where a token of both ends at the same character. "
        "Texts that maps are fitted on, texts that are labelled and texts that are patched are different ones, and the small model "
        "was trained on none of them."
    )
    if cost:
        page.heading("The small model")
        page.table(
            _cost(cost),
            "Perplexity a token (of its own tokenizer) of texts it was not trained on, with 95 % intervals over articles and texts.",
        )
    page.heading("Every pair of sites")
    for way, found in maps.items():
        fig = plot_maps(found)
        fig.update_xaxes(title_text=f"{ENDS[way][1]}, {axis_title(found.sites_b)}")
        fig.update_yaxes(title_text=f"{ENDS[way][0]}, {axis_title(found.sites_a)}")
        page.figure(fig, f"R² of ridge maps {WAYS[way]}, on test.")
    for name, title in (
        ("maps", "Maps"),
        ("probes", "Probes through maps"),
        ("patched", "Predicting from a mapped stream"),
    ):
        page.heading(title)
        page.table(shown(name, tables[name]), CAPTIONS[name])
    page.write(path)


def _cost(cost: Mapping[str, Any]) -> pd.DataFrame:
    models = ("small model", "bigram", "unigram")
    return pd.DataFrame(
        [
            {"texts": source, "tokens": found["tokens"], "articles and texts": found["groups"]} | {m: _said(*found[m], 1) for m in models}
            for source, found in cost.items()
        ]
    )  # fmt: skip
