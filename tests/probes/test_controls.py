"""Control labels: what they keep of the real ones, and what they must not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.probes import controls, surface


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 4))
def test_shuffling_moves_whole_clusters(seed: int, clusters: int, size: int) -> None:
    cluster = np.repeat(np.arange(clusters), size)
    values = np.arange(2 * len(cluster)).reshape(-1, 2)
    out = controls.shuffle_labels(values, cluster, seed)
    assert sorted(out[:, 0].tolist()) == sorted(values[:, 0].tolist())
    np.testing.assert_array_equal(out[:, 1] - out[:, 0], 1)  # targets of a row stay together
    origin = cluster[out[:, 0] // 2].reshape(clusters, size)
    assert (origin == origin[:, :1]).all()  # a cluster's labels stay together
    assert (origin[:, 0] != np.arange(clusters)).all()  # and no cluster keeps its own


def test_shuffling_repeats_with_its_seed_only() -> None:
    values, cluster = np.arange(100)[:, None], np.arange(100)
    first = controls.shuffle_labels(values, cluster, 1)
    np.testing.assert_array_equal(first, controls.shuffle_labels(values, cluster, 1))
    assert (first != controls.shuffle_labels(values, cluster, 2)).any()


def test_uneven_and_interleaved_clusters_lose_no_label() -> None:
    rng = np.random.default_rng(0)
    cluster, values = rng.integers(0, 7, 200), rng.integers(0, 3, (200, 2))
    out = controls.shuffle_labels(values, cluster, 0)
    np.testing.assert_array_equal(np.bincount(out[:, 0]), np.bincount(values[:, 0]))


@pytest.mark.parametrize("seed", range(20))
def test_no_cluster_keeps_its_labels_however_uneven(seed: int) -> None:
    """A cluster of one row, drawn last, must not shift all labels by that one row only."""
    sizes = np.random.default_rng(seed).integers(1, 30, 40)
    cluster = np.repeat(np.arange(40), sizes)
    out = controls.shuffle_labels(cluster[:, None], cluster, seed)[:, 0]
    assert (out == cluster).mean() <= controls.OWN
    np.testing.assert_array_equal(np.bincount(out), sizes)
    assert (out[1:] != out[:-1]).sum() < 130  # and labels still stand in runs


def test_one_cluster_of_most_rows_is_dealt_out_row_by_row() -> None:
    cluster = np.repeat([0, 1, 2, 3], [70, 10, 10, 10])
    values = np.r_[np.repeat([0, 1], 35), np.arange(30) % 2][:, None]
    agreement = [(controls.shuffle_labels(values, cluster, seed) == values).mean() for seed in range(20)]
    assert abs(np.mean(agreement) - 0.5) < 0.05


def test_a_type_has_one_label_and_types_differ() -> None:
    rng = np.random.default_rng(0)
    types, values = rng.integers(0, 30, 2000), rng.integers(0, 3, (2000, 5))
    values[::10, 1] = -1
    train = np.arange(1000)
    out = controls.control_labels(values, types, train, seed=0)
    for t in range(30):
        for target in range(5):
            assert len(np.unique(out[(types == t) & (values[:, target] >= 0), target])) == 1
    np.testing.assert_array_equal(out[:, 1] < 0, values[:, 1] < 0)
    assert len(np.unique(out[:, 0], axis=0)) == 3
    assert abs(np.corrcoef(out[:, 0], out[:, 2])[0, 1]) < 0.9  # drawn for each target anew


def test_control_labels_follow_the_training_distribution() -> None:
    rng = np.random.default_rng(0)
    types = np.arange(20_000) % 5000
    values = (rng.random((20_000, 1)) < 0.2).astype(np.int16)
    out = controls.control_labels(values, types, np.arange(10_000), seed=0)
    assert abs(out.mean() - 0.2) < 0.02
    continuous = controls.control_labels(
        rng.normal(3, 2, (20_000, 1)).astype(np.float32), types, np.arange(10_000), seed=0
    )
    assert continuous.dtype == np.float32
    assert abs(continuous.mean() - 3) < 0.2


def test_a_type_not_met_in_training_has_no_label() -> None:
    types = np.array([0, 1, 2, 9])
    out = controls.control_labels(np.array([[0], [1], [0], [1]]), types, np.arange(3), seed=0)
    assert (out[:3] >= 0).all()
    assert out[3, 0] == -1


def test_token_types_need_coverage() -> None:
    token = np.arange(200) % 20
    assert controls.token_types(token, np.arange(100), np.arange(100, 200)).of_row is not None
    assert controls.token_types(None, np.arange(100), np.arange(100, 200)).of_row is None
    unseen = np.r_[np.arange(100), np.arange(500, 600)]
    types = controls.token_types(unseen, np.arange(100), np.arange(100, 200))
    assert types.of_row is None
    assert "0%" in types.what
    assert "only 2 types" in controls.token_types(np.arange(200) % 2, np.arange(100), np.arange(100, 200)).what


def test_sequence_types_take_the_word_that_can_be_learned() -> None:
    rng = np.random.default_rng(0)
    places = [f"place{i}" for i in range(12)]
    texts = [f"The city of {places[rng.integers(12)]} is number{i} here" for i in range(300)]
    types = controls.sequence_types(texts, np.arange(200), np.arange(200, 300))
    assert types.of_row is not None
    assert "word 4 of" in types.what  # not the number, which no training text shares; not "the", which is one type
    assert len(np.unique(types.of_row)) == 12
    tokens = [np.array([1, rng.integers(10), 2, i + 100]) for i in range(300)]
    assert "token" in controls.sequence_types(tokens, np.arange(200), np.arange(200, 300)).what


def test_sequence_types_say_why_there_are_none() -> None:
    types = controls.sequence_types([f"a{i} b{i}" for i in range(100)], np.arange(60), np.arange(60, 100))
    assert types.of_row is None
    assert "not available" in types.what


def test_majority_is_the_best_constant() -> None:
    values = np.array([[0, -1], [0, 1], [1, 1], [0, 1]])
    logp = controls.majority_log_proba(values, 3)
    assert logp.argmax(-1).tolist() == [0, 1]
    np.testing.assert_allclose(np.exp(logp).sum(-1), 1)
    np.testing.assert_allclose(np.exp(logp[0]), [3.5 / 5.5, 1.5 / 5.5, 0.5 / 5.5])


def test_token_surface_is_of_training_only() -> None:
    token, position = np.array([5, 5, 7, 7, 99]), np.array([0, 1, 0, 70, 0])
    features = surface.token_features(token, position, np.arange(4))
    assert features.shape == (5, 2 + 2 + 1)  # two tokens, positions 0 and 1, log position
    assert features[4, :2].sum() == 0  # a token that training never saw
    np.testing.assert_array_equal(features[0, :4], [1, 0, 1, 0])
    assert features[3, -1] == pytest.approx(np.log1p(70))


def test_text_baseline_reads_a_word_and_nothing_of_the_test_set() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, (300, 1))
    words = np.array(["red", "green", "blue"])
    texts = [f"it is {words[c]} and {rng.integers(1000)}" for c in y[:, 0]]
    baseline = surface.TextBaseline(texts[:150])
    said = baseline.log_proba(y[:150], texts[150:200], y[150:200], {"test": texts[200:]}, 3)
    assert (said["test"].argmax(-1) == y[200:]).mean() > 0.95
    np.testing.assert_allclose(np.exp(said["test"]).sum(-1), 1, atol=1e-6)
    values = y * 2.0
    values[3] = np.nan
    estimate = baseline.estimate(values[:150], texts[150:200], values[150:200], {"test": texts[200:]})["test"]
    assert np.corrcoef(estimate[:, 0], values[200:, 0])[0, 1] > 0.95
