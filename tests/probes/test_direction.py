"""What a direction knows of the data along it: for every family, from memory, streams, stacks, sweeps and files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import probekit as pk
from probekit.activations import ArrayActivations
from probekit.activations.moments import Moments
from probekit.probes import (
    DifferenceInMeans,
    Direction,
    LDAProbe,
    LogisticProbe,
    ProbeStack,
    RidgeProbe,
    SweepResult,
    fit_grid,
    sweep,
)

SITE = "blocks.1.hook_resid_post"
FAMILIES = [
    DifferenceInMeans(),
    LDAProbe(0.1),
    RidgeProbe(1.0),
    LogisticProbe(0.1),
    LogisticProbe(0.1, penalty="l1"),
]
every_family = pytest.mark.parametrize("probe", FAMILIES, ids=lambda p: f"{p.family}_{getattr(p, 'penalty', '')}")


def planted(classes: int = 2, n: int = 240, d: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Uneven classes far from the origin, features of uneven scales."""
    rng = np.random.default_rng(seed)
    y = np.minimum(rng.geometric(0.5, n) - 1, classes - 1)
    X = rng.normal(size=(n, d))
    X[np.arange(n), y] += 2
    return X * rng.uniform(0.2, 8, d) + rng.normal(size=d) * 9, y


def check(direction: Direction, X: np.ndarray, y: np.ndarray | None, k: int = 1, rel: float = 1e-5) -> None:
    """Everything the direction says of the data, against numpy."""
    along = X @ direction.vector.double().numpy()
    assert direction.scale == pytest.approx(along.std(), rel=rel)
    assert direction.mean == pytest.approx(along.mean(), rel=rel)
    if y is None:
        assert direction.gap is None
        assert direction.center is None
    else:
        assert direction.gap == pytest.approx(along[y == k].mean() - along[y != k].mean(), rel=1e-4)


@every_family
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_classes(probe, dtype):
    X, y = planted()
    fitted = type(probe)(**probe.get_params()).fit(X.astype(dtype), y)
    for k in (0, 1):
        direction = fitted.direction(k)
        check(direction, X, y, k)
        # The score is zero at the center.
        there = X[:1] + (direction.center - X[:1] @ direction.vector.double().numpy()) * direction.vector.numpy()
        assert fitted.decision_function(there)[0] == pytest.approx(0, abs=1e-4 * float(np.abs(fitted.intercept_).max()))


@every_family
def test_several_classes(probe):
    X, y = planted(classes=4)
    fitted = type(probe)(**probe.get_params()).fit(X, y)
    for k in range(4):
        direction = fitted.direction(k)
        check(direction, X, y, k)
        there = X[:1] + (direction.center - X[:1] @ direction.vector.double().numpy()) * direction.vector.numpy()
        scores = fitted.decision_function(there)[0]
        assert scores[k] - scores.mean() == pytest.approx(0, abs=1e-4 * float(np.abs(fitted.intercept_).max()))


def test_difference_of_means_has_its_center_halfway():
    X, y = planted()
    direction = DifferenceInMeans().fit(X, y).direction()
    means = np.stack([X[y == k].mean(0) for k in range(2)])
    np.testing.assert_allclose(direction.vector, (means[1] - means[0]) / np.linalg.norm(means[1] - means[0]), atol=1e-6)
    assert direction.center == pytest.approx(float(means.mean(0) @ direction.vector.double().numpy()))


@pytest.mark.parametrize("wide", [False, True])
def test_continuous_targets(wide):
    X, y = planted(n=30, d=50) if wide else planted()
    values = X[:, 0] + 0.1 * y
    fitted = RidgeProbe(2.0).fit(X, values)
    assert np.isnan(fitted.gap_).all()
    check(fitted.direction(), X, None)


@pytest.mark.parametrize("probe", FAMILIES[:3], ids=lambda p: p.family)
def test_streamed_statistics_say_the_same(probe):
    X, y = planted(classes=3)
    moments = Moments(X.shape[1], 1, 3).update(X, y)
    streamed = type(probe).from_moments(moments, **probe.get_params())
    for k in range(3):
        check(streamed.direction(k), X, y, k)


@pytest.mark.parametrize("probe", FAMILIES[:4], ids=lambda p: p.family)
def test_each_target_is_measured_on_its_own_rows(probe):
    X, y = planted(classes=3, n=300)
    rng = np.random.default_rng(1)
    Y = np.stack([y, np.where(rng.random(300) < 0.4, -1, y), np.where(y == 1, -1, y)], 1)
    fitted = type(probe)(**probe.get_params()).fit_many(X, Y)
    value = [getattr(probe, probe.grid_parameter)] if probe.grid_parameter else None
    stack = fit_grid(probe, X, Y, value, n_classes=3).select(0)
    for t, classes in enumerate(((0, 1, 2), (0, 1, 2), (0, 2))):
        kept = Y[:, t] >= 0
        for k in classes:
            check(fitted[t].direction(k), X[kept], Y[kept, t], k)
            check(stack.direction(t, str(k)), X[kept], Y[kept, t], k)
    with pytest.raises(ValueError, match="training never saw class '1'"):
        stack.direction(2, "1")


def test_stacks_keep_it_in_files_and_those_of_before_are_read(tmp_path):
    X, y = planted()
    stack = fit_grid("ridge", np.stack([X, 2 * X]), y[:, None], [1.0, 10.0], sites=("blocks.0.hook_resid_pre", SITE))
    one = stack.select(1).at(SITE)
    for read in (one, ProbeStack.load(one.save(tmp_path / "stack.safetensors"))):
        direction = read.direction()
        assert direction.site == SITE
        check(direction, 2 * X, y)
    facts = {"kind": "binary", "classes": ["0", "1"], "targets": ["a"], "axes": [], "sites": [SITE], "grid": [],
             "family": "ridge", "parameters": {}}  # fmt: skip
    tensors = {"coef": one.coef, "intercept": one.intercept, "gap": one.gap}
    save_file(tensors, str(tmp_path / "old"), metadata={"format": "probekit.probestack", "stack": json.dumps(facts)})
    old = ProbeStack.load(tmp_path / "old")
    assert torch.isnan(old.deviation).all()
    direction = old.direction()
    assert (direction.scale, direction.mean) == (None, None)
    assert direction.gap == pytest.approx(one.direction().gap)
    assert direction.center == pytest.approx(one.direction().center)


@pytest.fixture(scope="module")
def swept() -> SweepResult:
    X, y = planted(n=300)
    arrays = {"blocks.0.hook_resid_pre": np.random.default_rng(0).normal(size=X.shape), SITE: X}
    labels = {"truth": np.where(y, "yes", "no").tolist(), "size": X[:, 0] / 3}
    return sweep(arrays, labels=labels, controls=False, n_boot=100, progress=False)


def test_the_best_site_gives_its_direction(swept, tmp_path):
    # Arrays know no model; a sweep of a model names it in the manifest.
    named = SweepResult(
        **{**vars(swept), "manifest": {**swept.manifest, "model": {"name": "m", "fingerprint": "feed"}}}
    )
    for result in (named, SweepResult.load(named.save(tmp_path / "out"))):
        direction = result.best("truth").direction()
        assert (direction.site, direction.model) == (SITE, "feed")
        assert direction.provenance["label_set"] == "truth"
        assert direction.provenance["fitted_on"] == "train"
        assert direction.provenance["rows"] == result.label_set("truth").rows["train"]
        assert direction.provenance["class"] == "yes"
        assert direction.scale > 0
        assert direction.gap > 0
        assert result.best("truth").direction("truth", "no").cosine(direction) == pytest.approx(-1)
        assert result.best("size").direction().gap is None
    assert swept.best("truth").direction().model is None
    assert "result" not in repr(swept.best("truth"))
    with pytest.raises(KeyError, match="no target 'lie'"):
        swept.best("truth").direction("lie")


# Measuring, projecting out, files


def store_like(arrays: dict[str, np.ndarray], model: str) -> ArrayActivations:
    activations = ArrayActivations(arrays)
    activations.manifest = SimpleNamespace(model_fingerprint=model)
    return activations


def test_measured_on_activations(monkeypatch):
    monkeypatch.setattr("probekit.activations.source._BATCH_ROWS", 50)
    X = np.random.default_rng(0).normal(1e3, 2, (240, 7)).astype("float32")
    direction = Direction(torch.arange(1.0, 8) / torch.arange(1.0, 8).norm(), SITE, gap=3.0, center=1.0)
    rows = np.arange(240) % 3 == 0
    for kept in (None, rows):
        measured = direction.measured(store_like({SITE: X}, "feed"), kept)
        along = (X if kept is None else X[kept]).astype(np.float64) @ direction.vector.double().numpy()
        assert measured.scale == pytest.approx(along.std(), rel=1e-9)
        assert measured.mean == pytest.approx(along.mean(), rel=1e-9)
        assert (measured.gap, measured.center, measured.model) == (3.0, 1.0, "feed")
    with pytest.raises(ValueError, match="found in the model feed, but these activations are of beef"):
        measured.measured(store_like({SITE: X}, "beef"))
    with pytest.raises(ValueError, match="names no site"):
        Direction(torch.ones(7)).measured(ArrayActivations({SITE: X}))
    with pytest.raises(KeyError, match="no activations at site"):
        direction.measured(ArrayActivations({"elsewhere": X}))
    with pytest.raises(ValueError, match="do not vary along"):
        direction.measured(ArrayActivations({SITE: np.ones((4, 7), "float32")}))
    with pytest.raises(ValueError, match="3 wide, the direction 7"):
        direction.measured(ArrayActivations({SITE: np.ones((4, 3), "float32")}))
    with pytest.raises(ValueError, match="rows must be a mask of 240"):
        direction.measured(ArrayActivations({SITE: X}), np.arange(3))
    with pytest.raises(ValueError, match="rows picks none"):
        direction.measured(ArrayActivations({SITE: X}), np.zeros(240, bool))


vectors = st.lists(st.floats(-9, 9, width=32), min_size=6, max_size=6).filter(lambda v: np.linalg.norm(v) > 1e-2)


@settings(max_examples=60, deadline=None)
@given(vector=vectors, others=st.lists(vectors, min_size=1, max_size=4))
def test_without_leaves_a_unit_vector_at_right_angles(vector, others):
    direction = Direction(Direction(torch.tensor(vector)).vector, SITE, 2.0, 3.0, 4.0, 5.0, "feed", {"family": "ridge"})
    beside = [Direction(torch.tensor(v), SITE, provenance={"n": i}) for i, v in enumerate(others)]
    rank = np.linalg.matrix_rank(np.array([o.vector.numpy() for o in beside]), tol=1e-2)
    if np.linalg.matrix_rank(np.array([o.vector.numpy() for o in (*beside, direction)]), tol=1e-2) == rank:
        return  # too near the span of the others to say which
    left = direction.without(*beside, *beside)
    assert float(left.vector.norm()) == pytest.approx(1, abs=1e-6)
    for other in beside:
        assert abs(left.cosine(other)) < 2e-3  # others nearly the same differ by less than their rounding
    assert left.cosine(direction) == pytest.approx(left.provenance["length_left"], abs=1e-5)
    assert (left.scale, left.gap, left.center, left.mean) == (None, None, None, None)
    assert (left.site, left.model) == (SITE, "feed")
    assert left.provenance["family"] == "ridge"
    assert [o["n"] for o in left.provenance["without"]] == [*range(len(beside))] * 2


def test_without_refuses_other_spaces():
    direction = Direction(torch.tensor([1.0, 2.0]), SITE, model="feed")
    assert direction.without() is direction
    for other, wrong in (
        (Direction(torch.ones(3)), "widths 2 and 3"),
        (Direction(torch.ones(2), "blocks.0.hook_resid_post"), "site is"),
        (Direction(torch.ones(2), model="beef"), "model is feed, the other's beef"),
        (Direction(torch.tensor([2.0, 4.0])), "nothing is left"),
    ):
        with pytest.raises(ValueError, match=wrong):
            direction.without(other)


numbers = st.none() | st.floats(-1e6, 1e6, allow_nan=False)
facts = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5))


@settings(max_examples=60, deadline=None)
@given(
    vector=vectors,
    site=st.none() | st.text(min_size=1, max_size=9),
    scale=st.none() | st.floats(1e-6, 1e6),
    known=st.tuples(numbers, numbers, numbers),
    model=st.none() | st.text("0123456789abcdef", min_size=16, max_size=16),
    provenance=facts,
)
def test_files_give_back_what_they_got(tmp_path_factory, vector, site, scale, known, model, provenance):
    direction = Direction(Direction(torch.tensor(vector)).vector, site, scale, *known, model, provenance)
    path = tmp_path_factory.getbasetemp() / "direction.safetensors"
    loaded = Direction.load(direction.save(path))
    assert torch.equal(loaded.vector, direction.vector)
    for name in ("site", "scale", "gap", "center", "mean", "model", "provenance"):
        assert getattr(loaded, name) == getattr(direction, name)
    back = direction.__neg__().__neg__()
    assert torch.equal(back.vector, direction.vector)
    assert (back.scale, back.gap, back.center, back.mean) == (scale, *known)


def test_odd_provenance_is_written_as_json(tmp_path):
    odd = {"a": float("nan"), "b": np.float32(2), "c": torch.ones(2), "d": (1, {"e": np.inf}), "f": SITE.split}
    loaded = Direction.load(Direction(torch.ones(2), provenance=odd).save(tmp_path / "d"))
    assert loaded.provenance | {"f": ""} == {"a": "nan", "b": 2.0, "c": [1.0, 1.0], "d": [1, {"e": "inf"}], "f": ""}


def test_files_of_before_are_read(tmp_path):
    for provenance, scale, gap in (
        ({"family": "ridge", "class": "yes"}, None, 2.5),  # it was the distance of the class means
        ({"family": "ridge"}, 2.5, None),  # of a continuous target: the standard deviation
        ({}, None, None),
    ):
        old = {"format": "probekit.direction", "site": json.dumps(SITE), "scale": "2.5", "provenance": json.dumps(provenance)}  # fmt: skip
        save_file({"vector": torch.tensor([0.6, 0.8])}, str(tmp_path / "old"), metadata=old)
        loaded = Direction.load(tmp_path / "old")
        assert (loaded.site, loaded.scale, loaded.gap, loaded.center) == (SITE, scale, gap, None)


def test_wrong_facts_are_refused():
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"scale is the standard deviation .* above zero"):
            Direction(torch.ones(2), scale=scale)
    for name in ("scale", "gap", "center", "mean"):
        for value in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{name} of a direction must be a finite number"):
                Direction(torch.ones(2), **{name: value})


def test_facts_beside_a_vector_that_is_not_of_length_one_are_refused():
    for name in ("scale", "gap", "center", "mean"):
        with pytest.raises(
            ValueError, match=f"has length 5, and {name} would be taken for coordinates along the unit vector"
        ):
            Direction(torch.tensor([3.0, 4.0]), **{name: 2.0})
    assert Direction(torch.tensor([0.6, 0.8]).bfloat16(), scale=2.0).scale == 2.0  # rounding is no length


def test_it_says_what_it_knows():
    known = Direction(torch.ones(4) / 2, SITE, scale=2.0, center=-1.0, provenance={"family": "ridge"})
    assert repr(known) == f"<Direction of 4 dimensions at {SITE}, scale 2, center -1: family ridge>"
    assert repr(Direction(torch.ones(4))) == "<Direction of 4 dimensions at a site not named, scale not known: no provenance>"  # fmt: skip
    assert (-known).center == 1.0


def test_against_one_class_is_the_boundary_between_the_two():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 8)).astype("f4")
    y = rng.integers(0, 3, 600)
    X[:, 0] += 3 * (y == 1)
    X[:, 1] += 3 * (y == 2)
    probe = pk.RidgeProbe(1.0).fit(X, y)
    direction = probe.direction(1, against=2)
    scores = probe.decision_function(X)
    assert np.array_equal(scores[:, 1] > scores[:, 2], direction.project(X) > direction.center)
    assert direction.scale is None
    assert direction.provenance["against"] == "2"
    other = probe.direction(2, against=1)
    np.testing.assert_allclose(other.vector, -direction.vector, atol=1e-6)
    with pytest.raises(ValueError, match="no class 7"):
        probe.direction(1, against=7)
