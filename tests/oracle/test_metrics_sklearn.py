"""Metrics against scikit-learn and scipy, with ties, constants and undefined labels."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import spearmanr
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from probekit.probes.metrics import BINS, Predictions, false_alarm_thresholds, measure


def draw(classes: int, seed: int, n: int = 240, targets: int = 3, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, (n, targets))
    scores = rng.normal(size=(n, targets, classes)) + 1.2 * np.eye(classes)[y]
    if classes == 2:
        scores[..., 0] = 0  # so that rounded scores give exactly tied odds
    return log_softmax(np.round(scores) if ties else scores, axis=-1), y


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [True, False])
def test_class_metrics_agree(classes: int, ties: bool) -> None:
    logp, y = draw(classes, seed=classes, ties=ties)
    found = measure(Predictions.of_classes(logp, y))
    proba = np.exp(logp)
    for t in range(y.shape[1]):
        choice = logp[:, t].argmax(-1)
        assert found["accuracy"][t] == pytest.approx(sk.accuracy_score(y[:, t], choice))
        assert found["balanced_accuracy"][t] == pytest.approx(sk.balanced_accuracy_score(y[:, t], choice))
        assert found["log_loss"][t] == pytest.approx(sk.log_loss(y[:, t], proba[:, t]))
        odds = Predictions.of_classes(logp, y).odds[:, t].numpy()
        areas = [
            sk.roc_auc_score(y[:, t] == c, odds[:, k]) for k, c in enumerate([1] if classes == 2 else range(classes))
        ]
        assert found["auroc"][t] == pytest.approx(np.mean(areas))
        if not ties:
            whole = (
                sk.roc_auc_score(y[:, t], proba[:, t, 1])
                if classes == 2
                else sk.roc_auc_score(y[:, t], proba[:, t], multi_class="ovr")
            )
            assert found["auroc"][t] == pytest.approx(whole)


def test_calibration_error_agrees_with_the_calibration_curve() -> None:
    logp, y = draw(3, seed=9, n=500, targets=1, ties=False)
    confidence, right = np.exp(logp).max(-1)[:, 0], logp[:, 0].argmax(-1) == y[:, 0]
    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS)
    counts = np.histogram(confidence, BINS, (0, 1))[0]
    expected = (np.abs(accuracy - mean) * counts[counts > 0]).sum() / len(y)
    assert measure(Predictions.of_classes(logp, y))["calibration_error"][0] == pytest.approx(expected)


def test_recall_at_one_percent_agrees_with_the_roc_curve() -> None:
    logp, y = draw(2, seed=4, n=1500, targets=2, ties=False)
    said = Predictions.of_classes(logp, y)
    found = measure(Predictions.of_classes(logp, y, false_alarm_thresholds(said)))
    for t in range(2):
        false, true, _ = sk.roc_curve(y[:, t], (logp[:, t, 1] - logp[:, t, 0]), drop_intermediate=False)
        assert found["recall_at_1pct"][t] == pytest.approx(
            true[false <= 0.01].max(), abs=1 / (y[:, t] == 1).sum() + 1e-9
        )
        assert found["false_alarm_rate"][t] <= 0.01


def test_undefined_labels_do_not_count() -> None:
    logp, y = draw(3, seed=1)
    y[::3] = -1
    kept = y[:, 0] >= 0
    with_gaps, without = measure(Predictions.of_classes(logp, y)), measure(Predictions.of_classes(logp[kept], y[kept]))
    for name, values in with_gaps.items():
        np.testing.assert_allclose(values, without[name], err_msg=name)


@pytest.mark.parametrize("decimals", [0, 6])
def test_value_metrics_agree(decimals: int) -> None:
    rng = np.random.default_rng(0)
    guess = np.round(rng.normal(size=(200, 3)), decimals)
    truth = np.round(guess + rng.normal(size=guess.shape), decimals)
    truth[::7, 1] = np.nan
    found = measure(Predictions.of_values(guess, truth))
    for t in range(3):
        kept = ~np.isnan(truth[:, t])
        assert found["r2"][t] == pytest.approx(sk.r2_score(truth[kept, t], guess[kept, t]))
        assert found["spearman"][t] == pytest.approx(spearmanr(truth[kept, t], guess[kept, t])[0])


def test_constants_have_no_score_where_there_is_none() -> None:
    y = np.array([1, 1, 1, 1])
    one_class = measure(Predictions.of_classes(np.log([[0.5, 0.5]] * 4), y))
    assert np.isnan(one_class["auroc"][0])  # scikit-learn: NaN with a warning
    assert one_class["accuracy"][0] == 0  # ties go to the first class, as argmax has it
    constant_guess = measure(Predictions.of_classes(np.log([[0.4, 0.6]] * 4), np.array([0, 1, 1, 0])))
    assert constant_guess["auroc"][0] == 0.5
    values = measure(Predictions.of_values(np.ones(5), np.arange(5.0)))
    assert values["r2"][0] == pytest.approx(sk.r2_score(np.arange(5.0), np.ones(5)))
    assert np.isnan(values["spearman"][0])  # scipy: NaN with a warning
    flat = measure(Predictions.of_values(np.arange(5.0), np.full(5, 3.0)))
    assert np.isnan(flat["r2"][0])
    assert np.isnan(flat["spearman"][0])


def test_saturated_probabilities_keep_their_order() -> None:
    """Log-odds of +-40 are 0 and 1 as float32 probabilities; AUROC must still see the order."""
    odds = torch.tensor([20.0, 30.0, 40.0, 50.0])
    logp = torch.stack([-torch.nn.functional.softplus(odds), -torch.nn.functional.softplus(-odds)], -1)
    assert measure(Predictions.of_classes(logp, np.array([0, 0, 1, 1])))["auroc"][0] == 1.0
