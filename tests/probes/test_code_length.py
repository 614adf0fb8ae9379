"""The online code length against a slow one written out, its bounds, and what it is for."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit.probes import LogisticProbe, RidgeProbe
from probekit.probes.code_length import FRACTIONS, _blocks, _Reader, code_length
from probekit.probes.estimator import Estimator
from probekit.probes.mlp import MLPProbe
from probekit.probes.multi_layer import MultiLayerProbe

QUARTERS = (0.1, 0.25, 0.5, 1.0)


def planted(n: int = 400, d: int = 10, classes: int = 2, shift: float = 3.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(n, d))
    X[np.arange(n), y] += shift
    return X * 5 + 7, y


class Frequencies(Estimator):
    """Reads nothing: class frequencies, one row of each class added. Remembers what it was fitted on and asked."""

    family = "frequencies"
    fitted: list[np.ndarray] = []  # noqa: RUF012
    asked: list[np.ndarray] = []  # noqa: RUF012

    def fit(self, X, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.share_ = (counts + 1) / (counts + 1).sum()
        Frequencies.fitted.append(X[:, 0])
        return self

    def predict_log_proba(self, X):
        Frequencies.asked.append(X[:, 0])
        return np.log(np.tile(self.share_, (len(X), 1)))


@pytest.mark.parametrize("classes", [2, 3])
def test_is_the_code_written_out(classes):
    X, y = planted(200, classes=classes, shift=1.5)
    groups = np.repeat(np.arange(40), 5)
    ours = code_length(X, y, LogisticProbe(0.1, tol=1e-8), groups=groups, fractions=QUARTERS, seed=3)
    order, ends = _blocks(groups, QUARTERS, 3)
    assert ends.tolist() == [20, 50, 100, 200]
    expected = [20 * np.log2(classes)]
    for start, end in pairwise(ends):
        before, block = order[:start], order[start:end]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-9, max_iter=10_000))
        proba = model.fit(X[before], y[before]).predict_proba(X[block])
        assert proba.shape[1] == classes
        expected.append(-np.log2(proba[np.arange(len(block)), y[block]]).sum())
    np.testing.assert_allclose(ours.block_bits, expected, rtol=1e-5)
    assert ours.bits == pytest.approx(sum(expected))
    assert ours.block_rows.tolist() == [20, 30, 50, 100]
    assert ours.uniform_bits == pytest.approx(200 * np.log2(classes))
    assert ours.compression == ours.uniform_bits / ours.bits
    assert ours.notes == ()
    assert ours.shuffled is not None
    assert ours.shuffled.shuffled is None


def test_mixture_is_never_much_longer_than_its_best_member():
    X, y = planted(200, d=40, shift=1.0)
    mixed = code_length(X, y).bits
    each = [code_length(X, y, LogisticProbe(C)).bits for C in LogisticProbe.default_grid]
    assert min(each) - 0.1 < mixed < min(each) + np.log2(len(each)) + 0.1
    assert mixed < each[4] - 40  # C = 1 is too sure of itself on few rows


def test_tells_much_from_little_and_from_nothing():
    X, y = planted(600)
    noise = np.random.default_rng(1).integers(0, 2, 600)
    clear, faint, nothing = code_length(X, y), code_length(*planted(600, shift=1.0)), code_length(X, noise)
    assert clear.compression > 4 > faint.compression > 1.1
    assert 0.9 < nothing.compression < 1.02
    for code in (clear, faint, nothing):
        assert 0.9 < code.shuffled.compression < 1.02


def test_frequencies_are_what_the_control_gains():
    X = np.random.default_rng(0).normal(size=(2000, 3))
    y = np.where(np.random.default_rng(1).random(2000) < 0.1, "rare", "common")
    code = code_length(X, y)
    share = np.mean(y == "rare")
    entropy = -2000 * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert code.bits == pytest.approx(entropy, rel=0.06)
    assert code.shuffled.bits == pytest.approx(code.bits, rel=0.03)
    assert code.classes == ("common", "rare")


def test_groups_are_never_on_both_sides():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 300)
    X = np.c_[groups, rng.normal(size=300)].astype(float)
    Frequencies.fitted, Frequencies.asked = [], []
    code = code_length(X, rng.integers(0, 2, 300), Frequencies(), groups=groups, fractions=QUARTERS)
    assert len(Frequencies.fitted) == 6  # three blocks, and three of the control
    for before, block in zip(Frequencies.fitted, Frequencies.asked, strict=True):
        assert not set(before) & set(block)
    assert code.block_rows.sum() == 300
    # A tenth of the rows of two random bits a row, coded by frequencies: one bit a row, hardly more.
    assert code.bits == pytest.approx(300, rel=0.03)


def test_heart_learning_pays_unless_groups_are_ignored():
    """Five rows a group, nearly alike, with a random label a group: only who sees the group's other rows can tell."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    X = rng.normal(size=(60, 50))[groups] + 0.01 * rng.normal(size=(300, 50))
    y = rng.integers(0, 2, 60)[groups]
    assert code_length(X, y, groups=groups).compression < 1.05
    assert code_length(X, y).compression > 1.3


def test_blocks_without_a_second_class_are_sent_uniformly_and_said():
    X, y = planted(400)
    y = np.zeros(400, int)
    y[_blocks(np.arange(400), QUARTERS, 0)[0][120:140]] = 1  # none in the first two blocks, of 40 and 60 rows
    code = code_length(X, y, Frequencies(), fractions=QUARTERS)
    np.testing.assert_allclose(code.block_bits[:3], [40, 60, 100])
    assert code.block_bits[3] < 80
    assert any("blocks 1, 2 (160 rows)" in note and "one class only" in note for note in code.notes)


def test_classes_not_seen_yet_have_their_share():
    X, y = planted(90, classes=3)
    before = np.flatnonzero(y != 2)[:20]
    for probe in (None, LogisticProbe()):
        reader = _Reader(probe, X, y, np.arange(90), before, 3)
        proba = np.exp(reader.log_proba(X))
        np.testing.assert_allclose(proba.sum(-1), 1, atol=1e-6)
        np.testing.assert_allclose(proba[..., 2], 1 / 23)
    order = _blocks(np.arange(90), QUARTERS, 0)[0]
    late = np.zeros(90, int)
    late[order[::2]] = 1
    late[order[80:]] = 2
    assert np.isfinite(code_length(X, late, fractions=QUARTERS).bits)


def test_a_probe_that_refuses_some_blocks_and_one_that_refuses_all():
    X, y = planted(120, classes=3)
    fractions = (0.03, 0.04, 0.5, 1.0)
    y[_blocks(np.arange(120), fractions, 0)[0][:4]] = [0, 1, 2, 0]  # four rows of three classes are too few
    code = code_length(X, y, LogisticProbe(), fractions=fractions)
    assert any("blocks 1 (1 rows)" in note and "identifiers" in note for note in code.notes)
    with pytest.raises(ValueError, match=r"before no block: C must be positive"):
        code_length(X, y, LogisticProbe(C=-1.0), fractions=QUARTERS)
    with pytest.raises(ValueError, match="takes them as continuous"):
        code_length(X, y, RidgeProbe(kind="continuous"), fractions=QUARTERS)


def test_other_probes_and_their_warnings():
    X, y = planted(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code = code_length(X, y, MLPProbe(8, max_iter=4), fractions=(0.5, 1.0), groups=np.arange(200) // 2)
    assert code.notes == ("before 1 blocks the solver did not converge",)
    many = np.stack([X, np.zeros_like(X)], 1)
    assert code_length(many, y, MultiLayerProbe(C=0.1), fractions=QUARTERS).compression > 2


def test_seed_and_frame():
    X, y = planted(100)
    a, b, c = (code_length(X, y, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.block_bits, b.block_bits)
    assert a.bits != c.bits
    frame = a.to_frame()
    assert frame.columns.tolist() == ["source", "block", "rows", "bits", "uniform_bits"]
    assert frame.groupby("source").bits.sum().to_dict() == pytest.approx({"model": a.bits, "shuffled": a.shuffled.bits})
    assert any("11 fractions made" in note for note in a.notes)
    assert len(FRACTIONS) == 11


def test_bad_input_is_named():
    X, y = planted(60)
    with pytest.raises(ValueError, match="one class only"):
        code_length(X, np.zeros(60, int))
    with pytest.raises(ValueError, match="continuous"):
        code_length(X, X[:, 0])
    broken = X.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"first: \[7\]"):
        code_length(broken, y)
    with pytest.raises(ValueError, match="60 rows, y has 59"):
        code_length(X, y[:-1])
    for fractions in ((1.0,), (0.5, 0.2, 1.0), (0.1, 0.5), (0.0, 1.0)):
        with pytest.raises(ValueError, match="fractions must be"):
            code_length(X, y, fractions=fractions)
    with pytest.raises(ValueError, match="one block only"):
        code_length(X, y, groups=np.zeros(60))
    with pytest.raises(ValueError, match="groups must be one label a row"):
        code_length(X, y, groups=np.zeros(3))
