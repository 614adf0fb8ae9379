"""The rate of false alarms that was asked for is kept over many draws, and the intervals of what was found hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.monitoring.false_alarms import (
    Found,
    Rate,
    clopper_pearson,
    effective_size,
    negatives_needed,
    threshold_for,
)


def rate_over_draws(n: int, rate: float, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Mean true false-alarm rate of thresholds from n uniform scores, and its standard error: the rate is one minus the threshold."""
    rng = np.random.default_rng(seed)
    found = np.array([1 - threshold_for(rate, rng.random(n), np.arange(n))[0] for _ in range(draws)])
    return float(found.mean()), float(found.std() / draws**0.5)


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (99, 0.01), (150, 0.01), (60, 0.1), (101, 0.05)])
def test_the_rate_is_kept_in_the_mean_over_draws(n, rate):
    assert n >= negatives_needed(rate)
    mean, error = rate_over_draws(n, rate)
    promised = int(rate * (n + 1) + 1e-9) / (n + 1)
    assert promised <= rate
    assert abs(mean - promised) < 4 * error


def test_the_plain_share_would_promise_too_much():
    rng = np.random.default_rng(1)
    mean = np.mean([1 - np.quantile(rng.random(60), 0.95, method="higher") for _ in range(4000)])
    assert mean < 0.05 + 0.003
    loose = np.mean([1 - np.sort(rng.random(60))[-4] for _ in range(4000)])  # 3 of 60 lie above: 5 % of these
    assert loose > 0.06


def test_too_few_negatives_are_said():
    assert [negatives_needed(rate) for rate in (0.5, 0.05, 0.01, 0.001)] == [1, 19, 99, 999]
    scores = np.random.default_rng(0).random(98)
    threshold, promised = threshold_for(0.01, scores, np.arange(98))
    assert threshold == scores.max()
    assert not promised
    assert threshold_for(0.01, np.append(scores, 2.0), np.arange(99)) == (2.0, True)


def test_ties_raise_no_more_alarms_than_asked():
    scores = np.array([0.0] * 95 + [1.0] * 5)
    threshold, promised = threshold_for(0.05, scores, np.arange(100))
    assert promised
    assert (scores > threshold).mean() <= 0.05


def test_groups_weigh_the_same():
    rng = np.random.default_rng(0)

    def draw(n_groups):  # one group in ten is loud, and has many more texts than others
        loud = rng.random(n_groups) < 0.1
        sizes = np.where(loud, 30, 3)
        groups = np.repeat(np.arange(n_groups), sizes)
        return rng.normal(size=len(groups)) + 3 * loud[groups], groups

    rates = []
    for _ in range(600):
        scores, groups = draw(40)
        threshold, promised = threshold_for(0.1, scores, groups)
        assert promised
        new, of = draw(20)
        rates.append(np.mean([(new[of == g] > threshold).mean() for g in np.unique(of)]))
    assert np.mean(rates) <= 0.1 + 3 * np.std(rates) / 600**0.5


@given(hits=st.integers(0, 30), more=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_intervals_are_scipys_exact_ones(hits, more):
    from scipy.stats import binomtest

    n = max(1, hits + more)
    wanted = binomtest(hits, n).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(clopper_pearson(hits, n), (wanted.low, wanted.high), atol=1e-12)


def test_intervals_hold_the_true_rate():
    rng = np.random.default_rng(0)
    for rate in (0.01, 0.05, 0.5):
        for n in (20, 100):
            held = 0
            for hits in rng.binomial(n, rate, 1000):
                low, high = clopper_pearson(hits, n)
                held += low <= rate <= high
            assert held / 1000 > 0.94


def test_texts_of_one_group_are_not_so_many():
    rng = np.random.default_rng(0)
    alone = Rate.of(np.arange(100) < 20, np.arange(100))
    together = Rate.of(np.arange(100) < 20, np.arange(100) // 10)
    assert together.value == alone.value == 0.2
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert Rate.of(np.zeros(100, bool), np.arange(100) // 10).high == pytest.approx(clopper_pearson(0, 10)[1])
    held = 0
    for _ in range(500):  # groups that raise the alarm all or not at all
        loud = rng.random(30) < 0.2
        groups = np.repeat(np.arange(30), 5)
        found = Rate.of(loud[groups], groups)
        held += found.low <= 0.2 <= found.high
    assert held / 500 > 0.93


def test_one_group_is_one_text_and_groups_that_are_alike_are_as_many_as_they_are():
    hits = np.arange(40) < 10
    one = Rate.of(hits, np.zeros(40))
    assert effective_size(hits, np.zeros(40)) == 1
    assert (one.low, one.high) == pytest.approx(clopper_pearson(0.25, 1))
    assert one.low < 0.01
    assert one.high > 0.8
    for clusters, size, each in ((4, 10, 2), (3, 7, 1), (7, 3, 1)):
        same = np.tile(np.arange(size) < each, clusters)
        assert effective_size(same, np.repeat(np.arange(clusters), size)) == clusters


def test_few_groups_count_for_less_by_their_degrees_of_freedom():
    """Against the formula of Korn & Graubard, written out."""
    from scipy.stats import t

    rng = np.random.default_rng(0)
    for clusters in (2, 3, 6, 25):
        groups = np.repeat(np.arange(clusters), rng.integers(2, 9, clusters))
        hits = rng.random(len(groups)) < rng.random(clusters)[groups]
        n, share = len(hits), hits.mean()
        sums = np.array([(hits[groups == g] - share).sum() for g in range(clusters)])
        variance = clusters / (clusters - 1) * (sums**2).sum() / n**2
        wanted = share * (1 - share) / variance * (t.ppf(0.975, n - 1) / t.ppf(0.975, clusters - 1)) ** 2
        assert effective_size(hits, groups) == pytest.approx(min(n, max(1, wanted)))


@pytest.mark.parametrize("clusters", [2, 3, 5, 30])
@pytest.mark.parametrize("alike", [0.0, 0.2, 0.8])
def test_intervals_of_few_groups_hold_the_true_rate(clusters, alike):
    """`alike`: correlation of two texts of a group; sizes differ from group to group, and rates by a beta distribution."""
    rng = np.random.default_rng(clusters)
    held = []
    for _ in range(600):
        groups = np.repeat(np.arange(clusters), rng.integers(2, 20, clusters))
        within = np.full(clusters, 0.3)
        if alike:
            within = rng.beta(0.3 * (1 - alike) / alike, 0.7 * (1 - alike) / alike, clusters)
        found = Rate.of(rng.random(len(groups)) < within[groups], groups)
        held.append(found.low <= 0.3 <= found.high)
    assert np.mean(held) > 0.922  # 0.95, less three standard errors


def test_nothing_to_count_is_not_known():
    found = Found.of(0.0, np.array([1.0]), np.array([True]), np.array([0]))
    assert (found.recall.value, found.false_alarms.n) == (1.0, 0)
    assert str(found.false_alarms) == "not known (no such texts)"
