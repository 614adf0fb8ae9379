"""Probes of many sites against scikit-learn, and the folds and held-out rows that they and others stand on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit.probes import LogisticProbe
from probekit.probes.held_out import fold_of_rows, group_codes, hold_out
from probekit.probes.multi_layer import MultiLayerProbe

both = pytest.mark.parametrize("how", ["concatenate", "stack"])


def planted(n: int = 300, sites: int = 4, d: int = 6, classes: int = 2, seed: int = 0):
    """Half of what tells a class stands at site 0, half at site 2, at different scales."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(n, sites, d))
    for site in (0, 2):
        X[np.arange(n), site, y] += 1.5
    return X * np.array([1.0, 5, 20, 100])[:sites, None] + 3, y


def standard(C: float):
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-9, max_iter=10_000))


@pytest.mark.parametrize("classes", [2, 3])
def test_concatenated_is_one_logistic_regression(classes):
    X, y = planted(classes=classes)
    probe = MultiLayerProbe(C=0.1).fit(X, y)
    flat = X.reshape(len(X), -1)
    np.testing.assert_allclose(probe.predict_proba(X), standard(0.1).fit(flat, y).predict_proba(flat), atol=1e-3)
    assert probe.coef_.shape == (1 if classes == 2 else classes, 4, 6)


@pytest.mark.parametrize("classes", [2, 3])
def test_stack_is_scikit_learns_out_of_fold(classes):
    X, y = planted(classes=classes)
    probe = MultiLayerProbe("stack", C=0.1, combination_C=0.5, folds=4, seed=2).fit(X, y)
    folds = StratifiedKFold(4, shuffle=True, random_state=2)
    read = [
        cross_val_predict(standard(0.1), X[:, s], y, cv=folds, method="decision_function").reshape(len(X), -1)
        for s in range(4)
    ]
    top = standard(0.5).fit(np.concatenate(read, 1), y)
    again = [standard(0.1).fit(X[:, s], y).decision_function(X[:, s]).reshape(len(X), -1) for s in range(4)]
    np.testing.assert_allclose(probe.predict_proba(X), top.predict_proba(np.concatenate(again, 1)), atol=3e-3)


@both
@pytest.mark.parametrize("classes", [2, 3])
def test_coefficients_act_on_raw_activations(how, classes):
    X, y = planted(classes=classes)
    probe = MultiLayerProbe(how).fit(X, y)
    scores = np.einsum("nsd,osd->no", X, probe.coef_) + probe.intercept_
    np.testing.assert_allclose(scores[:, 0] if classes == 2 else scores, probe.decision_function(X), rtol=1e-6)
    if how == "stack":
        through = np.concatenate(
            [p.decision_function(X[:, s]).reshape(300, -1) for s, p in enumerate(probe.by_site_)], 1
        )
        np.testing.assert_allclose(probe.predict_log_proba(X), probe.combination_.predict_log_proba(through), atol=1e-6)
        assert not hasattr(clone(probe).set_params(how="concatenate").fit(X, y), "by_site_")


@both
def test_reads_what_no_site_tells_alone(how):
    X, y = planted(600)
    test_X, test_y = planted(1000, seed=1)
    together = MultiLayerProbe(how, C=0.1).fit(X, y).score(test_X, test_y)
    alone = max(LogisticProbe(0.1).fit(X[:, s], y).score(test_X[:, s], test_y) for s in range(4))
    assert together > alone + 0.04
    assert together > 0.9


def test_stack_does_not_trust_a_site_that_learns_by_heart():
    """Site 1 is wide noise that any training set can be learnt from; site 0 tells the label three times of four."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 150)
    X = np.zeros((150, 2, 200))
    X[:, 0, 0] = np.where(rng.random(150) < 0.75, y, 1 - y)
    X[:, 1] = rng.normal(size=(150, 200))
    train, test = np.arange(150) < 100, np.arange(150) >= 100
    probe = MultiLayerProbe("stack", C=10.0).fit(X[train], y[train])
    assert probe.by_site_[1].score(X[train, 1], y[train]) == 1
    says = [probe.by_site_[s].decision_function(X[test, s]).std() * probe.combination_.coef_[0, s] for s in (0, 1)]
    assert says[0] > 3 * abs(says[1])
    flat = MultiLayerProbe("concatenate", C=10.0).fit(X[train], y[train])
    assert probe.score(X[test], y[test]) > flat.score(X[test], y[test])


@both
def test_labels_of_any_type_torch_and_protocol(how):
    X, y = planted(120)
    probe = MultiLayerProbe(how, folds=3)
    assert clone(probe).get_params() == probe.get_params()
    assert is_classifier(probe)
    assert cross_val_score(probe, X, y, cv=2).mean() > 0.6
    a = clone(probe).fit(X.astype("float32"), np.array(["no", "yes"])[y])
    b = clone(probe).fit(torch.from_numpy(X.astype("float32")), torch.from_numpy(y))
    assert a.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(a.coef_, b.coef_)
    np.testing.assert_array_equal(a.predict(X), a.classes_[a.predict_log_proba(X).argmax(1)])
    assert a.converged_


def test_bad_input_is_named():
    X, y = planted(60)
    with pytest.raises(ValueError, match="not fitted"):
        MultiLayerProbe().predict(X)
    with pytest.raises(ValueError, match="how must be"):
        MultiLayerProbe("sum").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[row, site, feature\].*for one site use LogisticProbe"):
        MultiLayerProbe().fit(X[:, 0], y)
    with pytest.raises(ValueError, match="one class only"):
        MultiLayerProbe().fit(X, np.ones(60, int))
    broken = X.copy()
    broken[7, 3, 2] = np.nan
    with pytest.raises(ValueError, match=r"first: \[7\]"):
        MultiLayerProbe().fit(broken, y)
    with pytest.raises(ValueError, match="folds must be at least 2"):
        MultiLayerProbe("stack", folds=1).fit(X, y)
    with pytest.raises(ValueError, match="one group"):
        MultiLayerProbe("stack").fit(X, y, groups=np.zeros(60))
    with pytest.raises(ValueError, match="class with index 1"):
        MultiLayerProbe("stack").fit(X, np.r_[np.zeros(59, int), 1])
    with pytest.raises(ValueError, match="continuous"):
        MultiLayerProbe().fit(X, X[:, 0, 0])
    probe = MultiLayerProbe().fit(X, y)
    with pytest.raises(ValueError, match="3 sites of width 6, this probe was fitted on 4 of width 6"):
        probe.predict(X[:, :3])


# Folds and held-out rows


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(24, 80),
    groups=st.integers(6, 30),
    classes=st.integers(2, 4),
    folds=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_folds_and_held_out_rows_keep_groups_whole(n, groups, classes, folds, seed):
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.arange(n) % groups)
    codes = rng.permutation(np.arange(n) % classes)
    fold = fold_of_rows(codes, index, folds, seed)
    for g in np.unique(index):
        assert len(np.unique(fold[index == g])) == 1
    np.testing.assert_array_equal(fold, fold_of_rows(codes, index, folds, seed))
    for labels in (None, codes):
        refused = ""
        try:
            train, held = hold_out(labels, index, 1 / folds, seed)
        except ValueError as error:  # every group holds the last rows of a class
            refused = str(error)
        if refused:
            assert "without taking a whole class away" in refused
            continue
        assert sorted([*train, *held]) == list(range(n))
        assert not set(index[train]) & set(index[held])
        if labels is not None:
            assert set(codes[train]) == set(range(classes))


def test_one_large_group_is_not_held_out_by_itself() -> None:
    """Whichever fold it is dealt to: what is held out stays near the share that was asked for."""
    groups = np.concatenate([np.zeros(60, int), 1 + np.arange(60) // 2])
    codes = np.concatenate([np.arange(60) < 20, np.tile([0, 1], 30)]).astype(int)
    for seed in range(8):
        train, held = hold_out(codes, groups, 0.2, seed)
        assert 12 <= len(held) <= 24
        assert set(codes[held]) == {0, 1}
        assert not set(groups[train]) & set(groups[held])


def test_classes_are_held_out_evenly_and_never_altogether():
    codes = np.r_[np.zeros(90, int), np.ones(30, int), 2]
    train, held = hold_out(codes, np.arange(121), 0.25, 0)
    assert np.bincount(codes[held]).tolist()[:2] == pytest.approx([22, 8], abs=1)
    assert 120 in train
    assert len(train) + len(held) == 121


def test_groups_of_any_type():
    assert group_codes(None, 3).tolist() == [0, 1, 2]
    assert group_codes(["b", "a", "b"], 3).tolist() == [1, 0, 1]
    assert group_codes(torch.tensor([5, 5, 2]), 3).tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="one label a row"):
        group_codes([[1, 2]], 2)
