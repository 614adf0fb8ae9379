"""Probes agree with scikit-learn after a StandardScaler: an independent implementation of the same problems."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit.probes import DifferenceInMeans, LDAProbe, LogisticProbe, RidgeProbe

tall_and_wide = pytest.mark.parametrize(("n", "d"), [(300, 20), (50, 80)])
two_and_more = pytest.mark.parametrize("classes", [2, 4])


def correlated(n: int, d: int, classes: int):
    rng = np.random.default_rng(n + classes)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 10 * rng.normal(size=d)
    X[:, 0] += 5 * y
    X[:, 1] *= 100
    X[:, 2] = 7.0  # a feature that does not vary
    return X, y


def centred(scores: np.ndarray) -> np.ndarray:
    """Scores of many classes are defined up to a common shift."""
    return scores if scores.ndim == 1 else scores - scores.mean(1, keepdims=True)


@tall_and_wide
@two_and_more
@pytest.mark.parametrize("C", [1e-3, 1.0, 50.0])
def test_logistic_l2(n, d, classes, C):
    X, y = correlated(n, d, classes)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-9, max_iter=10_000)).fit(X, y)
    ours = LogisticProbe(C=C, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    single = LogisticProbe(C=C, tol=1e-5).fit(X.astype("float32"), y)
    np.testing.assert_allclose(single.predict_proba(X), theirs.predict_proba(X), atol=2e-3)


@tall_and_wide
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_l1(n, d, classes):
    X, y = correlated(n, d, classes)
    C = 0.2
    theirs = make_pipeline(
        StandardScaler(), LogisticRegression(C=C, l1_ratio=1, solver="saga", tol=1e-7, max_iter=20_000, random_state=0)
    ).fit(X, y)
    ours = LogisticProbe(C=C, penalty="l1", tol=1e-7, max_iter=20_000).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    np.testing.assert_array_equal(ours.coef_ != 0, theirs[-1].coef_ != 0)


@tall_and_wide
@two_and_more
@pytest.mark.parametrize("alpha", [1e-2, 10.0])
def test_ridge(n, d, classes, alpha):
    X, y = correlated(n, d, classes)
    theirs = make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha)).fit(X, y)
    ours = RidgeProbe(alpha=alpha).fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-7)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    value = X[:, 3] + y
    theirs = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(X, value)
    ours = RidgeProbe(alpha=alpha).fit(X, value)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-7 * abs(value).max())
    assert ours.score(X, value) == pytest.approx(theirs.score(X, value))


@tall_and_wide
@two_and_more
@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
def test_lda(n, d, classes, shrinkage):
    X, y = correlated(n, d, classes)
    theirs = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)).fit(X, y)
    ours = LDAProbe(shrinkage=shrinkage).fit(X, y)
    np.testing.assert_allclose(
        centred(ours.decision_function(X)), centred(theirs.decision_function(X)), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-7)


@two_and_more
def test_difference_in_means_is_the_nearest_centroid(classes):
    X, y = correlated(300, 20, classes)
    np.testing.assert_array_equal(DifferenceInMeans().fit(X, y).predict(X), NearestCentroid().fit(X, y).predict(X))
    binary = DifferenceInMeans().fit(X, y > 0)
    difference = X[y > 0].mean(0) - X[y == 0].mean(0)
    np.testing.assert_allclose(binary.coef_[0], difference, rtol=1e-9)
    assert binary.direction().gap == pytest.approx(np.linalg.norm(difference))
