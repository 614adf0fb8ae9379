"""From what a probe predicts to the figures of a result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.data import LabelSet
from probekit.probes.intervals import Estimate, bootstrap, cluster_counts
from probekit.probes.metrics import (
    BINS,
    Predictions,
    bin_of,
    false_alarm_thresholds,
    metrics_for,
    usable,
)
from probekit.probes.result import COLUMNS, SiteTables
from probekit.probes.rows import Part
from probekit.probes.stack import ProbeStack


@dataclass
class Figures:
    """The tidy frame, row by row."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def add(self, estimate: Estimate, labels: LabelSet, counts: np.ndarray, **where: Any) -> None:
        """Every target's figure and their mean. `counts` `[target]` is the number of defined rows."""
        low, high = estimate.interval()
        mean = estimate.mean()
        mean_low, mean_high = mean.interval()
        for i, target in enumerate(labels.targets):
            self._add(
                target, float(estimate.value[i]), float(low[i]), float(high[i]), int(counts[i]), labels.name, where
            )
        self._add(
            "mean", float(mean.value[0]), float(mean_low[0]), float(mean_high[0]), int(counts.max()), labels.name, where
        )

    def _add(
        self, target: str, value: float, low: float, high: float, n: int, label_set: str, where: dict[str, Any]
    ) -> None:
        row = {"label_set": label_set, "target": target, "value": value, "low": low, "high": high, "n": n, **where}
        for name in COLUMNS:
            self.columns[name].append(row[name])


@dataclass
class Scorer:
    """Scores predictions about the parts of one level, with one set of bootstrap counts a part."""

    n_boot: int
    seed: int
    figures: Figures
    _counts: dict[str, Tensor] = field(default_factory=dict)

    def counts(self, part: Part) -> Tensor:
        """`[draw, cluster]`, the same for everything scored on this part."""
        if part.name not in self._counts:
            self._counts[part.name] = cluster_counts(int(part.cluster.max()) + 1, self.n_boot, self.seed)
        return self._counts[part.name]

    def score(self, predictions: Predictions, part: Part, labels: LabelSet, **where: Any) -> dict[str, Estimate]:
        """Estimates of every metric by name; they also go into the figures."""
        cluster, counts = torch.from_numpy(part.cluster), self.counts(part)
        defined = predictions.defined.sum(0).numpy()
        out = {}
        for each in usable(predictions, metrics_for(labels.kind)):
            out[each.name] = bootstrap(each, predictions, cluster, counts)
            self.figures.add(out[each.name], labels, defined, data=part.name, metric=each.name, **where)
        return out

    def score_together(
        self, predictions: Sequence[Predictions], part: Part, labels: LabelSet, **where: Any
    ) -> dict[str, Estimate]:
        """Like `score`, of several probes of one kind: their mean, and an interval that holds what differs between them, too."""
        cluster, counts = torch.from_numpy(part.cluster), self.counts(part)
        defined = predictions[0].defined.sum(0).numpy()
        out = {}
        for each in usable(predictions[0], metrics_for(labels.kind)):
            found = [bootstrap(each, one, cluster, counts) for one in predictions]
            out[each.name] = Estimate(
                each,
                np.mean([one.value for one in found], 0),
                np.concatenate([one.draws for one in found]),
                found[0].clusters,
            )
            self.figures.add(out[each.name], labels, defined, data=part.name, metric=each.name, **where)
        return out


def predict(stack: ProbeStack, X: Tensor, truth: np.ndarray, thresholds: Tensor | None = None) -> Predictions:
    """What a stack `[target]` says about rows `X [n, d]`."""
    if stack.kind == "continuous":
        return Predictions.of_values(stack.predict(X), truth)
    return Predictions.of_classes(stack.log_proba(X), truth, thresholds)


def with_thresholds(predictions: Predictions, validation: Predictions) -> Predictions:
    """The same with the false-alarm thresholds that validation sets."""
    if predictions.log_proba is None:
        return predictions
    return Predictions(
        predictions.truth, log_proba=predictions.log_proba, thresholds=false_alarm_thresholds(validation)
    )


class TableMaker:
    """Gathers `SiteTables` site by site."""

    def __init__(self) -> None:
        self._confusion: dict[str, list[np.ndarray]] = defaultdict(list)
        self._bins: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, data: str, predictions: Predictions) -> None:
        """The next site's predictions; none are kept for continuous labels."""
        if predictions.log_proba is None:
            return
        targets, classes = predictions.log_proba.shape[1:]
        truth = predictions.truth.clamp_min(0)
        cell = (torch.arange(targets) * classes + truth) * classes + predictions.choice
        known = predictions.defined
        confusion = torch.bincount(cell[known], minlength=targets * classes * classes)
        confidence = predictions.log_proba.amax(-1).double().exp()[known]
        bins = bin_of(confidence)
        columns = (confidence, predictions.correct[known].double(), torch.ones_like(confidence))
        table = torch.stack([torch.bincount(bins, weights=c, minlength=BINS) for c in columns], -1)
        self._confusion[data].append(confusion.reshape(targets, classes, classes).numpy())
        self._bins[data].append(table.numpy())

    def tables(self) -> dict[str, SiteTables]:
        return {
            data: SiteTables(np.stack(self._confusion[data]), np.stack(self._bins[data])) for data in self._confusion
        }
