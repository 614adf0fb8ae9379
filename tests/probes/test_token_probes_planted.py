"""Probes of whole texts find what was planted: in one token, in a passage, in the covariance, in the mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probekit.probes import LogisticProbe
from probekit.probes.attention import AttentionProbe
from probekit.probes.moment import MomentProbe
from probekit.probes.token_probe import TokenProbe
from probekit.probes.window import MultiMaxProbe, RollingMeanProbe
from tests.probes.some_texts import means_of

Planted = tuple[np.ndarray, np.ndarray, np.ndarray]  # X [row, d], y [text], sequence [row]
D = 24
KNOWN = np.linalg.qr(np.random.default_rng(7).normal(size=(D, D)))[0]  # directions that things are planted along


def noise(n: int, seed: int, low: int = 20, high: int = 60) -> tuple[Planted, np.ndarray, np.random.Generator]:
    """Texts of noise of about 40 tokens, where each starts, and the generator."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(low, high, n)
    sequence = np.repeat(np.arange(n), lengths)
    X = rng.normal(size=(len(sequence), D)).astype(np.float32)
    return (X, rng.integers(0, 2, n), sequence), np.concatenate([[0], lengths.cumsum()]), rng


def one_token(n: int, seed: int, strength: float = 6.0) -> tuple[Planted, np.ndarray]:
    """Texts of class 1 have one token that stands out, at an unknown place; also its row (-1 in class 0)."""
    (X, y, sequence), starts, rng = noise(n, seed)
    at = starts[:-1] + (rng.random(n) * np.diff(starts)).astype(int)
    X[at[y == 1]] += strength * KNOWN[0]
    return (X, y, sequence), np.where(y == 1, at, -1)


def one_of_two_tokens(n: int, seed: int) -> Planted:
    """One token a text is marked; what stands beside the mark tells the classes apart. Others have it too, unmarked."""
    (X, y, sequence), starts, rng = noise(n, seed)
    at = starts[:-1] + (rng.random(n) * np.diff(starts)).astype(int)
    X += 1.5 * rng.normal(size=(len(X), 1)) * KNOWN[1]
    X[at] += 4 * KNOWN[0] + np.outer(2 * y - 1, 4 * KNOWN[1])
    return X, y, sequence


def one_passage(n: int, seed: int) -> Planted:
    """Eight tokens in a row lean one way, by what single tokens do too, in texts of 80 to 160 tokens."""
    (X, y, sequence), starts, rng = noise(n, seed, 80, 160)
    at = starts[:-1] + (rng.random(n) * (np.diff(starts) - 8)).astype(int)
    for start in at[y == 1]:
        X[start : start + 8] += 2 * KNOWN[0]
    single = np.setdiff1d(rng.permutation(len(X))[: 8 * n], np.concatenate([np.arange(s, s + 8) for s in at]))
    X[single] += 2 * KNOWN[0]  # as many do so alone, in both classes
    return X, y, sequence


def covariance_only(n: int, seed: int) -> Planted:
    """Two strong directions, correlated over the tokens of a text in class 1 alone; means of texts are noise."""
    (X, y, sequence), _, rng = noise(n, seed)
    a, b = 3 * rng.normal(size=(2, len(X), 1))
    b = np.where(y[sequence][:, None] == 1, 0.7 * a + 0.714 * b, b)
    X += (a * KNOWN[0] + b * KNOWN[1]).astype(np.float32)
    for t in range(n):
        X[sequence == t] -= X[sequence == t].mean(0) - 0.1 * rng.normal(size=D)
    return X, y, sequence


def mean_only(n: int, seed: int) -> Planted:
    """All tokens lean a little."""
    (X, y, sequence), _, _ = noise(n, seed)
    X += np.outer(2 * y[sequence] - 1, 0.3 * KNOWN[0]).astype(np.float32)
    return X, y, sequence


def accuracies(make: Callable[[int, int], Planted], probes: list[TokenProbe], n: int = 500) -> list[float]:
    """Of the mean-pooled logistic probe, and of each probe, on 500 new texts."""
    X, y, sequence = make(n, 0)
    new_X, new_y, new_sequence = make(500, 1)
    pooled = max(
        LogisticProbe(C).fit(means_of(X, sequence), y).score(means_of(new_X, new_sequence), new_y)
        for C in (0.01, 0.1, 1)
    )
    found = [probe.fit(X, y, sequence=sequence).score(new_X, new_y, sequence=new_sequence) for probe in probes]
    assert all(probe.converged_ for probe in probes)
    return [pooled, *found]


def test_one_token_among_forty():
    probes = [AttentionProbe(C=0.1), MultiMaxProbe(C=0.1), MultiMaxProbe(heads=2, C=0.1), RollingMeanProbe(3, C=0.1)]
    pooled, attention, peak, two_heads, rolling = accuracies(lambda n, seed: one_token(n, seed)[0], probes)
    assert pooled < 0.75
    assert min(attention, peak, two_heads) > 0.95
    assert rolling > 0.88
    # The shares point to the token, and so does attention; in class 0 there is none.
    (X, _, sequence), at = one_token(200, 2)
    for probe in probes:
        shares = probe.token_scores(X, sequence)
        highest = np.array([np.flatnonzero(sequence == t)[shares[sequence == t].argmax()] for t in range(200)])
        near = 2 if isinstance(probe, RollingMeanProbe) else 0
        assert np.mean(np.abs(highest - at)[at >= 0] <= near) > 0.9, probe
    weights = probes[0].attention(X, sequence)[:, 0]
    assert weights[at[at >= 0]].mean() > 0.5


def test_a_mark_says_which_token_to_read():
    pooled, attention, two_heads = accuracies(one_of_two_tokens, [AttentionProbe(C=0.1), AttentionProbe(2, C=0.1)])
    assert pooled < 0.72
    assert min(attention, two_heads) > 0.9


def test_a_passage_in_a_long_text():
    pooled, rolling, peak = accuracies(one_passage, [RollingMeanProbe(8, C=0.1), MultiMaxProbe(C=0.1)], n=300)
    assert rolling > 0.9
    assert rolling > max(pooled, peak) + 0.15


@pytest.mark.parametrize("heads", [1, 2])
def test_a_label_in_the_covariance_alone(heads):
    moment, first = MomentProbe(rank=8, C=0.1, heads=heads), MomentProbe(order=1, C=0.1)
    pooled, both, mean = accuracies(covariance_only, [moment, first])
    assert max(pooled, mean) < 0.58
    assert both > 0.9
    assert moment.projection_.shape == (D, 8)
    # The plane of the two directions comes first, without a label having been seen.
    found = np.linalg.qr(moment.projection_[:, :2])[0]
    assert np.linalg.svd(found.T @ KNOWN[:2].T)[1].min() > 0.9


def test_on_a_label_in_the_mean_all_agree():
    probes = [
        AttentionProbe(C=0.01),
        MomentProbe(C=0.01),
        MomentProbe(order=1, C=0.01),
        RollingMeanProbe(60, C=0.01),
    ]
    pooled, *found = accuracies(mean_only, probes)
    assert pooled > 0.95
    assert min(found) > pooled - 0.03


def test_three_classes_each_with_its_token():
    (X, _, sequence), starts, rng = noise(600, 3)
    y = rng.integers(0, 3, 600)
    X[starts[:-1] + rng.integers(0, 20, 600)] += 5 * KNOWN[y].astype(np.float32)
    train, test = sequence < 400, sequence >= 400
    pooled = LogisticProbe(0.1).fit(means_of(X, sequence)[:400], y[:400]).score(means_of(X, sequence)[400:], y[400:])
    for probe in (AttentionProbe(C=0.1), MultiMaxProbe(C=0.1)):
        probe.fit(X[train], y[:400], sequence=sequence[train])
        accuracy = probe.score(X[test], y[400:], sequence=sequence[test] - 400)
        assert accuracy > max(0.85, pooled + 0.25)


def test_a_penalty_of_queries_alone_evens_attention_out():
    X, y, sequence = one_token(200, 0)[0]
    spread = [
        AttentionProbe(C=0.1, query_C=q).fit(X, y, sequence=sequence).attention(X, sequence).max()
        for q in (1e-6, 1e-3, 0.1)
    ]
    assert spread[0] < 0.06 < spread[1] < spread[2]


def test_one_component_has_a_variance_to_read():
    (_, y, sequence), _, rng = noise(200, 0)
    wide = np.where(y[sequence] == 1, 2.0, 1.0)
    X = (wide * rng.normal(size=len(sequence))).astype(np.float32)[:, None]
    half = sequence < 100
    for probe in (MomentProbe(rank=1, C=1.0), MomentProbe(C=1.0)):
        probe.fit(X[half], y[:100], sequence=sequence[half])
        said = probe.predict(X[~half], sequence=sequence[~half] - 100)
        assert (said == y[100:]).mean() > 0.9
