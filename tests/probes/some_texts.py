"""Texts with uneven tokens, and the probes that read them, for the tests of token probes."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.probes.attention import AttentionProbe
from probekit.probes.moment import MomentProbe
from probekit.probes.token_probe import TokenProbe
from probekit.probes.window import MultiMaxProbe, RollingMeanProbe

PROBES = [
    AttentionProbe(C=0.1),
    AttentionProbe(heads=2, C=0.1),
    MultiMaxProbe(C=0.1),
    MultiMaxProbe(heads=2, C=0.1),
    RollingMeanProbe(window=3, C=0.1),
    MomentProbe(rank=4, C=0.1),
    MomentProbe(rank=4, C=0.1, heads=2),
    MomentProbe(order=1, C=0.1),
]
every_probe = pytest.mark.parametrize("probe", PROBES, ids=[repr(p).split(", tol")[0] for p in PROBES])


def fresh(probe: TokenProbe) -> TokenProbe:
    return type(probe)(**probe.get_params())


def some_texts(n: int = 60, d: int = 6, classes: int = 2, seed: int = 0, dtype: str = "float64"):
    """`X, y, sequence`: texts of 1 to 12 tokens with uneven scales and offsets, rows of all texts mixed up."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    sequence = rng.permutation(np.repeat(np.arange(n), rng.integers(1, 13, n)))
    X = rng.normal(size=(len(sequence), d))
    X[np.arange(len(X)), y[sequence]] += 1
    return (X * rng.uniform(0.1, 30, d) + rng.normal(size=d) * 20).astype(dtype), y, sequence


def means_of(X: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    return np.stack([X[sequence == t].mean(0) for t in range(sequence.max() + 1)])
