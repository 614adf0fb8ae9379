"""`ProbeStack`, `fit_grid` and `Direction`: shapes, selection, files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from probekit.probes import Direction, LDAProbe, LogisticProbe, ProbeStack, RidgeProbe, fit_grid
from probekit.probes.solution import PER_PROBE

SITES = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")
GRID = (0.1, 10.0, 1000.0)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 3, (200, 4))
    X = rng.normal(size=(2, 200, 10)).astype("float32")
    X[:, :, :4] += 2 * Y
    return X, Y


@pytest.fixture
def stack(data):
    return fit_grid("ridge", *data, GRID, classes=("a", "b", "c"), targets=("t0", "t1", "t2", "t3"), sites=SITES)


def test_grid_agrees_with_one_fit_a_value_and_site(data):
    X, Y = data
    for family in (RidgeProbe(), LDAProbe(), LogisticProbe(tol=1e-6)):
        grid = (0.1, 0.5) if family.family == "lda" else (0.1, 10.0)
        stack = fit_grid(family, X, Y, grid)
        for s in range(2):
            for g, value in enumerate(grid):
                one = type(family)(**{**family.get_params(), family.grid_parameter: value}).fit(X[s], Y[:, 1])
                probe = stack.at(s).select(g).probe(1)
                np.testing.assert_allclose(probe.coef_, one.coef_, atol=2e-3 * abs(one.coef_).max())
                assert getattr(probe, family.grid_parameter) == value
                np.testing.assert_allclose(probe.predict_proba(X[s]), one.predict_proba(X[s]), atol=2e-3)


def test_shapes_and_reading(data, stack):
    X, Y = data
    assert stack.coef.shape == (3, 2, 4, 3, 10)
    assert stack.scores(X).shape == (3, 2, 200, 4, 3)
    assert stack.log_proba(X).shape == (3, 2, 200, 4, 3)
    assert stack.predict(X).shape == (3, 2, 200, 4)
    loss = stack.loss(X, Y, chunk=33)
    assert loss.shape == (3, 2, 4)
    by_hand = -stack.log_proba(X)[1, 0, torch.arange(200), 2, torch.from_numpy(Y[:, 2])].mean()
    assert float(loss[1, 0, 2]) == pytest.approx(float(by_hand), rel=1e-5)
    some = Y.copy()
    some[:150, 2] = -1
    part = -stack.log_proba(X)[1, 0, torch.arange(150, 200), 2, torch.from_numpy(Y[150:, 2])].mean()
    assert float(stack.loss(X, some)[1, 0, 2]) == pytest.approx(float(part), rel=1e-5)


def test_selection_takes_each_probe_its_own_grid_value(data, stack):
    X, _ = data
    index = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    chosen = stack.select(index)
    assert chosen.axes == ("site",)
    for s in range(2):
        for t in range(4):
            assert torch.equal(chosen.coef[s, t], stack.coef[index[s, t], s, t])
            assert chosen.at(s).probe(t).alpha == GRID[index[s, t]]
    at = chosen.at("blocks.0.hook_resid_post")
    assert at.sites == ("blocks.0.hook_resid_post",)
    np.testing.assert_allclose(at.scores(X[1]), chosen.scores(X)[1], atol=1e-5)
    probe = at.probe("t2")
    assert probe.target_ == "t2"
    assert probe.site_ == "blocks.0.hook_resid_post"
    np.testing.assert_array_equal(probe.predict(X[1]), np.array(at.classes)[at.predict(X[1])[:, 2]])
    direction = at.direction("t2", "c")
    assert direction.site == "blocks.0.hook_resid_post"
    assert direction.provenance["target"] == "t2"
    assert direction.provenance["alpha"] == GRID[index[1, 2]]


def test_misuse_is_named(data, stack):
    X, Y = data
    with pytest.raises(ValueError, match=r"select a grid value \(.select\) and take one site"):
        stack.probe(0)
    with pytest.raises(KeyError, match=r"no site 'blocks\.9'"):
        stack.at("blocks.9")
    with pytest.raises(KeyError, match="no target 'x'"):
        stack.select(0).at(0).probe("x")
    with pytest.raises(ValueError, match="X must be"):
        stack.scores(X[0])
    with pytest.raises(IndexError, match=r"0\.\.2"):
        stack.select(3)
    with pytest.raises(ValueError, match="no probe family 'svm'"):
        fit_grid("svm", X, Y)
    with pytest.raises(ValueError, match="X of site 1 has NaN"):
        fit_grid("ridge", np.stack([X[0], np.full_like(X[0], np.nan)]), Y)
    with pytest.raises(ValueError, match=r"class indices 0\.\.2, but there are 2"):
        fit_grid("ridge", X, Y, n_classes=2)
    with pytest.raises(ValueError, match=r"targets \[0\] have no labelled row"):
        fit_grid("ridge", X, np.full((200, 1), -1), n_classes=2)
    with pytest.raises(ValueError, match="continuous"):
        fit_grid("logistic", X, Y.astype(float))
    with pytest.raises(ValueError, match="no parameter to choose"):
        fit_grid("difference_in_means", X, Y, [1, 2])


@pytest.mark.parametrize("family", ["difference_in_means", "lda", "ridge", "logistic"])
def test_absent_and_single_classes(data, family):
    """A square that is never empty, and one that is always: neither may cost the others."""
    X, Y = data
    Y = Y.copy()
    Y[:, 0] = np.where(Y[:, 0] == 0, 1, Y[:, 0])
    Y[:, 1] = 2
    with pytest.warns(UserWarning, match=r"1 of 4 targets show one class only \(1\)"):
        stack = fit_grid(family, X[0], Y, None if family == "difference_in_means" else [0.5], n_classes=3).select(0)
    log_proba = stack.log_proba(X[0])
    assert torch.isfinite(log_proba).all()
    assert (log_proba[:, 0, 0] < -20).all()
    np.testing.assert_allclose(log_proba.exp().sum(-1), 1, atol=1e-5)
    assert (stack.predict(X[0])[:, 1] == 2).all()
    assert (stack.predict(X[0])[:, 0] == torch.from_numpy(Y[:, 0])).float().mean() > 0.7
    two = fit_grid(family, X[0], Y[:, :1] - 1, None if family == "difference_in_means" else [0.5]).select(0)
    np.testing.assert_allclose(two.log_proba(X[0])[:, 0], log_proba[:, 0, 1:], atol=2e-3)


def test_constant_binary_target():
    X = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    with pytest.warns(UserWarning, match="one class only"):
        stack = fit_grid("logistic", X, np.ones((50, 1), int), [1.0], n_classes=2).select(0)
    assert (stack.predict(X) == 1).all()
    assert torch.isfinite(stack.log_proba(X)).all()


def test_continuous_targets_with_missing_values():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5)).astype("float32")
    Y = X[:, :2] * 3 + 1
    Y[::3, 1] = np.nan
    stack = fit_grid("ridge", X, Y, [1e-3, 1e3])
    assert stack.kind == "continuous"
    loss = stack.loss(X, Y)
    assert (loss[0] < 1e-3).all()
    assert (loss[1] > loss[0]).all()
    assert stack.select(0).predict(X).shape == (100, 2)


def test_files_keep_everything(tmp_path, data, stack):
    X, _ = data
    for one in (stack, stack.select(1), stack.select(torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])).at(1)):
        loaded = ProbeStack.load(one.save(tmp_path / "deep" / "stack.safetensors"))
        for name in ("classes", "targets", "axes", "sites", "grid", "family", "kind", "parameters"):
            assert getattr(loaded, name) == getattr(one, name)
        for name in PER_PROBE:
            assert torch.equal(getattr(loaded, name), getattr(one, name))
    assert loaded.probe(2).alpha == 1.0 * GRID[1]
    np.testing.assert_array_equal(loaded.log_proba(X[1]), one.log_proba(X[1]))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"coef": 1}))
    save_file({"x": torch.ones(1)}, str(tmp_path / "b.safetensors"))
    for kind in (ProbeStack, Direction):
        with pytest.raises(ValueError, match="not a safetensors file"):
            kind.load(tmp_path / "a.pt")
        with pytest.raises(ValueError, match=f"but not a saved {kind.__name__}"):
            kind.load(tmp_path / "b.safetensors")
        with pytest.raises(FileNotFoundError, match=r"there is no file .*c\.safetensors"):
            kind.load(tmp_path / "c.safetensors")


def test_direction(tmp_path):
    facts = {"scale": 2.5, "gap": 4.0, "center": -1.25, "mean": 0.5, "model": "0123456789abcdef"}
    origin = {"family": "ridge", "C": 0.1}
    direction = Direction(torch.tensor([0.6, 0.8]), "blocks.1.hook_mlp_out", **facts, provenance=origin)
    assert Direction(torch.tensor([3.0, 4.0])).vector.tolist() == pytest.approx([0.6, 0.8])
    loaded = Direction.load(direction.save(tmp_path / "d.safetensors"))
    assert torch.equal(loaded.vector, direction.vector)
    assert (loaded.site, loaded.provenance) == ("blocks.1.hook_mlp_out", origin)
    assert {name: getattr(loaded, name) for name in facts} == facts
    json.dumps(loaded.provenance)
    assert (-direction).cosine(direction) == pytest.approx(-1)
    np.testing.assert_allclose(direction.project(np.array([[1.0, 0.0], [3.0, 4.0]])), [0.6, 5.0], rtol=1e-6)
    for bad in (torch.zeros(3), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ValueError, match="finite vector that is not zero"):
            Direction(bad)
    with pytest.raises(ValueError, match="one vector"):
        Direction(torch.ones(2, 2))
    with pytest.raises(TypeError, match="gap of a direction is a number"):
        Direction(torch.ones(2), "site", 1.0, origin)
    with pytest.raises(ValueError, match="3 wide, the direction 2"):
        direction.project(np.ones((1, 3)))
