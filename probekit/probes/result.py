"""`SweepResult`: what a sweep found, with its uncertainty, its controls and what is needed to run it again."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.data import Kind, Level
from probekit.probes.intervals import paired_interval
from probekit.probes.metrics import BINS, headline_metric, metrics_for
from probekit.probes.stack import ProbeStack

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probekit.models import Model
    from probekit.probes.direction import Direction

COLUMNS = ("site", "layer", "label_set", "target", "data", "source", "metric", "value", "low", "high", "n")
SOURCES = ("model", "majority", "shuffled", "control_task", "random_weights", "surface")


@dataclass(frozen=True)
class LabelSummary:
    """A label set as it was probed.

    Attributes:
        rows: Number of rows with a label, by part (`train`, `valid`, `test`, and each out-of-distribution set).
        reason: Why the kind is what it is.
        control_task: What a type of the control task is, or why there is no control task.
        majority: Share of the commonest class among the training labels, the mean over targets; None where continuous.
    """

    name: str
    kind: Kind
    level: Level
    classes: tuple[str, ...]
    targets: tuple[str, ...]
    rows: Mapping[str, int]
    reason: str = ""
    control_task: str = ""
    majority: float | None = None

    @property
    def metric(self) -> str:
        """What this label set is chosen and reported by: accuracy, AUROC where classes are unbalanced, or R2."""
        return headline_metric(self.kind, self.majority)


@dataclass(frozen=True)
class Best:
    """The site with the best validation score, and its test score.

    Attributes:
        value, low, high: Mean over targets on test, with its 95 % interval.
        tied: Sites that cannot be told apart from it: the 95 % interval of the paired difference on test, not corrected
            for their number, holds zero. The best site itself is not among them.
        result: The sweep it is of.
    """

    label_set: str
    metric: str
    site: str
    layer: int | None
    value: float
    low: float
    high: float
    tied: tuple[str, ...]
    result: SweepResult | None = field(default=None, repr=False, compare=False)

    def direction(self, target: int | str = 0, class_: str | None = None, against: str | None = None) -> Direction:
        """The direction that this site's probe reads along; see `SweepResult.direction`."""
        if self.result is None:
            raise ValueError("this best site knows no sweep to take probes from: SweepResult.best makes one that does")
        return self.result.direction(self.label_set, target, class_, against, site=self.site)


@dataclass(frozen=True)
class SiteTables:
    """What pages draw beside the figures, for every site of one label set and one data set.

    Attributes:
        confusion: `[site, target, true class, chosen class]` counts.
        bins: `[site, BINS, 3]`: sum of the top probabilities, number right, number of items, over all targets.
    """

    confusion: np.ndarray
    bins: np.ndarray


@dataclass(frozen=True)
class SweepResult:
    """Probes over sites x label sets, scored on test. It cannot be written over.

    Attributes:
        sites: Names in forward order.
        layers: Index of each site's block, None outside the blocks. The name says on which side of the block it is.
        label_sets: What was probed.
        figures: The tidy frame by column (`to_frame`).
        validation: `[site]` mean-over-targets scores on validation by label set and metric: what `best` chooses by.
        draws: `[site, draw]` bootstrap draws of the mean-over-targets test score, paired over sites.
        tables: By label set and data name; none for continuous label sets.
        probes: By label set and site.
        notes: What was dropped, cut, subsampled, or could not be done.
        manifest: Versions, seed, arguments, fingerprints, command and time: enough to run it again.
    """

    sites: tuple[str, ...]
    layers: tuple[int | None, ...]
    label_sets: tuple[LabelSummary, ...]
    figures: Mapping[str, Sequence[Any]]
    validation: Mapping[str, Mapping[str, np.ndarray]]
    draws: Mapping[str, Mapping[str, np.ndarray]]
    tables: Mapping[str, Mapping[str, SiteTables]]
    probes: Mapping[str, Mapping[str, ProbeStack]]
    notes: tuple[str, ...]
    manifest: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", {name: tuple(column) for name, column in self.figures.items()})
        for name in ("figures", "validation", "draws", "tables", "probes", "manifest"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        arrays = [array for by in (*self.validation.values(), *self.draws.values()) for array in by.values()]
        arrays += [array for by in self.tables.values() for one in by.values() for array in (one.confusion, one.bins)]
        for array in arrays:
            array.setflags(write=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a figure: site, layer, label_set, target, data, source, metric, value, low, high, n.

        `target` is a target's name, or `"mean"` for the mean over targets (also where there is one). `site` and `layer`
        are None for the majority and surface controls, which know no site. `selectivity` is a metric of source
        `"model"`. A figure that is not defined (the AUROC of a target of which the test items have one class) is NaN.
        """
        import pandas as pd

        frame = pd.DataFrame({name: self.figures[name] for name in COLUMNS})
        return frame.astype({"layer": "Int64"})  # a whole number, or missing

    def label_set(self, name: str) -> LabelSummary:
        """Raises KeyError, naming near ones, when there is no such label set."""
        for summary in self.label_sets:
            if summary.name == name:
                return summary
        names = [s.name for s in self.label_sets]
        near = difflib.get_close_matches(name, names, n=3) or names
        raise KeyError(f"this result has no label set {name!r}; near it: {', '.join(near)}")

    def headline(self, label_set: str) -> str:
        """The metric that a label set is chosen and reported by unless another is named: `LabelSummary.metric`.

        Where validation shows one class only, so that no site has an AUROC, it is accuracy.
        """
        summary = self.label_set(label_set)
        defined = not np.isnan(self.validation[label_set].get(summary.metric, np.nan)).all()
        return summary.metric if defined else metrics_for(summary.kind)[0].name

    def best(self, label_set: str, metric: str | None = None) -> Best:
        """The site with the best validation score, its test score, and the sites that cannot be told apart from it.

        Args:
            metric: What to choose and report by. Unless named: accuracy; AUROC where one class makes up more than 70 % of
                the training labels; R2 for continuous labels.

        Raises:
            KeyError: no such label set or metric.
        """
        summary = self.label_set(label_set)
        metric = metric or self.headline(label_set)
        if metric not in self.validation[label_set]:
            raise KeyError(
                f"label set {label_set!r} has no metric {metric!r}; it has: {', '.join(self.validation[label_set])}"
            )
        sign = 1 if next(m for m in metrics_for(summary.kind) if m.name == metric).higher else -1
        scores = sign * self.validation[label_set][metric]
        chosen = 0 if np.isnan(scores).all() else int(np.nanargmax(scores))
        draws = self.draws[label_set][metric].astype(np.float64)
        tied = []
        for i, site in enumerate(self.sites):
            low, high = paired_interval(draws[chosen] - draws[i])
            if i != chosen and not (low > 0 or high < 0):  # NaN, an interval that cannot be given, tells nothing apart
                tied.append(site)
        value, low, high = self._figure(label_set, metric, "model", self.sites[chosen])
        return Best(label_set, metric, self.sites[chosen], self.layers[chosen], value, low, high, tuple(tied), self)

    def direction(
        self,
        label_set: str,
        target: int | str = 0,
        class_: str | None = None,
        against: str | None = None,
        *,
        site: str | None = None,
    ) -> Direction:
        """The direction that a probe reads along, with the fingerprint of the model that was probed.

        Args:
            target: Name or index.
            class_: Which class it points to; needed with more than two, and by default the second of two.
            against: The class it points away from; all others when left out.
            site: Where; the best site when left out.

        Raises:
            KeyError: no such label set, site or target.
            ValueError: no such class, or none named where there are several; a probe that read nothing.
        """
        where = site or self.best(label_set).site
        if where not in self.probes[label_set]:
            raise KeyError(f"no probes at {where!r}; the sites are {', '.join(self.sites)}")
        found = self.probes[label_set][where].direction(target, class_, against)
        provenance = {
            **found.provenance,
            "label_set": label_set,
            "fitted_on": "train",  # validation chose the penalty and the site
            "rows": self.label_set(label_set).rows.get("train"),
            "seed": self.manifest.get("seed"),
            "data": {k: (self.manifest.get("data") or {}).get(k) for k in ("name", "fingerprint")},
        }
        model = (self.manifest.get("model") or {}).get("fingerprint")
        return replace(found, site=where, model=model, provenance=provenance)

    def _figure(
        self, label_set: str, metric: str, source: str, site: str | None, data: str = "test"
    ) -> tuple[float, float, float]:
        """Mean over targets, with its interval; NaN where there is no such figure."""
        wanted = {"label_set": label_set, "metric": metric, "source": source, "data": data, "target": "mean"}
        for i in range(len(self.figures["value"])):
            if all(self.figures[k][i] == v for k, v in wanted.items()) and self.figures["site"][i] in (site, None):
                return self.figures["value"][i], self.figures["low"][i], self.figures["high"][i]
        return float("nan"), float("nan"), float("nan")

    def confusion(self, label_set: str, site: str | None = None) -> pd.DataFrame:
        """Counts at the best site (or `site`): data, target, true, predicted, n; target `"mean"` pools all targets.

        Empty for a continuous label set.
        """
        import pandas as pd

        summary, at = self.label_set(label_set), self._place(label_set, site)
        rows = []
        for data, table in self.tables.get(label_set, {}).items():
            counts = table.confusion[at]
            for target, matrix in (("mean", counts.sum(0)), *zip(summary.targets, counts, strict=True)):
                for i, true in enumerate(summary.classes):
                    rows += [(data, target, true, guess, int(matrix[i, j])) for j, guess in enumerate(summary.classes)]
        return pd.DataFrame(rows, columns=["data", "target", "true", "predicted", "n"])

    def calibration(self, label_set: str, site: str | None = None) -> pd.DataFrame:
        """Bins of the top probability at the best site (or `site`), all targets together: data, confidence, accuracy, n.

        Only bins that hold items; empty for a continuous label set.
        """
        import pandas as pd

        at = self._place(label_set, site)
        rows = []
        for data, table in self.tables.get(label_set, {}).items():
            for confidence, right, n in table.bins[at][:BINS]:
                if n:
                    rows.append((data, confidence / n, right / n, int(n)))
        return pd.DataFrame(rows, columns=["data", "confidence", "accuracy", "n"])

    def _place(self, label_set: str, site: str | None) -> int:
        site = site or self.best(label_set).site
        if site not in self.sites:
            near = difflib.get_close_matches(site, self.sites, n=3, cutoff=0.3) or self.sites[:3]
            raise KeyError(f"this result has no site {site!r}; near it: {', '.join(near)}")
        return self.sites.index(site)

    def read(
        self, model: Model, tokens_or_text: str | Sequence[int] | np.ndarray, label_set: str, site: str | None = None
    ) -> np.ndarray:
        """What the probe reads, token by token.

        Args:
            model: The model that was probed; another one is read too, with a warning.
            tokens_or_text: One text, or one sequence of token ids.
            site: The best site unless named.

        Returns:
            `[pos, target, class]` float32 probabilities; for a continuous label set `[pos, target]` estimates.
        """
        import torch

        site = self.sites[self._place(label_set, site)]
        probed = self.manifest.get("model") or {}
        if probed.get("fingerprint") not in (None, model.fingerprint):
            warnings.warn(
                f"these probes were fitted on {probed.get('name')!r} with other weights than {model.name!r} has",
                stacklevel=2,
            )
        tokens = model.tokenize([tokens_or_text])[0][0] if isinstance(tokens_or_text, str) else tokens_or_text
        ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64))[None]
        activations = model.run(ids, torch.ones_like(ids, dtype=torch.bool), [site])[site][0].float().cpu()
        stack = self.probes[label_set][site]
        if self.label_set(label_set).kind == "continuous":
            return np.asarray(stack.predict(activations), dtype=np.float32)
        return np.exp(np.asarray(stack.log_proba(activations), dtype=np.float32))

    def __repr__(self) -> str:
        names = [summary.name for summary in self.label_sets]
        title = self.manifest.get("title", "sweep")
        return f"<SweepResult of {title}: {_some(names)} at {len(self.sites)} sites; .summary() reads it out>"

    def summary(self) -> str:
        """A short text for the terminal: the best site of every label set, beside its controls."""
        lines = [str(self.manifest.get("title", "sweep"))]
        for summary in self.label_sets:
            best = self.best(summary.name)
            targets = f", {len(summary.targets)} targets" if len(summary.targets) > 1 else ""
            lines += [
                "",
                f"{summary.name} ({kind_words(summary)}{targets}; {summary.rows['test']:,} test rows): read best at {best.site}",
            ]
            lines.append(
                f"  {best.metric.replace('_', ' '):<16}{_shown(best.value, best.low, best.high)}"
                + (f", not told apart from {_some(best.tied)}" if best.tied else "")
            )
            if best.metric == "auroc":
                lines[-1] += f"; AUROC, because one class is {summary.majority:.0%} of the training labels"
            for source in SOURCES[1:]:
                figure = self._figure(summary.name, best.metric, source, best.site)
                if not np.isnan(figure[0]):
                    lines.append(f"  {source.replace('_', ' '):<16}{_shown(*figure)}")
            figure = self._figure(summary.name, "selectivity", "model", best.site)
            if not np.isnan(figure[0]):
                of = "" if best.metric in ("accuracy", "r2") else " of accuracy"
                lines.append(f"  {'selectivity':<16}{_shown(*figure)}{of}")
            for data, count in summary.rows.items():
                if data not in ("train", "valid", "test"):
                    figure = self._figure(summary.name, best.metric, "model", best.site, data)
                    lines.append(f"  {'on ' + data:<15} {_shown(*figure)}, {count:,} rows")
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = []
        for summary in self.label_sets:
            best = self.best(summary.name)
            row = [
                summary.name,
                best.site,
                best.metric.replace("_", " "),
                f"{best.value:.3f} ({best.low:.3f}–{best.high:.3f})",
            ]
            for source in SOURCES[1:]:
                value = self._figure(summary.name, best.metric, source, best.site)[0]
                row.append("–" if np.isnan(value) else f"{value:.3f}")
            cells.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>")
        head = ["label set", "best site", "metric", "test", *(s.replace("_", " ") for s in SOURCES[1:])]
        heads = "".join(f"<th>{escape(h)}</th>" for h in head)
        return (
            f"<p>{escape(str(self.manifest.get('title', 'sweep')))}</p>"
            f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(cells)}</tbody></table>"
            "<p>Best site by validation; scores on test with 95 % intervals. "
            "<code>.plot()</code> draws every layer, <code>.save_page(path)</code> writes the page.</p>"
        )

    def plot(self, **options: Any) -> go.Figure:
        """Score by layer with intervals and controls (`probekit.report.figures.plot_sweep`)."""
        from probekit.report.figures import plot_sweep

        return plot_sweep(self, **options)

    def save_page(self, path: str | Path, **options: Any) -> Path:
        """Write the self-contained HTML page (`probekit.report.page.write_sweep_page`); returns its path."""
        from probekit.report.page import write_sweep_page

        write_sweep_page(self, path, **options)
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write `result.json`, `probes.safetensors` and `draws.safetensors` into `folder`; returns the folder.

        Each file is replaced as a whole, and `result.json`, which holds the checksums of the others, comes last.
        """
        from probekit.probes.result_files import write_result

        return write_result(self, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> SweepResult:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no `result.json` there.
            ValueError: a file is damaged, or belongs to another result.
        """
        from probekit.probes.result_files import read_result

        return read_result(Path(folder))


def kind_words(summary: LabelSummary) -> str:
    """`"binary: false / true"`, `"multiclass: 3 classes"` or `"continuous"`."""
    if summary.kind == "binary":
        return f"binary: {' / '.join(summary.classes)}"
    return f"multiclass: {len(summary.classes)} classes" if summary.classes else "continuous"


def _shown(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "not defined"
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
