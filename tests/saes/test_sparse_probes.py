"""k-sparse probes: a label that one feature tells needs one, one that four tell needs four."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

import saes
from probekit.activations import ArrayActivations
from probekit.data import Dataset, LabelSet, split_items


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
    test = split_items(features.sequence, np.arange(600), 0).test
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


def authors(authors: int = 20, texts: int = 10, each: int = 5):
    """A label a sequence that is each author's by chance, and features that know the author and nothing else."""
    rng = np.random.default_rng(0)
    author = np.repeat(np.arange(authors), texts)
    sequence = np.repeat(np.arange(authors * texts), each)
    n = len(sequence)
    fires = rng.random((n, 40)) < 0.02
    fires[np.arange(n), author[sequence]] |= rng.random(n) < 0.9
    features = SimpleNamespace(
        matrix=sparse.csc_array((fires * (1 + rng.random(fires.shape))).astype(np.float32)), width=40, sequence=sequence,
        item=np.arange(n), position=np.arange(n) % each, prefix=np.arange(n).astype(np.uint64),
        manifest=SimpleNamespace(site="s"),
    )  # fmt: skip
    label = rng.permutation(np.arange(authors) % 2)[author]
    return features, LabelSet("lab", label, "binary", "sequence", ("no", "yes")), author


def test_a_group_is_never_in_two_parts():
    features, labels, author = authors()
    tokens = tuple(np.full(5, i) for i in range(200))
    data = Dataset("books", tokens=tokens, labels={"lab": labels}, groups=author)
    auroc = {
        name: saes.sparse_probes(features, given, groups=groups, counts=(32,), n_boot=50).estimates["32 features"]
        for name, given, groups in (
            ("by sequence", labels, None), ("groups", labels, [f"author {a}" for a in author]), ("data set", data, None),
        )
    }  # fmt: skip
    assert auroc["by sequence"].value[0] > 0.9, "what is known of an author is known of the author's other texts"
    assert abs(auroc["groups"].value[0] - 0.5) < 0.25
    assert abs(auroc["data set"].value[0] - 0.5) < 0.25
    assert auroc["data set"].clusters[0] == 4, "a fifth of the authors, and the bootstrap draws those"
    with pytest.raises(ValueError, match="groups of its own"):
        saes.sparse_probes(features, data, groups=author)
    with pytest.raises(ValueError, match="groups has 7 entries"):
        saes.sparse_probes(features, labels, groups=np.arange(7))


def test_the_split_of_a_data_set_holds():
    features, labels, author = authors()
    split = np.select([author < 10, author < 14, author < 19], ["train", "valid", "test"], "ood")
    tokens = tuple(np.full(5, i) for i in range(200))
    data = Dataset("books", tokens=tokens, labels={"lab": labels}, groups=author, split=split)
    found = saes.sparse_probes(features, data, counts=(1,), n_boot=10)
    assert found.rows == (500, 200, 250)


def test_a_label_of_one_class_has_no_verdict():
    features, activations, labels = world()
    values = np.c_[labels.values[:, 0], np.zeros(6000, int), np.ones(6000, int)]
    never = LabelSet("seen", values, "binary", "token", ("no", "yes"), ("one", "never", "always"))
    found = saes.sparse_probes(features, never, activations=activations, counts=(1,), n_boot=50)
    verdicts = found.verdicts("1 feature")
    assert verdicts.verdict.tolist() == ["no difference", "not defined", "not defined"]
    assert verdicts.difference.isna().tolist() == [False, True, True]
