"""What users of other probing packages trip over, shown not to happen here."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from probekit.probes import ConvergenceWarning, DifferenceInMeans, LDAProbe, LogisticProbe, RidgeProbe, fit_grid

FAMILIES = [DifferenceInMeans(), LDAProbe(0.1), RidgeProbe(1.0), LogisticProbe(1.0)]
IDS = [probe.family for probe in FAMILIES]


def three_classes(n: int = 300):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    X = rng.normal(size=(n, 8)).astype("float32")
    X[np.arange(n), y] += 4
    return X, y


@pytest.mark.parametrize("probe", FAMILIES, ids=IDS)
def test_three_classes_are_solved_as_three(probe):
    X, y = three_classes()
    assert type(probe)(**probe.get_params()).fit(X, y).score(X, y) > 0.9
    with pytest.raises(ValueError, match="binary, but there are 3 classes"):
        fit_grid(probe, X, y, kind="binary")


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_c_counts_on_every_input_type(penalty):
    X, y = three_classes()
    y = (y == 0).astype(int)
    inputs = [
        (X, y),
        (torch.from_numpy(X), torch.from_numpy(y)),
        (X.astype("float64"), y),
        (torch.from_numpy(X).to(torch.float64), y.astype(bool)),
        (X, np.array(["no", "yes"])[y]),
        (X.tolist(), y.tolist()),
        (X[:6], np.array([0, 1] * 3)),  # fewer rows than features
    ]
    for rows, labels in inputs:
        weak, strong = (LogisticProbe(C, penalty=penalty).fit(rows, labels) for C in (10.0, 1e-2))
        assert np.linalg.norm(strong.coef_) < 0.5 * np.linalg.norm(weak.coef_)
    norms = [
        np.linalg.norm(LogisticProbe(0.05, penalty=penalty).fit(rows, labels).coef_) for rows, labels in inputs[:6]
    ]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-2)
    many = {C: LogisticProbe(C, penalty=penalty).fit_many(X, np.stack([y, 1 - y], 1))[0].coef_ for C in (10.0, 1e-2)}
    assert np.linalg.norm(many[1e-2]) < 0.5 * np.linalg.norm(many[10.0])


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_solver_meets_its_tolerance_in_float32(separable, classes):
    rng = np.random.default_rng(1)
    n, d = 500, 200
    X = (rng.normal(size=(n, d)) * np.exp(-np.arange(d) / 20) @ rng.normal(size=(d, d)) + 100).astype("float32")
    y = rng.integers(0, classes, n)
    if separable:
        X[:, 0] += 40 * y
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        stack = fit_grid("logistic", X, y, np.logspace(-5, 5, 11), n_classes=classes)
    assert bool(stack.converged.all())
    assert int(stack.n_iter.max()) < 500


def test_a_solver_that_stops_early_says_so():
    X, y = three_classes()
    with pytest.warns(ConvergenceWarning, match="did not meet their tolerance"):
        probe = LogisticProbe(C=10.0, max_iter=1).fit(X, y)
    assert not probe.converged_


@pytest.mark.parametrize("probe", FAMILIES, ids=IDS)
def test_the_direction_lives_in_raw_space(probe):
    """One feature's scale is a thousand times another's: a direction left in standardised space would miss the classes."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = rng.normal(size=(400, 2))
    X[:, 1] += X[:, 0]
    X += 2.0 * y[:, None] * np.array([1.0, -1.0])
    X = X * np.array([1000.0, 1.0]) + np.array([5000.0, 3.0])
    fitted = type(probe)(**probe.get_params()).fit(X, y)
    direction = fitted.direction()
    scores = fitted.decision_function(X)
    # The vector orders activations exactly as the probe's own scores do.
    np.testing.assert_allclose(np.corrcoef(direction.project(X), scores)[0, 1], 1, atol=1e-4)
    # And moving along it by `gap` moves the mean of one class to the level of the other.
    moved = X[y == 0] + direction.gap * direction.vector.numpy()
    assert fitted.decision_function(moved).mean() == pytest.approx(scores[y == 1].mean(), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("probe", FAMILIES, ids=IDS)
def test_string_labels_are_labels(probe):
    X, y = three_classes()
    names = np.array(["a cat sat", "the dog ran", "birds fly"])[y]
    fitted = type(probe)(**probe.get_params()).fit(X, names)
    assert np.mean(fitted.predict(X) == names) > 0.9


def test_an_estimator_s_own_penalty_holds_in_a_grid_fit() -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    assert fit_grid(LogisticProbe(C=0.37), X, y).grid == (0.37,)
    assert fit_grid(RidgeProbe(alpha=5), X, y).grid == (5.0,)
    assert fit_grid("logistic", X, y).grid == LogisticProbe.default_grid


def test_words_with_a_nan_among_them_are_not_words() -> None:
    X = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(ValueError, match=r"1 missing or infinite labels \(first rows: \[4\]\)"):
        LogisticProbe().fit(X, ["yes", "no", "yes", "no", float("nan"), "yes"])
    with pytest.raises(TypeError, match=r"mixes labels of types \['int', 'str'\]"):
        LogisticProbe().fit(X, [1, "a", 1, "a", 1, "a"])


def test_arguments_of_a_grid_fit_that_are_none() -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    with pytest.raises(TypeError, match="labels of words go through an estimator's fit"):
        fit_grid("logistic", X, np.array(["a", "b"] * 30))
    with pytest.raises(TypeError, match=r"grid is one value, 0.1; give a list, grid=\[0.1\]"):
        fit_grid("logistic", X, y, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha must be a number"):
        RidgeProbe(alpha=float("nan")).fit(X, y)
    with pytest.raises(ValueError, match="C must be positive"):
        LogisticProbe(C=float("nan")).fit(X, y)
