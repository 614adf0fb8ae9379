"""`Transfer`: how well probes of one model read another through maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = ("source", "site_a", "site_b", "target", "metric", "value", "low", "high", "valid", "n")


@dataclass(frozen=True, repr=False)
class Transfer:
    """How well probes of B (where the maps lead) read A (where they lead from) through the maps.

    Attributes:
        figures: A dict a figure, with the keys of `to_frame`.
        sites_a, sites_b: Of the maps that were used.
        labels: The label set.
        metric: What is chosen and drawn by: accuracy, or R2 of numbers.
        names: Of the two models, A's first.
        notes: What was left out, and what is not known.
    """

    figures: tuple[Mapping[str, Any], ...]
    sites_a: tuple[str, ...]
    sites_b: tuple[str, ...]
    labels: str
    metric: str
    names: tuple[str, str]
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row a figure.

        `source` is `map` (B's probe at `site_b` reads A's activations at `site_a` through the map between the two), `own` (a probe
        trained on A at `site_a`), `home` (B's probe reads B), or `chance` (the commonest class, or the mean). `metric` is accuracy
        and auroc, or r2 and spearman; `low` and `high` the 95 % interval over groups on test; `valid` the value on validation;
        `n` the number of test rows.
        """
        import pandas as pd

        return pd.DataFrame(list(self.figures), columns=list(COLUMNS))

    def best(self, metric: str | None = None, target: str | None = None, source: str = "map") -> Mapping[str, Any]:
        """The figure of the pair of sites with the highest value on validation.

        Raises:
            KeyError: there is no such figure.
        """
        metric = metric or self.metric
        some = [
            f for f in self.figures if f["source"] == source and f["metric"] == metric and target in (None, f["target"])
        ]
        if not some:
            raise KeyError(f"no figure of {source!r} with metric {metric!r} and target {target!r}")
        return max(some, key=lambda f: -np.inf if np.isnan(f["valid"]) else float(f["valid"]))

    def table(self, metric: str | None = None, target: str | None = None) -> np.ndarray:
        """`[site_a, site_b]` of a metric on test, through the maps; the first target's unless named."""
        metric = metric or self.metric
        out = np.full((len(self.sites_a), len(self.sites_b)), np.nan)
        target = target or next(f["target"] for f in self.figures)
        for f in self.figures:
            if (f["source"], f["metric"], f["target"]) == ("map", metric, target):
                out[self.sites_a.index(f["site_a"]), self.sites_b.index(f["site_b"])] = f["value"]
        return out

    def __repr__(self) -> str:
        return f"<Transfer of {self.labels} from {self.names[1]} to {self.names[0]}; .summary() reads it out>"

    def summary(self) -> str:
        """A few lines: the best pair of sites, beside the model's own probe, the probe at home, and chance."""
        lines = [repr(self)[1:].split(";")[0]]
        words = {
            "map": "{1}'s probe through the map",
            "own": "{0}'s own probe",
            "home": "{1}'s probe at home",
            "chance": "chance",
        }
        for source, said in words.items():
            for metric in dict.fromkeys(f["metric"] for f in self.figures):
                if not any(f["source"] == source and f["metric"] == metric for f in self.figures):
                    continue
                f = self.best(metric, source=source)
                at = " to ".join(site for site in (f["site_a"], f["site_b"]) if site)
                lines.append(
                    f"  {metric:<9} {f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})  {said.format(*self.names)}"
                    f"{f', {at}' if at else ''}"
                )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, metric: str | None = None, target: str | None = None) -> go.Figure:
        """A heat map: where the probe reads down, whose probe it is across."""
        from probekit.report.mapping_page import plot_transferred

        return plot_transferred(self, metric or self.metric, target)
