"""`Maps`: the maps between all pairs of sites of two models, and how good each is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.mapping.linear_map import LinearMap
from probekit.mapping.scoring import METRICS

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SOURCES = ("map", "shuffled", "random_weights", "mean")


@dataclass(frozen=True, repr=False)
class Maps:
    """`maps[site_a, site_b]` leads from A's activations to B's.

    Attributes:
        maps: By pair of sites.
        figures: A dict a pair, A's sites outermost: `site_a`, `site_b`, `valid_r2`, `alpha`, `rank`, `scale`, and for each of
            `map`, `shuffled`, `random_weights` and `mean` that there is, by metric, value and ends of its interval.
        sites_a, sites_b: In the order asked for.
        part: `[row]` int8: 0 where a pair of rows was trained on, 1 where it chose the penalty, 2 where it is for tests, -1 where
            it counts nowhere.
        group: `[row]` group of each pair of rows.
        notes: What was left out.
        manifest: Models, data, arguments, chance, versions.
        sequence: `[row]` text of each pair of rows, by its number in the data; None in maps that were saved without it.
    """

    maps: Mapping[tuple[str, str], LinearMap]
    figures: tuple[Mapping[str, Any], ...]
    sites_a: tuple[str, ...]
    sites_b: tuple[str, ...]
    part: np.ndarray
    group: np.ndarray
    notes: tuple[str, ...]
    manifest: Mapping[str, Any]
    sequence: np.ndarray | None = None

    def __post_init__(self) -> None:
        for array in (self.part, self.group, self.sequence):
            if array is not None:
                array.setflags(write=False)

    def __getitem__(self, key: tuple[str, str]) -> LinearMap:
        if not isinstance(key, tuple) or len(key) != 2:
            raise KeyError(f"maps[site_a, site_b] takes two sites, got {key!r}")
        for site, sites, whose in zip(key, (self.sites_a, self.sites_b), "AB", strict=True):
            if site not in sites:
                near = difflib.get_close_matches(str(site), sites, n=3, cutoff=0.3) or sites[:3]
                raise KeyError(f"there is no map at {whose}'s site {site!r}; near it: {', '.join(near)}")
        return self.maps[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        a, b = (self.name(whose) for whose in "ab")
        sizes = f"{len(self.sites_a)} x {len(self.sites_b)} sites"
        return f"<Maps ({self.manifest['kind']}) from {a} to {b}: {sizes}; .summary() reads it out>"

    def name(self, whose: str) -> str:
        """The name of model `"a"` or `"b"`."""
        return str((self.manifest.get(f"model_{whose}") or {}).get("name") or f"model {whose.upper()}")

    def to_frame(self) -> pd.DataFrame:
        """A row a pair of sites.

        Columns: `site_a`, `site_b`, `kind`, `alpha`, `rank`, `scale`, `valid_r2`; then on test `r2` (each dimension of B counts
        the same), `r2_weighted` (by its variance), `top_1` and `top_5` (retrieval), each with `_low` and `_high`, beside
        `chance_1` and `chance_5`; then the same under `shuffled_`, `random_weights_` and `mean_` for the controls there are;
        `train`, `tested` and `candidates` are numbers of rows.
        """
        import pandas as pd

        rows = []
        for found in self.figures:
            row = {"site_a": found["site_a"], "site_b": found["site_b"], "kind": self.manifest["kind"]}
            row |= {name: found[name] for name in ("alpha", "rank", "scale", "valid_r2")}
            for source in SOURCES:
                lead = "" if source == "map" else f"{source}_"
                for metric, (value, low, high) in found.get(source, {}).items():
                    row |= {f"{lead}{metric}": value, f"{lead}{metric}_low": low, f"{lead}{metric}_high": high}
                if source == "map":
                    row |= {f"chance_{k.removeprefix('top_')}": share for k, share in self.manifest["chance"].items()}
            row["train"] = self.manifest["rows"]["train"]
            row |= {name: self.manifest[name] for name in ("tested", "candidates")}
            rows.append(row)
        return pd.DataFrame(rows)

    def table(self, metric: str = "r2", source: str = "map") -> np.ndarray:
        """`[site_a, site_b]` of one metric on test, of the maps or of one of the controls.

        Raises:
            KeyError: there is no such figure.
        """
        if metric not in METRICS:
            raise KeyError(f"no metric {metric!r}; there are {', '.join(METRICS)}")
        there = [name for name in SOURCES if name in self.figures[0]]
        if source not in there:
            raise KeyError(f"no figures of {source!r}; there are those of {', '.join(there)}")
        values = [found[source][metric][0] for found in self.figures]
        return np.array(values, np.float64).reshape(len(self.sites_a), len(self.sites_b))

    def best(self, site_a: str | None = None, site_b: str | None = None) -> LinearMap:
        """The map with the highest R2 on validation: of all, of those from `site_a`, or of those to `site_b`."""
        some = [
            f for f in self.figures if site_a in (None, f["site_a"]) and site_b in (None, f["site_b"])
        ]  # fmt: skip
        if not some:
            return self[site_a or self.sites_a[0], site_b or self.sites_b[0]]  # raises, naming near sites
        found = max(some, key=lambda f: -np.inf if np.isnan(f["valid_r2"]) else f["valid_r2"])
        return self.maps[found["site_a"], found["site_b"]]

    def figure(self, site_a: str, site_b: str) -> Mapping[str, Any]:
        """What `figures` has of one pair."""
        self[site_a, site_b]
        return self.figures[self.sites_a.index(site_a) * len(self.sites_b) + self.sites_b.index(site_b)]

    def summary(self) -> str:
        """A few lines: for each site of B the site of A that tells most of it, beside the controls."""
        lines = [repr(self)[1:].split(";")[0]]
        chance = self.manifest["chance"]
        lines.append(
            f"  {self.manifest['rows']['train']:,} training rows; test figures of {self.manifest['tested']:,} rows, retrieval among "
            f"{self.manifest['candidates']:,} (by chance {chance['top_1']:.2g} at 1, {chance['top_5']:.2g} at 5)"
        )
        for site_b in self.sites_b:
            found = self.figure(str(self.best(site_b=site_b).site_a), site_b)
            said = [_said(name, found["map"][name]) for name in ("r2", "top_1", "top_5")]
            beside = [
                f"{source.replace('_', ' ')} {found[source]['r2'][0]:.2f}, {found[source]['top_1'][0]:.2f}"
                for source in SOURCES[1:]
                if source in found
            ]
            lines.append(f"  to {site_b} best from {found['site_a']}: {', '.join(said)}")
            lines.append(f"    R2 and top 1 of controls: {'; '.join(beside)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, metric: str = "r2", source: str = "map") -> go.Figure:
        """A heat map of a metric, A's sites down, B's across."""
        from probekit.report.mapping_page import plot_maps

        return plot_maps(self, metric, source)

    def save_page(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write heat maps, the best pairs with their controls, and all figures as one HTML file that opens without a network."""
        from probekit.report.mapping_page import save_mapping_page

        return save_mapping_page(self, path, title=title)

    def save(self, folder: str | Path) -> Path:
        """Write `maps.json` and `maps.safetensors` into `folder`; returns the folder. Each file is replaced as a whole."""
        from probekit.mapping.files import write_maps

        return write_maps(self, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> Maps:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no `maps.json` there.
            ValueError: a file is damaged, or belongs to other maps.
        """
        from probekit.mapping.files import read_maps

        return read_maps(Path(folder))


def _said(metric: str, figure: tuple[float, float, float]) -> str:
    name = "R2" if metric == "r2" else metric.replace("_", " ")
    return f"{name} {figure[0]:.3f} ({figure[1]:.3f} to {figure[2]:.3f})"
