"""Controls are as long as what they stand beside, come from the distribution they claim, and are the same for the same seed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from probekit.activations import ArrayActivations
from probekit.data import LabelSet
from probekit.probes.direction import Direction
from probekit.surgery.directions.random_directions import permuted_directions, random_directions, spectrum_directions
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.linear import ablate, fix, reflect, steer
from tests.surgery.worlds import SITE, direction, tiny

ROWS = 4000
STRETCH = np.array([5.0, 2.0, 1.0, 0.5, 0.1, 0.0])


def stretched(offset: float = 3.0) -> ArrayActivations:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    return ArrayActivations({"s": ((rng.standard_normal((ROWS, 6)) * STRETCH + offset) @ basis).astype(np.float32)})


def made(kind: str, count: int = 5, seed: int = 0, **facts: object) -> list[Direction]:
    known = {"scale": 0.7, "gap": 2.0, "center": 1.5, "mean": 1.0, "model": "abc"} | facts
    d = Direction(torch.arange(1.0, 7.0) / 91**0.5, "s", **known, provenance={"family": "test"})
    acts = stretched()
    return {
        "random": partial(random_directions, d),
        "spectrum": partial(spectrum_directions, d, acts),
        "permuted": partial(permuted_directions, acts, np.arange(ROWS) % 2, "s", beside=d),
    }[kind](count, seed)


@pytest.mark.parametrize("kind", ["random", "spectrum", "permuted"])
def test_controls_stand_in_the_place_of_the_direction(kind):
    each = made(kind)
    for i, d in enumerate(each):
        assert (d.site, d.scale, d.gap, d.model) == ("s", 0.7, 2.0, "abc")
        assert float(d.vector.norm()) == pytest.approx(1, abs=1e-6)
        assert d.provenance["number"] == i
        assert d.provenance["beside"] == {"family": "test"}
    again, other = made(kind), made(kind, seed=1)
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(each, again, strict=True))
    assert not any(torch.equal(a.vector, b.vector) for a, b in zip(each, other, strict=True))
    assert len({tuple(d.vector.tolist()) for d in each}) == 5
    with pytest.raises(ValueError, match="1 or more"):
        made(kind, 0)


def test_random_directions_are_isotropic():
    vectors = torch.stack([d.vector for d in made("random", 4000)]).double().numpy()
    np.testing.assert_allclose(vectors.T @ vectors / 4000, np.eye(6) / 6, atol=0.015)
    np.testing.assert_allclose(vectors.mean(0), 0, atol=0.03)


def test_spectrum_directions_have_the_covariance_of_the_data():
    acts = stretched()
    X = acts.read("s").astype(np.float64)
    sigma = np.cov(X.T)
    vectors = torch.stack([d.vector for d in made("spectrum", 3000)]).double().numpy()
    drawn = np.random.default_rng(1).multivariate_normal(np.zeros(6), sigma, 20_000)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.T @ vectors / 3000, drawn.T @ drawn / 20_000, atol=0.03)
    assert np.abs(vectors @ np.linalg.eigh(sigma)[1][:, 0]).max() < 1e-3  # nothing where the data do not vary
    for d in made("spectrum"):
        along = X @ d.vector.double().numpy()
        assert d.mean == pytest.approx(along.mean(), rel=1e-4)
        assert d.center - d.mean == pytest.approx(0.5, rel=1e-4)


def test_permuted_directions_are_differences_of_means_of_dealt_labels():
    rng = np.random.default_rng(0)
    sequence = np.repeat(np.arange(60), 4)
    y = (np.arange(60) % 2)[sequence]
    X = rng.standard_normal((240, 8)) + np.outer(y, np.r_[6.0, np.zeros(7)])
    acts = ArrayActivations({"s": X.astype(np.float32)}, sequence=sequence)
    labels = LabelSet("y", (np.arange(60) % 2)[:, None].astype(np.int16), "binary", "sequence", ("a", "b"))
    each = permuted_directions(acts, labels, "s", 40)
    steps = [abs(float(c.vector[0])) for c in each]
    assert np.mean(steps) < 0.9  # the true difference of means points along the first axis with 0.99
    same = permuted_directions(acts, y, "s", 40)
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(each, same, strict=True))
    along = X @ each[0].vector.double().numpy()
    assert each[0].scale is None
    assert each[0].mean == pytest.approx(along.mean(), abs=1e-5)
    assert along.min() < each[0].center < along.max()
    part = permuted_directions(acts, y, "s", 3, rows=sequence < 30)
    assert not torch.equal(part[0].vector, each[0].vector)
    with pytest.raises(ValueError, match="no row of one of the two classes"):
        permuted_directions(acts, y, "s", rows=y == 0)


def test_what_cannot_be_drawn_from_is_refused():
    d = Direction(torch.ones(6), "s")
    constant = ArrayActivations({"s": np.full((10, 6), 0.3, np.float32)})
    with pytest.raises(ValueError, match="same in all 10 rows"):
        spectrum_directions(d, constant)
    with pytest.raises(ValueError, match="6 wide, the direction 3"):
        spectrum_directions(Direction(torch.ones(3), "s"), constant)
    with pytest.raises(ValueError, match="names no site"):
        spectrum_directions(Direction(torch.ones(6)), constant)


@pytest.mark.parametrize("make", [lambda d, m: steer(d, m, 2.0), lambda d, m: fix(d, m, 1.0), reflect, partial(ablate, to_mean=True)])  # fmt: skip
def test_edits_along_controls_are_as_large(make):
    model = tiny()
    edit = make(direction(model), model)
    for control in random_directions(edit.direction, 3):
        other = edit.remade(direction=control)
        assert isinstance(other, ActivationEdit)
        mine, theirs = edit.changes[SITE], other.changes[SITE]
        assert float(theirs.bias.norm()) == pytest.approx(float(mine.bias.norm()), rel=1e-6)
        assert float(theirs.left.norm()) == pytest.approx(float(mine.left.norm()), rel=1e-6)
