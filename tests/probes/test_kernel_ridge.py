"""Kernel ridge against scikit-learn's pieces, and as the control it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit.probes import LogisticProbe, RidgeProbe, kernel_ridge
from probekit.probes.kernel_ridge import KernelRidgeProbe


def xor(n: int, seed: int = 0, d: int = 4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X * np.linspace(0.1, 20, d) + 30, ((X[:, 0] > 0) ^ (X[:, 1] > 0)).astype(int)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("landmarks", [40, 500])
def test_is_scikit_learns_pipeline(classes, landmarks):
    X, y = xor(200)
    y = y if classes == 2 else y + (X[:, 2] > X[:, 2].mean())
    ours = KernelRidgeProbe(3.0, landmarks, width=1.5).fit(X, y)
    features = Nystroem(kernel="rbf", gamma=1 / (2 * 1.5**2), n_components=min(landmarks, 200), random_state=0)
    theirs = make_pipeline(StandardScaler(), features, StandardScaler(), RidgeClassifier(3.0)).fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    value = X[:, 0] * X[:, 1]
    theirs = make_pipeline(StandardScaler(), features, StandardScaler(), Ridge(3.0)).fit(X, value)
    np.testing.assert_allclose(ours.fit(X, value).predict(X), theirs.predict(X), rtol=1e-6)
    assert not hasattr(ours, "classes_")


def test_all_rows_as_landmarks_are_the_whole_kernel():
    X, y = xor(150)
    probe = KernelRidgeProbe(1e-3, landmarks=150, width=1.0).fit(X, y.astype(float))
    Z = StandardScaler().fit_transform(X)
    features = probe.nystroem_.transform(Z)
    np.testing.assert_allclose(features @ features.T, rbf_kernel(Z, gamma=0.5), atol=1e-8)
    # Scikit-learn's has neither an intercept nor standardised features; with hardly a penalty that makes no difference.
    exact = KernelRidge(alpha=1e-6, kernel="rbf", gamma=0.5).fit(Z, y - y.mean()).predict(Z) + y.mean()
    assert np.corrcoef(exact, probe.predict(X))[0, 1] > 0.999


def test_control_tells_linear_from_not():
    X, y = xor(500)
    test_X, test_y = xor(500, seed=1)
    assert KernelRidgeProbe().fit(X, y).score(test_X, test_y) > 0.85
    assert LogisticProbe().fit(X, y).score(test_X, test_y) < 0.6
    line = lambda A: (A / np.linspace(0.1, 20, 4)).sum(1)  # noqa: E731
    middle = np.median(line(X))
    kernel = KernelRidgeProbe().fit(X, line(X) > middle).score(test_X, line(test_X) > middle)
    assert kernel < LogisticProbe().fit(X, line(X) > middle).score(test_X, line(test_X) > middle) + 0.02
    product = lambda A: ((A - 30) / np.linspace(0.1, 20, 4))[:, :2].prod(1)  # noqa: E731
    assert KernelRidgeProbe().fit(X, product(X)).score(test_X, product(test_X)) > 0.7
    assert RidgeProbe().fit(X, product(X)).score(test_X, product(test_X)) < 0.2


def test_probabilities_are_the_ridges():
    X, y = xor(400)
    test_X, test_y = xor(400, seed=1)
    probe = KernelRidgeProbe(10.0).fit(X, y)
    log_proba = probe.predict_log_proba(test_X)
    np.testing.assert_allclose(np.exp(log_proba).sum(1), 1)
    np.testing.assert_array_equal(probe.classes_[log_proba.argmax(1)], probe.predict(test_X))
    assert -log_proba[np.arange(400), test_y].mean() < 0.5


def test_width_is_the_median_distance():
    X, y = xor(100)
    assert KernelRidgeProbe().fit(X, y).width_ == pytest.approx(np.median(pdist(StandardScaler().fit_transform(X))))
    many, labels = xor(2000)
    assert KernelRidgeProbe(landmarks=10).fit(many, labels).width_ == pytest.approx(2.7, abs=0.15)  # of 500 rows
    alike = KernelRidgeProbe().fit(np.ones((20, 3)), np.arange(20) % 2)
    np.testing.assert_allclose(alike.predict_proba(np.ones((2, 3))), 0.5, atol=1e-6)


def test_units_and_chunks_do_not_matter(monkeypatch):
    X, y = xor(200)
    whole = KernelRidgeProbe(landmarks=50).fit(X, y)
    np.testing.assert_allclose(
        KernelRidgeProbe(landmarks=50).fit(X * 100 - 5, y).predict_proba(X * 100 - 5), whole.predict_proba(X), atol=1e-6
    )
    expected = whole.predict_proba(X)
    monkeypatch.setattr(kernel_ridge, "CHUNK", 33)
    np.testing.assert_allclose(whole.predict_proba(X), expected, atol=1e-12)


def test_scikit_learn_protocol_strings_and_torch():
    X, y = xor(120)
    probe = KernelRidgeProbe(2.0, landmarks=30)
    assert clone(probe).get_params() == probe.get_params()
    assert is_classifier(probe)
    assert is_regressor(KernelRidgeProbe(kind="continuous"))
    assert cross_val_score(probe, X, y, cv=3).shape == (3,)
    named = clone(probe).fit(torch.from_numpy(X), np.array(["no", "yes"])[y])
    assert named.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(named.predict_proba(torch.from_numpy(X)), probe.fit(X, y).predict_proba(X))


def test_bad_input_is_named():
    X, y = xor(60)
    with pytest.raises(ValueError, match="not fitted"):
        KernelRidgeProbe().predict(X)
    with pytest.raises(ValueError, match=r"one class only \(1\)"):
        KernelRidgeProbe().fit(X, np.ones(60, int))
    broken = X.copy()
    broken[7, 3] = np.inf
    with pytest.raises(ValueError, match=r"first: \[7\]"):
        KernelRidgeProbe().fit(broken, y)
    with pytest.raises(ValueError, match="landmarks must be at least 1"):
        KernelRidgeProbe(landmarks=0).fit(X, y)
    with pytest.raises(ValueError, match="width must be positive"):
        KernelRidgeProbe(width=0.0).fit(X, y)
    with pytest.raises(ValueError, match="alpha"):
        KernelRidgeProbe(alpha=-1).fit(X, y)
    with pytest.raises(ValueError, match="60 rows, y has 59"):
        KernelRidgeProbe().fit(X, y[:-1])
    probe = KernelRidgeProbe().fit(X, y)
    with pytest.raises(ValueError, match="3 features, this probe was fitted on 4"):
        probe.predict(X[:, :3])
    with pytest.raises(ValueError, match="no probabilities"):
        KernelRidgeProbe().fit(X, X[:, 0]).predict_proba(X)
