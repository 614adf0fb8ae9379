"""Causal agreement: does taking a feature out of the model move the output as a push against the probe's direction does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probekit.data import Dataset
from saes.features import SparseFeatures
from saes.naming.intervention import contribution, mean_interval, one_a_sequence
from saes.naming.running import places_of, runner_of
from saes.overlap import random_directions

if TYPE_CHECKING:
    from probekit.models import Model


@dataclass(frozen=True)
class CausalAgreement:
    """How alike two edits move the logits; arrays are `[pair]`.

    Attributes:
        correlation: Of the changes of the logits, over the vocabulary, by the two edits: mean over rows. NaN where the feature
            fires in fewer than five groups of sequences, or the probe has no direction.
        low, high: 95 % interval, bootstrapped over groups.
        chance: The same for a push of the same length along random directions with the spectrum of the activations.
        rows: Rows, one a group.
    """

    correlation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: np.ndarray
    rows: np.ndarray


def causal_agreement(
    pairs: Sequence[tuple[int, np.ndarray]],
    sae: Any,
    features: SparseFeatures,
    activations: np.ndarray,
    model: Model,
    data: Dataset | Sequence[str],
    *,
    groups: np.ndarray | None = None,
    rows: int = 32,
    seed: int = 0,
) -> CausalAgreement:
    """Edit the stream at rows where features fire: once by taking out the feature, once by a step as long along a probe.

    Args:
        pairs: Feature and direction `[d]` of a probe that is said to read the same thing; NaN where it has none.
        sae: Whose features.
        features: Encoded.
        activations: `[row, d]`, a few thousand at the site, for the covariance of the random directions.
        model, data: The model, and what was captured.
        groups: `[sequence]`; rows are drawn one a group. Left out, every sequence is a group.
        rows: Rows a pair at most, 200 at most.
        seed: Of the rows, the random directions and the bootstrap.
    """
    runner = runner_of(model, data, features.manifest.site)
    random = torch.from_numpy(random_directions(activations, seed).astype(np.float32))
    group = features.sequence if groups is None else groups[features.sequence]
    found = []
    for feature, direction in pairs:
        rng = np.random.default_rng([seed, feature])
        column = features.matrix[:, [feature]].toarray()[:, 0]
        chosen = one_a_sequence(np.flatnonzero(column), group, rows, rng)
        if len(chosen) < 5 or np.isnan(direction).any():
            found.append((np.nan, np.nan, np.nan, np.nan, len(chosen)))
            continue
        step = -contribution(sae, feature, column[chosen])
        length = step.norm(dim=1, keepdim=True)
        push = -torch.from_numpy(direction / np.linalg.norm(direction)).float()[None] * length
        places = places_of(features, chosen)
        before, *after = (logits for logits, _ in runner.run(places, None, step, push, random[: len(chosen)] * length))
        ablated, pushed, control = (logits - before for logits in after)
        same, chance = _correlation(ablated, pushed), _correlation(ablated, control)
        found.append((same.mean(), *mean_interval(same, rng), chance.mean(), len(chosen)))
    correlation, low, high, chance, counted = np.array(found, float).reshape(-1, 5).T
    return CausalAgreement(correlation, low, high, chance, counted.astype(int))


def _correlation(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """`[row]` Pearson correlation over the vocabulary."""
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    found: np.ndarray = torch.nn.functional.cosine_similarity(one, other, dim=1).double().numpy()
    return found
