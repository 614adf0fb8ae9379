"""What a monitor has to beat: the same probe fitted to shuffled labels, and the words of a text without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probekit.monitoring.false_alarms import Found, threshold_for
from probekit.probes import fit_grid
from probekit.probes.controls import shuffle_labels
from probekit.probes.intervals import bootstrap, cluster_counts
from probekit.probes.metrics import CLASS_METRICS, Predictions
from probekit.probes.surface import as_texts, fitted_to_all

SHUFFLES = 20
N_BOOT = 1000
_AUROC = next(metric for metric in CLASS_METRICS if metric.name == "auroc")


@dataclass(frozen=True)
class Control:
    """What came of it on the report part, with a threshold set as the monitor's was.

    Attributes:
        auroc: Of its scores; of several draws the mean.
        low, high: 95 % interval over texts; of several draws the range of 95 % of them.
        false_alarms, recall: Shares of the texts; of several draws the mean.
        draws: How many.
    """

    auroc: float
    low: float
    high: float
    false_alarms: float
    recall: float
    draws: int

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Control:
        return cls(**facts)

    def __str__(self) -> str:
        of = f" in {self.draws} draws" if self.draws > 1 else ""
        return (
            f"AUROC {self.auroc:.3f} ({self.low:.3f} to {self.high:.3f}{of}), misses {100 * (1 - self.recall):.3g} % "
            f"at {100 * self.false_alarms:.3g} % false alarms"
        )


@dataclass(frozen=True)
class Parts:
    """Who is in which part; arrays are `[text]`.

    Attributes:
        positive: Whether a text is of the alarm class.
        groups: Of each text.
        part: 0 trains, 1 sets the thresholds, 2 is reported on.
        false_alarms: The rate that is asked for.
    """

    positive: np.ndarray
    groups: np.ndarray
    part: np.ndarray
    false_alarms: float

    def found(self, scores: np.ndarray) -> Found:
        """The threshold from part 1 and what it does in part 2, for scores `[text]`."""
        quiet, told = (self.part == 1) & ~self.positive, self.part == 2
        threshold, _ = threshold_for(self.false_alarms, scores[quiet], self.groups[quiet])
        return Found.of(threshold, scores[told], self.positive[told], self.groups[told])


def auroc(scores: np.ndarray, positive: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """AUROC of scores `[n]` and its 95 % interval, by a bootstrap over groups."""
    cluster = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    said = Predictions.of_classes(np.stack([np.zeros(len(scores)), scores], 1), positive.astype(np.int64))
    counts = cluster_counts(int(cluster.max()) + 1, N_BOOT, seed)
    found = bootstrap(_AUROC, said, torch.from_numpy(cluster), counts)
    low, high = found.interval()
    return float(found.value[0]), float(low[0]), float(high[0])


def shuffled_labels(X: np.ndarray, parts: Parts, C: float, seed: int) -> Control:
    """The monitor's probe, at its site and penalty, fitted to labels that were dealt out anew to the training texts.

    Args:
        X: `[text, d]` activations at the site.
        C: Inverse penalty that was chosen for the true labels.
    """
    train, told = np.flatnonzero(parts.part == 0), parts.part == 2
    labels = parts.positive[train].astype(np.int64)[:, None]
    dealt = [shuffle_labels(labels, np.arange(len(train)), seed + k) for k in range(SHUFFLES)]
    stack = fit_grid("logistic", X[train], np.concatenate(dealt, 1), [C], n_classes=2).select(0)
    log_proba = stack.log_proba(X).numpy()  # [text, draw, class]
    odds = log_proba[..., 1] - log_proba[..., 0]
    found = [parts.found(odds[:, k]) for k in range(SHUFFLES)]
    told_by = [auroc(odds[told, k], parts.positive[told], parts.groups[told], seed)[0] for k in range(SHUFFLES)]
    low, high = np.quantile(told_by, (0.025, 0.975))
    false_alarms, recall = (
        float(np.mean([getattr(f, name).value for f in found])) for name in ("false_alarms", "recall")
    )
    return Control(float(np.mean(told_by)), float(low), float(high), false_alarms, recall, SHUFFLES)


def words_alone(items: Sequence[str | np.ndarray], parts: Parts, held: np.ndarray, seed: int) -> Control:
    """Word and character n-grams and a logistic regression that never sees the model.

    As the probe is: the penalty is chosen on folds of the training texts held out in turn, then vocabulary and model are fitted to all.

    Args:
        items: Texts, or token ids of each.
        held: `[training text, fold]` bool.
    """
    texts, train = as_texts(items), parts.part == 0
    reads, _, _ = fitted_to_all(
        [texts[i] for i in np.flatnonzero(train)], parts.positive[train].astype(np.int64), list(held.T), 2,
        characters=isinstance(items[0], str),
    )  # fmt: skip
    said = reads(texts)
    odds, told = said[:, 1] - said[:, 0], parts.part == 2
    found = parts.found(odds)
    return Control(
        *auroc(odds[told], parts.positive[told], parts.groups[told], seed),
        found.false_alarms.value,
        found.recall.value,
        1,
    )
