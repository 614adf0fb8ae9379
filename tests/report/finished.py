"""A finished sweep made of invented but lifelike numbers, with the attributes that pages read from a `SweepResult`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

CLASS_METRICS = ("accuracy", "balanced_accuracy", "auroc", "recall_at_1pct", "log_loss", "calibration_error")
SQUARES = tuple(f"{'abcdefgh'[i % 8]}{i // 8 + 1}" for i in range(64))


@dataclass(frozen=True)
class Best:
    site: str
    value: float
    low: float
    high: float
    tied: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    frame: pd.DataFrame
    bests: dict[str, Best]
    classes: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        return self.frame

    def best(self, label_set: str) -> Best:
        return self.bests[label_set]

    def confusion(self, label_set: str) -> pd.DataFrame:
        classes = self.classes[label_set]
        rng = np.random.default_rng(len(label_set))
        return pd.DataFrame(
            [
                {"data": "test", "target": "mean", "true": t, "predicted": p, "n": int(rng.integers(9000, 9900) if t == p else rng.integers(10, 900))}
                for t in classes
                for p in classes
            ],
            columns=["data", "target", "true", "predicted", "n"],
        )

    def calibration(self, label_set: str) -> pd.DataFrame:
        if not self.classes[label_set]:
            return pd.DataFrame(columns=["data", "confidence", "accuracy", "n"])
        confidence = np.array([0.37, 0.44, 0.5, 0.57, 0.63, 0.7, 0.77, 0.84, 0.9, 0.985])
        n = np.array([3, 40, 160, 240, 300, 410, 560, 800, 1500, 21000])
        return pd.DataFrame({"data": "test", "confidence": confidence, "accuracy": confidence - 0.03 * (1 - confidence), "n": n})


def stream_sites(layers: int) -> list[str]:
    return ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(layers))]


def finished(
    label_sets: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None,
    *,
    sites: list[str] | None = None,
    ood: tuple[str, ...] = (),
    **more: Any,
) -> Finished:
    """`label_sets`: name -> (classes, targets); no classes makes it continuous."""
    label_sets = label_sets or {"tile": (("mine", "theirs", "empty"), SQUARES), "stable": (("no", "yes"), SQUARES)}
    sites = sites or stream_sites(6)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    bests = {}
    curve = 1 - np.exp(-np.linspace(0.3, 3.0, len(sites)))
    curve[-1] -= 0.02
    for name, (classes, targets) in label_sets.items():
        metrics = CLASS_METRICS if classes else ("r2", "spearman")
        chance = 1 / len(classes) + 0.1 if classes else 0.0
        for metric in metrics:
            lower = metric in ("log_loss", "calibration_error")
            for data in ("test", *ood):
                drop = 1.0 if data == "test" else 0.7 - 0.3 * rng.random()
                for source in ("model", "majority", "shuffled", "control_task", "random_weights", "surface"):
                    if data != "test" and source not in ("model", "majority"):
                        continue
                    lift = {"model": curve * 0.55 * drop, "random_weights": 0.25 * curve, "surface": 0 * curve + 0.21, "control_task": 0.1 * curve}
                    values = chance + lift.get(source, 0 * curve) + (0.005 * rng.standard_normal(len(sites)) if source == "shuffled" else 0)
                    if lower:
                        values = 1.0 - values
                    for i, site in enumerate(sites):
                        offset = 0.04 * rng.standard_normal(len(targets)) if len(targets) > 1 and source == "model" else np.zeros(len(targets))
                        pairs = list(zip(targets, np.clip(values[i] + offset, -1, 1), strict=True))
                        if len(targets) > 1:
                            pairs.append(("mean", values[i]))
                        for target, value in pairs:
                            half = 0.012 if source != "majority" else 0.004
                            rows.append({
                                "site": site, "layer": i - 1, "label_set": name, "target": target, "data": data, "source": source, "metric": metric,
                                "value": value, "low": value - half, "high": min(1, value + half), "n": 24000 if data == "test" else 1500,
                            })  # fmt: skip
        value = chance + 0.55 * curve[-2]
        bests[name] = Best(sites[-2], value, value - 0.012, value + 0.012, (sites[-2], sites[-1]))
    return Finished(pd.DataFrame(rows), bests, {n: c for n, (c, _) in label_sets.items()}, **more)
