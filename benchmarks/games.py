"""How fast the testbeds' worlds are: random Othello games, and Karel programs run; no peer is timed."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.table import Row
from probekit.testbeds import karel, othello


def measure(games: int = 50_000) -> list[Row]:
    """Best of three, of each."""
    best = float("inf")
    for seed in range(3):
        start = time.perf_counter()
        othello.random_games(games, np.random.default_rng(seed))
        best = min(best, time.perf_counter() - start)
    nan = float("nan")
    return [
        Row("random Othello games a second, thousands", games / best / 1e3, nan, nan, "-", "100"),
        Row("Karel programs of 10 actions a second, thousands", programs_a_second(games) / 1e3, nan, nan, "-", "100"),
    ]


def programs_a_second(programs: int) -> float:
    """Programs of 10 actions, each in a world of its own, with every state kept; errors pass, so that all actions are run."""
    rng = np.random.default_rng(0)
    words, worlds = karel.random_programs(programs, rng, lengths=(10, 10)), karel.random_worlds(programs, rng)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        karel.run(words, worlds, errors="pass")
        best = min(best, time.perf_counter() - start)
    return programs / best
