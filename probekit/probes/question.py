"""One label set asked of every site: its probes, its controls, its figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.data import Dataset, LabelSet
from probekit.probes import controls as control
from probekit.probes import surface
from probekit.probes.base import LinearProbe
from probekit.probes.fitting import fit_chosen, fit_like, targets_of
from probekit.probes.intervals import Estimate
from probekit.probes.label_choice import same_labels, usable_targets
from probekit.probes.logistic import LogisticProbe
from probekit.probes.metrics import Predictions, measure, metrics_for
from probekit.probes.result import LabelSummary
from probekit.probes.rows import Part
from probekit.probes.scoring import Scorer, TableMaker, predict, with_thresholds
from probekit.probes.stack import ProbeStack

SHUFFLES = 10
"""Times that labels are dealt out again for the control of shuffled labels, at most."""
DEALT = 20_000
"""Shuffled labels in all, above which once is enough."""


class Question:
    """A label set, the rows it is asked of, and what has been found so far.

    Args:
        labels: As asked for; targets that training shows in one class only are left out.
        parts: `train`, `valid`, `test` and out-of-distribution sets.
        grid: Values to choose from; the family's own if None.
        with_controls: Whether to fit controls.
    """

    def __init__(
        self,
        labels: LabelSet,
        parts: Mapping[str, Part],
        scorer: Scorer,
        probe: str | LinearProbe,
        grid: Sequence[float] | None,
        *,
        with_controls: bool,
        seed: int,
    ) -> None:
        self.labels, self.notes = usable_targets(labels, parts["train"])
        self.parts, self.scorer, self.probe, self.grid, self.seed = parts, scorer, probe, grid, seed
        self.with_controls = with_controls
        self.truth = {name: self._truth(part) for name, part in parts.items()}
        self.tested = [part for name, part in parts.items() if name not in ("train", "valid")]
        self.notes += tuple(note for part in self.tested if (note := self._note_one_class(part)))
        self.main = metrics_for(labels.kind)[0].name  # of selectivity
        self.probes: dict[str, ProbeStack] = {}
        self.validation: dict[str, list[float]] = defaultdict(list)
        self.draws: dict[str, list[np.ndarray]] = defaultdict(list)
        self.tables = TableMaker()
        self.unconverged = 0
        self.control_task = ""
        self._control: dict[str, np.ndarray] | None = None
        if with_controls:
            self._shuffled = _dealt_again(self.truth["train"], parts["train"].sequence, seed)
            self._make_control_task()

    def _truth(self, part: Part) -> np.ndarray:
        labels = self.labels
        if part.labels is not None:
            labels = same_labels(labels, part.labels[labels.name], part.name)
        values: np.ndarray = labels.values[part.items(labels.level)]
        if not self._known(values).any():
            raise ValueError(f"label set {labels.name!r}: none of the {len(part):,} {part.name} rows has a label")
        return values

    def _known(self, truth: np.ndarray) -> np.ndarray:
        """`[row, target]` bool: where there is a label."""
        return np.asarray(~np.isnan(truth) if self.labels.kind == "continuous" else truth >= 0)

    def _note_one_class(self, part: Part) -> str:
        """What to say where no target shows two classes (or two values), so that they cannot be told apart."""
        truth, name, continuous = self.truth[part.name], self.labels.name, self.labels.kind == "continuous"
        known = self._known(truth)
        if any(len(np.unique(column[ok])) > 1 for column, ok in zip(truth.T, known.T, strict=True)):
            return ""
        if continuous:
            return f"{name}: the rows of {part.name!r} have one value only; R2 and Spearman are not defined there"
        classes = [self.labels.classes[c] for c in np.unique(truth[known])]
        what = f"class {classes[0]!r} only" if len(classes) == 1 else "one class a target only"
        return f"{name}: the rows of {part.name!r} show {what}; AUROC, which compares classes, is not defined there"

    def _majority(self) -> float | None:
        """Share of the commonest class in training, the mean over targets."""
        if self.labels.kind == "continuous":
            return None
        train = self.truth["train"]
        counts = np.stack([(train == c).sum(0) for c in range(len(self.labels.classes))])
        return float((counts.max(0) / np.maximum(counts.sum(0), 1)).mean())

    def _make_control_task(self) -> None:
        names = ("train", "valid", "test")
        parts = [self.parts[name] for name in names]
        ends = np.cumsum([len(p) for p in parts])
        train, test = np.arange(ends[0]), np.arange(ends[1], ends[2])
        if self.labels.level == "token":
            token = np.concatenate([p.activations.token[p.rows] for p in parts])
            types = control.token_types(None if (token < 0).all() else token, train, test)
        elif parts[0].data is None:
            types = control.Types(None, "not available: there are no texts or tokens to take types from")
        else:
            types = control.sequence_types([s for p in parts for s in _sequences(p)], train, test)
        self.control_task = types.what
        if types.of_row is None:
            self.notes = (*self.notes, f"{self.labels.name}: control task {types.what}")
            return
        values = np.concatenate([self.truth[name] for name in names])
        made = np.split(control.control_labels(values, types.of_row, train, self.seed), ends[:-1])
        self._control = dict(zip(names, made, strict=True))

    # Sites

    def ask_site(self, site: str, layer: int | None, X: Mapping[str, Tensor]) -> None:
        """Fit and score the probes of one site, and the controls that share its activations."""
        where: dict[str, Any] = {"site": site, "layer": layer}
        stack = self._fit(X, site)
        self.probes[site] = stack
        validation = predict(stack, X["valid"], self.truth["valid"])
        for name, values in measure(with_thresholds(validation, validation), metrics_for(self.labels.kind)).items():
            self.validation[name].append(float(np.nanmean(values)) if not np.isnan(values).all() else float("nan"))
        accuracy: Estimate | None = None
        for part in self.tested:
            said = with_thresholds(predict(stack, X[part.name], self.truth[part.name]), validation)
            estimates = self.scorer.score(said, part, self.labels, source="model", **where)
            self.tables.add(part.name, said)
            if part.name == "test":
                for name, estimate in estimates.items():
                    self.draws[name].append(estimate.mean().draws[:, 0].astype(np.float32))
                accuracy = estimates[self.main]
        if self.with_controls:
            assert stack.chosen is not None
            assert accuracy is not None
            self._ask_fake_labels(X, stack.chosen, accuracy, where)

    def _ask_fake_labels(
        self, X: Mapping[str, Tensor], chosen: Tensor, accuracy: Estimate, where: dict[str, Any]
    ) -> None:
        fake = [*self._shuffled] + ([self._control["train"]] if self._control is not None else [])
        stack = fit_like(self.probe, X["train"], np.concatenate(fake, 1), chosen.repeat(len(fake)), self.labels)
        count = len(self.labels.targets)
        dealt = [
            targets_of(stack, slice(i * count, (i + 1) * count), self.labels.targets)
            for i in range(len(self._shuffled))
        ]
        validation = [predict(one, X["valid"], self.truth["valid"]) for one in dealt]
        for part in self.tested:
            said = [
                with_thresholds(predict(one, X[part.name], self.truth[part.name]), valid)
                for one, valid in zip(dealt, validation, strict=True)
            ]
            self.scorer.score_together(said, part, self.labels, source="shuffled", **where)
        if self._control is None:
            return
        task = targets_of(stack, slice(len(dealt) * count, None), self.labels.targets)
        guess = predict(task, X["test"], self._control["test"])
        told = with_thresholds(guess, predict(task, X["valid"], self._control["valid"]))
        test = self.parts["test"]
        learned = self.scorer.score(told, test, self.labels, source="control_task", **where)[self.main]
        difference = Estimate(
            replace(accuracy.metric, name="selectivity", unit_range=False),
            accuracy.value - learned.value,
            accuracy.draws - learned.draws,
            accuracy.clusters,
        )
        defined = told.defined.sum(0).numpy()
        self.scorer.figures.add(
            difference, self.labels, defined, data="test", metric="selectivity", source="model", **where
        )

    def ask_random_weights(self, site: str, layer: int | None, X: Mapping[str, Tensor]) -> None:
        """The same probe, with its own choice of penalty, on the model with random weights."""
        self._score_everywhere(self._fit(X, site), X, source="random_weights", site=site, layer=layer)

    def _fit(self, X: Mapping[str, Tensor], site: str) -> ProbeStack:
        stack = fit_chosen(
            self.probe, X["train"], self.truth["train"], X["valid"], self.truth["valid"], self.grid, self.labels, site
        )
        assert stack.converged is not None
        self.unconverged += int((~stack.converged).sum())
        return stack

    def _score_everywhere(self, stack: ProbeStack, X: Mapping[str, Tensor], **where: Any) -> None:
        validation = predict(stack, X["valid"], self.truth["valid"])
        for part in self.tested:
            said = with_thresholds(predict(stack, X[part.name], self.truth[part.name]), validation)
            self.scorer.score(said, part, self.labels, **where)

    # Without a site

    def ask_without_model(self) -> None:
        """The majority and the surface controls, which know no site."""
        self._ask_majority()
        if self.labels.level == "token":
            self._ask_token_surface()
        elif self.parts["train"].data is not None:
            self._ask_text_surface()
        else:
            self.notes = (
                *self.notes,
                f"{self.labels.name}: surface baseline not available, there are no texts or tokens",
            )

    def _ask_majority(self) -> None:
        train = self.truth["train"]

        def guess(name: str) -> Predictions:
            truth = self.truth[name]
            if self.labels.kind == "continuous":
                return Predictions.of_values(np.broadcast_to(np.nanmean(train, 0), truth.shape).copy(), truth)
            logp = control.majority_log_proba(train, len(self.labels.classes))
            return Predictions.of_classes(np.broadcast_to(logp, (len(truth), *logp.shape)).copy(), truth)

        self._score_said({name: guess(name) for name in self.parts if name != "train"}, "majority")

    def _ask_token_surface(self) -> None:
        names = list(self.parts)
        made = [self._own_surface(part) for part in self.parts.values()]
        if all(m is not None for m in made):
            X = {name: torch.from_numpy(np.asarray(m, dtype=np.float32)) for name, m in zip(names, made, strict=True)}
        else:
            token, position = (
                np.concatenate([getattr(p.activations, what)[p.rows] for p in self.parts.values()])
                for what in ("token", "position")
            )
            if (token < 0).all():
                self.notes = (
                    *self.notes,
                    f"{self.labels.name}: surface baseline not available, the activations come without token ids",
                )
                return
            ends = np.cumsum([len(p) for p in self.parts.values()])
            features = np.split(surface.token_features(token, position, np.arange(ends[0])), ends[:-1])
            X = {name: torch.from_numpy(f) for name, f in zip(names, features, strict=True)}
        continuous = self.labels.kind == "continuous"
        probe = "ridge" if continuous else LogisticProbe(tol=3e-3)
        grid = None if continuous else LogisticProbe.default_grid
        stack = fit_chosen(probe, X["train"], self.truth["train"], X["valid"], self.truth["valid"], grid, self.labels)
        self._score_everywhere(stack, X, source="surface", site=None, layer=None)

    def _own_surface(self, part: Part) -> np.ndarray | None:
        features = None if part.data is None else part.data.surface_features()
        return None if features is None else features[part.items(self.labels.level)]

    def _ask_text_surface(self) -> None:
        texts = {name: surface.as_texts(_sequences(part)) for name, part in self.parts.items()}
        others = {part.name: texts[part.name] for part in self.tested}
        data = self.parts["train"].data
        baseline = surface.TextBaseline(texts["train"], characters=data is not None and data.texts is not None)
        train, valid = self.truth["train"], self.truth["valid"]
        if self.labels.kind == "continuous":
            values = baseline.estimate(train, texts["valid"], valid, others)
            said = {name: Predictions.of_values(v, self.truth[name]) for name, v in values.items()}
        else:
            logp = baseline.log_proba(train, texts["valid"], valid, others, len(self.labels.classes))
            said = {name: Predictions.of_classes(v, self.truth[name]) for name, v in logp.items()}
        self._score_said(said, "surface")

    def _score_said(self, said: Mapping[str, Predictions], source: str) -> None:
        for part in self.tested:
            predictions = with_thresholds(said[part.name], said["valid"])
            self.scorer.score(predictions, part, self.labels, source=source, site=None, layer=None)

    def summary(self) -> LabelSummary:
        """What was asked, for the result."""
        labels = self.labels
        return LabelSummary(
            labels.name,
            labels.kind,
            labels.level,
            labels.classes,
            labels.targets,
            {name: int(self._known(truth).any(1).sum()) for name, truth in self.truth.items()},
            labels.reason,
            self.control_task,
            self._majority(),
        )


def _dealt_again(values: np.ndarray, sequence: np.ndarray, seed: int) -> list[np.ndarray]:
    """Labels `[row, target]` shuffled several times where there are few: what one dealing gives is then a matter of luck."""
    times = int(np.clip(-(-DEALT // values.size), 1, SHUFFLES))
    seeds = [seed, *(int(s) for s in np.random.SeedSequence([seed, 0x5481]).generate_state(times - 1))]
    return [control.shuffle_labels(values, sequence, one) for one in seeds]


def _sequences(part: Part) -> list[str | np.ndarray]:
    data: Dataset | None = part.data
    assert data is not None
    if data.texts is not None:
        return [data.texts[i] for i in part.sequence]
    assert data.tokens is not None
    return [data.tokens[i] for i in part.sequence]
