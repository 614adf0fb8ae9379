"""Scores of sparse features: exact against scikit-learn, honest p-values, no more than the non-zeros cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import f1_score, precision_recall_curve, precision_score, recall_score, roc_auc_score

from probekit.data import LabelSet
from saes.scoring.columns import Columns, columns_of
from saes.scoring.scores import at_threshold, p_values, rank


def drawn(seed: int, n: int = 120, features: int = 5, columns: int = 3, levels: int = 4, masked: bool = False):
    """Features that are mostly zero with many ties, one dead and one constant; labels, one of them constant."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, levels + 1, (n, features)) / levels * (rng.random((n, features)) < 0.3)
    dense[:, 0], dense[:, 1] = 0, 1
    positive = rng.random((n, columns)) < 0.3
    positive[:, 0] = True
    defined = rng.random((n, columns)) < 0.7 if masked else None
    if defined is not None:
        positive &= defined
    return dense.astype(np.float32), Columns((), positive, defined)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.sampled_from([1, 3, 1000]), masked=st.booleans())
def test_scores_are_those_of_scikit_learn_on_ties_constants_and_dead_features(seed, levels, masked):
    dense, columns = drawn(seed, levels=levels, masked=masked)
    found = rank(sparse.csc_array(dense), columns)
    held = at_threshold(sparse.csc_array(dense), columns, found.threshold)
    for f in range(dense.shape[1]):
        for c in range(columns.positive.shape[1]):
            known = slice(None) if columns.defined is None else columns.defined[:, c]
            value, truth = dense[known, f], columns.positive[known, c]
            if truth.all() or not truth.any():
                assert np.isnan(found.auroc[f, c])
                continue
            assert abs(found.auroc[f, c] - roc_auc_score(truth, value)) < 1e-9
            precision, recall, cut = precision_recall_curve(truth, value)
            curve = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            above = curve[:-1][cut > 0]
            assert abs(found.f1[f, c] - (above.max() if len(above) else 0)) < 1e-9
            said = value >= found.threshold[f, c]
            assert abs(held.f1[f, c] - f1_score(truth, said)) < 1e-9
            assert abs(held.f1[f, c] - found.f1[f, c]) < 1e-9
            if said.any():
                assert abs(held.precision[f, c] - precision_score(truth, said)) < 1e-9
            assert abs(held.recall[f, c] - recall_score(truth, said)) < 1e-9


def test_wide_work_is_cut_into_parts_without_changing_anything(monkeypatch):
    dense, columns = drawn(3, columns=7, masked=True)
    cluster = np.repeat(np.arange(30), 4)
    features = sparse.csc_array(dense)
    whole = (rank(features, columns), p_values(features, columns, cluster))
    monkeypatch.setattr("saes.scoring.scores._ELEMENTS", 64)
    parts = (rank(features, columns), p_values(features, columns, cluster))
    np.testing.assert_array_equal(whole[0].auroc, parts[0].auroc)
    np.testing.assert_array_equal(whole[0].f1, parts[0].f1)
    np.testing.assert_allclose(whole[1], parts[1], atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_p_values_are_those_of_a_slow_reference_whatever_the_order_of_rows(masked):
    from scipy import stats

    dense, columns = drawn(5, masked=masked)
    cluster = np.repeat(np.arange(24), 5)
    got = p_values(sparse.csc_array(dense), columns, cluster)
    for f in range(1, dense.shape[1]):
        height = stats.rankdata(dense[:, f])
        fired = len(np.unique(cluster[dense[:, f] > 0]))
        for c in range(columns.positive.shape[1]):
            known = np.ones(len(dense), bool) if columns.defined is None else columns.defined[:, c]
            y = columns.positive[:, c] - columns.positive[known, c].mean()
            h = height - height[known].mean()
            u, a, b, m = np.array(
                [[part[known & (cluster == k)].sum() for part in (y * h, y, h, known * 1)] for k in range(24)]
            ).T
            alone = (y[known] ** 2).sum() * (h[known] ** 2).sum() / known.sum()
            together = (a**2).sum() * (b**2).sum() * (m > 0).sum() / known.sum() ** 2
            spread = max((u**2).sum(), alone, together)
            z = u.sum() / np.sqrt(spread) if spread > 1e-12 else 0
            assert abs(got[f, c] - stats.t.sf(z, fired - 1)) < 1e-9
    order = np.random.default_rng(0).permutation(len(dense))
    shuffled = p_values(sparse.csc_array(dense[order]), columns.of_rows(order), cluster[order])
    np.testing.assert_allclose(got, shuffled, atol=1e-9)


def test_p_values_are_uniform_when_nothing_is_related_though_rows_of_a_sequence_are():
    rng = np.random.default_rng(0)
    clusters, each = 200, 10
    cluster = np.repeat(np.arange(clusters), each)
    fires = rng.random(clusters)[:, None] ** 3 + 0.0 * rng.random((clusters, each))  # a rate a sequence
    dense = np.stack(
        [(rng.random(clusters * each) < fires.ravel()) * rng.random(clusters * each) for _ in range(60)], 1
    )
    positive = np.stack([np.repeat(rng.random(clusters) < 0.3, each) for _ in range(40)], 1)
    p = p_values(sparse.csc_array(dense.astype(np.float32)), Columns((), positive, None), cluster).ravel()
    for level in (0.05, 0.01):
        assert (p < level).mean() < 1.3 * level
    assert 0.45 < p.mean() < 0.55


@pytest.mark.parametrize("share", [0.9, 0.97, 0.99])
def test_labels_that_hold_nearly_everywhere_are_not_found_in_noise(share):
    rng = np.random.default_rng(0)
    rows, cluster = 12_000, np.arange(12_000) // 30
    dense = ((rng.random((rows, 80)) < 0.008) * rng.random((rows, 80))).astype(np.float32)
    p = p_values(sparse.csc_array(dense), Columns((), rng.random((rows, 30)) < share, None), cluster).ravel()
    for level in (0.05, 0.01, 0.001):
        assert (p < level).mean() < 1.3 * level


def test_a_few_perfect_coincidences_are_not_significant():
    dense, positive = np.zeros((3000, 1), np.float32), np.zeros((3000, 1), bool)
    dense[[10, 1000, 2000]], positive[[10, 1000, 2000]] = 1, True
    assert p_values(sparse.csc_array(dense), Columns((), positive, None), np.arange(3000) // 30)[0, 0] > 0.01


def test_columns_name_targets_and_classes_and_know_what_is_not_defined():
    tile = LabelSet(
        "tile", np.array([[0, 1], [2, -1], [1, 1]]), "multiclass", "token", ("mine", "theirs", "empty"), ("A1", "B1")
    )
    good = LabelSet("good", np.array([1, 0]), "binary", "sequence", ("no", "yes"))
    columns = columns_of([tile, good], sequence=np.array([0, 0, 1]), item=np.array([0, 1, 2]))
    assert [str(name) for name in columns.names][:3] == ["A1 is mine", "B1 is mine", "A1 is theirs"]
    assert len(columns) == 7
    assert columns.positive[:, 6].tolist() == [True, True, False]
    assert columns.defined is not None
    assert columns.defined[1].tolist() == [True, False] * 3 + [True]
    with pytest.raises(ValueError, match="other data"):
        columns_of(tile, sequence=np.array([0]), item=np.array([3]))
    with pytest.raises(ValueError, match="continuous"):
        columns_of(LabelSet("size", np.array([0.1, 0.2]), "continuous", "sequence"), np.array([0]), np.array([0]))
