"""Directions from activations: planted truths are found, figures agree with numpy, and what makes no sense is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

import probekit as pk
from probekit.activations import ArrayActivations
from probekit.data import Dataset, LabelSet
from probekit.probes import DifferenceInMeans, Direction
from probekit.surgery.directions.finding import contrast, decoder_row, difference_of_means, principal_components
from probekit.surgery.directions.labelled import Labelled, sums_by
from probekit.surgery.directions.reliability import split_half_reliability
from tests.models.tiny import make_model

SITE = "blocks.1.hook_resid_post"
UNIT = np.eye(9)[4]


def planted(n: int = 300, d: int = 9, effect: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise far from the origin, and a class that shifts dimension 4."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    X = rng.normal(size=(n, d)) + 20
    return (X + effect * y[:, None] * np.eye(d)[4]).astype("float32"), y


def of_model(arrays: dict[str, np.ndarray], model: str = "feed", **index: Any) -> ArrayActivations:
    activations = ArrayActivations(arrays, **index)
    activations.manifest = SimpleNamespace(model_fingerprint=model, data="statements", data_fingerprint="d00d")
    return activations


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr("probekit.activations.source._BATCH_ROWS", 64)


# Difference of means


def test_difference_of_means_against_numpy_and_the_probe():
    X, y = planted()
    labels = LabelSet.from_values("truth", np.where(y, "yes", "no"))
    activations = of_model({SITE: X})
    direction = difference_of_means(activations, labels, site=SITE)
    wide = X.astype(np.float64)
    means = np.stack([wide[y == k].mean(0) for k in range(2)])
    apart = np.linalg.norm(means[1] - means[0])
    along = wide @ direction.vector.double().numpy()
    np.testing.assert_allclose(direction.vector, (means[1] - means[0]) / apart, atol=1e-6)
    assert direction.gap == pytest.approx(apart)
    assert direction.center == pytest.approx(along[y == 0].mean() / 2 + along[y == 1].mean() / 2)
    assert (direction.scale, direction.mean) == pytest.approx((along.std(), along.mean()))
    assert (direction.site, direction.model) == (SITE, "feed")
    assert direction.provenance["classes"] == ["no", "yes"]
    assert direction.provenance["rows"] == [(y == 0).sum(), (y == 1).sum()]
    assert direction.provenance["data"] == {"name": "statements", "fingerprint": "d00d"}
    assert direction.vector @ torch.tensor(UNIT).float() > 0.95
    probe = DifferenceInMeans().fit(wide, y).direction()
    for name in ("scale", "gap", "center", "mean"):
        assert getattr(direction, name) == pytest.approx(getattr(probe, name), rel=1e-5)
    back = difference_of_means(activations, labels, site=SITE, classes=("yes", "no"))
    assert back.cosine(direction) == pytest.approx(-1)
    assert back.center == pytest.approx(-direction.center)


def test_difference_of_means_of_some_rows_targets_and_classes():
    X, y = planted()
    three = LabelSet.from_values(
        "three", np.stack([np.zeros(300, int) + (np.arange(300) % 2), y + (X[:, 0] > 20.5)], 1)
    )
    rows = np.arange(300) < 200
    direction = difference_of_means(of_model({SITE: X}), three, site=SITE, target=1, classes=("2", "0"), rows=rows)
    value = three.values[:, 1]
    mine = [X[rows & (value == k)].astype(np.float64) for k in (2, 0)]
    np.testing.assert_allclose(
        direction.vector, (d := mine[1].mean(0) - mine[0].mean(0)) / np.linalg.norm(d), atol=1e-6
    )
    assert direction.scale == pytest.approx((np.concatenate(mine) @ direction.vector.double().numpy()).std())
    named = difference_of_means(of_model({SITE: X}), three, site=SITE, target="three[1]", classes=("2", "0"), rows=rows)
    assert torch.equal(named.vector, direction.vector)
    with pytest.raises(
        ValueError, match=r"has 3 classes: name the two to go between, classes=\(from, to\), of 0, 1, 2"
    ):
        difference_of_means(of_model({SITE: X}), three, site=SITE, target=1)


def test_labels_of_tokens_of_sequences_and_of_rows():
    X, y = planted()
    sequence = np.arange(300) // 3
    by_row = difference_of_means(ArrayActivations({SITE: X}), y, site=SITE)
    order = np.random.default_rng(0).permutation(300)
    tokens = LabelSet("t", y[np.argsort(order)][:, None], "binary", "token", ("0", "1"))
    by_item = difference_of_means(ArrayActivations({SITE: X}, item=order), tokens, site=SITE)
    np.testing.assert_allclose(by_item.vector, by_row.vector, atol=1e-7)
    assert by_item.model is None
    of_sequence = LabelSet("s", y[::3][:, None], "binary", "sequence", ("0", "1"))
    by_sequence = difference_of_means(ArrayActivations({SITE: X}, sequence=sequence), of_sequence, site=SITE)
    again = difference_of_means(ArrayActivations({SITE: X}), y[::3][sequence], site=SITE)
    assert torch.equal(by_sequence.vector, again.vector)


def test_difference_of_means_refuses():
    X, y = planted()
    activations = ArrayActivations({SITE: X})
    for labels, kwargs, error, words in (
        (X[:, 0] / 3, {}, ValueError, "continuous and has no classes"),
        (y[:100], {}, ValueError, "100 labels for 300 rows"),
        (
            LabelSet.from_values("s", y[:100]),
            {},
            ValueError,
            "has 100 sequences, but the activations refer to sequence 299",
        ),
        ("truth", {}, TypeError, r"data.label_set\('truth'\)"),
        (y, {"target": 3}, KeyError, "has 1 targets"),
        (y, {"target": "lie"}, KeyError, "no target 'lie'"),
        (y, {"classes": ("0", "2")}, KeyError, "no class '2'"),
        (y, {"classes": "01"}, ValueError, "a pair of two class names"),
        (y, {"rows": y == 0}, ValueError, "no row of class '1'"),
        (y, {"rows": np.arange(3)}, ValueError, "rows must be a mask"),
        (y, {"site": "blocks.9.hook_resid_post"}, KeyError, "no activations at site"),
    ):
        with pytest.raises(error, match=words):
            difference_of_means(activations, labels, **{"site": SITE, **kwargs})
    with pytest.raises(ValueError, match="are the same at"):
        difference_of_means(ArrayActivations({SITE: np.ones((300, 9), "float32")}), y, site=SITE)
    with pytest.raises(TypeError, match="it must be an ActivationStore"):
        difference_of_means({SITE: X}, y, site=SITE)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), rows=st.integers(1, 200))
def test_sums_by_a_number_of_each_row(seed, count, rows):
    rng = np.random.default_rng(seed)
    X, index = rng.normal(size=(rows, 3)).astype("float32"), rng.integers(-1, count, rows)
    sums, counts = sums_by(ArrayActivations({SITE: X}), SITE, index, count)
    for k in range(count):
        np.testing.assert_allclose(sums[k], X[index == k].astype(np.float64).sum(0), atol=1e-12)
        assert counts[k] == (index == k).sum()


def test_rows_that_are_not_finite_are_named():
    X, y = planted()
    activations = ArrayActivations({SITE: X})
    X[130, 2] = np.nan  # written to after the check, as a damaged store would be
    with pytest.raises(ValueError, match="NaN or infinite in row 130"):
        difference_of_means(activations, y, site=SITE)
    with pytest.raises(ValueError, match="NaN or infinite in row 130"):
        Direction(torch.ones(9), SITE).measured(activations)


# Contrast pairs


def pairs(n: int = 80, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two sides with much in common; of a share of the pairs the difference is along dimension 4."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(n, 9)) * 30
    toward = np.where(rng.random(n) < share, 2.0, -2.0)[:, None] * UNIT
    noise = rng.normal(size=(2, n, 9)) * 0.1
    return (common + toward / 2 + noise[0]).astype("float32"), (common - toward / 2 + noise[1]).astype("float32")


@pytest.mark.parametrize("method", ["mean", "pca"])
def test_contrast_pairs(method):
    positive, negative = pairs()
    direction = contrast(of_model({SITE: positive}), of_model({SITE: negative}), site=SITE, method=method)
    assert float(direction.vector[4]) > 0.999
    apart = positive.astype(np.float64) - negative
    if method == "mean":
        np.testing.assert_allclose(direction.vector, apart.mean(0) / np.linalg.norm(apart.mean(0)), atol=1e-6)
    else:
        _, sizes, vectors = np.linalg.svd(apart, full_matrices=False)
        np.testing.assert_allclose(direction.vector.abs().numpy(), np.abs(vectors[0]), atol=1e-5)
        assert direction.provenance["explained"] == pytest.approx(sizes[0] ** 2 / (sizes**2).sum())
    unit = direction.vector.double().numpy()
    both = np.concatenate([positive @ unit, negative @ unit])
    assert direction.scale == pytest.approx(both.std(), rel=1e-5)
    assert (direction.center, direction.mean) == pytest.approx((both.mean(), both.mean()), rel=1e-5)
    assert direction.gap == pytest.approx((apart @ unit).mean())
    assert direction.provenance["agree"] == 1.0
    assert direction.provenance["pairs"] == 80
    assert direction.model == "feed"


def test_the_principal_component_of_pairs_points_to_the_positive_side():
    """Differences that all say the same: about their own mean nothing would be left of it; nor does its sign depend on luck."""
    positive, negative = pairs(share=0.7)
    direction = contrast(
        ArrayActivations({SITE: positive}), ArrayActivations({SITE: negative}), site=SITE, method="pca"
    )
    assert float(direction.vector[4]) > 0.99
    assert 0.55 < direction.provenance["agree"] < 0.85
    turned = contrast(ArrayActivations({SITE: negative}), ArrayActivations({SITE: positive}), site=SITE, method="pca")
    assert turned.cosine(direction) == pytest.approx(-1)


def test_what_makes_no_pairs_is_refused():
    positive, negative = pairs()
    one = of_model({SITE: positive})
    for other, words in (
        (ArrayActivations({SITE: negative[:79]}), "80 positive and 79 negative rows make no pairs"),
        (ArrayActivations({SITE: negative}, sequence=np.arange(80)[::-1].copy()), "row 0 is of sequence 0 .* and 79"),
        (of_model({SITE: negative}, "beef"), "of the model feed, the negative of beef"),
        (one, "do not differ at"),
    ):
        with pytest.raises(ValueError, match=words):
            contrast(one, other, site=SITE)
    with pytest.raises(ValueError, match="method must be 'mean' or 'pca'"):
        contrast(one, one, site=SITE, method="median")


# Principal components


def test_principal_components_against_sklearn():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(300, 9)) * np.linspace(1, 5, 9) @ np.linalg.qr(rng.normal(size=(9, 9)))[0] + 50).astype(
        "float32"
    )
    rows = np.arange(300) % 5 > 0
    found = principal_components(of_model({SITE: X}), site=SITE, count=4, rows=rows)
    theirs = PCA(4, svd_solver="full").fit(X[rows].astype(np.float64))
    for k, direction in enumerate(found):
        np.testing.assert_allclose(np.abs(direction.vector.numpy() @ theirs.components_[k]), 1, atol=1e-6)
        assert float(direction.vector[direction.vector.abs().argmax()]) > 0
        along = X[rows].astype(np.float64) @ direction.vector.double().numpy()
        assert (direction.scale, direction.mean) == pytest.approx((along.std(), along.mean()), rel=1e-6)
        assert direction.provenance["explained"] == pytest.approx(theirs.explained_variance_ratio_[k])
        assert (direction.center, direction.gap, direction.model) == (None, None, "feed")
    flat = np.outer(rng.normal(size=30), UNIT).astype("float32") + 1
    assert len(principal_components(ArrayActivations({SITE: flat}), site=SITE, count=1)) == 1
    for count in (0, 2):
        with pytest.raises(ValueError, match=r"count must lie in 1\.\.1: the 30 rows"):
            principal_components(ArrayActivations({SITE: flat}), site=SITE, count=count)


# An SAE's decoder


def sae(**metadata: Any) -> SimpleNamespace:
    rows = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    rows[3] = 0
    return SimpleNamespace(W_dec=rows, cfg=SimpleNamespace(metadata=SimpleNamespace(**metadata)))


def test_decoder_row():
    model = pk.load_model(make_model("llama"))
    plain = sae(hook_name=SITE)
    direction = decoder_row(plain, 5)
    torch.testing.assert_close(direction.vector, plain.W_dec[5] / plain.W_dec[5].norm())
    assert (direction.site, direction.scale, direction.model) == (SITE, None, None)
    assert direction.provenance["feature"] == 5
    assert decoder_row(plain, 5, model=model).model == model.fingerprint
    X = np.random.default_rng(0).normal(size=(50, 32)).astype("float32")
    measured = decoder_row(plain, 5, activations=of_model({SITE: X}))
    assert measured.scale == pytest.approx((X @ direction.vector.numpy()).std(), rel=1e-5)
    assert measured.model == "feed"
    transcoder = sae(hook_name="blocks.1.hook_resid_mid", hook_name_out="blocks.1.hook_mlp_out")
    assert decoder_row(transcoder, 0).site == "blocks.1.hook_mlp_out"
    trained = sae(hook_name=SITE, probekit={"model_fingerprint": "beef"})
    assert decoder_row(trained, 0).model == "beef"
    for which, kwargs, words in (
        (plain, {"feature": 12}, "no feature 12: the SAE has 12, 0 to 11"),
        (plain, {"feature": 3}, "decoder row of feature 3 is zero"),
        (sae(), {"feature": 0}, "names no site"),
        (trained, {"feature": 0, "model": model}, "trained on the model beef"),
        (sae(hook_name="blocks.0.mlp.hook_post"), {"feature": 0, "model": model}, "writes 32 dimensions"),
    ):
        with pytest.raises(ValueError, match=words):
            decoder_row(which, **kwargs)


def test_decoder_row_of_a_real_sae_and_its_features():
    import saes

    trained = saes.load("othello-mini/blocks.3.hook_resid_post")
    X = np.random.default_rng(0).normal(size=(40, trained.cfg.d_in)).astype("float32")
    features = saes.encode(trained, ArrayActivations({"blocks.3.hook_resid_post": X}), progress=False)
    direction = decoder_row(trained, 7, features=features, model=pk.load_model("othello-mini"))
    assert direction.site == "blocks.3.hook_resid_post"
    assert direction.provenance["fires"] == pytest.approx((features.matrix[:, [7]].toarray() > 0).mean())
    with pytest.raises(ValueError, match="what is given as features="):
        decoder_row(sae(hook_name=SITE), 0, features=features)


# Halves


def grouped(
    effect: float, level: str = "sequence", groups: int = 60, seed: int = 0
) -> tuple[ArrayActivations, np.ndarray]:
    """Five rows a sequence that share most of their noise; a third of the sequences (or rows) are of the second class."""
    rng = np.random.default_rng(seed)
    sequence = np.repeat(np.arange(groups), 5)
    y = (np.arange(groups) % 3 == 0)[sequence] if level == "sequence" else rng.random(5 * groups) < 0.3
    X = (rng.normal(size=(groups, 30)) * np.linspace(3, 0.3, 30))[sequence] + rng.normal(size=(5 * groups, 30)) + 40
    X = X + effect * y[:, None] * np.eye(30)[4]
    return ArrayActivations({SITE: X.astype("float32")}, sequence=sequence), y.astype(int)


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_halves_agree_where_there_is_something_and_only_there(level):
    strong = split_half_reliability(*grouped(20.0, level), site=SITE, permutations=99)
    assert strong.cosine > 0.9
    assert strong.low < strong.cosine < strong.high <= 1
    assert strong.p == 0.01
    assert strong.cosine < strong.full < 1
    assert "halves of 60 groups of sequences give directions of cosine 0.9" in str(strong)
    assert "steers by chance" not in str(strong)
    p = [
        split_half_reliability(*grouped(0.0, level, seed=s), site=SITE, permutations=39, halves=8).p for s in range(30)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.2  # binomial(30, 0.05) exceeds 6 once in 5,000
    nothing = split_half_reliability(*grouped(0.0, level), site=SITE)
    assert nothing.low < 0 < nothing.high
    assert "steers by chance" in str(nothing)


def test_halves_against_a_plain_loop():
    activations, y = grouped(4.0)
    found = split_half_reliability(activations, y, site=SITE, halves=3, seed=5)
    X, sequence = activations.read(SITE).astype(np.float64), activations.sequence
    from probekit.surgery.directions.reliability import _Cells, _deal

    cells, number = np.unique(2 * sequence + y, return_inverse=True)
    sums, counts = sums_by(activations, SITE, number, len(cells))
    made = _Cells(sums, counts.astype(float), cells % 2, cells // 2)
    first = _deal(made, 60, 3, np.random.default_rng([5, 0x4A1F]))
    cosines = []
    for division in first:
        assert 29 <= division.sum() <= 31
        one, other = (
            X[side & (y == 1)].mean(0) - X[side & (y == 0)].mean(0)
            for side in (division[sequence], ~division[sequence])
        )
        cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert found.cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found.null.shape == (200,)
    again = split_half_reliability(activations, y, site=SITE, halves=3, seed=5)
    np.testing.assert_array_equal(again.null, found.null)


def test_rows_of_one_sequence_and_sequences_of_one_group_are_no_evidence():
    """What is only true of a few groups does not pass: with every row a group of its own it would."""
    rng = np.random.default_rng(0)
    sequence = np.repeat(np.arange(200), 10)
    group = np.arange(200) // 20  # ten groups, of which five are of the second class
    y = (group % 2)[sequence]
    X = (rng.normal(size=(10, 30)) * 3)[group[sequence]] + rng.normal(size=(2000, 30))
    activations = ArrayActivations({SITE: X.astype("float32")}, sequence=sequence)
    apart = split_half_reliability(activations, y, site=SITE, permutations=99)
    together = split_half_reliability(activations, y, site=SITE, groups=group, permutations=99)
    assert apart.p == 0.01
    assert together.p > 0.05
    assert together.groups == 10


def test_halves_refuse():
    activations, y = grouped(1.0)
    with pytest.raises(ValueError, match="class '1' occurs in 3 groups of sequences: at least 4"):
        split_half_reliability(activations, y * (activations.sequence < 9), site=SITE)
    with pytest.raises(ValueError, match="groups has 10 entries"):
        split_half_reliability(activations, y, site=SITE, groups=np.arange(10))
    with pytest.raises(ValueError, match="permutations at least 19"):
        split_half_reliability(activations, y, site=SITE, permutations=10)


def test_from_a_captured_store_with_the_label_set_of_its_data():
    model = pk.load_model(make_model("llama"))
    rng = np.random.default_rng(0)
    tokens = tuple(rng.integers(4, 60, 6) for _ in range(24))
    odd = np.array([int(t[-1]) % 2 for t in tokens])
    data = Dataset("numbers", tokens=tokens, labels={"odd": LabelSet.from_values("odd", odd)})
    store = pk.capture(model, data, [SITE], pool="last", progress=False)
    direction = difference_of_means(store, data.label_set("odd"), site=SITE)
    assert direction.model == model.fingerprint
    assert direction.provenance["data"] == {"name": "numbers", "fingerprint": data.fingerprint()}
    assert Labelled.of(store, data.label_set("odd")).name == "odd"
