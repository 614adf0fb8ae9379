"""Perceptrons against scikit-learn's own training, on XOR, and on groups that could be learnt by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from probekit.probes import ConvergenceWarning, LogisticProbe, RidgeProbe
from probekit.probes.mlp import MLPProbe


def xor(n: int, seed: int = 0, d: int = 4):
    """Two signs that tell only together, among features of uneven scale and offset."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X * np.linspace(0.1, 20, d) + 30, ((X[:, 0] > 0) ^ (X[:, 1] > 0)).astype(int)


@pytest.mark.filterwarnings("ignore::probekit.probes.ConvergenceWarning")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "continuous"])
def test_training_is_scikit_learns(kind, layers):
    """With all rows in one batch their order is but rounding, so as many epochs give the same weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5)) * [1, 10, 0.1, 3, 1] + 7
    score = X[:, 0] + 0.1 * X[:, 1] ** 2 + rng.normal(size=120)
    y = (
        score
        if kind == "continuous"
        else np.digitize(score, np.quantile(score, [0.5] if kind == "binary" else [0.3, 0.6]))
    )
    ours = MLPProbe(8, layers, alpha=0.5, seed=3, batch=120, max_iter=120, patience=3).fit(X, y)
    train = np.setdiff1d(np.arange(120), ours.held_out_)
    scaler = StandardScaler().fit(X[train])
    theirs = (MLPRegressor if kind == "continuous" else MLPClassifier)(
        hidden_layer_sizes=(8,) * layers,
        alpha=0.5,
        random_state=3,
        batch_size=len(train),
        max_iter=ours.best_iter_,
        tol=0,
        n_iter_no_change=1000,
    )
    middle, spread = (y[train].mean(), y[train].std()) if kind == "continuous" else (0, 1)
    with pytest.warns(match="Maximum iterations"):
        theirs.fit(scaler.transform(X[train]), (y[train] - middle) / spread if kind == "continuous" else y[train])
    Z = scaler.transform(X)
    if kind == "continuous":
        np.testing.assert_allclose(ours.predict(X), theirs.predict(Z) * spread + middle, rtol=1e-6)
        held = np.square(ours.predict(X) - y)[ours.held_out_].mean() / spread**2
    else:
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(Z), atol=1e-8)
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(Z))
        held = -ours.predict_log_proba(X)[ours.held_out_, y[ours.held_out_]].mean()
    assert ours.loss_ == pytest.approx(held)


@pytest.mark.parametrize("layers", [1, 2])
def test_reads_what_no_direction_tells(layers):
    X, y = xor(400, d=3)
    test_X, test_y = xor(500, seed=1, d=3)
    probe = MLPProbe(32, layers, patience=15).fit(X, y)
    assert probe.converged_
    assert probe.score(test_X, test_y) > 0.9
    assert LogisticProbe().fit(X, y).score(test_X, test_y) < 0.6


def test_continuous_targets():
    def product(n, seed):
        X = np.random.default_rng(seed).normal(size=(n, 3))
        return (X + 5).astype("float32"), 1000 + 50 * X[:, 0] * X[:, 1]

    X, y = product(500, 0)
    test_X, test_y = product(300, 1)
    probe = MLPProbe(32, patience=10).fit(X, y)
    assert probe.score(test_X, test_y) > 0.8
    assert RidgeProbe().fit(X, y).score(test_X, test_y) < 0.2
    assert not hasattr(probe, "classes_")
    with pytest.raises(ValueError, match="no probabilities"):
        probe.predict_proba(X)
    with pytest.warns(ConvergenceWarning):
        assert hasattr(probe.set_params(kind="classes", max_iter=2).fit(X, y > 1000), "classes_")


def test_stopping_is_decided_on_other_groups():
    """Ten rows a group, nearly alike, and a label a group: told by heart only, which held-out rows must not be."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    X = rng.normal(size=(40, 20))[groups] + 0.01 * rng.normal(size=(400, 20))
    y = rng.integers(0, 2, 40)[groups]
    apart = MLPProbe(32).fit(X, y, groups=[f"text {g}" for g in groups])
    assert not set(groups[apart.held_out_]) & set(np.delete(groups, apart.held_out_))
    assert apart.loss_ > 0.5
    together = MLPProbe(32).fit(X, y)
    assert together.loss_ < 0.2


def test_says_when_it_did_not_converge():
    X, y = xor(100)
    with pytest.warns(ConvergenceWarning, match=r"after 3 epochs .* raise max_iter"):
        probe = MLPProbe(8, max_iter=3).fit(X, y)
    assert not probe.converged_
    assert probe.n_iter_ == 3


@pytest.mark.filterwarnings("ignore::probekit.probes.ConvergenceWarning")
def test_labels_of_any_type_and_torch():
    X, y = xor(150)
    a = MLPProbe(8, max_iter=10).fit(X.astype("float32"), np.array(["no", "yes"])[y])
    b = MLPProbe(8, max_iter=10).fit(torch.from_numpy(X.astype("float32")), torch.from_numpy(y))
    assert a.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(torch.from_numpy(X)))
    np.testing.assert_allclose(a.predict_proba(X).sum(1), 1)
    np.testing.assert_array_equal(a.predict(X), a.classes_[a.predict_log_proba(X).argmax(1)])
    other = MLPProbe(8, max_iter=10, seed=1).fit(X.astype("float32"), y)
    assert abs(other.predict_proba(X) - a.predict_proba(X)).max() > 1e-3


@pytest.mark.filterwarnings("ignore::probekit.probes.ConvergenceWarning")
def test_scikit_learn_protocol():
    X, y = xor(120)
    probe = MLPProbe(8, 2, max_iter=5)
    copy = clone(probe)
    assert copy.get_params() == probe.get_params()
    assert is_classifier(probe)
    assert is_regressor(MLPProbe(kind="continuous"))
    assert cross_val_score(copy, X, y, cv=2).shape == (2,)
    with pytest.raises(ValueError, match="no parameter 'depth'"):
        copy.set_params(depth=1)


def test_bad_input_is_named():
    X, y = xor(60)
    with pytest.raises(ValueError, match="not fitted"):
        MLPProbe().predict(X)
    with pytest.raises(ValueError, match=r"one class only \(1\)"):
        MLPProbe().fit(X, np.ones(60, int))
    with pytest.raises(ValueError, match="nothing to predict"):
        MLPProbe().fit(X, np.ones(60))
    broken = X.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"first: \[7\]"):
        MLPProbe().fit(broken, y)
    with pytest.raises(ValueError, match="layers must be 1 or 2"):
        MLPProbe(layers=3).fit(X, y)
    with pytest.raises(ValueError, match="width must be at least 1"):
        MLPProbe(width=0).fit(X, y)
    with pytest.raises(ValueError, match="alpha"):
        MLPProbe(alpha=-1).fit(X, y)
    with pytest.raises(ValueError, match="held_out is a share"):
        MLPProbe(held_out=0.9).fit(X, y)
    with pytest.raises(ValueError, match="kind must be"):
        MLPProbe(kind="other").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one group"):
        MLPProbe().fit(X, y, groups=np.zeros(60))
    with pytest.raises(ValueError, match=r"groups must be one label a row, \[60\]"):
        MLPProbe().fit(X, y, groups=np.zeros(59))
    with pytest.raises(ValueError, match="2 rows of 2 classes: nothing can be held out"):
        MLPProbe().fit(X[:2], [0, 1])
    with pytest.warns(ConvergenceWarning):
        probe = MLPProbe(4, max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="3 features, this probe was fitted on 4"):
        probe.predict(X[:, :3])
