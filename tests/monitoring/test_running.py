"""Scores pooled as they come are those of the whole text, however it is cut into pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.monitoring.running import POOLS, Alarms, Running, peak

SCORES = st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=20)


def by_hand(pool: str, scores: list[float]) -> float:
    if not scores:
        return float("nan")
    return {"last": scores[-1], "mean": float(np.mean(scores)), "max": max(scores)}[pool]


@pytest.mark.parametrize("pool", POOLS)
@given(tokens=SCORES, cuts=st.lists(st.integers(0, 20), max_size=4), warm_up=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_pieces_say_what_the_whole_says(pool, tokens, cuts, warm_up):
    scores, counted = (np.array([column]) for column in zip(*tokens, strict=True))
    whole, ready = Running(pool, 1, warm_up).add(scores, counted)
    for t in range(scores.shape[1]):
        before = [s for s, c in tokens[: t + 1] if c]
        np.testing.assert_allclose(whole[0, t], by_hand(pool, before), atol=1e-9)
        assert ready[0, t] == (tokens[t][1] and len(before) > warm_up)
    running = Running(pool, 1, warm_up)
    edges = sorted({0, scores.shape[1], *(min(c, scores.shape[1]) for c in cuts)})
    pieces = [running.add(scores[:, a:b], counted[:, a:b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.concatenate([p[0] for p in pieces], 1), whole, atol=1e-9)
    np.testing.assert_array_equal(np.concatenate([p[1] for p in pieces], 1), ready)
    assert peak(whole, ready) == (whole[ready].max() if ready.any() else -np.inf)


@given(over=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=16), patience=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_patience_counts_tokens_in_a_row(over, patience):
    so_far = np.array([[1.0 if high else -1.0 for high, _ in over]])
    ready = np.array([[counts for _, counts in over]])
    alarms = Alarms(0.0, 1, patience)
    found = np.concatenate([alarms.add(so_far[:, t : t + 1], ready[:, t : t + 1]) for t in range(len(over))], 1)
    np.testing.assert_array_equal(found, Alarms(0.0, 1, patience).add(so_far, ready))
    for t, (high, counts) in enumerate(over):
        last = [h for h, c in over[: t + 1] if c][-patience:]
        assert found[0, t] == (high and counts and len(last) == patience and all(last))


def test_sequences_do_not_mix():
    scores = np.arange(6.0).reshape(2, 3)
    counted = np.array([[True, False, True], [False, True, True]])
    both, _ = Running("mean", 2).add(scores, counted)
    np.testing.assert_allclose(both, [[0, 0, 1], [np.nan, 4, 4.5]])


def test_a_patience_that_is_none_is_refused():
    for patience in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="patience is a number of tokens"):
            Alarms(0.0, 1, patience)
