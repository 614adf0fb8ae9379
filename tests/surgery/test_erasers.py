"""After an eraser no linear probe does better than guessing: exactly on the rows it was fitted on, nearly on others."""

from __future__ import annotations

import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from concept_erasure import LeaceEraser
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.linear_model import LinearRegression, LogisticRegression

from probekit.activations import ArrayActivations
from probekit.data import LabelSet
from probekit.probes import LogisticProbe
from probekit.surgery.directions.erasers import Eraser, leace
from probekit.surgery.directions.nullspace import inlp
from probekit.surgery.edits.affine import AffineMap

SITE = "blocks.1.hook_resid_post"


def planted(n: int = 400, d: int = 12, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated activations far from the origin, classes of unequal size that shift a dimension each."""
    rng = np.random.default_rng(seed)
    y = np.minimum(rng.geometric(0.6, n) - 1, classes - 1)
    mix = np.random.default_rng(99).normal(size=(d, d))
    X = rng.normal(size=(n, d)) @ mix + 30
    X[np.arange(n), y] += 6
    return X.astype("float32"), y


def gaps(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([X[y == k].mean(0) - X.mean(0) for k in np.unique(y)])


def chance(X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy of scikit-learn's logistic regression on the rows it is fitted on, and the share of the commonest class."""
    return LogisticRegression(max_iter=5000).fit(X - X.mean(0), y).score(X - X.mean(0), y), np.bincount(y).max() / len(
        y
    )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr("probekit.activations.source._BATCH_ROWS", 64)


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("n", [400, 30])
def test_leace_leaves_nothing_to_read_on_its_own_rows(n, classes, shrinkage):
    X, y = planted(n=n, d=40 if n == 30 else 12, classes=classes, seed=2)
    wide = X.astype(np.float64)
    assert LogisticRegression(max_iter=5000).fit(wide - wide.mean(0), y).score(wide - wide.mean(0), y) > 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer rows than dimensions
        eraser = leace(ArrayActivations({SITE: X}), y, shrinkage=shrinkage)[SITE]
    erased = eraser(wide)
    assert np.abs(gaps(erased, y)).max() < 1e-8 * np.abs(gaps(wide, y)).max()
    accuracy, majority = chance(erased, y)
    assert accuracy == majority
    assert eraser.map.rank == len(np.unique(y)) - 1
    assert eraser.map.is_idempotent
    np.testing.assert_allclose(erased.mean(0), wide.mean(0), rtol=1e-10)
    assert erased.var(0).sum() < wide.var(0).sum()
    assert eraser.provenance["moved"] == pytest.approx(
        np.square(erased - wide).sum(1).mean() / wide.var(0).sum(), rel=1e-6
    )


@pytest.mark.parametrize("shrinkage", [True, False])
def test_leace_is_that_of_concept_erasure_and_streams(shrinkage):
    X, y = planted(classes=3)
    x = torch.from_numpy(X).double()
    theirs = LeaceEraser.fit(x, torch.nn.functional.one_hot(torch.from_numpy(y)).double(), shrinkage=shrinkage, svd_tol=1e-7)  # fmt: skip
    ours = leace(ArrayActivations({SITE: X}), y, shrinkage=shrinkage)[SITE]
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)


def test_leace_is_the_smallest_edit_that_erases():
    X, y = planted()
    wide = X.astype(np.float64)
    eraser = leace(ArrayActivations({SITE: X}), y, shrinkage=False)[SITE]
    moved = np.square(eraser(wide) - wide).sum()
    apart = wide[y == 1].mean(0) - wide[y == 0].mean(0)
    unit = apart / np.linalg.norm(apart)
    projected = wide - np.outer((wide - wide.mean(0)) @ unit, unit)  # erases too, by the mean difference
    assert np.abs(gaps(projected, y)).max() < 1e-9
    assert moved < np.square(projected - wide).sum()


def test_leace_holds_on_other_rows_and_on_float32():
    X, y = planted(n=6000)
    eraser = leace(ArrayActivations({SITE: X[:4000]}), y[:4000])[SITE]
    before, after = X[4000:], eraser(X[4000:])
    assert after.dtype == np.float32
    assert np.abs(gaps(after, y[4000:])).max() < 0.1 * np.abs(gaps(before, y[4000:])).max()
    accuracy, majority = chance(after, y[4000:])
    assert accuracy < majority + 0.01
    half = eraser(torch.from_numpy(before).bfloat16())
    assert half.dtype == torch.bfloat16


def test_leace_of_continuous_labels_several_targets_and_sites():
    X = planted()[0]
    rng = np.random.default_rng(0)
    values = np.stack([X[:, 3] + rng.normal(size=400), 1e-9 * X[:, 5]], 1)
    activations = ArrayActivations({SITE: X, "blocks.0.hook_resid_post": 2 * X[:, :7]})
    activations.manifest = SimpleNamespace(model_fingerprint="feed", data="numbers", data_fingerprint="d00d")
    erasers = leace(activations, LabelSet.from_values("size", values, kind="continuous"))
    assert list(erasers) == [SITE, "blocks.0.hook_resid_post"]
    for site, eraser in erasers.items():
        erased = eraser(activations.read(site).astype(np.float64))
        fitted = LinearRegression().fit(erased, values / values.std(0))
        assert fitted.score(erased, values / values.std(0)) == pytest.approx(0, abs=1e-6)
        assert (eraser.map.rank, eraser.site, eraser.model) == (2, site, "feed")
        assert eraser.provenance["targets"] == ["size[0]", "size[1]"]
    one = leace(activations, LabelSet.from_values("size", values, kind="continuous"), target="size[0]", sites=SITE)
    assert list(one) == [SITE]
    assert one[SITE].map.rank == 1


def test_leace_leaves_out_rows_without_labels():
    X, y = planted()
    labels = y.astype(object)
    labels[::4] = None
    rows = np.arange(400) < 300
    eraser = leace(ArrayActivations({SITE: X}), labels, rows=rows)[SITE]
    kept = rows & (np.arange(400) % 4 > 0)
    assert np.abs(gaps(eraser(X.astype(np.float64))[kept], y[kept])).max() < 1e-8
    assert (eraser.provenance["rows"], eraser.provenance["left_out"]) == (kept.sum(), 75)


def test_leace_refuses():
    X, y = planted()
    activations = ArrayActivations({SITE: X})
    with pytest.raises(ValueError, match="shows one class, '1' only in these rows: there is nothing to erase"):
        leace(activations, y, rows=y == 1)
    with pytest.raises(KeyError, match="no activations at site"):
        leace(activations, y, sites="blocks.0.hook_mlp_out")
    two = np.stack([np.where(np.arange(400) < 200, y, -1), np.where(np.arange(400) < 200, -1, y)], 1)
    with pytest.raises(ValueError, match="no row has a label of every target"):
        leace(activations, LabelSet("two", two, "binary", "sequence", ("a", "b")))
    with pytest.warns(UserWarning, match="fitted on 10 rows of 12 dimensions"):
        leace(activations, y, rows=np.arange(400) < 10)
    X[130, 2] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite in row 130"):
        leace(activations, y)


# Iterative nullspace projection


def test_inlp_takes_out_dimension_after_dimension_until_nothing_is_read():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1500)
    X = rng.normal(size=(1500, 10))
    X[:, :3] += 1.5 * y[:, None] * np.array([1.0, -1.0, 1.0]) + 4  # one line, though over three dimensions
    eraser = inlp(ArrayActivations({SITE: X.astype("float32")}), y, site=SITE, rounds=6)
    said = eraser.provenance
    assert said["reached"]
    assert said["scores"][0] > 0.85
    assert said["scores"][-1] <= said["guessing_interval"][1] < said["scores"][-2]
    assert said["rounds"] == len(said["scores"]) - 1 == eraser.map.rank
    assert 1 <= eraser.map.rank <= 3
    assert said["metric"] == "accuracy"
    assert eraser.map.is_idempotent
    erased = eraser(X)
    np.testing.assert_allclose(erased.mean(0), X.mean(0), atol=0.2)
    assert LogisticProbe().fit(erased[:1000], y[:1000]).score(erased[1000:], y[1000:]) < 0.58
    # An orthogonal projection about the mean.
    change = eraser.map.left @ eraser.map.right.T
    torch.testing.assert_close(change, change.T, atol=1e-9, rtol=0)
    torch.testing.assert_close(change @ change, -change, atol=1e-9, rtol=0)


def test_inlp_of_several_classes_and_of_values():
    X, y = planted(n=1500, classes=3)
    eraser = inlp(ArrayActivations({SITE: X}), y, site=SITE)
    assert eraser.provenance["rank"] == 2 * eraser.provenance["rounds"]
    assert eraser.provenance["reached"]
    value = X[:, 3] + 0.1 * X[:, 5]
    of_values = inlp(ArrayActivations({SITE: X}), value, site=SITE)
    assert of_values.provenance["metric"] == "r2"
    assert of_values.provenance["scores"][0] > 0.99
    assert of_values.provenance["scores"][-1] < 0.05
    assert of_values.map.rank == of_values.provenance["rounds"]  # more than one: the dimensions are correlated


def test_inlp_holds_out_whole_groups():
    """A random label of each group is learned by heart, and no more: held-out groups show it, held-out rows would not."""
    rng = np.random.default_rng(0)
    sequence = np.repeat(np.arange(40), 20)
    X = rng.normal(size=(40, 60))[sequence] * 3 + rng.normal(size=(800, 60)) * 0.1
    activations = ArrayActivations({SITE: X.astype("float32")}, sequence=sequence)
    y = rng.permutation(np.arange(40) % 2)[sequence]
    with pytest.warns(UserWarning, match="not read at .* better than by guessing .* nothing is erased"):
        eraser = inlp(activations, y, site=SITE)
    assert eraser.map.rank == 0
    np.testing.assert_array_equal(eraser(X), X)
    with pytest.warns(UserWarning, match="after 1 rounds .* is still read"):
        inlp(ArrayActivations({SITE: X.astype("float32")}), y, site=SITE, rounds=1)
    pairs = inlp(ArrayActivations({SITE: planted()[0]}), planted()[1], site=SITE, groups=np.arange(400) // 2)
    assert pairs.provenance["rows"] + pairs.provenance["held_out"] == 400


def test_inlp_refuses():
    X, y = planted()
    activations = ArrayActivations({SITE: X}, sequence=np.arange(400) // 200)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        inlp(activations, y, site=SITE, rounds=0)
    with pytest.raises(ValueError, match="shows one class or value only"):
        inlp(activations, y, site=SITE, rows=y == 0)
    with pytest.raises(ValueError, match="groups cannot be split"):
        inlp(activations, y, site=SITE, rows=np.arange(400) < 200)


# The eraser itself


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), width=st.integers(1, 9), rank=st.integers(0, 4), site=st.text(min_size=1, max_size=9))
def test_files_give_back_what_they_got(tmp_path_factory, seed, width, rank, site):
    random = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(width, rank, dtype=torch.float64, generator=random) for _ in range(2))
    change = AffineMap(left, right, torch.randn(width, dtype=torch.float64, generator=random))
    eraser = Eraser(change, site, None if seed % 2 else "feed", {"method": "LEACE", "rank": rank, "odd": float("nan")})
    loaded = Eraser.load(eraser.save(tmp_path_factory.getbasetemp() / "deep" / "eraser.safetensors"))
    for name in ("left", "right", "bias"):
        assert torch.equal(getattr(loaded.map, name), getattr(change, name))
    assert (loaded.site, loaded.model) == (eraser.site, eraser.model)
    assert loaded.provenance == {"method": "LEACE", "rank": rank, "odd": "nan"}
    h = torch.randn(2, 3, width, generator=random)
    assert torch.equal(loaded(h), eraser(h))


def test_other_files_and_activations_are_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"left": 1}))
    save_file({"x": torch.ones(1)}, str(tmp_path / "b.safetensors"))
    with pytest.raises(ValueError, match="not a safetensors file"):
        Eraser.load(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="but not a saved Eraser"):
        Eraser.load(tmp_path / "b.safetensors")
    eraser = Eraser(AffineMap.shift(torch.ones(3)), SITE, provenance={"method": "LEACE", "label_set": "truth"})
    assert repr(eraser) == f"<Eraser at {SITE}, rank 0 of 3 dimensions: LEACE of truth>"
    with pytest.raises(ValueError, match="activations are 4 wide, the eraser of"):
        eraser(torch.ones(2, 4))
