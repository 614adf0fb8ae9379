"""Random Othello games a second; no peer is timed."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.table import Row
from probekit.testbeds import othello


def measure(games: int = 50_000) -> list[Row]:
    """Best of three."""
    best = float("inf")
    for seed in range(3):
        start = time.perf_counter()
        othello.random_games(games, np.random.default_rng(seed))
        best = min(best, time.perf_counter() - start)
    return [Row("random Othello games a second, thousands", games / best / 1e3, float("nan"), float("nan"), "-", "100")]
