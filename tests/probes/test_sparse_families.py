"""k-sparse and elastic-net probes against scikit-learn, the conditions of an optimum, and planted dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit.probes import ConvergenceWarning, LogisticProbe, fit_grid
from probekit.probes.elastic_net import ElasticNetProbe
from probekit.probes.k_sparse import KSparseProbe, between_classes

two_and_more = pytest.mark.parametrize("classes", [2, 4])
both = pytest.mark.parametrize("probe", [KSparseProbe(3), ElasticNetProbe(0.1)], ids=["k_sparse", "elastic_net"])


def planted(n: int = 300, d: int = 30, classes: int = 2, seed: int = 0):
    """Class k shifts dimensions 3k, 3k + 1 and 3k + 2 by a standard deviation, whatever their scales."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(n, d))
    X[np.arange(n)[:, None], 3 * y[:, None] + np.arange(3)] += 1.2
    return X * rng.uniform(0.1, 30, d) + rng.normal(size=d) * 20, y


def correlated(n: int, d: int, classes: int):
    rng = np.random.default_rng(n + classes)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 10 * rng.normal(size=d)
    X[:, 0] += 5 * y
    X[:, 1] *= 100
    X[:, 2] = 7.0  # a feature that does not vary
    return X, y


def log_loss(probe, X, y) -> float:
    return float(-probe.predict_log_proba(X)[np.arange(len(y)), y].mean())


# k-sparse


@two_and_more
@pytest.mark.parametrize("k", [1, 5])
def test_k_sparse_is_the_anova_and_logistic_regression(classes, k):
    X, y = correlated(200, 20, classes)
    ours = KSparseProbe(k, C=0.5, tol=1e-8).fit(X, y)
    theirs = make_pipeline(
        StandardScaler(), SelectKBest(f_classif, k=k), LogisticRegression(C=0.5, tol=1e-9, max_iter=10_000)
    )
    with np.errstate(all="ignore"), pytest.warns(UserWarning, match="constant"):
        theirs.fit(X, y)
    np.testing.assert_array_equal(ours.dimensions_, np.flatnonzero(theirs[1].get_support()))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


@two_and_more
def test_planted_dimensions_are_found(classes):
    X, y = planted(600, classes=classes)
    probe = KSparseProbe(3 * classes).fit(X, y)
    assert probe.dimensions_.tolist() == list(range(3 * classes))
    test_X, test_y = planted(600, classes=classes)
    assert probe.score(test_X, test_y) > 0.8
    assert probe.direction(class_=1).vector.count_nonzero() == 3 * classes


def test_ranking_of_two_classes_is_the_standardised_difference_of_means():
    X, y = planted(80)
    a, b = X[y == 0], X[y == 1]
    within = np.sqrt((len(a) * a.var(0) + len(b) * b.var(0)) / len(X))
    difference = abs(a.mean(0) - b.mean(0)) / within
    share = between_classes(torch.from_numpy(X), torch.from_numpy(y)[:, None], 2)[0].numpy()
    np.testing.assert_array_equal(np.argsort(share), np.argsort(difference))


def test_all_dimensions_are_the_logistic_probe():
    X, y = planted(classes=3)
    sparse, dense = KSparseProbe(30, C=0.1, tol=1e-8).fit(X, y), LogisticProbe(0.1, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, atol=1e-8)
    np.testing.assert_allclose(sparse.gap_, dense.gap_, rtol=1e-6)
    np.testing.assert_allclose(sparse.deviation_, dense.deviation_, rtol=1e-6)
    np.testing.assert_allclose(sparse.mean_, dense.mean_, rtol=1e-6)


def test_k_has_bounds():
    X, y = planted()
    for k in (0, 31, 2.5):
        with pytest.raises(ValueError, match="k must be a whole number from 1 to 30"):
            KSparseProbe(k).fit(X, y)  # type: ignore[arg-type]
    X[:, 5:] = 1.0
    assert KSparseProbe(10).fit(X, y).dimensions_.tolist() == [0, 1, 2, 3, 4]


# Elastic net


@pytest.mark.parametrize(("n", "d"), [(150, 12), (40, 50)])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.3, 0.8])
def test_elastic_net_is_scikit_learns_saga(n, d, classes, l1_ratio):
    X, y = correlated(n, d, classes)
    old = {} if LogisticRegression().penalty == "deprecated" else {"penalty": "elasticnet"}
    theirs = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.2, l1_ratio=l1_ratio, solver="saga", tol=1e-7, max_iter=20_000, random_state=0, **old),
    ).fit(X, y)
    ours = ElasticNetProbe(0.2, l1_ratio, tol=1e-7, max_iter=20_000).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(ours.coef_ != 0, theirs[-1].coef_ != 0)
    raw = X @ ours.coef_.T + ours.intercept_
    np.testing.assert_allclose(raw if classes > 2 else raw[:, 0], ours.decision_function(X), rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_ends_of_the_ratio_are_the_logistic_probes(classes):
    X, y = correlated(150, 12, classes)
    for ratio, penalty in ((0.0, "l2"), (1.0, "l1")):
        ours = ElasticNetProbe(0.3, ratio, tol=1e-8, max_iter=50_000).fit(X, y)
        other = LogisticProbe(0.3, penalty, tol=1e-8, max_iter=50_000).fit(X, y)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours.predict_proba(X), other.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("l1_ratio", [0.2, 0.9])
def test_every_point_of_the_path_is_an_optimum(l1_ratio):
    """Where a weight is not zero the gradient balances the penalty's; elsewhere it is within the L1 penalty."""
    X, y = planted(200)
    Z = StandardScaler().fit_transform(X)
    path = ElasticNetProbe(l1_ratio=l1_ratio, tol=1e-7, max_iter=20_000).path(X, y, [0.003, 0.03, 0.3, 3.0])
    assert path.converged.all()
    for C, coef, intercept in zip(path.Cs, path.coef[:, 0], path.intercept[:, 0], strict=True):
        error = 1 / (1 + np.exp(-(X @ coef + intercept))) - y
        w = coef * X.std(0)
        gradient = Z.T @ error + (1 - l1_ratio) / C * w
        slack = 1e-4
        assert abs(error.sum()) < slack
        np.testing.assert_allclose(gradient[w != 0], -np.sign(w[w != 0]) * l1_ratio / C, atol=slack)
        assert (abs(gradient[w == 0]) <= l1_ratio / C + slack).all()


def test_path_goes_from_nothing_to_everything():
    X, y = planted(400)
    names = np.array(["cat", "dog"])[y]
    probe = ElasticNetProbe(l1_ratio=0.9, tol=1e-7)
    path = probe.path(X, names, np.logspace(-4, 1, 6))
    assert path.nonzero[0] == 0
    assert path.nonzero[-1] > 25
    assert (np.diff(path.nonzero) >= 0).all()
    assert path.intercept[0, 0] == pytest.approx(np.log(y.mean() / (1 - y.mean())), abs=1e-3)
    first = next(c for c, count in zip(path.coef, path.nonzero, strict=True) if count)
    assert set(np.flatnonzero(first.any(0))) <= set(range(6))  # the planted ones come first
    alone = clone(probe).set_params(C=path.Cs[3]).fit(X, names)
    np.testing.assert_allclose(path.coef[3], alone.coef_, atol=1e-4 * abs(alone.coef_).max())
    assert path.classes.tolist() == ["cat", "dog"]
    assert probe.path(X, y).coef.shape == (9, 1, 30)


def test_features_that_go_together_are_kept_together():
    X, y = planted(200)
    X = np.c_[X, X[:, 0] * -3 + 1]  # a copy of the first
    probe = ElasticNetProbe(0.1, 0.5, tol=1e-7).fit(X, y)
    assert probe.coef_[0, 0] != 0
    assert probe.coef_[0, -1] == pytest.approx(probe.coef_[0, 0] / -3, rel=1e-4)


def test_says_when_it_did_not_converge():
    X, y = correlated(100, 20, 2)
    with pytest.warns(ConvergenceWarning, match="of the path"):
        path = ElasticNetProbe(max_iter=3).path(X, y, [1.0, 10.0])
    assert not path.converged.any()


# Both


@both
def test_many_targets_and_grids(probe):
    X, y = planted(classes=3)
    rng = np.random.default_rng(1)
    Y = np.stack([y, np.where(rng.random(300) < 0.3, -1, y)], 1)
    many = probe.fit_many(X, Y)
    for t, fitted in enumerate(many):
        alone = clone(probe).fit(X[Y[:, t] >= 0], Y[Y[:, t] >= 0, t])
        np.testing.assert_allclose(fitted.predict_proba(X), alone.predict_proba(X), atol=1e-3)
    stack = fit_grid(probe, X, Y, [0.01, 1.0])
    assert stack.coef.shape == (2, 2, 3, 30)
    assert stack.family == probe.family


@both
def test_scikit_learn_protocol_strings_and_torch(probe):
    X, y = planted(120)
    assert clone(probe).get_params() == probe.get_params()
    assert is_classifier(probe)
    assert GridSearchCV(clone(probe), {"C": [0.1, 0.5]}, cv=2).fit(X, y).best_params_["C"] in (0.1, 0.5)
    a, b = clone(probe).fit(X, np.array(["no", "yes"])[y]), clone(probe).fit(torch.from_numpy(X), torch.from_numpy(y))
    assert a.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(a.coef_, b.coef_)
    single = clone(probe).fit(X.astype("float32"), y)
    np.testing.assert_allclose(single.predict_proba(X), a.predict_proba(X), atol=5e-3)
    assert log_loss(b, X, y) < np.log(2)


@both
def test_bad_input_is_named(probe):
    X, y = planted(60)
    fresh = clone(probe)
    with pytest.raises(ValueError, match="not fitted"):
        fresh.predict(X)
    with pytest.raises(ValueError, match=r"one class only \(1\)"):
        fresh.fit(X, np.ones(60, int))
    broken = X.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"first: \[7\]"):
        fresh.fit(broken, y)
    with pytest.raises(ValueError, match="use RidgeProbe"):
        fresh.fit(X, X[:, 0])
    with pytest.raises(ValueError, match="C must be positive"):
        clone(probe).set_params(C=0).fit(X, y)
    fresh.fit(X, y)
    with pytest.raises(ValueError, match="4 features, this probe was fitted on 30"):
        fresh.predict(X[:, :4])


@pytest.mark.parametrize(("n", "classes", "l1_ratio"), [(12, 2, 0.5), (300, 2, 0.5), (300, 2, 1.0), (200, 4, 0.1)])
def test_the_grid_begins_where_the_first_dimension_is_kept(n, classes, l1_ratio):
    rng = np.random.default_rng(n + classes)
    X, y = rng.normal(size=(n, 40)) * np.exp(rng.normal(size=40)), np.arange(n) % classes
    X[:, 0] += y * X[:, 0].std() / 2
    probe = ElasticNetProbe(l1_ratio=l1_ratio)
    grid = probe.grid(X, y)
    edge = grid[0] / 10 ** (1 / 3)
    found = probe.path(X, y, [0.95 * edge, 1.05 * edge, *grid])
    assert found.nonzero[0] == 0
    assert found.nonzero[1] > 0
    assert (found.nonzero[2:] > 0).all()
    assert found.nonzero[-1] > found.nonzero[2]
    np.testing.assert_array_equal(probe.path(X, y).Cs, grid)


def test_a_grid_needs_something_to_choose_for():
    with pytest.raises(ValueError, match="nothing to choose a penalty for"):
        ElasticNetProbe().grid(np.ones((8, 3)), np.arange(8) % 2)


def test_elastic_net_parameters_are_checked():
    X, y = planted(60)
    with pytest.raises(ValueError, match="l1_ratio lies between 0 and 1"):
        ElasticNetProbe(l1_ratio=1.5).fit(X, y)
    with pytest.raises(ValueError, match="Cs must be a list"):
        ElasticNetProbe().path(X, y, [])
    with pytest.raises(ValueError, match="one class only"):
        ElasticNetProbe().path(X, np.zeros(60, int))
