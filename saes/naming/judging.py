"""Is a name true of its feature? Judged by what the name says about rows that played no part in making it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from saes.naming.names import Evidence
from saes.scoring.feature_scores import Half, drawn_sums, ends
from saes.scoring.scores import fired, null_variance

NEIGHBOURS = 5
"""Nearest features whose firing makes a row a hard negative."""
SHUFFLES = 20
"""Names of other features that a feature is tried with."""
_CHUNK = 128

Covers: TypeAlias = Callable[[], tuple[np.ndarray, np.ndarray | None]]
"""`[row]` bool: where what a name says is true, and where that is known (None: everywhere)."""


@dataclass(frozen=True)
class Claim:
    """That a name tells when a feature fires.

    Attributes:
        feature: Which.
        threshold: The feature fires where its activation is at least this (and above zero).
        covers: The rows the name covers, of the half it is judged on.
        sample: What it covers is known at rows alone that were drawn by whether this feature fires there: says nothing about
            other features, nor of how often the feature fires among the rows covered (recall and F1 are NaN).
    """

    feature: int
    threshold: float
    covers: Covers
    sample: bool = False


def nearest_features(sae: Any, count: int = NEIGHBOURS) -> np.ndarray:
    """`[feature, count]` the features whose decoder vectors have the greatest cosines with each one's."""
    import torch

    decoder = torch.nn.functional.normalize(sae.W_dec.detach().float().cpu(), dim=1)
    count = min(count, len(decoder) - 1)
    found = []
    for start in range(0, len(decoder), 1024):
        cosine = decoder[start : start + 1024] @ decoder.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -2
        found.append(cosine.topk(count, dim=1).indices)
    nearest: np.ndarray = torch.cat(found).numpy()
    return nearest


def judge(half: Half, claims: Sequence[Claim], neighbours: np.ndarray, *, seed: int = 0) -> list[Evidence]:
    """Evidence for names.

    Beside the accuracy against all silent rows stands that against the hard ones, where one of the nearest features fires: a
    name may well be beyond chance and yet say no more than what a feature has in common with its neighbours.

    The test: with `u_c` a sequence's sum of (covered - mean) x (fires - mean), `sum u_c / sqrt(sum u_c^2)` is compared with
    Student's t (a score test with clustered variance; Liang & Zeger 1986). It cannot exceed the square root of the number of
    sequences that bear on it, so that a handful of coincidences is never significant. Where the name covers nearly everything,
    the few firing rows that would speak against it are easily all missed and `u_c` hardly varies; so the variance is at least
    what independence would give (`null_variance`).

    Args:
        half: Rows that played no part in making the names.
        claims: Any number of them a feature.
        neighbours: `[feature, n]` from `nearest_features`.
        seed: Of the bootstrap and of which other names a feature is tried with.

    Returns:
        One a claim, in order. `q` is NaN: it depends on which claims say enough to be names (see `controlled`).
    """
    judged: list[Evidence] = []
    for start in range(0, len(claims), _CHUNK):
        judged += _judged(half, claims[start : start + _CHUNK], neighbours, seed)
    return judged


def controlled(p: np.ndarray, enough: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """`[claim]` q-values: the expected share of false names among those given when all with a q up to this one are.

    A false name is one with no association at all. What counts is the names that are *given*: one a feature, of claims that say
    enough. So a claim that does not has p = 1, all claims are counted as tried, and features with a name take the place of
    rejections in Benjamini and Hochberg's rule. (Correcting first and asking afterwards how much a claim says promises nothing of
    the names: many weak associations make room for false ones, which then pass by luck.) The rule is self-consistent in the sense
    of Blanchard & Roquain 2008, "Two simple sufficient conditions for FDR control" (arXiv 0802.1406), section 2, and so controls the
    share under the same dependence as Benjamini and Hochberg's (of these p-values, those that do not say enough at 1), whatever it is
    between the claims of one feature.

    Args:
        p: `[claim]` of `judge`.
        enough: `[claim]` bool: whether it would be a name, were it beyond chance.
        feature: `[claim]` which it is about.
    """
    p = np.nan_to_num(np.where(enough, p, 1.0), nan=1.0)
    _, number = np.unique(feature, return_inverse=True)
    best = np.ones(number.max(initial=-1) + 1)
    np.minimum.at(best, number, p)
    best = np.sort(best)
    at_best = np.append(len(p) * best / np.arange(1, len(best) + 1), np.inf)
    from_here = np.minimum.accumulate(at_best[::-1])[::-1]
    at_own = len(p) * p / np.searchsorted(best, p, side="right")
    q: np.ndarray = np.minimum(np.minimum(at_own, from_here[np.searchsorted(best, p)]), 1.0)
    return q


def _judged(half: Half, claims: Sequence[Claim], neighbours: np.ndarray, seed: int) -> list[Evidence]:
    clusters = int(half.cluster.max()) + 1
    covers = [claim.covers() for claim in claims]
    firing = [firing_rows(half, claim.feature, claim.threshold) for claim in claims]
    # [cluster, claim, 6]: covered and fires, fires, covered, known; and of the hard silent rows: covered, known
    sums = np.zeros((clusters, len(claims), 6))
    for i, (claim, (said, known)) in enumerate(zip(claims, covers, strict=True)):
        rows, hard = firing[i], hard_rows(half, claim.feature, neighbours)
        if known is not None:
            rows, hard, said = rows[known[rows]], hard[known[hard]], said & known
        everywhere = np.arange(len(said)) if known is None else np.flatnonzero(known)
        counted = (rows[said[rows]], rows, np.flatnonzero(said), everywhere, hard[said[hard]], hard)
        for k, part in enumerate(counted):
            sums[:, i, k] = np.bincount(half.cluster[part], minlength=clusters)
    total, drawn = _figures(sums.sum(0)), _figures(drawn_sums(sums, seed))
    low = {name: ends(values)[0] for name, values in drawn.items()}
    p = _clustered_p(*np.moveaxis(sums[..., :4], 2, 0))
    shuffled = _shuffled(claims, covers, firing, seed)
    found = [
        Evidence(
            **{name: float(values[i]) for name, values in total.items()},
            **{f"{name}_low": float(low[name][i]) for name in low if name != "f1"},
            threshold=float(claim.threshold),
            rows=int(sums[:, i, 1].sum()),
            p=float(p[i]),
            shuffled=float(shuffled[i]),
        )
        for i, claim in enumerate(claims)
    ]
    nan = float("nan")
    return [
        replace(one, recall=nan, recall_low=nan, f1=nan, shuffled=nan) if claim.sample else one
        for claim, one in zip(claims, found, strict=True)
    ]


def firing_rows(half: Half, feature: int, threshold: float) -> np.ndarray:
    """Rows of the half where a feature's activation is at least `threshold`."""
    rows, values = fired(half.features, feature)
    strong: np.ndarray = rows[values >= threshold]
    return strong


def hard_rows(half: Half, feature: int, neighbours: np.ndarray) -> np.ndarray:
    """Rows where one of the nearest features fires and this one does not, not even below its threshold."""
    near = np.zeros(half.features.shape[0], bool)
    for other in neighbours[feature]:
        near[firing_rows(half, int(other), 0.0)] = True
    near[firing_rows(half, feature, 0.0)] = False
    return np.flatnonzero(near)


def _figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and accuracies from `[..., claim, 6]`; NaN where undefined."""
    true, fires, covered, known, hard_covered, hard_known = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        caught = true / fires
        return {
            "precision": caught,
            "recall": true / covered,
            "f1": np.where(fires + covered > 0, 2 * true / (fires + covered), 0.0),
            "balanced_accuracy": (caught + 1 - (covered - true) / (known - fires)) / 2,
            "hard_accuracy": (caught + 1 - hard_covered / hard_known) / 2,
        }


def _clustered_p(true: np.ndarray, fires: np.ndarray, covered: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`[claim]` one-sided p-values from `[cluster, claim]` counts."""
    n = np.maximum(rows.sum(0), 1)
    share, rate = covered.sum(0) / n, fires.sum(0) / n
    u = true - rate * covered - share * fires + share * rate * rows
    label, feature = np.square(covered - share * rows).sum(0), np.square(fires - rate * rows).sum(0)
    null = null_variance(n * share * (1 - share), n * rate * (1 - rate), label, feature, n, (rows > 0).sum(0))
    spread = np.sqrt(np.maximum(np.square(u).sum(0), null))
    z = np.divide(u.sum(0), spread, out=np.zeros(len(n)), where=spread > 1e-9)
    p: np.ndarray = stats.t.sf(z, np.maximum((fires > 0).sum(0) - 1, 1))
    return np.where(fires.sum(0) > 0, p, 1.0)


def _shuffled(claims: Sequence[Claim], covers: Sequence[Any], firing: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """`[claim]` mean balanced accuracy of names of other features; NaN where there is none that says something else."""
    rng = np.random.default_rng([seed, 0x5AFF])
    feature, sample = np.array([(claim.feature, claim.sample) for claim in claims]).T
    covered = np.array([np.count_nonzero(said if known is None else said & known) for said, known in covers])
    counted = np.array([len(said) if known is None else np.count_nonzero(known) for said, known in covers])
    out = np.full(len(claims), np.nan)
    for i, rows in enumerate(firing):
        others = np.flatnonzero((feature != feature[i]) & (sample == 0))
        accuracies = []
        for j in rng.permutation(others)[:SHUFFLES]:
            said, known = covers[j]
            if covered[j] == covered[i] and np.array_equal(said, covers[i][0]):
                continue  # the same name: no control
            fires = len(rows) if known is None else np.count_nonzero(known[rows])
            true = np.count_nonzero(said[rows] if known is None else said[rows] & known[rows])
            if fires and counted[j] > fires:
                accuracies.append((true / fires + 1 - (covered[j] - true) / (counted[j] - fires)) / 2)
        if accuracies:
            out[i] = np.mean(accuracies)
    return out
