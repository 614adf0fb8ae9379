"""The figures of a sweep by what they are about, so that every picture finds its own in one look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from probekit.probes.result import Best, SweepResult

NAN = float("nan")


class Score(NamedTuple):
    value: float = NAN
    low: float = NAN
    high: float = NAN
    n: float = NAN


@dataclass(frozen=True)
class Scores:
    """A sweep's tidy frame, indexed.

    Attributes:
        result: The sweep.
        cells: `(label set, metric, source, data, target)` -> site (None: the same at every site) -> score.
    """

    result: SweepResult
    cells: dict[tuple[str, str, str, str, str], dict[str | None, Score]]
    _best: dict[str, Best] = field(default_factory=dict)

    @classmethod
    def of(cls, result: SweepResult | Scores) -> Scores:
        if isinstance(result, Scores):
            return result
        frame = result.to_frame()
        cells: dict[tuple[str, str, str, str, str], dict[str | None, Score]] = {}
        names = ("label_set", "metric", "source", "data", "target", "site", "value", "low", "high", "n")
        for *key, site, value, low, high, n in zip(*(frame[name].tolist() for name in names), strict=True):
            place = site if isinstance(site, str) and site else None
            cells.setdefault(tuple(key), {})[place] = Score(value, low, high, n)
        return cls(result, cells)

    @property
    def label_sets(self) -> list[str]:
        return list(dict.fromkeys(key[0] for key in self.cells))

    def metrics(self, label_set: str) -> list[str]:
        """Metrics of the probes of a label set, the main one first.

        Raises:
            KeyError: no such label set.
        """
        names = list(dict.fromkeys(key[1] for key in self.cells if key[0] == label_set and key[2] == "model"))
        if not names:
            raise KeyError(f"no scores for label set {label_set!r}; there are: {', '.join(self.label_sets) or 'none'}")
        main = self.result.headline(label_set)
        return sorted(names, key=lambda name: name != main)

    def metric(self, label_set: str, metric: str | None = None) -> str:
        """`metric` if the label set has it, its main one if None.

        Raises:
            KeyError: no such metric.
        """
        names = self.metrics(label_set)
        if metric is not None and metric not in names:
            raise KeyError(f"label set {label_set!r} has no metric {metric!r}; it has: {', '.join(names)}")
        return metric or names[0]

    @cached_property
    def _of_model(self) -> dict[str, dict[str, list[str]]]:
        """By label set: its sites, targets and data, in order."""
        found: dict[str, dict[str, dict[str, None]]] = {}
        for (label_set, _, source, data, target), row in self.cells.items():
            if source == "model":
                of = found.setdefault(label_set, {"sites": {}, "targets": {}, "data": {}})
                of["sites"].update(dict.fromkeys(site for site in row if site is not None))
                of["targets"].update({target: None} if target != "mean" else {})
                of["data"].update({data: None})
        return {label_set: {what: list(names) for what, names in of.items()} for label_set, of in found.items()}

    def sites(self, label_set: str | None = None) -> list[str]:
        """Sites that were probed, in order."""
        if label_set is not None:
            return self._of_model[label_set]["sites"]
        return list(dict.fromkeys(site for of in self._of_model.values() for site in of["sites"]))

    def targets(self, label_set: str) -> list[str]:
        """Targets with scores of their own."""
        return self._of_model[label_set]["targets"]

    def data(self, label_set: str) -> list[str]:
        """`"test"` and the names of the out-of-distribution sets."""
        return self._of_model[label_set]["data"]

    def best(self, label_set: str) -> Best:
        if label_set not in self._best:
            self._best[label_set] = self.result.best(label_set)
        return self._best[label_set]

    def at(
        self, label_set: str, metric: str, source: str, site: str, data: str = "test", target: str = "mean"
    ) -> Score | None:
        """One score, of the label set as a whole unless a target is named; None where there is none."""
        row = self.cells.get((label_set, metric, source, data, target))
        return None if row is None else row.get(site, row.get(None))

    def line(
        self, label_set: str, metric: str, source: str = "model", data: str = "test", target: str = "mean"
    ) -> list[Score] | None:
        """A score a site, NaN where there is none; None where the source has none at all."""
        found = [self.at(label_set, metric, source, site, data, target) for site in self.sites(label_set)]
        return None if all(score is None for score in found) else [score or Score() for score in found]

    def table(self, label_set: str, metric: str) -> np.ndarray:
        """`[target, site]` test scores of the probes."""
        rows = [self.line(label_set, metric, target=target) or [] for target in self.targets(label_set)]
        return np.array([[score.value for score in row] for row in rows], float)


def values(line: Sequence[Score]) -> list[float]:
    return [score.value for score in line]
