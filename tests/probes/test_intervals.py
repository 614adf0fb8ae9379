"""The clustered bootstrap: against the full one, its coverage, and its corners."""

import numpy as np
import pytest
import torch

from probekit.probes import intervals
from probekit.probes.intervals import bootstrap, cluster_counts, interval, paired_interval
from probekit.probes.metrics import CLASS_METRICS, VALUE_METRICS, Metric, Predictions, false_alarm_thresholds, measure

BY_NAME = {m.name: m for m in (*CLASS_METRICS, *VALUE_METRICS)}


def clustered(
    seed: int, clusters: int = 40, size: int = 6, kind: str = "binary", effect: float = 1.0
) -> tuple[Predictions, torch.Tensor]:
    """Predictions whose errors are shared within clusters."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(clusters), size)
    n = len(cluster)
    if kind == "continuous":
        truth = rng.normal(size=(clusters, 1))[cluster] + rng.normal(size=(n, 1))
        return Predictions.of_values(
            truth + rng.normal(size=(clusters, 1))[cluster] + 0.5 * rng.normal(size=(n, 1)), truth
        ), torch.from_numpy(cluster)
    y = rng.integers(0, 2, (clusters, 1))[cluster] if seed % 2 else rng.integers(0, 2, (n, 1))
    odds = effect * (2 * y - 1) + 0.8 * rng.normal(size=(clusters, 1))[cluster] + rng.normal(size=(n, 1))
    logp = torch.log_softmax(torch.from_numpy(np.stack([np.zeros_like(odds), odds], -1)), -1)
    said = Predictions.of_classes(logp, y)
    return Predictions.of_classes(logp, y, false_alarm_thresholds(said)), torch.from_numpy(cluster)


def resampled(said: Predictions, cluster: torch.Tensor, counts: torch.Tensor, metric: Metric) -> np.ndarray:
    """The full bootstrap: build every resampled data set and measure it."""
    out = []
    for draw in counts:
        rows = torch.repeat_interleave(torch.arange(len(cluster)), draw[cluster].long())
        logp, guess = (None if x is None else x[rows] for x in (said.log_proba, said.estimate))
        again = Predictions(said.truth[rows], logp, guess, said.thresholds)
        out.append(measure(again, (metric,))[metric.name][0])
    return np.array(out)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_exact_draws_are_those_of_the_full_bootstrap(name: str) -> None:
    metric = BY_NAME[name]
    said, cluster = clustered(2, kind="continuous" if metric in VALUE_METRICS else "binary")
    counts = cluster_counts(40, 50, seed=0)
    found = bootstrap(metric, said, cluster, counts)
    np.testing.assert_allclose(found.draws[:, 0], resampled(said, cluster, counts, metric), atol=1e-9)
    assert found.value[0] == pytest.approx(measure(said, (metric,))[name][0])


@pytest.mark.parametrize("name", ["auroc", "spearman"])
@pytest.mark.parametrize(("clusters", "within"), [(60, 0.15), (250, 0.08)])
def test_linearised_draws_give_the_same_interval(
    monkeypatch: pytest.MonkeyPatch, name: str, clusters: int, within: float
) -> None:
    metric = BY_NAME[name]
    said, cluster = clustered(3, clusters=clusters, kind="continuous" if name == "spearman" else "binary")
    counts = cluster_counts(clusters, 600, seed=1)
    exact = bootstrap(metric, said, cluster, counts)
    monkeypatch.setattr(intervals, "EXACT_WORK", 0)
    linear = bootstrap(metric, said, cluster, counts)
    assert linear.value == pytest.approx(exact.value)
    width = np.subtract(*exact.interval()[::-1])[0]
    assert np.abs(linear.draws - exact.draws).max() > 0  # they are not the same computation
    for one, other in zip(linear.interval(), exact.interval(), strict=True):
        assert abs(one[0] - other[0]) < within * width


@pytest.mark.parametrize("name", ["accuracy", "auroc", "spearman"])
def test_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of 95 % intervals of clustered data about 95 % hold the population value, also when linearised."""
    monkeypatch.setattr(intervals, "EXACT_WORK", 0)
    metric, kind = BY_NAME[name], "continuous" if name == "spearman" else "binary"
    big, _ = clustered(1_000_000, clusters=20_000, kind=kind)
    truth = measure(big, (metric,))[name][0]
    held = 0
    for trial in range(160):
        said, cluster = clustered(2 * trial, clusters=60, kind=kind)
        low, high = bootstrap(metric, said, cluster, cluster_counts(60, 300, seed=trial)).interval()
        held += low[0] <= truth <= high[0]
    assert 0.89 <= held / 160 <= 0.99


def test_rows_as_clusters_would_be_too_sure() -> None:
    """The point of clustering: errors shared within a sequence make the honest interval wider."""
    said, cluster = clustered(7, clusters=50, size=20)
    honest = np.subtract(*bootstrap(BY_NAME["auroc"], said, cluster, cluster_counts(50, 400, 0)).interval()[::-1])
    rows = torch.arange(1000)
    naive = np.subtract(*bootstrap(BY_NAME["auroc"], said, rows, cluster_counts(1000, 400, 0)).interval()[::-1])
    assert honest[0] > 1.5 * naive[0]


def test_all_right_is_not_certain() -> None:
    y = np.array([0, 1] * 10)
    logp = np.log(np.where(np.eye(2)[y] > 0, 0.9, 0.1))
    found = bootstrap(
        BY_NAME["accuracy"], Predictions.of_classes(logp, y), torch.arange(20), cluster_counts(20, 200, 0)
    )
    low, high = found.interval()
    assert high[0] == 1
    assert low[0] == pytest.approx(0.025 ** (1 / 20))  # Clopper-Pearson for 20 of 20


def test_calibration_interval_holds_its_value() -> None:
    said, cluster = clustered(8, clusters=30)
    found = bootstrap(BY_NAME["calibration_error"], said, cluster, cluster_counts(30, 500, 0))
    low, high = found.interval()
    assert found.draws.mean() > found.value[0]  # resampling alone makes a model look worse calibrated
    assert 0 <= low[0] <= found.value[0] <= high[0]


def test_draws_without_a_class_are_left_out() -> None:
    """Two clusters hold all positives: draws that miss both have no AUROC."""
    y = np.zeros(10, int)
    y[:2] = 1
    rng = np.random.default_rng(0)
    logp = torch.log_softmax(torch.from_numpy(rng.normal(size=(10, 2))), -1)
    found = bootstrap(BY_NAME["auroc"], Predictions.of_classes(logp, y), torch.arange(10), cluster_counts(10, 300, 0))
    assert np.isnan(found.draws).any()
    low, high = found.interval()
    assert 0 <= low[0] <= found.value[0] <= high[0] <= 1


def test_undefined_value_has_no_interval() -> None:
    found = bootstrap(
        BY_NAME["auroc"],
        Predictions.of_classes(np.log([[0.5, 0.5]] * 4), np.zeros(4, int)),
        torch.arange(4),
        cluster_counts(4, 100, 0),
    )
    assert np.isnan(found.value).all()
    assert np.isnan(np.concatenate(found.interval())).all()


def test_counts_are_multinomial_and_repeat() -> None:
    counts = cluster_counts(50, 400, seed=3)
    assert (counts.sum(1) == 50).all()
    assert counts.mean().item() == 1
    assert abs(counts.var(0).mean().item() - 49 / 50) < 0.1
    assert torch.equal(counts, cluster_counts(50, 400, seed=3))
    assert not torch.equal(counts, cluster_counts(50, 400, seed=4))


def test_mean_over_targets_skips_what_is_not_defined() -> None:
    y = np.stack([np.zeros(8, int), np.array([0, 1] * 4)], 1)
    logp = torch.log_softmax(torch.from_numpy(np.random.default_rng(0).normal(size=(8, 2, 2))), -1)
    found = bootstrap(BY_NAME["auroc"], Predictions.of_classes(logp, y), torch.arange(8), cluster_counts(8, 100, 0))
    assert found.mean().value[0] == found.value[1]


def test_interval_of_known_draws() -> None:
    draws = np.arange(1001.0)[:, None]
    low, high = interval(BY_NAME["log_loss"], np.array([500.0]), draws, np.array([9]))
    assert (low[0], high[0]) == pytest.approx((25.0, 975.0))
    assert paired_interval(draws[:, 0]) == pytest.approx((25.0, 975.0))
    assert np.isnan(paired_interval(np.full(3, np.nan))).all()
