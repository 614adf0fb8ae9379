"""Ranks against scipy and against the worked example of Demsar 2006."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from probekit.leaderboard.ranks import cliques, rank_families

# Demsar 2006, table 6: AUC of C4.5 and three variants on fourteen data sets.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931], [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip


def test_the_worked_example():
    found = rank_families(("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"), DEMSAR)
    # The paper's mean ranks are 3.143, 2.000, 2.893, 1.964, its critical difference at 5 % is 2.569 sqrt(4 5 / (6 14)) = 1.25.
    assert found.families == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    np.testing.assert_allclose(found.rank, [1.964, 2.000, 2.893, 3.143], atol=5e-4)
    assert found.difference == pytest.approx(2.569 * np.sqrt(20 / 84), abs=2e-3)
    assert found.p == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).pvalue)
    assert cliques(found) == [(0, 3)]


def test_families_that_differ_are_told_apart_and_ones_that_do_not_are_not():
    rng = np.random.default_rng(0)
    scores = rng.normal(0.8, 0.05, (60, 1)) + rng.normal(0, 0.01, (60, 4)) + [0, 0, 0.03, -0.05]
    found = rank_families(tuple("abcd"), scores)
    assert found.families[0] == "c"
    assert found.families[-1] == "d"
    assert found.p < 1e-6
    assert (1, 2) in cliques(found)
    assert found.pairs[0, 3] < 1e-6
    a, b = (found.families.index(name) for name in "ab")
    assert found.pairs[a, b] > 0.05
    raw = stats.wilcoxon(scores[:, 2] - scores[:, 3]).pvalue
    assert found.pairs[0, 3] == pytest.approx(6 * raw)  # the least of six, after Holm


def test_by_chance_one_in_twenty_boards_has_a_difference():
    rng = np.random.default_rng(1)
    said = [
        np.ptp((r := rank_families(tuple("abcd"), rng.normal(size=(30, 4)))).rank) > r.difference for _ in range(300)
    ]
    assert 0.015 < np.mean(said) < 0.085


def test_tasks_that_lack_a_score_are_left_out():
    scores = np.array([[0.9, 0.8], [np.nan, 0.7], [0.6, 0.5]])
    assert rank_families(("a", "b"), scores).tasks == 2
    with pytest.raises(ValueError, match="nothing to rank"):
        rank_families(("a", "b"), np.full((3, 2), np.nan))
