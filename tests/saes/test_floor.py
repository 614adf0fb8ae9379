"""The floor: same recipe, same rows, other weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probekit as pk
import saes
from probekit.activations import ArrayActivations

SITE = "blocks.2.hook_resid_post"
SMALL = {"width": 96, "kind": "topk", "k": 8, "rows": 30 * 512, "batch": 512, "lr": 1e-3, "progress": False}


@pytest.fixture(scope="module")
def world():
    return pk.load_model("othello-mini"), pk.testbeds.othello.sample_games(60, seed=9)


@pytest.mark.parametrize("selected", ["all tokens", "every third", "some tokens", "last token", "last of some games"])
def test_the_same_rows_of_the_random_model_by_the_same_recipe(selected, world, tmp_path):
    model, games = world
    rng = np.random.default_rng(0)
    tokens = sum(map(len, games.tokens))
    options = {
        "all tokens": {},
        "every third": {"every": 3},
        "some tokens": {"rows": rng.random(tokens) < 0.5},
        "last token": {"pool": "last"},
        "last of some games": {"pool": "last", "rows": rng.random(60) < 0.5},
    }[selected]
    store = pk.capture(model, games, SITE, progress=False, **options)
    recipe = SMALL | ({"rows": 8, "batch": 4} if "last" in selected else {})
    sae = saes.train(store, site=SITE, **recipe)
    floor = saes.floor(sae, store, model, games, out=tmp_path, progress=False)
    assert np.array_equal(floor.activations.item, store.item)
    assert floor.activations.manifest.model_fingerprint == model.randomized(0).fingerprint
    by_hand = saes.train(floor.activations, site=SITE, **recipe)
    torch.testing.assert_close(floor.sae.W_dec, by_hand.W_dec, rtol=0, atol=0)
    again = saes.floor(sae, store, model, games, out=tmp_path, progress=False)
    torch.testing.assert_close(again.sae.W_dec, floor.sae.W_dec, rtol=0, atol=0)


def test_shipped_saes_know_their_recipe(world):
    model, games = world
    store = pk.capture(model, games, SITE, progress=False)
    sae = saes.load(f"othello-mini/{SITE}")
    recipe = sae.cfg.metadata["probekit"]["recipe"]
    assert recipe["rows"] > 2_999_000
    recipe["rows"] = 20 * 512  # the rest of it as shipped
    floor = saes.floor(sae, store, model, games, progress=False)
    assert (floor.sae.cfg.d_sae, floor.sae.cfg.k) == (sae.cfg.d_sae, sae.cfg.k)
    assert saes.health(floor.sae, floor.activations).held_out


def test_what_has_no_recipe_or_does_not_fit_is_refused(world):
    model, games = world
    store = pk.capture(model, games, SITE, progress=False)
    sae = saes.train(store, site=SITE, **SMALL)
    with pytest.raises(ValueError, match="not from"):
        saes.floor(sae, store, model, pk.testbeds.othello.sample_games(60, seed=8))
    with pytest.raises(ValueError, match="not from"):
        saes.floor(sae, store, model.randomized(1), games)
    with pytest.raises(TypeError, match="not arrays"):
        saes.floor(sae, ArrayActivations({SITE: store.read(SITE)}), model, games)
    with pytest.raises(KeyError, match="blocks"):
        saes.floor(sae, pk.capture(model, games, "blocks.0.hook_resid_post", progress=False), model, games)
    del sae.cfg.metadata["probekit"]["recipe"]
    with pytest.raises(ValueError, match=r"recipe.*model.randomized\(0\)"):
        saes.floor(sae, store, model, games)
