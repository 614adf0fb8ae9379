"""Calibration finds the numbers that made the scores, agrees with other solvers, and its error is counted right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from probekit.monitoring.calibration import Calibration, Reliability


def made(n: int, slope: float, offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true log-odds are `slope * score + offset`."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=4, size=n)
    return scores, rng.random(n) < expit(slope * scores + offset)


def test_the_temperature_and_the_shift_that_made_the_scores_are_found():
    scores, positive = made(20_000, 0.4, 0.0)
    assert Calibration.fit("temperature", scores, positive).slope == pytest.approx(0.4, rel=0.05)
    scores, positive = made(20_000, 0.5, -2.0)
    found = Calibration.fit("platt", scores, positive)
    assert (found.slope, found.offset) == (pytest.approx(0.5, rel=0.05), pytest.approx(-2, rel=0.05))


@pytest.mark.parametrize("how", ["temperature", "platt"])
def test_it_is_the_least_loss_on_platts_targets(how):
    scores, positive = made(60, 0.7, 0.5, seed=3)
    n, k = len(positive), positive.sum()
    wanted = np.where(positive, (k + 1) / (k + 2), 1 / (n - k + 2))

    def loss(x):
        p = expit(np.exp(x[0]) * scores + (x[1] if how == "platt" else 0))
        return -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean()

    best = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    found = Calibration.fit(how, scores, positive)
    assert found.slope == pytest.approx(np.exp(best.x[0]), rel=1e-3)
    if how == "platt":
        assert found.offset == pytest.approx(best.x[1], rel=1e-3)


def test_temperature_nears_the_maximum_likelihood_one():
    from scipy.optimize import minimize_scalar

    scores, positive = made(5000, 0.4, 0.0, seed=5)
    sign = np.where(positive, 1, -1)
    peer = minimize_scalar(
        lambda slope: np.logaddexp(0, -sign * slope * scores).mean(), bounds=(0.01, 5), method="bounded"
    )
    assert Calibration.fit("temperature", scores, positive).slope == pytest.approx(peer.x, rel=2e-3)


def test_isotonic_is_scikit_learns():
    from sklearn.isotonic import IsotonicRegression

    scores, positive = made(300, 0.6, 1.0)
    peer = IsotonicRegression(y_min=1 / 302, y_max=301 / 302, out_of_bounds="clip").fit(scores, positive)
    new = np.linspace(-30, 30, 200)
    np.testing.assert_allclose(
        Calibration.fit("isotonic", scores, positive).probability(new), peer.predict(new), atol=1e-12
    )


@pytest.mark.parametrize("how", ["temperature", "platt", "isotonic"])
@given(
    tokens=st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=4, max_size=40).filter(
        lambda x: len({c for _, c in x}) == 2
    )
)
@settings(max_examples=30, deadline=None)
def test_probabilities_are_between_0_and_1_and_keep_the_order(how, tokens):
    scores, positive = (np.array(column) for column in zip(*tokens, strict=True))
    found = Calibration.fit(how, scores, positive).probability(np.sort(scores))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= -1e-12).all()


def test_classes_that_are_told_apart_give_no_certainty():
    scores = np.concatenate([np.full(20, -5.0), np.full(20, 5.0)])
    found = Calibration.fit("platt", scores, scores > 0).probability(np.array([-5.0, 5.0]))
    np.testing.assert_allclose(found, [1 / 22, 21 / 22], atol=1e-3)


def test_the_calibration_error_is_counted_as_by_hand():
    probability = np.array([0.95, 0.95, 0.95, 0.95, 0.2, 0.2])
    positive = np.array([True, True, True, False, False, True])
    found = Reliability.of(probability, positive)
    # bin of 0.95: right 3 of 4; bin of 0.8 (sure that it is not): right 1 of 2
    assert found.error == pytest.approx((4 * abs(0.95 - 0.75) + 2 * abs(0.8 - 0.5)) / 6)
    assert sum(found.count) == 6
    truth = np.array([0.95, 0.95, 0.95, 0.05, 0.8, 0.2])
    assert found.log_loss == pytest.approx(-np.log(truth).mean())


def test_the_calibration_error_is_that_of_a_sweep():
    import torch

    from probekit.probes.metrics import Predictions, measure

    rng = np.random.default_rng(0)
    probability, positive = rng.random(500), rng.random(500) < 0.4
    log_proba = torch.from_numpy(np.log(np.stack([1 - probability, probability], 1)))[:, None]
    theirs = measure(Predictions(torch.from_numpy(positive.astype(int))[:, None], log_proba=log_proba))
    assert Reliability.of(probability, positive).error == pytest.approx(theirs["calibration_error"][0], abs=1e-6)


def test_an_unknown_calibration_is_refused():
    with pytest.raises(ValueError, match="temperature, platt, isotonic"):
        Calibration.fit("magic", np.arange(4.0), np.array([True, False, True, False]))
