"""Linear maps between models: heat maps over pairs of sites, and the page that holds them beside their controls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.report import blocks, wording
from probekit.report.blocks import Page
from probekit.report.matrices import heatmap
from probekit.report.style import site_ticks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probekit.mapping.maps import Maps
    from probekit.mapping.transfer_result import Transfer

_METRICS = {"r2": "R²", "top_1": "found first of all", "top_5": "found among five", "r2_weighted": "R² by variance"}
_SOURCES = {
    "map": "map",
    "shuffled": "fitted to shuffled pairs",
    "random_weights": "to random weights",
    "mean": "the mean as prediction",
}


def plot_maps(maps: Maps, metric: str = "r2", source: str = "map") -> go.Figure:
    """A metric on test as colours: A's sites down, B's across."""
    figure = heatmap(maps.table(metric, source), site_ticks(maps.sites_a), list(maps.sites_b), metric)
    return _titled(figure, maps.sites_a, maps.sites_b, maps.name("a"), maps.name("b"))


def plot_transferred(found: Transfer, metric: str, target: str | None = None) -> go.Figure:
    """A metric of probes through maps as colours: where they read down, where they were trained across."""
    figure = heatmap(found.table(metric, target), site_ticks(found.sites_a), list(found.sites_b), metric)
    return _titled(figure, found.sites_a, found.sites_b, *found.names)


def _titled(figure: go.Figure, sites_a: tuple[str, ...], sites_b: tuple[str, ...], a: str, b: str) -> go.Figure:
    down, across = (wording.plain(name, 40) for name in (a, b))
    figure.update_xaxes(title_text=f"{across}, {wording.axis_title(sites_b)}")
    figure.update_yaxes(title_text=f"{down},<br>{wording.axis_title(sites_a)}")
    figure.update_layout(height=max(figure.layout.height, 100 + 7 * len(down)))  # room for the title beside few sites
    return figure


def save_mapping_page(maps: Maps, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
    """See `Maps.save_page`."""
    a, b = maps.name("a"), maps.name("b")
    page = Page(title or f"From {a} to {b}", "A linear map between every pair of sites")
    page.add(blocks.text(_answer(maps), strong=True))
    if maps.notes:
        page.add(blocks.notes(maps.notes))
    page.heading("Every pair of sites")
    chance = maps.manifest["chance"]
    page.text(
        f"Test figures of {maps.manifest['tested']:,} pairs of rows that neither fitted a map nor chose its penalty. R² is the mean over "
        f"the dimensions of {b} of how much of each one's variance the map predicts. Found first of all: how often, among "
        f"{maps.manifest['candidates']:,} rows of {b}, the nearest to a mapped row is its own ({maps.manifest['distance']}); by chance "
        f"{chance['top_1']:.2%}, and {chance['top_5']:.2%} among five."
    )
    page.add(blocks.tabs({words: blocks.figure(plot_maps(maps, metric)) for metric, words in _METRICS.items()}))
    controls = [source for source in _SOURCES if source in maps.figures[0]]
    page.heading("Beside the controls")
    page.text(
        f"For each site of {b} the site of {a} whose map did best on validation. A map fitted to shuffled pairs is what can be had without "
        "any correspondence; one to a model with random weights is what any network computes from the same text."
    )
    page.table(_beside(maps, controls), "Values with 95 % intervals, from a bootstrap over groups of texts.")
    for source in controls[1:-1]:
        page.add(blocks.details(f"R², {_SOURCES[source]}", blocks.figure(plot_maps(maps, "r2", source))))
    frame = maps.to_frame()
    page.add(blocks.details(f"All figures of {len(frame):,} maps", blocks.table(frame)))
    page.heading("Make it again")
    manifest = maps.manifest
    page.add(blocks.facts({name: manifest[name] for name in manifest if name not in ("chance", "versions")}))
    page.add(blocks.facts(manifest["versions"]))
    return page.write(path).resolve()


def _answer(maps: Maps) -> str:
    best = maps.best()
    found = maps.figure(str(best.site_a), str(best.site_b))
    words = (
        f"The best map (on validation) is from {maps.name('a')}, {wording.site_name(str(best.site_a))}, to {maps.name('b')}, "
        f"{wording.site_name(str(best.site_b))}: R² {_said(found['map']['r2'])}; "
        f"the right row is the nearest of {maps.manifest['candidates']:,} for {_said(found['map']['top_1'])} of them."
    )
    if "shuffled" in found:
        words += f" Fitted to shuffled pairs it has an R² of {found['shuffled']['r2'][0]:.2f}."
    if "random_weights" in found:
        words += f" The same map to random weights has {found['random_weights']['r2'][0]:.2f}."
    return wording.with_minus(words)


def _beside(maps: Maps, controls: list[str]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for site_b in maps.sites_b:
        site_a = str(maps.best(site_b=site_b).site_a)
        found = maps.figure(site_a, site_b)
        row = {f"site of {maps.name('b')}": site_b, f"from {maps.name('a')}": site_a}
        for metric in ("r2", "top_1"):
            for source in controls:
                row[f"{_METRICS[metric]}, {_SOURCES[source]}"] = wording.with_minus(_said(found[source][metric]))
        rows.append(row)
    return pd.DataFrame(rows)


def _said(figure: tuple[float, float, float]) -> str:
    value, low, high = figure
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if low == low else f"{value:.3f}"
