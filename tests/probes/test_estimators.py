"""What all probe families promise: scikit-learn's protocol, raw-space weights, errors, planted truth."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.activations.moments import Moments
from probekit.probes import DifferenceInMeans, LDAProbe, LogisticProbe, RidgeProbe, fit_grid
from probekit.probes.grid import fit_grids
from probekit.probes.solution import PER_PROBE
from probekit.probes.summary import Summary

CLASSIFIERS = [
    DifferenceInMeans(),
    LDAProbe(0.1),
    RidgeProbe(1.0),
    LogisticProbe(0.1),
    LogisticProbe(0.1, penalty="l1"),
]
IDS = ["difference_in_means", "lda", "ridge", "logistic", "logistic_l1"]
every_family = pytest.mark.parametrize("probe", CLASSIFIERS, ids=IDS)


def planted(n: int = 300, d: int = 12, classes: int = 2, seed: int = 0, dtype: str = "float32"):
    """Activations with uneven scales and offsets in which class k shifts feature k by three standard deviations."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(n, d))
    X[np.arange(n), y] += 3
    return (X * rng.uniform(0.1, 30, d) + rng.normal(size=d) * 20).astype(dtype), y


@every_family
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_finds_planted_classes_and_is_calibrated(probe, classes):
    X, y = planted(classes=classes, n=400)
    test_X, test_y = planted(classes=classes, n=400, seed=0)
    fitted = type(probe)(**probe.get_params()).fit(X[:200], y[:200])
    held_X, held_y = test_X[200:], test_y[200:]
    # Nearest mean in raw space is honest about features of large scale drowning the others.
    if probe.family != "difference_in_means":
        assert fitted.score(held_X, held_y) > 0.9
    log_proba = fitted.predict_log_proba(held_X)
    assert log_proba.shape == (200, classes)
    np.testing.assert_allclose(np.exp(log_proba).sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(fitted.classes_[log_proba.argmax(1)], fitted.predict(held_X))
    assert -log_proba[np.arange(200), held_y].mean() < np.log(classes)  # better than knowing nothing
    assert fitted.converged_


@every_family
def test_coefficients_act_on_raw_activations(probe):
    X, y = planted(classes=3)
    fitted = type(probe)(**probe.get_params()).fit(X, y)
    np.testing.assert_allclose(
        X @ fitted.coef_.T + fitted.intercept_, fitted.decision_function(X), rtol=1e-3, atol=1e-3
    )


@every_family
def test_string_and_boolean_labels(probe):
    X, y = planted(classes=3)
    names = np.array(["west", "east", "north"])[y]
    fitted = type(probe)(**probe.get_params()).fit(X, names)
    assert fitted.classes_.tolist() == ["east", "north", "west"]
    assert set(fitted.predict(X)) <= set(names)
    flags = type(probe)(**probe.get_params()).fit(X, y == 0)
    assert flags.predict(X).dtype == bool
    as_list = type(probe)(**probe.get_params()).fit(X, list(names))
    np.testing.assert_array_equal(as_list.coef_, fitted.coef_)


@every_family
def test_torch_and_numpy_give_the_same(probe):
    X, y = planted()
    a = type(probe)(**probe.get_params()).fit(X, y)
    b = type(probe)(**probe.get_params()).fit(torch.from_numpy(X), torch.from_numpy(y))
    np.testing.assert_array_equal(a.coef_, b.coef_)


@every_family
@pytest.mark.parametrize("classes", [2, 3])
def test_direction_is_the_contrast_of_the_class_in_raw_space(probe, classes):
    X, y = planted(classes=classes)
    fitted = type(probe)(**probe.get_params()).fit(X, y)
    direction = fitted.direction(class_=1)
    assert float(direction.vector.norm()) == pytest.approx(1, abs=1e-6)
    along = direction.project(X)
    assert along[y == 1].mean() > along[y != 1].mean()
    assert direction.gap == pytest.approx(along[y == 1].mean() - along[y != 1].mean(), rel=1e-3)
    assert direction.provenance["family"] == probe.family
    if classes == 2:
        assert fitted.direction().cosine(direction) == pytest.approx(1)
        assert fitted.direction(class_=0).cosine(direction) == pytest.approx(-1)
    else:
        with pytest.raises(ValueError, match="class_="):
            fitted.direction()
    with pytest.raises(ValueError, match="no class 7"):
        fitted.direction(class_=7)


@every_family
@settings(max_examples=8, deadline=None)
@given(shift=st.floats(-50, 50), factor=st.floats(0.05, 20), seed=st.integers(0, 99))
def test_probabilities_do_not_depend_on_units_and_origin(probe, shift, factor, seed):
    X, y = planted(n=80, d=5, seed=seed, dtype="float64")
    a = type(probe)(**probe.get_params()).fit(X, y).predict_proba(X)
    b = type(probe)(**probe.get_params()).fit(X * factor + shift, y).predict_proba(X * factor + shift)
    np.testing.assert_allclose(a, b, atol=2e-3)


@every_family
def test_bad_input_is_named(probe):
    X, y = planted(n=60)
    fresh = type(probe)(**probe.get_params())
    with pytest.raises(ValueError, match="not fitted"):
        fresh.predict(X)
    with pytest.raises(ValueError, match=r"one class only \(1\)"):
        fresh.fit(X, np.ones(60, int))
    broken = X.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values in 1 of 60 rows \(first: \[7\]\)"):
        fresh.fit(broken, y)
    broken[7, 3] = np.inf
    with pytest.raises(ValueError, match="rows"):
        fresh.fit(broken, y)
    with pytest.raises(ValueError, match="60 rows, y has 59"):
        fresh.fit(X, y[:-1])
    with pytest.raises(ValueError, match=r"\[row, feature\]"):
        fresh.fit(X[0], y)
    with pytest.raises(ValueError, match="fit_many"):
        fresh.fit(X, np.stack([y, y], 1))
    with pytest.raises(ValueError, match="identifiers"):
        fresh.fit(X, [f"id{i}" for i in range(60)])
    with pytest.raises(TypeError, match="array of numbers"):
        fresh.fit(np.full((60, 2), "text"), y)
    with pytest.raises(TypeError, match="mixes labels"):
        fresh.fit(X, np.array([1, "a"] * 30, dtype=object))
    with pytest.raises(ValueError, match="missing"):
        fresh.fit(X, np.array(["a", None] * 30, dtype=object))
    fresh.fit(X, y)
    with pytest.raises(ValueError, match="3 features, this probe was fitted on 12"):
        fresh.predict(X[:, :3])


def test_missing_and_continuous_labels():
    X, y = planted(n=60)
    holed = y.astype(float)
    holed[3] = np.nan
    with pytest.raises(ValueError, match=r"missing or infinite labels \(first rows: \[3\]\)"):
        LogisticProbe().fit(X, holed)
    with pytest.raises(ValueError, match="use RidgeProbe"):
        LogisticProbe().fit(X, X[:, 0])
    with pytest.raises(ValueError, match="nothing to predict"):
        RidgeProbe().fit(X, np.full(60, 1.5))
    probe = RidgeProbe().fit(X, X[:, 0] * 2 + 1)
    assert probe.score(X, X[:, 0] * 2 + 1) > 0.99
    assert not hasattr(probe, "classes_")
    with pytest.raises(ValueError, match="no probabilities"):
        probe.predict_proba(X)
    assert RidgeProbe(kind="continuous").fit(X, y).predict(X).dtype.kind == "f"


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (LogisticProbe(C=0), "C must be positive"),
        (LogisticProbe(penalty="l3"), "penalty must be"),  # type: ignore[arg-type]
        (RidgeProbe(alpha=-1), "alpha"),
        (RidgeProbe(kind="other"), "kind must be"),  # type: ignore[arg-type]
        (LDAProbe(shrinkage=2), "between 0 and 1"),
    ],
)
def test_parameters_are_checked(probe, message):
    X, y = planted(n=60)
    with pytest.raises(ValueError, match=message):
        probe.fit(X, y)
    with pytest.raises(ValueError, match="shrinkage > 0"):
        LDAProbe(shrinkage=0).fit(X[:10], y[:10])


@every_family
def test_scikit_learn_protocol(probe):
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, cross_val_score

    X, y = planted(classes=3, n=120)
    copy = clone(probe)
    assert copy is not probe
    assert copy.get_params() == probe.get_params()
    assert is_classifier(probe)
    assert cross_val_score(copy, X, y, cv=3).shape == (3,)
    if probe.grid_parameter and "l1" not in repr(probe):
        search = GridSearchCV(copy, {probe.grid_parameter: [0.1, 0.5]}, cv=2).fit(X, y)
        assert search.best_params_[probe.grid_parameter] in (0.1, 0.5)
    with pytest.raises(ValueError, match="no parameter 'nonsense'"):
        copy.set_params(nonsense=1)


@pytest.mark.parametrize("probe", CLASSIFIERS[:3], ids=IDS[:3])
@pytest.mark.parametrize("classes", [2, 3])
def test_streamed_moments_give_the_same_answer(probe, classes):
    X, y = planted(classes=classes, n=500)
    labels = np.stack([y, np.random.default_rng(1).integers(0, classes, 500)], 1)
    moments = Moments(X.shape[1], 2, classes)
    for start in range(0, 500, 64):
        moments.update(X[start : start + 64], labels[start : start + 64])
    for t in range(2):
        memory = type(probe)(**probe.get_params()).fit(X.astype("float64"), labels[:, t])
        streamed = type(probe).from_moments(moments, t, **probe.get_params())
        np.testing.assert_allclose(streamed.coef_, memory.coef_, rtol=1e-6, atol=1e-6 * abs(memory.coef_).max())
        np.testing.assert_allclose(streamed.predict_log_proba(X), memory.predict_log_proba(X), rtol=1e-4, atol=1e-5)


def test_streamed_continuous_targets():
    X, y = planted(n=500, dtype="float64")
    values = X[:, :2] + y[:, None]
    moments = Moments(X.shape[1], 2, 0).update(X, values)
    for t in range(2):
        memory = RidgeProbe(3.0).fit(X, values[:, t])
        streamed = RidgeProbe.from_moments(moments, t, alpha=3.0)
        np.testing.assert_allclose(streamed.coef_, memory.coef_, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(streamed.intercept_, memory.intercept_, rtol=1e-6)


@every_family
def test_fit_many_is_fit_for_each_target_and_leaves_rows_out(probe):
    rng = np.random.default_rng(3)
    X, y = planted(n=300, classes=3, dtype="float64")
    Y = np.stack([y, rng.integers(0, 3, 300), np.where(rng.random(300) < 0.3, -1, y), np.where(y == 1, -1, y)], 1)
    exact = {"tol": 1e-8, "max_iter": 20000} if probe.family == "logistic" else {}
    many = type(probe)(**{**probe.get_params(), **exact}).fit_many(X, Y)
    for t, fitted in enumerate(many):
        kept = Y[:, t] >= 0
        alone = type(probe)(**{**probe.get_params(), **exact}).fit(X[kept], Y[kept, t])
        assert fitted.classes_.tolist() == alone.classes_.tolist()
        np.testing.assert_allclose(fitted.predict_proba(X), alone.predict_proba(X), atol=2e-4)
        np.testing.assert_allclose(fitted.gap_, alone.gap_, rtol=1e-3, atol=1e-3)


def test_fit_many_names_targets_it_cannot_fit():
    X, y = planted(n=60)
    with pytest.raises(ValueError, match=r"targets \[1\] have one class only"):
        LogisticProbe().fit_many(X, np.stack([y, np.where(y == 0, -1, 1)], 1))
    with pytest.raises(TypeError, match="integer class indices"):
        LogisticProbe().fit_many(X, np.stack([y, y], 1).astype(str))
    with pytest.raises(ValueError, match=r"\[row, target\]"):
        LogisticProbe().fit_many(X, y)


@every_family
@pytest.mark.parametrize("n", [40, 6])
def test_activations_that_are_all_alike_read_nothing(probe, n):
    """The embedding of a full stop is the same in every sentence."""
    row = np.random.default_rng(0).normal(size=20).astype("float32") * 3
    fitted = type(probe)(**probe.get_params()).fit(np.tile(row, (n, 1)), np.arange(n) % 2)
    np.testing.assert_allclose(fitted.predict_proba(np.tile(row, (3, 1))), 0.5, atol=1e-3)
    with pytest.raises(ValueError, match="not zero"):
        fitted.direction()


def test_logistic_needs_few_iterations_however_clear_the_classes():
    """The Hessian of classes that come apart is far below its bound; a solver that trusts the bound crawls."""
    n, d, rng = 300, 200, np.random.default_rng(0)
    y = np.arange(n) % 2
    X = rng.normal(size=(n, d)) * (np.exp(-np.arange(d) / 20) + 0.01) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    X += np.outer(y - 0.5, rng.normal(size=d)) * 0.3 * X.std()
    stack = fit_grid("logistic", X.astype(np.float32), y, list(np.logspace(-4, 3, 8)))
    assert bool(stack.converged.all())
    assert int(stack.n_iter.max()) <= 16  # 32 with the bound alone


@pytest.mark.parametrize("n", [10, 90])
def test_families_fitted_together_are_what_each_is_alone(n, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2, n, 16)).astype(np.float32)
    Y = rng.integers(0, 3, (n, 4))
    Y[:2, 1], Y[Y[:, 2] == 2, 2] = -1, 0  # rows left out of a target, and a class that one never shows
    families = ["difference_in_means", "lda", RidgeProbe(alpha=3.0), "logistic"]
    grids = [None, [0.1, 0.5], None, [0.01, 1.0]]
    alone = [fit_grid(family, X, Y, grid, n_classes=3) for family, grid in zip(families, grids, strict=True)]
    summed, made, real = [], [], Summary.of_rows

    def of_rows(cls, *rows):
        assert all(one() is None for one in made)  # a large site has room for one
        summary = real(*rows)
        made.append(weakref.ref(summary))
        summed.append(rows[1].shape[1])
        return summary

    monkeypatch.setattr(Summary, "of_rows", classmethod(of_rows))
    for together, one in zip(fit_grids(families, X, Y, grids, n_classes=3), alone, strict=True):
        assert (together.family, together.grid, together.parameters) == (one.family, one.grid, one.parameters)
        for name in PER_PROBE:
            assert torch.equal(getattr(together, name).nan_to_num(), getattr(one, name).nan_to_num()), name
    assert summed == [2, 1, 1] * 2  # once a site and group of targets, for all three families in closed form


def test_continuous_targets_of_several_ridges_fitted_together():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 6)), rng.normal(size=(40, 2))
    Y[:5, 1] = np.nan
    together = fit_grids(["ridge", RidgeProbe(alpha=2.0)], X, Y, [[1.0], None])
    for stack, alpha in zip(together, [1.0, 2.0], strict=True):
        assert torch.equal(stack.coef, fit_grid("ridge", X, Y, [alpha]).coef)


def test_a_probe_that_solves_in_a_way_of_its_own_does_so_in_company():
    class Doubled(RidgeProbe):
        def _takes_masks(self, n, d):
            return True

        def _solve(self, X, Y, n_classes, grid):
            found = super()._solve(X, Y.clamp(min=0), n_classes, grid)
            return replace(found, coef=2 * found.coef)

    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 6)), rng.integers(0, 2, (40, 1))
    Y[:10] = -1
    doubled, lda = fit_grids([Doubled(alpha=1.0), "lda"], X, Y, n_classes=2)
    assert torch.equal(doubled.coef, 2 * fit_grid("ridge", X, Y.clip(min=0), [1.0], n_classes=2).coef)
    assert torch.equal(lda.coef, fit_grid("lda", X, Y, n_classes=2).coef)


@pytest.mark.parametrize(
    "call", [lambda *a, **k: fit_grid("logistic", *a, **k), lambda *a, **k: fit_grids(["logistic"], *a, **k)]
)
def test_warnings_are_of_the_line_that_asked(call):
    with pytest.warns(UserWarning, match="one class only") as said:
        call(np.zeros((4, 3), np.float32), np.zeros((4, 1), int), n_classes=2)
    assert {Path(one.filename).name for one in said} == {Path(__file__).name}


@pytest.mark.parametrize(
    ("families", "grids", "error", "why"),
    [
        ([], None, ValueError, "families is empty"),
        ("ridge", None, TypeError, "families is one name, 'ridge'"),
        (["ridge", "lda"], [[1.0]], ValueError, "2 families but 1 grids"),
    ],
)
def test_families_to_fit_together_that_cannot_be(families, grids, error, why):
    with pytest.raises(error, match=why):
        fit_grids(families, np.zeros((4, 3), np.float32), np.arange(4)[:, None] % 2, grids)
