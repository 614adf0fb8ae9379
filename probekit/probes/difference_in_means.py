"""Difference in means: the line through the class means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from probekit.probes.base import ClosedFormProbe
from probekit.probes.solution import Solution, centred, class_gap, units
from probekit.probes.summary import Summary


class DifferenceInMeans(ClosedFormProbe):
    """Nearest class mean in raw activation space; for two classes the direction is mean of class 1 minus mean of class 0.

    Also known as mass-mean or difference-of-means probe (Marks & Tegmark 2023, "The Geometry of Truth", section 5, without
    their covariance correction, which is `LDAProbe`). It has no parameter and cannot overfit by much.

    The threshold lies halfway between the means, whatever the class frequencies. Scores become logits through one slope
    a target: distance between the means over the within-class variance along it, the distance corrected for what the
    means' own sampling error adds to it.
    """

    family: ClassVar[str] = "difference_in_means"

    def __init__(self) -> None:
        pass

    def _solve_summary(self, summary: Summary, grid: Sequence[float]) -> Solution:
        if summary.class_counts is None or summary.class_means is None:
            raise ValueError(
                "difference in means reads classes, these statistics are of continuous targets: use RidgeProbe"
            )
        means, counts, n = summary.class_means, summary.class_counts, summary.n
        coef = means[None]
        intercept = -0.5 * means.square().sum(-1)[None]
        if means.shape[1] == 2:
            coef, intercept = coef[:, :, 1:] - coef[:, :, :1], intercept[:, :, 1:] - intercept[:, :, :1]
        weights = centred(coef)
        apart = weights.square().sum((-1, -2))  # [1, t]; the squared distance of two means, halved
        within = summary.spread_within(weights).sum(-1) / n
        noise = summary.variance.sum() - (counts * means.square().sum(-1)).sum(-1) / n  # trace of the covariance
        share = 1 - 1 / means.shape[1]
        unbiased = (apart - share * noise * (1 / counts).sum(-1)).clamp(min=1e-3 * apart)
        scale = (unbiased / within.clamp(min=1e-300)).clamp(min=1e-6, max=1e6)
        shape = coef.shape[:2]
        return Solution(
            coef,
            intercept - coef @ summary.mean,
            scale,
            class_gap(coef, means, counts),
            *summary.along(units(coef)),
            torch.ones(shape, dtype=torch.bool),
            torch.ones(shape, dtype=torch.int64),
        )
