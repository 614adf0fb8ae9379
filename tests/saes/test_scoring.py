"""Scores with held-out thresholds: planted truth is found, noise is not, and intervals are of sequences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import saes
from probekit.data import LabelSet


class Made:
    """Feature activations made by hand, with what `score` reads of a `SparseFeatures`."""

    def __init__(self, dense: np.ndarray, each: int = 10) -> None:
        self.matrix = sparse.csc_array(dense.astype(np.float32))
        self.sequence = np.arange(len(dense)) // each
        self.item = np.arange(len(dense))
        self.position = self.item % each
        self.prefix = np.arange(len(dense)).astype(np.uint64)


def planted(seed: int = 0, n: int = 6000, features: int = 20):
    """Features 0-3 fire where labels 0-3 hold (feature 3 in one row of three), the others at random."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 6)) < 0.2
    dense = (rng.random((n, features)) < 0.1) * rng.random((n, features))
    for k in range(4):
        shown = labels[:, k] & (rng.random(n) < (0.33 if k == 3 else 1))
        dense[:, k] = shown * (1 + rng.random(n))
    return Made(dense), LabelSet("seen", labels.astype(int), "binary", "token", ("no", "yes"))


def test_planted_features_are_found_on_rows_that_did_not_choose_them():
    features, labels = planted()
    found = saes.score(features, labels)
    assert found.best_feature[:4].tolist() == [0, 1, 2, 3]
    frame = found.to_frame()
    assert frame.f1[:3].min() > 0.99
    assert frame.precision[3] > 0.99
    assert 0.28 < frame.recall[3] < 0.38
    assert frame.recall_low[3] < 0.33 < frame.recall_high[3] < frame.recall_low[3] + 0.15
    assert (found.q[range(4), range(4)] < 1e-6).all()
    np.testing.assert_allclose(frame.effect, 2 * frame.auroc - 1)
    value, low, high = found.coverage()
    assert low < value < high
    assert abs(value - found.f1[found.best_feature, range(6)].mean()) < 1e-12


def test_random_features_find_nothing_at_the_promised_rate():
    discoveries = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        dense = (rng.random((2000, 15)) < 0.1) * rng.random((2000, 15))
        labels = LabelSet("noise", (rng.random((2000, 8)) < 0.3).astype(int), "binary", "token", ("no", "yes"))
        discoveries.append(bool((saes.score(Made(dense), labels, seed=seed).q <= 0.05).any()))
    assert np.mean(discoveries) <= 0.15  # 0.05 promised


def test_rows_whose_prefix_was_seen_are_dropped():
    features, labels = planted()
    place = np.arange(6000) % 10  # the first two rows of all sequences are the same
    features.prefix = np.where(place < 2, place, np.arange(6000) + 10).astype(np.uint64)
    found = saes.score(features, labels)
    assert found.dropped == 2 * 300
    assert found.rows == 3000 - found.dropped


def test_a_column_that_never_holds_and_a_feature_that_never_fires_are_not_defined_and_not_found():
    features, _ = planted()
    features.matrix = sparse.csc_array(np.c_[features.matrix.toarray(), np.zeros(6000)].astype(np.float32))
    found = saes.score(features, LabelSet("rare", np.zeros((6000, 1), int), "binary", "token", ("no", "yes")))
    assert np.isnan(found.auroc).all()
    assert (found.q > 0.05).all()
    assert np.isnan(found.precision[-1]).all()
    assert (found.f1[-1] == 0).all()
    found.to_frame()


def test_too_few_sequences_are_refused():
    features, labels = planted()
    features.sequence = np.zeros(6000, int)
    with pytest.raises(ValueError, match="cannot be halved"):
        saes.score(features, labels)


def test_precise_thresholds_are_the_lowest_that_will_do():
    from saes.scoring.columns import Columns
    from saes.scoring.scores import precise_thresholds

    rng = np.random.default_rng(0)
    value = np.round(rng.random(400) * (rng.random(400) < 0.6), 2).astype(np.float32)
    positive = np.stack([rng.random(400) < value, rng.random(400) < 0.5, value > 0.3], 1)
    defined = rng.random((400, 3)) < 0.8
    for mask in (None, defined):
        shown = positive if mask is None else positive & mask
        got = precise_thresholds(sparse.csc_array(value[:, None]), Columns((), shown, mask), 0.9, 5)[0]
        for c in range(3):
            known = slice(None) if mask is None else mask[:, c]
            good = [
                t
                for t in np.unique(value[value > 0])
                if shown[known, c][value[known] >= t].sum() >= 5 and shown[known, c][value[known] >= t].mean() >= 0.9
            ]
            assert got[c] == (min(good) if good else np.inf)


def test_labels_are_reconstructed_from_their_detectors_only():
    features, labels = planted()
    found = saes.reconstruct(features, labels)
    assert found.f1[:3].min() > 0.99
    assert 0.4 < found.f1[3] < 0.6  # its detector sees one row in three
    assert found.f1[4:].max() < 0.1
    assert found.low < found.mean_f1 < found.high
    assert (found.detectors[:4] >= 1).all()
    np.testing.assert_allclose(found.mean_f1, found.f1.mean())
    rng = np.random.default_rng(1)
    nothing = saes.reconstruct(Made((rng.random((6000, 20)) < 0.1) * rng.random((6000, 20))), labels)
    assert nothing.mean_f1 < 0.05
    with pytest.raises(ValueError, match="precision must be"):
        saes.reconstruct(features, labels, precision=95)
