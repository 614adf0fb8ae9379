"""The ways to turn a disc, on few games: they act at the last position only, and the probe's does better than a random one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.testbeds import othello
from tests.experiments.scripts import scripts_of


@pytest.fixture(scope="module")
def run():
    with scripts_of("othello_interventions", "edits", "page", "run") as found:
        yield found.run


def test_turning_discs(run, tmp_path):
    model = pk.load_model("othello-mini")
    sites = model.stream_sites[1:]
    games = othello.sample_games(200, seed=0)
    found = pk.sweep(
        model, games, labels=["tile"], sites=sites, probe="ridge", controls=False, n_boot=100, progress=False
    )
    lines = run.ways.boundaries(found, sites[2:3])
    square = lines[sites[2]]
    direction = found.direction("tile", 10, "mine", "theirs", site=sites[2])
    torch.testing.assert_close(direction.vector, square.vectors[10], atol=1e-5, rtol=1e-4)
    assert float(square.centers[10]) == pytest.approx(direction.center, rel=1e-3)

    cases = othello.sample_cases(40, seed=5)
    plain = run.errors(model, cases, None)
    turned = run.errors(model, cases, run.ways.reflect(model, lines, cases, sites[2:3], 2.0))
    strays = run.ways.random_lines(lines, 0)
    random = run.errors(model, cases, run.ways.reflect(model, strays, cases, sites[2:3], 2.0, like=lines))
    assert turned.mean() < plain.mean()
    assert random.mean() > turned.mean()

    # The same as the public edit of one case, at the last position and nowhere else.
    one = cases.take(np.array([0]))
    tokens = torch.from_numpy(one.tokens[:, : one.length[0]])
    with run.ways.reflect(model, lines, one, sites[2:3], 1.0).applied(model):
        ours = model.run(tokens, None, [sites[2]])[sites[2]]
    here = found.direction("tile", int(one.square[0]), "mine", "theirs", site=sites[2])
    here = here if one.mine[0] else -here
    where = pk.surgery.Where((-1,)).where_probe_fires(here)
    with pk.surgery.reflect(here, model, where=where).applied(model):
        public = model.run(tokens, None, [sites[2]])[sites[2]]
    torch.testing.assert_close(ours, public, atol=2e-2, rtol=1e-4)
    before = model.run(tokens, None, [sites[2]])[sites[2]]
    assert torch.equal(public[:, :-1], before[:, :-1])

    means = run.ways.class_means(model, games, sites[2:3])
    assert np.isfinite(run.errors(model, cases, run.ways.move_to_mean(model, means, cases, sites[2:3], 1.0))).all()
    networks = run.ways.fit_networks(model, othello.sample_games(40, seed=1), sites[2:3], 0, epochs=1)
    descended = run.errors(model, cases, run.ways.descend(model, networks, cases, sites[2:3], 0.1, steps=3))
    assert descended.shape == (40,)
    features = run.ways.fit_features(model, othello.sample_games(40, seed=2), sites[2:3])
    swapped = run.errors(model, cases, run.ways.swap_features(model, features, cases, sites[2:3], 1.0))
    assert swapped.shape == (40,)
