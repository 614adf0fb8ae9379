"""`Evidence`: what a monitor did on the part of the texts that neither calibrated it nor set its thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from probekit.monitoring.calibration import Calibration, Reliability
from probekit.monitoring.controls import Control, auroc
from probekit.monitoring.domain import LEVEL, Domain
from probekit.monitoring.false_alarms import Found, Rate


@dataclass(frozen=True)
class Evidence:
    """Honest figures: all of the report part, a third of the texts.

    Attributes:
        asked: The rate of false alarms that was asked for.
        text: False alarms and recall of the alarm on whole texts (`Scored.alarm`).
        running: Of the alarm anywhere in a text while it streams (`Scored.first_alarm`, `watch`).
        auroc, auroc_low, auroc_high: Of the pooled scores, with its 95 % interval over groups; NaN where the part shows one class.
        before, after: Reliability of probabilities as the probe gives them, and calibrated.
        flagged: Share of the texts, which are at home, that were flagged as out of domain at the 5 % level.
        texts: Number of texts by part: `fit` (reference of the domain, calibration, thresholds), `rank` (ranks of the domain,
            calibration, thresholds), `report`.
        negatives: Texts without the alarm class that set the thresholds.
        trained: Whether the probe was trained on part `fit`, which then had no say in calibration and thresholds (`make`).
        controls: What had to be beaten, by name, on the same part (`make`).
        sites: Held-out log-loss by site, in nats, where the site was chosen by it (`make`).
    """

    asked: float
    text: Found
    running: Found
    auroc: float
    before: Reliability
    after: Reliability
    flagged: Rate
    texts: Mapping[str, int]
    negatives: int
    auroc_low: float = math.nan
    auroc_high: float = math.nan
    trained: bool = False
    controls: Mapping[str, Control] = field(default_factory=dict)
    sites: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        *,
        asked: float,
        pooled: np.ndarray,
        peaks: np.ndarray,
        activations: np.ndarray,
        positive: np.ndarray,
        groups: np.ndarray,
        thresholds: tuple[float, float],
        calibration: Calibration,
        domain: Domain,
        texts: Mapping[str, int],
        negatives: int,
        trained: bool = False,
        controls: Mapping[str, Control] | None = None,
        sites: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> Evidence:
        """Of the report part: `[n]` pooled scores, peaks, classes and groups, and `[n, d]` activations."""
        from scipy.special import expit

        both = 0 < positive.sum() < len(positive)
        ranked, low, high = auroc(pooled, positive, groups, seed) if both else (math.nan, math.nan, math.nan)
        return cls(
            asked,
            Found.of(thresholds[0], pooled, positive, groups),
            Found.of(thresholds[1], peaks, positive, groups),
            ranked,
            Reliability.of(expit(pooled), positive),
            Reliability.of(calibration.probability(pooled), positive),
            Rate.of(domain.p_values(activations)[:, 2] <= LEVEL, groups),
            dict(texts),
            negatives,
            low,
            high,
            trained,
            dict(controls or {}),
            dict(sites or {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN and infinities are still numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Evidence:
        readers: dict[str, Any] = {
            "text": Found.from_json, "running": Found.from_json, "before": Reliability.from_json,
            "after": Reliability.from_json, "flagged": Rate.from_json,
            "controls": lambda found: {name: Control.from_json(one) for name, one in found.items()},
        }  # fmt: skip
        return cls(**{name: readers[name](value) if name in readers else value for name, value in facts.items()})

    def lines(self) -> list[str]:
        """For the terminal and the page."""
        return [
            f"measured on {self.texts['report']:,} texts that had no part in it; AUROC {self.auroc:.3f} "
            f"({self.auroc_low:.3f} to {self.auroc_high:.3f})",
            f"whole texts       false alarms {self.text.false_alarms}, {100 * self.asked:.3g} % asked",
            f"                  misses {self.text.recall.rest}",
            f"while streaming   false alarms {self.running.false_alarms}",
            f"                  misses {self.running.recall.rest}",
            f"calibration error {self.before.error:.3f} before, {self.after.error:.3f} after",
            f"out of domain     {self.flagged} of them flagged at the {100 * LEVEL:.0f} % level",
            *(f"{name:<17} {control}" for name, control in self.controls.items()),
        ]
