"""Calibration against scikit-learn, and the coverage of conformal sets over many draws."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import cross_val_score

from probekit.probes import LogisticProbe, RidgeProbe
from probekit.probes.calibrated import CalibratedProbe
from probekit.probes.conformal import ConformalSets, conformal_quantile
from probekit.probes.estimator import Estimator
from probekit.probes.mlp import MLPProbe
from probekit.probes.multi_layer import MultiLayerProbe


def planted(n: int, classes: int = 2, seed: int = 0, d: int = 8, shift: float = 1.5):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(n, d))
    X[np.arange(n), y] += shift
    return X, y


class Given(Estimator):
    """Its input is its logits, times `factor`."""

    family = "given"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_log_proba(self, X):
        return log_softmax(np.asarray(X) * self.factor, axis=1)


def drawn(n: int, classes: int, seed: int):
    """Logits, and labels drawn from just those."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, classes)) * 2
    chance = np.exp(log_softmax(X, axis=1)).cumsum(1)
    return X, (rng.random((n, 1)) > chance).sum(1).clip(max=classes - 1)


def log_loss(probe, X, y) -> float:
    return float(-probe.predict_log_proba(X)[np.arange(len(y)), y].mean())


# Calibrated


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_temperature_is_found(classes, factor):
    X, y = drawn(4000, classes, 0)
    test_X, test_y = drawn(4000, classes, 1)
    raw = Given(factor).fit(X, y)
    probe = CalibratedProbe(raw).fit(X, y)
    assert probe.temperature_ == pytest.approx(factor, rel=0.08)
    scan = np.exp(np.linspace(-2, 2, 401))
    losses = [-log_softmax(X * factor / t, axis=1)[np.arange(4000), y].mean() for t in scan]
    assert probe.temperature_ == pytest.approx(scan[np.argmin(losses)], rel=0.011)
    np.testing.assert_array_equal(probe.predict(test_X), raw.predict(test_X))
    assert log_loss(probe, test_X, test_y) < log_loss(raw, test_X, test_y) - 0.02


def test_isotonic_is_scikit_learns_within_what_the_rows_can_tell():
    X, y = planted(300)
    cal_X, cal_y = planted(200, seed=1)
    probe = LogisticProbe().fit(X, y)
    ours = CalibratedProbe(probe, "isotonic").fit(cal_X, cal_y).predict_proba(X)
    theirs = CalibratedClassifierCV(FrozenEstimator(probe), method="isotonic", cv=2, ensemble=False)
    theirs = theirs.fit(cal_X, cal_y).predict_proba(X).clip(1 / 202, 1 - 1 / 202)
    # They differ where a line between two rows leaves the bounds: ours ends at the bound, theirs is cut there.
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    assert np.mean(abs(ours - theirs) > 1e-5) < 0.01


def test_isotonic_of_many_classes_is_one_against_the_rest():
    X, y = drawn(500, 3, 0)
    probe = CalibratedProbe(Given(2.0).fit(X, y), "isotonic").fit(X, y)
    columns = []
    for k in range(3):
        p = np.exp(log_softmax(2 * X, axis=1))[:, k]
        fitted = IsotonicRegression(y_min=1 / 502, y_max=1 - 1 / 502).fit(p, y == k)
        columns.append(fitted.predict(p))
    expected = np.stack(columns, 1)
    np.testing.assert_allclose(probe.predict_proba(X), expected / expected.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_unfitted_probe_is_fitted_and_calibrated_on_other_groups(method):
    X, y = planted(600, d=150)
    test_X, test_y = planted(2000, seed=1, d=150)
    groups = np.arange(600) // 3
    sure = LogisticProbe(100.0)
    probe = CalibratedProbe(sure, method).fit(X, y, groups=groups)
    assert not hasattr(sure, "coef_")
    train = np.setdiff1d(np.arange(600), probe.held_out_)
    assert not set(groups[probe.held_out_]) & set(groups[train])
    assert len(probe.held_out_) == pytest.approx(150, abs=6)
    alone = LogisticProbe(100.0).fit(X[train], y[train])
    np.testing.assert_array_equal(alone.coef_, probe.probe_.coef_)
    assert log_loss(probe, test_X, test_y) < 0.75 * log_loss(alone, test_X, test_y)
    # Of rows it gives 70 to 90 % to a class, about so many are of it.
    proba = probe.predict_proba(test_X)[:, 1]
    bin_ = (proba > 0.7) & (proba < 0.9)
    assert test_y[bin_].mean() == pytest.approx(proba[bin_].mean(), abs=0.1)


def test_fitted_probe_is_calibrated_on_all_rows_and_left_alone():
    X, y = planted(200)
    names = np.array(["no", "yes"])[y]
    inner = LogisticProbe().fit(X, names)
    coef = inner.coef_.copy()
    probe = CalibratedProbe(inner).fit(*(a[:150] for a in (X, names)))
    assert probe.probe_ is inner
    assert probe.held_out_.tolist() == list(range(150))
    np.testing.assert_array_equal(inner.coef_, coef)
    assert probe.classes_.tolist() == ["no", "yes"]
    np.testing.assert_allclose(probe.predict_proba(X).sum(1), 1)
    with pytest.raises(ValueError, match=r"labels \['perhaps'\] that the probe does not know"):
        probe.fit(X[:2], ["no", "perhaps"])


@pytest.mark.filterwarnings("ignore::probekit.probes.ConvergenceWarning")
def test_probes_that_take_groups_or_many_sites():
    X, y = planted(200)
    groups = np.arange(200) // 4
    probe = CalibratedProbe(MLPProbe(4, max_iter=3)).fit(X, y, groups=groups)
    train = np.setdiff1d(np.arange(200), probe.held_out_)
    inner = probe.probe_.held_out_
    assert not set(groups[train][inner]) & set(np.delete(groups[train], inner))
    many = np.stack([X, X[:, ::-1]], 1)
    sets = ConformalSets(CalibratedProbe(MultiLayerProbe(C=0.1))).fit(many, y, groups=groups)
    assert sets.predict_set(many).shape == (200, 2)
    assert sets.score(many, y) > 0.8


def test_scikit_learn_protocol():
    X, y = planted(200)
    for probe in (CalibratedProbe(LogisticProbe(0.1)), ConformalSets(LogisticProbe(0.1))):
        copy = clone(probe)
        assert copy.probe is not probe.probe
        assert copy.probe.get_params() == probe.probe.get_params()
        assert is_classifier(probe)
        assert cross_val_score(copy, X, y, cv=2).mean() > 0.7
        with pytest.raises(ValueError, match="not fitted"):
            copy.predict(X)


def test_calibration_names_bad_input():
    X, y = planted(60)
    with pytest.raises(ValueError, match="method must be"):
        CalibratedProbe(LogisticProbe(), "platt").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ConformalSets gives"):
        CalibratedProbe(RidgeProbe().fit(X, X[:, 0])).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="one class only"):
        CalibratedProbe(LogisticProbe()).fit(X, np.ones(60, int))
    with pytest.raises(ValueError, match="60 rows, y has 59"):
        CalibratedProbe(LogisticProbe()).fit(X, y[:-1])
    with pytest.raises(ValueError, match="one group"):
        CalibratedProbe(LogisticProbe()).fit(X, y, groups=np.zeros(60))
    with pytest.raises(ValueError, match="held_out is a share"):
        CalibratedProbe(LogisticProbe(), held_out=0.0).fit(X, y)
    broken = X.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        CalibratedProbe(LogisticProbe()).fit(broken, y)
    with pytest.raises(ValueError, match="no held-out row shows class 1"):
        CalibratedProbe(LogisticProbe().fit(X, y), "isotonic").fit(X[y == 0], y[y == 0])
    probe = CalibratedProbe(LogisticProbe()).fit(X, y)
    with pytest.raises(ValueError, match="fitted on 8"):
        probe.predict(X[:, :3])


# Conformal


@pytest.mark.parametrize("how", ["adaptive", "plain"])
@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_sets_cover_as_promised_however_wrong_the_probe(how, factor):
    n, alpha, draws = 49, 0.2, 400
    probe = Given(factor).fit(np.eye(5), np.arange(5))
    shares = []
    for draw in range(draws):
        X, y = drawn(n + 100, 5, draw)
        sets = ConformalSets(probe, alpha, how).fit(X[:n], y[:n])
        shares.append(sets.coverage(X[n:], y[n:]))
    error = np.std(shares) / np.sqrt(draws)
    assert np.mean(shares) > 1 - alpha - 3 * error
    if how == "plain":  # no two scores are alike, so that it is not more either
        assert np.mean(shares) < 1 - alpha + 1 / (n + 1) + 3 * error
    assert error < 0.005


def test_sets_of_a_probe_fitted_inside_cover_too():
    shares = []
    for draw in range(80):
        X, y = planted(400, 3, seed=draw, d=40)
        names = np.array(["a", "b", "c"])[y]
        sets = ConformalSets(RidgeProbe(), 0.1, "plain", held_out=0.4).fit(X[:200], names[:200])
        shares.append(sets.coverage(X[200:], names[200:]))
    error = np.std(shares) / np.sqrt(len(shares))
    assert 0.9 - 3 * error < np.mean(shares) < 0.9 + 1 / 81 + 3 * error


def test_intervals_cover_as_promised():
    shares, n = [], 39
    for draw in range(300):
        rng = np.random.default_rng(draw)
        X = rng.normal(size=(n + 140, 3))
        y = X.sum(1) ** 2 + rng.standard_t(2, n + 140)  # far from what ridge thinks
        if draw == 0:
            probe = RidgeProbe().fit(X, y)
            continue
        sets = ConformalSets(probe, 0.1).fit(X[:n], y[:n])
        shares.append(sets.coverage(X[n:], y[n:]))
    error = np.std(shares) / np.sqrt(len(shares))
    assert 0.9 - 3 * error < np.mean(shares) < 0.9 + 1 / (n + 1) + 3 * error
    ends = sets.predict_set(X)
    np.testing.assert_allclose(ends.mean(1), probe.predict(X), atol=1e-6)
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * sets.quantile_[0], rtol=1e-6)


def test_a_new_group_is_covered_where_rows_alone_would_not_be():
    """Groups that are hard have few rows: counting rows makes the promise to the easy ones."""

    def batch(groups, rng):
        hard = rng.random(groups) < 0.3
        index = np.repeat(np.arange(groups), np.where(hard, 1, 12))
        X = rng.normal(size=(len(index), 1))
        noise = np.where(hard, 5.0, 0.5)[index] * rng.normal(size=len(index))
        return X, X[:, 0] + noise, index

    rng = np.random.default_rng(0)
    X, y, _ = batch(300, rng)
    probe = RidgeProbe().fit(X, y)
    by_group, by_row = [], []
    for _ in range(300):
        X, y, index = batch(40, rng)
        new_X, new_y, new = batch(40, rng)
        for groups, found in ((index, by_group), (None, by_row)):
            ends = ConformalSets(probe, 0.1).fit(X, y, groups=groups).predict_set(new_X)
            inside = (ends[:, 0] <= new_y) & (new_y <= ends[:, 1])
            found.append((np.bincount(new, inside) / np.bincount(new)).mean())
    error = np.std(by_group) / np.sqrt(300)
    assert 0.9 - 3 * error < np.mean(by_group) < 0.9 + 1 / 41 + 3 * error
    assert np.mean(by_row) < 0.85


def test_each_class_is_covered_when_asked():
    rng = np.random.default_rng(0)
    X, y = drawn(3000, 3, 0)
    keep = (y != 2) | (rng.random(3000) < 0.15)
    X, y = X[keep] - [0, 0, 3], y[keep]  # a rare class that the probe believes in too little
    probe = Given().fit(X, y)
    rows, held = np.arange(len(y)) < len(y) // 2, np.arange(len(y)) >= len(y) // 2

    def coverage(sets):
        return [sets.coverage(X[held & (y == k)], y[held & (y == k)]) for k in range(3)]

    marginal = ConformalSets(probe, 0.1, "plain").fit(X[rows], y[rows])
    each = ConformalSets(probe, 0.1, "plain", class_conditional=True).fit(X[rows], y[rows])
    assert min(coverage(marginal)) < 0.6
    assert min(coverage(each)) > 0.8
    assert len(set(marginal.quantile_)) == 1
    with pytest.warns(UserWarning, match=r"classes \[2\]: they are in every set"):
        few = ConformalSets(probe, 0.1, class_conditional=True).fit(X[y != 2], y[y != 2])
    assert few.predict_set(X)[:, 2].all()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(9, 60), groups=st.integers(2, 20), alpha=st.floats(0.05, 0.5), seed=st.integers(0, 999))
def test_quantile_is_the_textbooks(n, groups, alpha, seed):
    rng = np.random.default_rng(seed)
    strange = rng.normal(size=n).round(1)
    rank = int(np.ceil((n + 1) * (1 - alpha) - 1e-9))
    expected = np.sort(strange)[rank - 1] if rank <= n else np.inf
    assert conformal_quantile(strange, np.arange(n), alpha) == expected
    index = rng.integers(0, groups, n)
    present = np.unique(index)
    slow = np.inf
    for level in sorted(set(strange), reverse=True):
        inside = sum((strange[index == g] <= level).mean() for g in present) / (len(present) + 1)
        slow = level if inside >= 1 - alpha - 1e-9 else slow
    assert conformal_quantile(strange, index, alpha) == slow


def test_sets_are_never_empty_and_grow_with_the_promise():
    X, y = drawn(500, 4, 0)
    probe = Given().fit(X, y)
    sets = [ConformalSets(probe, a).fit(X[:200], y[:200]).predict_set(X) for a in (0.4, 0.2, 0.05)]
    assert sets[0].any(1).all()
    for small, large in pairwise(sets):
        assert (small <= large).all()
    assert sets[0].sum() < sets[2].sum()
    # Classes come in by probability: no class is in while a likelier one is out.
    proba = probe.predict_proba(X)
    for row in range(20):
        inside = sets[1][row]
        assert inside.all() or proba[row][inside].min() >= proba[row][~inside].max()
    np.testing.assert_array_equal(ConformalSets(probe).fit(X, y).predict_proba(X), proba)


def test_conformal_names_bad_input():
    X, y = planted(60)
    with pytest.raises(ValueError, match="alpha lies between"):
        ConformalSets(LogisticProbe(), 1.0).fit(X, y)
    with pytest.raises(ValueError, match="how must be"):
        ConformalSets(LogisticProbe(), how="other").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"8 held-out groups .* takes at least 9"):
        ConformalSets(LogisticProbe().fit(X, y)).fit(X[:8], y[:8])
    ConformalSets(LogisticProbe().fit(X, y)).fit(X[:9], y[:9])
    with pytest.raises(ValueError, match="class_conditional needs classes"):
        ConformalSets(RidgeProbe(), class_conditional=True).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="not fitted"):
        ConformalSets(LogisticProbe()).predict_set(X)
    probe = LogisticProbe().fit(X, y)
    with pytest.warns(UserWarning, match=r"2 of 60 held-out rows .* \(\[5\]\)"):
        sets = ConformalSets(probe, 0.2).fit(X, np.r_[y[:58], 5, 5])
    assert sets.coverage(X, np.full(60, 5)) == 0


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_a_probability_of_zero_is_calibrated_too(method):
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = (X[:, 0] + 0.5 * rng.normal(size=400) > 0).astype(int)
    tree = DecisionTreeClassifier(random_state=0).fit(X[:200], y[:200])
    with np.errstate(divide="ignore"):
        found = CalibratedProbe(tree, method=method).fit(X[200:], y[200:])
        said = found.predict_log_proba(X[200:])
    assert np.isfinite(said).all()
    assert -said[np.arange(200), y[200:]].mean() < np.log(2)
