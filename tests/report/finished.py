"""A finished sweep made of invented but lifelike numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probekit.probes.metrics import BINS, metrics_for
from probekit.probes.result import COLUMNS, SOURCES, LabelSummary, SiteTables, SweepResult

SQUARES = tuple(f"{'abcdefgh'[i % 8]}{i // 8 + 1}" for i in range(64))
OTHELLO = {"tile": (("mine", "theirs", "empty"), SQUARES), "stable": (("no", "yes"), SQUARES)}
LOWER = ("log_loss", "calibration_error", "false_alarm_rate")


def stream_sites(layers: int) -> tuple[str, ...]:
    return ("blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(layers)))


def finished(
    label_sets: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None,
    *,
    sites: tuple[str, ...] = stream_sites(6),
    ood: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    sources: tuple[str, ...] = SOURCES,
    manifest: dict[str, Any] | None = None,
) -> SweepResult:
    """`label_sets`: name -> (classes, targets); a set without classes is continuous. The last site but one is best."""
    label_sets = label_sets or OTHELLO
    rng = np.random.default_rng(0)
    curve = 1 - np.exp(-np.linspace(0.3, 3.0, len(sites)))
    if len(sites) > 1:
        curve[-1] = curve[-2] - 0.004
    figures: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    validation, draws, tables, summaries = {}, {}, {}, []
    for name, (classes, targets) in label_sets.items():
        kind = "continuous" if not classes else "binary" if len(classes) == 2 else "multiclass"
        validation[name], draws[name] = {}, {}
        for metric in metrics_for(kind):
            sign = -1 if metric.name in LOWER else 1
            base = 0.9 if sign < 0 else 0.0 if kind == "continuous" else 1 / len(classes)
            room = 0.85 if sign < 0 else 0.97 - base
            for data in ("test", *ood):
                for source in sources:
                    if source == "control_task" and data != "test":
                        continue
                    heights = _heights(source, curve, data, rng)
                    places = (
                        [(None, heights[0])]
                        if source in ("majority", "surface")
                        else list(zip(sites, heights, strict=True))
                    )
                    for site, height in places:
                        _add(figures, rng, name, targets, metric.name, data, source, site, base + sign * room * height)
            scores = base + sign * room * _heights("model", curve, "test", rng)
            validation[name][metric.name] = scores
            draws[name][metric.name] = (scores[:, None] + 0.004 * rng.standard_normal((len(sites), 200))).astype(
                np.float32
            )
        if "control_task" in sources:
            for site, height in zip(sites, curve, strict=True):
                _add(figures, rng, name, targets, "selectivity", "test", "model", site, 0.4 * height)
        if classes:
            tables[name] = {data: _tables(rng, len(sites), len(targets), len(classes)) for data in ("test", *ood)}
        rows = {"train": 20000, "valid": 5000, "test": 10000, **dict.fromkeys(ood, 1500)}
        summaries.append(
            LabelSummary(
                name, kind, "token", classes, targets, rows, "made up", "the token id (60 of them in training)"
            )
        )
    return SweepResult(
        sites=sites,
        layers=tuple(None for _ in sites),
        label_sets=tuple(summaries),
        figures=figures,
        validation=validation,
        draws=draws,
        tables=tables,
        probes={name: {} for name in label_sets},
        notes=notes,
        manifest={"title": "logistic probes of a-model on made-up data", "seed": 0} if manifest is None else manifest,
    )


def _heights(source: str, curve: np.ndarray, data: str, rng: np.random.Generator) -> np.ndarray:
    """How much of what there is to read each site of a source shows, 0..1."""
    drop = 1.0 if data == "test" else 0.75 - 0.02 * len(data)
    return {
        "model": drop * curve,
        "random_weights": 0.4 * curve,
        "surface": np.full_like(curve, 0.35),
        "control_task": 0.2 * curve,
        "majority": np.full_like(curve, 0.05),
        "shuffled": 0.05 + 0.01 * rng.standard_normal(len(curve)),
    }[source]


def _add(
    figures: dict[str, list[Any]],
    rng: np.random.Generator,
    name: str,
    targets: tuple[str, ...],
    metric: str,
    data: str,
    source: str,
    site: str | None,
    value: float,
) -> None:
    offsets = 0.03 * rng.standard_normal(len(targets)) if len(targets) > 1 else np.zeros(1)
    n = 10000 if data == "test" else 1500
    for target, shown in [*zip(targets, np.minimum(value + offsets, 1.0), strict=True), ("mean", value)]:
        row = (
            site,
            None,
            name,
            target,
            data,
            source,
            metric,
            float(shown),
            float(shown) - 0.012,
            min(1.0, float(shown) + 0.012),
            n,
        )
        for column, entry in zip(COLUMNS, row, strict=True):
            figures[column].append(entry)


def _tables(rng: np.random.Generator, sites: int, targets: int, classes: int) -> SiteTables:
    confusion = rng.integers(5, 300, (sites, targets, classes, classes)) + 3000 * np.eye(classes, dtype=int)
    n = np.round(np.geomspace(2, 30000, BINS)) * (np.arange(BINS) >= BINS // classes)
    confidence = (np.arange(BINS) + 0.55) / BINS
    bins = np.stack([confidence * n, (confidence - 0.05 * (1 - confidence)) * n, n], -1)
    return SiteTables(confusion, np.broadcast_to(bins, (sites, BINS, 3)).copy())


def a_game(moves: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """`(belief [move, 64, 3], truth [move, 64], moves)` of black, white, empty; no real game, but it looks like one."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(64)[:moves]
    truth = np.full((moves, 64), 2)
    for move, square in enumerate(order):
        truth[move:, square] = move % 2
        filled = np.flatnonzero(truth[move] < 2)
        truth[move:, rng.choice(filled, min(2, len(filled)), replace=False)] = move % 2
    logits = 1.6 * rng.standard_normal((moves, 64, 3)) + 5.0 * np.eye(3)[truth]
    belief = np.exp(logits)
    return belief / belief.sum(-1, keepdims=True), truth, [SQUARES[i] for i in order]


def with_column(result: SweepResult, name: str, entries: Sequence[object]) -> SweepResult:
    """The same with another column of figures."""
    return replace(result, figures={**result.figures, name: entries})
