"""Concept bottlenecks: the concepts that decide a label are found, and what is said of a prediction is how it was made."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import saes
from probekit.activations import ArrayActivations
from probekit.data import Dataset, LabelSet
from saes.concept_bottleneck.pooling import pool_activations, pool_features

LENGTH, WIDTH, DECIDING = 6, 40, (3, 7, 11)


def features_of(dense, sequence, position=None):
    rows = len(dense)
    return SimpleNamespace(
        matrix=sparse.csc_array(dense.astype(np.float32)), width=dense.shape[1], sequence=sequence, item=np.arange(rows),
        position=np.zeros(rows, int) if position is None else position, prefix=np.arange(rows).astype(np.uint64),
        manifest=SimpleNamespace(site="s"),
    )  # fmt: skip


@cache
def world(sequences: int = 1500, classes: int = 2):
    """A sequence is of the second class where one of three features fires in it; of the third where the last does."""
    rng = np.random.default_rng(classes)
    sequence = np.repeat(np.arange(sequences), LENGTH)
    dense = (rng.random((len(sequence), WIDTH)) < 0.04) * (0.5 + rng.random((len(sequence), WIDTH)))
    fires = np.maximum.reduceat(dense, np.arange(0, len(sequence), LENGTH)) > 0
    y = fires[:, DECIDING].any(1).astype(int)
    if classes == 3:
        y[fires[:, DECIDING[2]]] = 2
    mixed = (dense @ rng.normal(size=(WIDTH, 24))).astype(np.float32)
    features = features_of(dense, sequence, np.tile(np.arange(LENGTH), sequences))
    kind = "binary" if classes == 2 else "multiclass"
    labels = LabelSet("class", y, kind, "sequence", ("no", "yes", "most")[:classes])
    return features, labels, ArrayActivations({"s": mixed}, sequence=sequence)


@cache
def found(classes: int = 2, **options):
    features, labels, activations = world(classes=classes)
    return saes.bottleneck(features, labels, activations=activations, counts=(1, 2, 3, 8), n_boot=200, **options)


# What it finds


@pytest.mark.parametrize("classes", [2, 3])
def test_the_concepts_that_decide_are_chosen(classes):
    b = found(classes)
    assert set(b.features[:3].tolist()) == set(DECIDING)
    assert b.count == 3
    accuracy = b.to_frame().set_index(["source", "concepts"]).accuracy
    assert accuracy["concepts", 3] > 0.99
    assert accuracy["concepts", 1] < accuracy["concepts", 2] < accuracy["concepts", 3]
    assert accuracy["random", 3] < 0.7
    assert abs(accuracy["shuffled", 3] - accuracy["majority"].iloc[0]) < 0.12
    assert accuracy["dense"].iloc[0] < 0.95


def test_figures_have_intervals_and_differences_are_paired():
    b = found()
    for metric in ("accuracy", "balanced_accuracy", "auroc"):
        frame = b.to_frame(metric)
        assert (frame.low <= frame[metric]).all()
        assert (frame[metric] <= frame.high).all()
        assert len(frame) == 3 * 4 + 2
    accuracy = b.to_frame().set_index(["source", "concepts"]).accuracy
    gap = b.differences("dense").set_index("concepts")
    assert gap.difference[3] == pytest.approx(accuracy["concepts", 3] - accuracy["dense"].iloc[0])
    assert gap.low[3] > 0
    assert b.differences("random").difference.iloc[0] > 0
    with pytest.raises(ValueError, match="no 'surface' here, only concepts"):
        b.differences("surface")
    with pytest.raises(ValueError, match="no metric 'f1'; there are accuracy"):
        b.to_frame("f1")


def test_accuracy_is_that_of_the_predictions_on_test():
    features, labels, _ = world()
    b = found()
    test = b.parts["test"]
    for count in b.heads:
        right = b.at(count).predict(features)[test] == labels.values[test, 0]
        accuracy = b.to_frame().set_index(["source", "concepts"]).accuracy["concepts", count]
        assert right.mean() == pytest.approx(accuracy)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_scikit_learns(classes):
    """L1-penalised logistic regression on standardised activations of the same concepts and training items."""
    features, labels, _ = world(classes=classes)
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(labels)) < 0.2, rng.integers(classes, size=len(labels)), labels.values[:, 0])
    noisy = LabelSet("noisy", y, labels.kind, "sequence", labels.classes)
    b = saes.bottleneck(features, noisy, counts=(5,), n_boot=10)
    x = b.pooled(features)[:, b.features].toarray().astype(float)
    train, test = b.parts["train"], b.parts["test"]
    scaler = StandardScaler().fit(x[train])
    theirs = LogisticRegression(C=b.heads[5].C, l1_ratio=1.0, solver="saga", tol=1e-6, max_iter=20_000, random_state=0)
    theirs.fit(scaler.transform(x[train]), y[train])
    assert b.predict_proba(features)[test] == pytest.approx(theirs.predict_proba(scaler.transform(x[test])), abs=2e-3)


def test_token_labels_make_every_row_an_item():
    features, _, activations = world()
    y = np.asarray(features.matrix[:, [5]].toarray()[:, 0] > 0).astype(int)
    y[:LENGTH] = -1  # not defined in the first sequence
    labels = LabelSet("five", y, "binary", "token", ("no", "yes"))
    b = saes.bottleneck(features, labels, activations=activations, counts=(1, 2), n_boot=50)
    assert b.features[0] == 5
    assert b.count == 1
    assert b.to_frame("balanced_accuracy").iloc[0].balanced_accuracy > 0.999
    assert b.predict(features).shape == (len(features.sequence),)
    assert not any((part < LENGTH).any() for part in b.parts.values())
    assert b.to_frame().n.iloc[0] < len(b.parts["test"])  # the bootstrap is over sequences
    of_part = {name: set(features.sequence[rows].tolist()) for name, rows in b.parts.items()}
    assert not of_part["train"] & of_part["test"]


def test_only_named_features_are_concepts():
    features, labels, _ = world()
    names = {3: "three", 20: "twenty", 11: "eleven"}
    b = saes.bottleneck(features, labels, names, n_boot=50)
    assert set(b.features.tolist()) == set(names)
    assert [names[f] for f in b.features.tolist()] == list(b.names)
    assert list(b.heads) == [1, 2, 3]  # of 1, 2, 4, 8, ... what there is
    earned = saes.Names((SimpleNamespace(feature=7, text="seven"),), WIDTH)
    assert saes.bottleneck(features, labels, earned, n_boot=50).names == ("seven",)


def test_the_same_seed_gives_the_same_and_diversity_counts():
    features, labels, _ = world()
    one, two = (saes.bottleneck(features, labels, counts=(4,), n_boot=50, seed=3) for _ in range(2))
    assert one.features.tolist() == two.features.tolist()
    assert one.to_frame().equals(two.to_frame())
    dense = features.matrix.toarray()
    dense[:, 30] = dense[:, 3]  # a copy of one that decides
    twice = features_of(dense, features.sequence, features.position)
    plain = saes.bottleneck(twice, labels, counts=(3,), diversity=0.0, n_boot=50)
    diverse = saes.bottleneck(twice, labels, counts=(3,), diversity=0.9, n_boot=50)
    assert {3, 30} <= set(plain.features.tolist())
    assert len({3, 30} & set(diverse.features.tolist())) == 1


# Groups and splits


def test_groups_and_given_splits_are_respected():
    features, labels, _ = world()
    groups = np.arange(len(labels)) // 5
    b = saes.bottleneck(features, labels, groups=groups, counts=(2,), n_boot=50)
    parts = [set(groups[b.parts[name]].tolist()) for name in ("train", "valid", "test")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert b.to_frame().n.iloc[0] == len(parts[2])
    split = np.array(["train", "train", "valid", "test"])[np.arange(len(labels)) % 4]
    tokens = [np.array([i]) for i in range(len(labels))]
    data = Dataset("d", tokens=tokens, split=split, labels={"class": labels})
    b = saes.bottleneck(features, data, counts=(2,), n_boot=50)
    assert (split[b.parts["test"]] == "test").all()
    assert len(b.parts["test"]) == (split == "test").sum()
    with pytest.raises(ValueError, match="groups of its own"):
        saes.bottleneck(features, data, groups=groups)


def test_a_test_sequence_that_training_has_seen_is_left_out():
    features, labels, _ = world()
    before = found().parts
    prefix = features.prefix.copy()
    copy, original = int(before["test"][0]), int(before["train"][0])
    prefix[copy * LENGTH + LENGTH - 1] = prefix[original * LENGTH + LENGTH - 1]
    changed = SimpleNamespace(**vars(features) | {"prefix": prefix})
    after = saes.bottleneck(changed, labels, counts=(1,), n_boot=10).parts
    assert set(before["test"].tolist()) - set(after["test"].tolist()) == {copy}


# Explanations and switching off


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 3]), st.sampled_from([1, 2, 3, 8]), st.integers(0, 2**32 - 1))
def test_contributions_add_up_to_the_logit(classes, count, seed):
    b = found(classes).at(count)
    item = np.random.default_rng(seed).exponential(size=WIDTH) * (np.random.default_rng(seed + 1).random(WIDTH) < 0.4)
    log = b.predict_log_proba(item)[0]
    logits = []
    for class_ in b.classes:
        why = b.explain(item, class_)
        assert why.intercept + why.contribution.sum() == pytest.approx(why.logit)
        assert why.probability == pytest.approx(dict(zip(b.classes, np.exp(log), strict=True)))
        logits.append(why.logit)
    if classes == 2:
        assert logits[1] == pytest.approx(log[1] - log[0])
        assert logits[0] == pytest.approx(-logits[1])
    else:
        assert np.subtract(logits, logits[0]) == pytest.approx(log - log[0])
    assert b.explain(item).class_ == b.classes[int(log.argmax())]


def test_a_concept_that_does_not_fire_explains_nothing():
    features, _, _ = world()
    b = found()
    items = b.pooled(features)
    for i in b.parts["test"][:20]:
        why = b.explain(items[[i]])
        fires = items[[i]].toarray()[0] > 0
        assert set(why.to_frame().feature) <= set(np.flatnonzero(fires).tolist())
        assert str(why).startswith(f"{why.class_}: probability")
    assert b.explain(items[5]).logit == b.explain(items[[5]].toarray()[0]).logit


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 3]), st.sets(st.sampled_from(DECIDING), min_size=1), st.integers(0, 2**32 - 1))
def test_switched_off_is_as_if_it_never_fired(classes, off, seed):
    b = found(classes)
    item = np.random.default_rng(seed).exponential(size=(4, WIDTH))
    silent = item.copy()
    silent[:, list(off)] = 0
    assert b.without(off).predict_log_proba(item) == pytest.approx(b.predict_log_proba(silent))


def test_the_prediction_follows_a_concept_switched_off():
    features, _, _ = world()
    b = found()
    items = b.pooled(features)
    only = [np.flatnonzero((items[:, DECIDING].toarray() > 0).sum(1) == 1)][0]
    only = np.array([i for i in only if items[i, 3] > 0])
    assert (b.predict(items[only]) == 1).mean() > 0.99
    without = b.without("feature 3")
    assert (without.predict(items[only]) == 0).mean() > 0.99
    assert 3 not in without.concepts().feature.tolist()
    assert "1 switched off" in repr(without)
    with pytest.raises(ValueError, match="some are switched off"):
        without.to_frame()
    assert without.without([7, "feature 11"]).off == {3, 7, 11}
    with pytest.raises(KeyError, match="no concept here; near it: feature 3"):
        b.without("feature 33")
    assert b.off == frozenset()


def test_concepts_speak_for_the_class_they_decide():
    b = found(3)
    most = b.concepts("most")
    assert most.iloc[0].feature == DECIDING[2]
    assert most.iloc[0].weight > 0
    assert set(b.concepts()["class"]) <= {"no", "yes", "most"}
    two = found()
    assert (two.concepts("no").weight == -two.concepts("yes").weight).all()
    with pytest.raises(KeyError, match="no class 'maybe'; the classes are no, yes"):
        two.concepts("maybe")
    with pytest.raises(KeyError, match="only on 1, 2, 3, 8"):
        two.at(5)


# Pooling


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["max", "mean"]), st.booleans())
def test_pooling_is_numpys(seed, pool, shuffled):
    rng = np.random.default_rng(seed)
    sequence = np.sort(rng.integers(6, size=20))
    if shuffled:
        sequence = rng.permutation(sequence)
    dense = ((rng.random((20, 5)) < 0.3) * rng.random((20, 5))).astype(np.float32)
    expected = np.zeros((sequence.max() + 1, 5))
    for s in np.unique(sequence):
        expected[s] = getattr(dense[sequence == s], pool)(0)
    assert pool_features(features_of(dense, sequence), pool).toarray() == pytest.approx(expected, abs=1e-6)
    signed = dense - 0.2
    for s in np.unique(sequence):
        expected[s] = getattr(signed[sequence == s], pool)(0)
    activations = ArrayActivations({"s": signed}, sequence=sequence)
    assert pool_activations(activations, "s", pool) == pytest.approx(expected, abs=1e-6)


def test_a_mean_is_told_from_a_maximum():
    """A class that is how often a feature fires, which every sequence has somewhere."""
    rng = np.random.default_rng(0)
    sequence = np.repeat(np.arange(1000), 10)
    y = rng.integers(2, size=1000)
    dense = (rng.random((10_000, 8)) < 0.3).astype(float)
    dense[:, 0] = rng.random(10_000) < np.where(y[sequence], 0.8, 0.5)
    labels = LabelSet("often", y, "binary", "sequence", ("no", "yes"))
    accuracy = {}
    for pool in ("max", "mean"):
        b = saes.bottleneck(features_of(dense, sequence), labels, pool=pool, counts=(1,), n_boot=50)
        accuracy[pool] = b.to_frame().accuracy.iloc[0]
    assert accuracy["mean"] > accuracy["max"] + 0.2


# Files and figures


def test_saved_is_loaded(tmp_path):
    features, _, _ = world(classes=3)
    b = found(3).without(3).at(2)
    b.save(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["bottleneck.json", "bottleneck.safetensors"]
    loaded = saes.Bottleneck.load(tmp_path / "b")
    assert (loaded.predict_log_proba(features) == b.predict_log_proba(features)).all()
    assert loaded.off == {3}
    whole = found(3)
    whole.save(tmp_path / "whole")
    assert saes.Bottleneck.load(tmp_path / "whole").to_frame("auroc").equals(whole.to_frame("auroc"))
    (tmp_path / "b" / "bottleneck.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        saes.Bottleneck.load(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="no bottleneck in"):
        saes.Bottleneck.load(tmp_path)


def test_the_plot_shows_every_source_and_no_markup_of_the_data():
    features, labels, _ = world()
    named = LabelSet("<b>class</b>", labels.values, "binary", "sequence", ("no", "yes"))
    b = saes.bottleneck(features, named, counts=(1, 2), n_boot=50)
    figure = b.plot("auroc")
    assert {t.name for t in figure.data if t.name} >= {"concepts chosen", "majority class", "shuffled labels"}
    assert "dense probe" not in {t.name for t in figure.data}
    assert figure.layout.yaxis.title.text == "AUROC of &lt;b&gt;class&lt;/b&gt;"
    assert found().plot().layout.xaxis.ticktext == ("1", "2", "3", "8")


@pytest.mark.parametrize("classes", [2, 3])
def test_the_page_opens_alone_and_escapes_what_the_data_say(classes, tmp_path):
    b = replace(found(classes), label_set="<img src=x>", names=("<script>alert(1)</script>",) * 8)
    items = b.pooled(world(classes=classes)[0])
    examples = [("</script><b>a text</b>", b.explain(items[[0]]))]
    page = b.save_page(tmp_path / "page.html", examples=examples, command="python run.py")
    text = page.read_text(encoding="utf-8")
    for said in ("<img src=x>", "<script>alert(1)", "</script><b>"):
        assert said not in text
    assert "&lt;script&gt;alert(1)" in text
    marked_up = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", marked_up)
    for said in ("Predictions taken apart", "Towards", "Make it again", "python run.py", "sae-lens"):
        assert said in text
    with pytest.raises(ValueError, match="switched off"):
        b.without(int(b.features[0])).save_page(tmp_path / "page.html")


def test_another_number_in_use_is_not_called_the_chosen_one(tmp_path):
    b = found()
    other = b.at(8)
    assert (b.chosen, other.count, other.chosen) == (3, 8, 3)
    ring = next(trace for trace in other.plot().data if trace.name == "chosen on validation")
    assert list(ring.x) == [3]
    assert "Validation chose 3." in other.save_page(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Validation chose" not in b.save_page(tmp_path / "own.html").read_text(encoding="utf-8")
    assert saes.Bottleneck.load(other.save(tmp_path / "saved")).chosen == 3


# What cannot be asked


def test_labels_that_do_not_fit_are_refused():
    features, labels, activations = world()
    short = LabelSet("class", labels.values[:-1], "binary", "sequence", ("no", "yes"))
    with pytest.raises(ValueError, match="1,499 values, but the features go up to sequence 1,499"):
        saes.bottleneck(features, short)
    one = LabelSet("class", np.zeros(1500, int), "binary", "sequence", ("no", "yes"))
    with pytest.raises(ValueError, match="no training item is of class 'yes'"):
        saes.bottleneck(features, one)
    nowhere = LabelSet("class", np.full(1500, -1), "binary", "sequence", ("no", "yes"))
    with pytest.raises(ValueError, match="defined for none of the 1,500 sequences"):
        saes.bottleneck(features, nowhere)
    with pytest.raises(ValueError, match="continuous"):
        saes.bottleneck(features, LabelSet("rating", np.linspace(0, 1, 1500), "continuous", "sequence"))
    with pytest.raises(ValueError, match="has 2 targets"):
        saes.bottleneck(features, LabelSet("class", np.tile(labels.values, 2), "binary", "sequence", ("no", "yes")))
    with pytest.raises(TypeError, match="must be a LabelSet or a Dataset, got ndarray"):
        saes.bottleneck(features, labels.values)
    two = Dataset("d", tokens=[np.array([i]) for i in range(1500)], labels={"a": labels, "b": labels})
    with pytest.raises(ValueError, match=r"pass data\.label_set"):
        saes.bottleneck(features, two)
    with pytest.raises(ValueError, match="groups must be"):
        saes.bottleneck(features, labels, groups=np.arange(10))
    other = ArrayActivations({"s": activations.read("s")[:60]}, sequence=np.arange(60))
    with pytest.raises(ValueError, match="not those the features"):
        saes.bottleneck(features, labels, activations=other, counts=(1,))


def test_names_that_do_not_fit_are_refused():
    features, labels, _ = world()
    with pytest.raises(ValueError, match="there are no names"):
        saes.bottleneck(features, labels, {})
    with pytest.raises(ValueError, match="there are no names"):
        saes.bottleneck(features, labels, saes.Names((), WIDTH))
    with pytest.raises(ValueError, match="of an SAE with 99 features"):
        saes.bottleneck(features, labels, saes.Names((), 99))
    with pytest.raises(ValueError, match=r"features \[40\], but the SAE has features 0 to 39"):
        saes.bottleneck(features, labels, {40: "forty"})
    with pytest.raises(ValueError, match="are empty"):
        saes.bottleneck(features, labels, {3: " "})
    dense = features.matrix.toarray()
    dense[:, 5] = 0
    dead = features_of(dense, features.sequence)
    with pytest.raises(ValueError, match="none of the 1 named features changes"):
        saes.bottleneck(dead, labels, {5: "five"})


def test_options_and_items_that_do_not_fit_are_refused():
    features, labels, _ = world()
    with pytest.raises(ValueError, match="at least 1"):
        saes.bottleneck(features, labels, counts=(0, 2))
    with pytest.raises(ValueError, match='"max" or "mean"'):
        saes.bottleneck(features, labels, pool="sum")
    with pytest.raises(ValueError, match="between 0 and 1"):
        saes.bottleneck(features, labels, diversity=2.0)
    b = found()
    with pytest.raises(ValueError, match=r"\[item, 40 features\], got shape \(3,\)"):
        b.predict(np.zeros(3))
    with pytest.raises(ValueError, match="takes one item, got 2"):
        b.explain(np.zeros((2, WIDTH)))
