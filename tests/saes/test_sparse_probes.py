"""k-sparse probes: a label that one feature tells needs one, one that four tell needs four."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

import saes
from probekit.activations import ArrayActivations
from probekit.data import LabelSet
from saes.comparing.sparse_probes import _rows


def world(seed: int = 0, n: int = 6000):
    rng = np.random.default_rng(seed)
    dense = (rng.random((n, 12)) < 0.2) * (0.5 + rng.random((n, 12)))
    labels = np.stack([dense[:, 0] > 0, dense[:, 1:5].sum(1) > 0.9, rng.random(n) < 0.4], 1)
    sequence = np.arange(n) // 10
    features = SimpleNamespace(
        matrix=sparse.csc_array(dense.astype(np.float32)), width=12, sequence=sequence, item=np.arange(n),
        prefix=np.arange(n).astype(np.uint64), manifest=SimpleNamespace(site="s"),
    )  # fmt: skip
    mixed = (dense @ rng.normal(size=(12, 20)) + 0.01 * rng.normal(size=(n, 20))).astype(np.float32)
    label_set = LabelSet("seen", labels.astype(int), "binary", "token", ("no", "yes"), ("one", "four", "none"))
    return features, ArrayActivations({"s": mixed}, sequence=sequence), label_set


def test_as_many_features_as_it_takes():
    features, activations, labels = world()
    found = saes.sparse_probes(features, labels, activations=activations, counts=(1, 2, 4), n_boot=200)
    auroc = {name: e.value for name, e in found.estimates.items()}
    assert list(auroc) == ["1 feature", "2 features", "4 features", "all features", "dense"]
    assert auroc["1 feature"][0] > 0.999
    assert found.features[0, 0] == 0
    assert set(found.features[1].tolist()) == {1, 2, 3, 4}
    assert auroc["1 feature"][1] < auroc["2 features"][1] < auroc["4 features"][1]
    assert auroc["4 features"][1] > 0.98
    assert abs(auroc["dense"][2] - 0.5) < 0.06
    frame = found.to_frame()
    assert len(frame) == 5 * 4
    assert (frame.low <= frame.auroc).all()
    assert (frame.auroc <= frame.high).all()
    one = found.verdicts("1 feature")
    assert one.verdict.tolist() == ["no difference", "probe better", "no difference"]
    assert found.verdicts("4 features").difference.abs().max() < 0.05
    assert found.rows == (3600, 1200, 1200)


def test_one_feature_is_ranked_as_scikit_learn_ranks_it():
    features, _, labels = world(1)
    found = saes.sparse_probes(features, labels, counts=(1,), n_boot=10)
    test = _rows(features, 20_000, 0)[2]
    for column in range(2):
        value = features.matrix[:, [found.features[column, 0]]].toarray()[test, 0]
        expected = roc_auc_score(labels.values[test, column], value)
        assert found.estimates["1 feature"].value[column] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_asked_is_refused():
    features, _, labels = world()
    with pytest.raises(ValueError, match="between 1 and the 12 features"):
        saes.sparse_probes(features, labels, counts=(1, 13))
    values = labels.values.copy()
    values[0, 0] = -1
    with pytest.raises(ValueError, match="defined at every row"):
        saes.sparse_probes(features, LabelSet("seen", values, "binary", "token", ("no", "yes")))
    with pytest.raises(ValueError, match="no dense probe"):
        saes.sparse_probes(features, labels, counts=(1,), n_boot=10).verdicts("1 feature")
