"""Properties of the metrics that hold whatever the predictions are."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probekit.probes.metrics import (
    Ordering,
    Predictions,
    bin_of,
    false_alarm_thresholds,
    measure,
    metrics_for,
)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float64, (2, 7), elements=st.integers(0, 3)),
    hnp.arrays(np.float64, (2, 7), elements=st.integers(0, 4)),
)
def test_weighted_ranks_are_ranks_of_repeated_items(scores: np.ndarray, weights: np.ndarray) -> None:
    found = Ordering(torch.from_numpy(scores)).below(torch.from_numpy(weights)).numpy()
    for row, (s, w) in enumerate(zip(scores, weights, strict=True)):
        expected = [w[s < x].sum() + w[s == x].sum() / 2 for x in s]
        np.testing.assert_allclose(found[row], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_class_metrics_lie_in_range_and_forget_the_order_of_rows(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    logp = torch.log_softmax(torch.from_numpy(rng.normal(size=(40, 2, classes)).round(1)), -1)
    y = torch.from_numpy(rng.integers(-1, classes, (40, 2)))
    order = torch.from_numpy(rng.permutation(40))
    thresholds = false_alarm_thresholds(Predictions.of_classes(logp, y))
    found = measure(Predictions.of_classes(logp, y, thresholds))
    again = measure(Predictions.of_classes(logp[order], y[order], thresholds))
    for name, values in found.items():
        np.testing.assert_allclose(values, again[name], err_msg=name)
        if name != "log_loss":
            assert ((values >= 0) & (values <= 1) | np.isnan(values)).all(), name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_reversed_odds_reverse_the_auroc(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, rng.integers(0, 2, 30)]
    odds = rng.normal(size=32).round(1)
    logp = torch.log_softmax(torch.from_numpy(np.stack([np.zeros(32), odds], -1)), -1)
    area = measure(Predictions.of_classes(logp, y))["auroc"][0]
    assert area + measure(Predictions.of_classes(logp.flip(-1), y))["auroc"][0] == 1 or np.isclose(
        area + measure(Predictions.of_classes(logp.flip(-1), y))["auroc"][0], 1
    )


def test_threshold_lets_the_allowed_share_of_validation_through() -> None:
    odds = np.arange(1000.0)
    y = np.zeros(1000, int)
    y[::10] = 1
    logp = np.stack([-odds / 100, np.zeros(1000)], -1)
    said = Predictions.of_classes(logp, y)
    threshold = false_alarm_thresholds(said)
    alarms = ((said.odds > threshold)[..., 0] & (said.truth == 0)).sum()
    assert alarms == 9  # 1 % of 900
    none = false_alarm_thresholds(Predictions.of_classes(logp, np.ones(1000, int)))
    assert torch.isnan(none).all()


def test_confidence_bins_hold_their_right_edge() -> None:
    assert bin_of(torch.tensor([0.0, 1e-9, 1 / 15, 1 / 15 + 1e-6, 1.0], dtype=torch.float64)).tolist() == [
        0,
        0,
        0,
        1,
        14,
    ]


def test_main_metric_comes_first() -> None:
    assert metrics_for("binary")[0].name == metrics_for("multiclass")[0].name == "accuracy"
    assert metrics_for("continuous")[0].name == "r2"
