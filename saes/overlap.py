"""Directions against decoders: how near a probe comes to a feature, how much of it lies in a few features, and whether SAEs
trained from other first weights find the same features."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from probekit.probes import Direction

if TYPE_CHECKING:
    from probekit.probes.stack import ProbeStack

DRAWS = 200
"""Random directions that a probe's is held against."""


@dataclass(frozen=True)
class Overlap:
    """How directions lie among an SAE's decoder vectors; arrays are `[direction]`.

    Figures of a direction that is zero or NaN are NaN, and so is chance where the activations do not vary.

    Attributes:
        feature: The feature whose decoder vector is nearest (by the size of the cosine); -1 for no direction.
        cosine: Its cosine, signed.
        chance: Mean, over random directions with the spectrum of the activations, of the size of their greatest cosine.
        p: Share of those random directions that come as near.
        in_span: `[direction, len(counts)]` share of the direction's squared length that lies in the span of so many
            features, chosen greedily.
        chance_in_span: `[len(counts)]` the same for the random directions, mean.
        counts: Numbers of features of `in_span`.
    """

    feature: np.ndarray
    cosine: np.ndarray
    chance: float
    p: np.ndarray
    in_span: np.ndarray
    chance_in_span: np.ndarray
    counts: tuple[int, ...]


def overlap(
    directions: Sequence[Direction] | np.ndarray,
    sae: Any,
    activations: np.ndarray,
    *,
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32),
    seed: int = 0,
) -> Overlap:
    """Hold directions against an SAE's decoder, beside what random directions of the same spectrum give.

    Activations fill some directions of their space far more than others, and decoder vectors lie in those; so the
    random directions are drawn from a normal distribution with the activations' covariance, not from the sphere.

    Args:
        directions: Of probes at the SAE's site, or `[direction, d]`, in which a row of zeros or NaN is no direction.
        sae: A `sae_lens.SAE`.
        activations: `[row, d]` at the SAE's site, for the covariance; a few thousand rows will do.
        counts: Numbers of features whose span is asked about; none above the width or the dimensions.
        seed: Of the random directions.

    Raises:
        ValueError: directions or activations of another width, or infinite; activations or a decoder with NaN.
    """
    array = isinstance(directions, np.ndarray)
    vectors = np.asarray(directions if array else [np.asarray(d.vector) for d in directions], np.float64)
    decoder = decoder_of(sae)
    for name, given in (("directions", vectors), ("activations", activations)):
        if given.ndim != 2 or given.shape[1] != decoder.shape[1]:
            raise ValueError(f"{name} have shape {given.shape}; the SAE reads {decoder.shape[1]} dimensions")
    none = np.isnan(vectors).all(1) | (vectors == 0).all(1)
    check_finite("direction", vectors[~none])
    vectors = unit(np.where(none[:, None], np.nan, vectors))
    random = random_directions(activations, seed)
    cosine, chance = vectors @ decoder.T, np.abs(random @ decoder.T).max(1)
    best = np.abs(cosine).argmax(1)
    nearest = cosine[np.arange(len(vectors)), best]
    counts = tuple(k for k in counts if k <= min(decoder.shape))
    return Overlap(
        feature=np.where(none, -1, best),
        cosine=nearest,
        chance=float(chance.mean()),
        p=share_as_near(chance, nearest),
        in_span=np.array([_in_span(v, decoder, counts) for v in vectors]).reshape(len(vectors), len(counts)),
        chance_in_span=np.mean([_in_span(v, decoder, counts) for v in random[:32]], axis=0),
        counts=counts,
    )


def direction_of(stack: ProbeStack, target: int | str, class_: str | None = None) -> Direction | None:
    """Of one probe; None where its weights are all zero, as of a class that never occurs (a centre square that is empty)."""
    with contextlib.suppress(ValueError):
        return stack.direction(target, class_)
    return None


def decoder_of(sae: Any) -> np.ndarray:
    """`[feature, d]` float64 decoder vectors of length one; those that are zero stay.

    Raises:
        ValueError: NaN or infinite values.
    """
    decoder: np.ndarray = sae.W_dec.detach().double().cpu().numpy()
    check_finite("decoder vector", decoder)
    return unit(decoder)


def check_finite(what: str, vectors: np.ndarray) -> None:
    """Refuse NaN and infinite values in `[vector, d]`, saying where the first is."""
    wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(wrong):
        raise ValueError(f"{what} {wrong[0]} is NaN or infinite ({len(wrong):,} of {len(vectors):,} are)")


def random_directions(activations: np.ndarray, seed: int | Sequence[int] = 0, count: int = DRAWS) -> np.ndarray:
    """`[count, d]` float64 unit vectors drawn from a normal distribution with the covariance of `activations [row, d]`.

    NaN where all rows are the same, which leaves no spectrum to draw from.

    Raises:
        ValueError: no rows, or NaN or infinite values.
    """
    if not len(activations):
        raise ValueError("there are no activations to take the spectrum of random directions from")
    check_finite("activation row", activations)
    if (activations == activations[0]).all():
        return np.full((count, activations.shape[1]), np.nan)
    centred = np.asarray(activations, np.float64) - activations.mean(0)
    mix = np.random.default_rng(seed).normal(size=(count, len(centred))) / np.sqrt(len(centred))
    return unit(mix @ centred)


def share_as_near(chance: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """`[direction]` p-values: how many of the greatest cosines of random directions reach the size of each cosine.

    Args:
        chance: `[draw]`, or `[draw, direction]`.
        cosine: `[direction]`; p is NaN where it or the chance is.
    """
    by_draw = chance.reshape(len(chance), -1)
    p = (1 + (by_draw >= np.abs(cosine)).sum(0)) / (1 + len(chance))
    known: np.ndarray = np.where(np.isnan(cosine) | np.isnan(by_draw).any(0), np.nan, p)
    return known


def _in_span(vector: np.ndarray, decoder: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad 1993): share of the length explained by k features."""
    if np.isnan(vector).any():
        return np.full(len(counts), np.nan)
    left, basis, shares = vector.copy(), np.empty((0, len(vector))), []
    for _ in range(max(counts, default=0)):
        column = decoder[np.abs(decoder @ left).argmax()]
        for _ in range(2):  # twice, so that rounding does not add up
            column = column - basis.T @ (basis @ column)
        length = np.linalg.norm(column)
        if length > 1e-9:
            basis = np.vstack([basis, column / length])
            left = left - basis[-1] * (basis[-1] @ left)
        shares.append(1 - float(left @ left))
    return np.array([shares[k - 1] for k in counts])


@dataclass(frozen=True)
class Stability:
    """Whether features come back in SAEs that were trained from other first weights.

    Attributes:
        cosine: `[feature]` of the first SAE: mean over the others of the cosine with the feature it is matched to.
        matches: `[other, feature]` which feature that is.
        chance: The same mean for directions drawn at random, all features pooled.
    """

    cosine: np.ndarray
    matches: np.ndarray
    chance: float


def stability(saes: Sequence[Any], *, seed: int = 0) -> Stability:
    """Match the features of the first SAE with those of each other, one to one, by the cosine of decoder vectors.

    Source: Paulo & Belrose 2025 (arXiv 2501.16615), Hungarian matching.

    Args:
        saes: Two or more, of one site and one width.
        seed: Of the random directions of `chance`.

    Raises:
        ValueError: fewer than two, of different shapes, or with NaN or infinite decoder vectors.
    """
    shapes = {tuple(sae.W_dec.shape) for sae in saes}
    if len(saes) < 2 or len(shapes) != 1:
        raise ValueError(f"stability needs two or more SAEs of one shape, got {len(saes)} of {sorted(shapes)}")
    for sae in saes:
        check_finite("decoder vector", sae.W_dec.detach().float().cpu().numpy())
    first, *others = [torch.nn.functional.normalize(sae.W_dec.detach().float().cpu(), dim=1).numpy() for sae in saes]
    matched = [_matched(first, other) for other in others]
    rng = np.random.default_rng(seed)
    _, by_chance = _matched(first, unit(rng.normal(size=first.shape).astype(np.float32)))
    return Stability(
        cosine=np.mean([cosine for _, cosine in matched], axis=0),
        matches=np.stack([match for match, _ in matched]),
        chance=float(by_chance.mean()),
    )


def _matched(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cosine = one @ other.T
    rows, match = linear_sum_assignment(-cosine)
    return match, cosine[rows, match]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows brought to length one; a zero row stays."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    out: np.ndarray = vectors / np.maximum(length, np.finfo(vectors.dtype).tiny)
    return out
