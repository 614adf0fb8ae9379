"""One condition of a task: probes fitted, their penalty and site chosen on rows that were held out, figures of the test."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probekit.data.labels import Kind
from probekit.leaderboard.settings import show_two
from probekit.probes.estimator import Estimator
from probekit.probes.grid import fit_grids
from probekit.probes.held_out import fold_of_rows, group_codes, mean_over_folds
from probekit.probes.intervals import Estimate, bootstrap, cluster_counts
from probekit.probes.metrics import Metric, Predictions, measure, metrics_for
from probekit.probes.stack import ProbeStack
from probekit.probes.surface import fitted_to_all

FEW = 128
"""Training rows below which penalties are chosen by cross-validation, and not on one part that is held out."""
FOLDS = 4
HELD_OUT = 0.2


@dataclass(frozen=True)
class Question:
    """What is asked of a site's activations; rows are those of the condition.

    Attributes:
        kind: Of the labels.
        classes: Names of the classes, none of numbers.
        labels: `[n]` of the training rows, as the condition gives them.
        held: `[n, fold]` bool: rows held out of each fit that chooses. A row is held out of one at most.
        truth: `[m]` of the test rows.
        cluster: `[m]` int64, groups of the test rows, numbered from zero.
        draws: `[draw, cluster]` of the bootstrap, the same for all that is compared.
    """

    kind: Kind
    classes: tuple[str, ...]
    labels: np.ndarray
    held: np.ndarray
    truth: np.ndarray
    cluster: np.ndarray
    draws: torch.Tensor

    @property
    def metric(self) -> Metric:
        """R2 of numbers; of classes the AUROC (of several, its mean over each against the rest)."""
        name = "r2" if self.kind == "continuous" else "auroc"
        return next(metric for metric in metrics_for(self.kind) if metric.name == name)

    @property
    def parts(self) -> list[np.ndarray]:
        """`[n]` bool each: the rows held out of a fit, of the fits whose other rows show two classes; one at least."""
        number = self.kind == "continuous"
        return [held for held in self.held.T if number or show_two(self.labels[~held])]

    def without(self, rows: np.ndarray) -> np.ndarray:
        """`[n, fold]` labels, undefined at `rows`."""
        missing = np.nan if self.kind == "continuous" else -1
        labels: np.ndarray = np.where(rows, missing, self.labels[:, None])
        return labels.astype(np.float64 if self.kind == "continuous" else np.int64)

    def figure(self, said: np.ndarray | torch.Tensor, truth: np.ndarray) -> float:
        """The metric of one probe's log-probabilities `[row, class]`, or values `[row]`."""
        value = float(measure(self._predictions(said, truth), (self.metric,))[self.metric.name][0])
        return value

    def estimate(self, said: np.ndarray | torch.Tensor) -> Estimate:
        """The metric on the test rows, with its bootstrap over groups."""
        return bootstrap(self.metric, self._predictions(said, self.truth), torch.from_numpy(self.cluster), self.draws)

    def loss(self, said: np.ndarray, truth: np.ndarray) -> float:
        """Log-loss, or squared error."""
        if self.kind == "continuous":
            return float(np.square(said - truth).mean())
        return float(-said[np.arange(len(truth)), truth.astype(int)].mean())

    def _predictions(self, said: np.ndarray | torch.Tensor, truth: np.ndarray) -> Predictions:
        if self.kind == "continuous":
            return Predictions.of_values(said, truth)
        return Predictions.of_classes(said, truth.astype(np.int64))


def question_of(
    kind: Kind,
    classes: tuple[str, ...],
    labels: np.ndarray,
    groups: np.ndarray,
    truth: np.ndarray,
    test_groups: np.ndarray,
    *,
    n_boot: int,
    seed: int,
) -> Question:
    """A question, with the rows that are held out and the bootstrap draws.

    Raises:
        ValueError: there is nothing to choose on.
    """
    cluster = np.unique(test_groups, return_inverse=True)[1].astype(np.int64)
    draws = cluster_counts(int(cluster.max()) + 1, n_boot, seed)
    question = Question(kind, classes, labels, held_out(labels, groups, kind, seed), truth, cluster, draws)
    if not question.parts:
        raise ValueError("wherever rows are held out to choose on, one class only is left to train on")
    return question


def held_out(labels: np.ndarray, groups: np.ndarray, kind: Kind, seed: int) -> np.ndarray:
    """`[row, fold]` bool: a fifth of many rows, or each fold in turn of few, and where no fifth shows two classes; groups stay together,
    classes are spread evenly."""
    few = len(labels) < FEW
    folds = min(FOLDS, max(2, len(labels) // 4)) if few else round(1 / HELD_OUT)
    codes = np.zeros(len(labels), int) if kind == "continuous" else np.unique(labels, return_inverse=True)[1]
    fold = fold_of_rows(codes, group_codes(groups, len(labels)), folds, seed)
    by_fold: np.ndarray = fold[:, None] == np.arange(fold.max() + 1)
    two = [kind == "continuous" or show_two(codes[held], codes[~held]) for held in by_fold.T]
    if few or not any(two):  # where each group is of one class, all folds together show two
        return by_fold
    away = np.abs(by_fold.sum(0) - HELD_OUT * len(labels))  # uneven where groups are
    one = int(np.where(two, away, np.inf).argmin())
    return by_fold[:, one : one + 1]


@dataclass(frozen=True)
class SiteScores:
    """A linear family at every site; arrays are `[site]`.

    Attributes:
        valid: The metric on the rows held out.
        test: The metric on the test rows, of the probes fitted without the rows held out: to draw, never to choose by.
        value: The parameter chosen (NaN for a family without one).
    """

    valid: np.ndarray
    test: np.ndarray
    value: np.ndarray


def read_sites(families: Sequence[str], X: torch.Tensor, X_test: torch.Tensor, question: Question) -> list[SiteScores]:
    """Fit linear families at all sites, `X [site, n, d]`, each with the parameter that has the least loss on the rows held out."""
    found = []
    for stack, valid in _chosen(families, X, question):
        said = _said(stack, X_test)[:, :, 0]
        test = np.array([question.figure(one, question.truth) for one in said])
        found.append(SiteScores(valid, test, _values(stack)))
    return found


@dataclass(frozen=True)
class Scored:
    """One probe: what was chosen, and what came of it on the test rows."""

    valid: float
    estimate: Estimate
    value: float = float("nan")


def read_site(family: str | Estimator, X: torch.Tensor, X_test: torch.Tensor, question: Question) -> Scored:
    """Fit at one site, `X [n, d]`: the parameter chosen on the rows held out, then fitted again to all training rows."""
    if isinstance(family, str):
        ((stack, valid),) = _chosen([family], X[None], question)
        value = float(_values(stack)[0])
        everything = question.without(np.zeros((len(X), 1), bool))
        (whole,) = _fit([family], X, everything, question, [None if value != value else [value]])
        said = _said(whole.select(0), X_test)[:, 0].numpy()
        return Scored(float(valid[0]), question.estimate(said), value)
    parts = question.parts
    truth = np.concatenate([question.labels[held] for held in parts])
    best: tuple[float, float, float] | None = None
    values = family.grid(X, question.labels) if getattr(family, "grid_parameter", None) else (float("nan"),)
    for value in values:
        fitted = [_fitted(family, value, X[~held], question.labels[~held]) for held in parts]
        said = np.concatenate([_told(one, X[held], question) for one, held in zip(fitted, parts, strict=True)])
        loss = question.loss(said, truth)
        if best is None or loss < best[0]:
            best = loss, value, question.figure(said, truth)
    assert best is not None
    whole_probe = _fitted(family, best[1], X, question.labels)
    return Scored(best[2], question.estimate(_told(whole_probe, X_test, question)), best[1])


def read_words(texts: Sequence[str], test_texts: Sequence[str], question: Question) -> Scored:
    """What the words and letters of the texts tell, without the model: the penalty chosen and the whole fitted again as a probe's is."""
    reads, penalty, said = fitted_to_all(texts, question.labels, question.parts, len(question.classes) or None)
    truth = np.concatenate([question.labels[held] for held in question.parts])
    return Scored(question.figure(said, truth), question.estimate(reads(test_texts)), penalty)


def _chosen(families: Sequence[str], X: torch.Tensor, question: Question) -> list[tuple[ProbeStack, np.ndarray]]:
    """By family a stack `[site, fold]` with the best parameter of each site, and the metric on the rows held out `[site]`."""
    held = question.held
    rows = np.flatnonzero(held.any(1))
    fold = torch.from_numpy(held.argmax(1)[rows])
    found = []
    for stack in _fit(families, X, question.without(held), question):
        loss = stack.loss(X, question.without(~held))  # [grid, site, fold]
        index = mean_over_folds(loss, held).argmin(0)
        best = stack.select(index[:, None].expand(-1, held.shape[1]))
        said = _said(best, X[:, rows])  # [site, row, fold, class?]
        own = said[:, torch.arange(len(rows)), fold]
        found.append((best, np.array([question.figure(one, question.labels[rows]) for one in own])))
    return found


def _fit(
    families: Sequence[str],
    X: torch.Tensor,
    Y: np.ndarray,
    question: Question,
    grids: Sequence[Sequence[float] | None] | None = None,
) -> list[ProbeStack]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fold of few rows may lack a class
        return fit_grids(families, X, Y, grids, kind=question.kind, classes=question.classes or None)


def _said(stack: ProbeStack, X: torch.Tensor) -> torch.Tensor:
    """`[site?, row, target, class]` log-probabilities, or `[site?, row, target]` values."""
    return stack.predict(X) if stack.kind == "continuous" else stack.log_proba(X)


def _values(stack: ProbeStack) -> np.ndarray:
    """`[site]` the parameter chosen, the same in all folds."""
    if stack.chosen is None:
        return np.full(len(stack.sites), np.nan)
    chosen: np.ndarray = stack.chosen[:, 0].numpy()
    return chosen


def _fitted(family: Estimator, value: float, X: torch.Tensor, labels: np.ndarray) -> Any:
    from sklearn.base import clone

    chosen = getattr(family, "grid_parameter", None)
    probe = clone(family) if chosen is None else clone(family).set_params(**{chosen: value})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return probe.fit(X, labels)


def _told(probe: Any, X: torch.Tensor, question: Question) -> np.ndarray:
    """`[row, class]` log-probabilities in the order of the question's classes, or `[row]` values."""
    if question.kind == "continuous":
        values: np.ndarray = probe.predict(X)
        return values
    found = np.full((len(X), len(question.classes)), np.log(1e-12))
    found[:, np.asarray(probe.classes_, int)] = probe.predict_log_proba(X)
    return found
