"""Health: figures against plain computation, and splicing against what must come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probekit as pk
import saes
from probekit.activations import ArrayActivations
from probekit.data import Dataset
from saes.rows import held_out_sequences

SITE = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def world():
    model = pk.load_model("othello-mini")
    games = pk.testbeds.othello.sample_games(60, seed=9)
    return model, games, pk.capture(model, games, SITE, progress=False)


def lossless(width: int):
    """An SAE of `2 x width` features, x and -x through a ReLU, which gives back exactly what it reads."""
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=2 * width))
    eye = torch.eye(width)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(torch.cat([eye, -eye], 0))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def test_a_lossless_sae_costs_the_model_nothing(world):
    model, games, store = world
    found = saes.health(lossless(store.width(SITE)), store, site=SITE, model=model, data=games)
    assert found.variance_unexplained < 1e-10
    assert abs(found.l0 - store.width(SITE)) < 0.01
    assert found.spliced is not None
    assert abs(found.spliced.recovered - 1) < 1e-5
    assert abs(found.spliced.kl) < 1e-6
    assert found.spliced.loss_mean > found.spliced.loss + 0.1
    assert found.spliced.tokens == sum(len(t) - 1 for t in games.tokens)
    logits = model.hf(torch.from_numpy(np.stack(games.tokens)).long()).logits
    plain = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.from_numpy(np.stack(games.tokens))[:, 1:].flatten().long()
    )
    assert abs(found.spliced.loss - float(plain.detach())) < 1e-4


def test_another_model_and_other_data_are_refused_with_both_named(world):
    model, games, store = world
    sae = lossless(store.width(SITE))
    with pytest.raises(
        ValueError, match=r"are of model 'othello-mini' \(fingerprint .*not of 'othello-mini \(random weights"
    ):
        saes.health(sae, store, site=SITE, model=model.randomized(0), data=games)
    other = pk.testbeds.othello.sample_games(60, seed=8)
    with pytest.raises(ValueError, match="give the data that was captured"):
        saes.health(sae, store, site=SITE, model=model, data=other)
    features = saes.encode(sae, store, site=SITE, progress=False)
    names = saes.Names((), sae.cfg.d_sae)
    for wrong in ((model.randomized(0), games), (model, other)):
        with pytest.raises(ValueError, match="that was captured"):
            saes.intervene(names, sae, features, *wrong)


def test_figures_are_those_of_the_rows_that_were_held_out(world):
    model, games, store = world
    sae = saes.train(store, site=SITE, width=256, k=8, rows=40 * 512, batch=512, held_out=0.25, progress=False)
    found = saes.health(sae, store, model=model, data=games)
    held = held_out_sequences(60, 0.25)[store.sequence]
    assert found.held_out
    fresh = held & ~np.isin(store.prefix, store.prefix[~held])
    assert found.rows == fresh.sum()
    assert found.seen == held.sum() - fresh.sum() > 0, "games begin alike"
    x = torch.from_numpy(store.read(SITE)[fresh])
    with torch.no_grad():
        features, out = sae.encode(x), sae(x)
    assert abs(found.l0 - 8) < 1e-9
    unexplained = ((out - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert abs(found.variance_unexplained - float(unexplained)) < 1e-4
    assert found.dead == float((features == 0).all(0).float().mean())
    np.testing.assert_allclose(found.density, (features > 0).float().mean(0).numpy())
    assert found.spliced is not None
    assert found.spliced.recovered_low <= found.spliced.recovered <= found.spliced.recovered_high < 1
    other = pk.capture(model, pk.testbeds.othello.sample_games(10, seed=1), SITE, progress=False)
    elsewhere = saes.health(sae, other)
    assert (elsewhere.rows, elsewhere.held_out) == (len(other), None)
    assert "rows of other data than the training's" in str(elsewhere)
    assert f"{found.rows} held-out rows; {found.seen} more left out" in str(found)
    del sae.cfg.metadata["probekit"]["sequences"]  # as SAEs were written before
    assert saes.health(sae, store).rows == found.rows


def test_the_floor_stands_beside_in_one_frame(world):
    model, games, store = world
    small = {"site": SITE, "width": 32, "k": 4, "rows": 1024, "batch": 256, "progress": False}
    sae = saes.train(store, **small)
    found = saes.health(sae, store, model=model, data=games)
    floor = saes.floor(sae, store, model, games, progress=False)
    frame = found.to_frame(floor=saes.health(floor.sae, floor.activations))
    assert list(frame) == ["SAE", "random weights"]
    assert frame.SAE["L0"] == found.l0
    assert frame.SAE["density, 50 % of features below"] == np.median(found.density)
    assert frame.SAE["KL spliced"] == found.spliced.kl
    assert np.isnan(frame["random weights"]["KL spliced"])  # no model was given
    assert list(found.to_frame()) == ["SAE"]


def test_rows_that_were_trained_on_are_not_held_out(world):
    model, games, store = world
    small = {"site": SITE, "width": 32, "k": 4, "rows": 1024, "batch": 256, "held_out": 0.25, "progress": False}
    sae = saes.train(model, games, **small)
    held = held_out_sequences(60, 0.25)
    keep = np.repeat(np.arange(60) < 59, [len(t) for t in games.tokens])
    part = pk.capture(model, games, SITE, rows=keep, progress=False)  # of 59 sequences, another mask would be drawn
    found = saes.health(sae, part)
    assert found.held_out
    assert found.rows + found.seen == held[part.sequence].sum()
    of_part = saes.train(part, **small)
    held = np.append(held_out_sequences(59, 0.25), True)  # the last was not there
    found = saes.health(of_part, store)
    assert found.rows + found.seen == held[store.sequence].sum()
    twice = Dataset("twice", tokens=tuple(np.asarray(t) for t in games.tokens[:20]) * 2)
    store = pk.capture(model, twice, SITE, progress=False)
    held = held_out_sequences(40, 0.25)
    alone = [i for i in np.flatnonzero(held) if held[(i + 20) % 40]]
    found = saes.health(saes.train(store, **small), store)
    assert found.rows <= np.isin(store.sequence, alone).sum()
    assert found.seen >= np.isin(store.sequence, np.setdiff1d(np.flatnonzero(held), alone)).sum() > 0


def test_arrays_are_measured_on_held_out_sequences_when_there_are_as_many(planted):
    small = {"site": SITE, "width": 32, "k": 4, "rows": 1024, "batch": 256, "held_out": 0.25, "progress": False}
    rows, sequence = planted[0].read("blocks.0.hook_resid_post"), planted[0].sequence
    whole = ArrayActivations({SITE: rows}, sequence=sequence)
    sae = saes.train(whole, **small)
    found = saes.health(sae, whole)
    assert (found.rows, found.seen, found.held_out) == (2000, 0, False)
    fewer = ArrayActivations({SITE: rows[:4000]}, sequence=sequence[:4000])
    assert saes.health(sae, fewer).rows == 4000


def test_what_is_not_finite_is_refused(world):
    store = world[2]

    class Dirty:
        manifest = None

        def __getattr__(self, name):
            return getattr(store, name)

        def __len__(self):
            return len(store)

        def read(self, site, rows=None):
            read = store.read(site, rows)
            read[3, 5] = np.nan
            return read

    with pytest.raises(ValueError, match=rf"activations at {SITE} are NaN or infinite at row 3"):
        saes.health(lossless(store.width(SITE)), Dirty(), site=SITE)
    broken = lossless(store.width(SITE))
    broken.W_dec.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"reconstruction of {SITE} is NaN"):
        saes.health(broken, store, site=SITE)


def test_what_does_not_fit_is_refused(world):
    model, games, store = world
    with pytest.raises(ValueError, match="both the model and the data"):
        saes.health(lossless(store.width(SITE)), store, site=SITE, model=model)
    with pytest.raises(ValueError, match="names no site"):
        saes.health(lossless(store.width(SITE)), store)
    with pytest.raises(ValueError, match="reads 7 dimensions"):
        saes.health(lossless(7), store, site=SITE)
    trained = saes.train(store, site=SITE, width=32, k=4, rows=2048, batch=512, progress=False)
    random = pk.capture(model.randomized(0), games, SITE, progress=False)
    with pytest.raises(ValueError, match="was trained on othello-mini"):
        saes.health(trained, random)
