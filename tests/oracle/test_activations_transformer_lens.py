"""A store holds what TransformerLens's own forward pass caches, and given arrays of its cache are the same rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.activations import ArrayActivations, capture
from probekit.data import Dataset
from tests.models.lens import make_hooked_transformer
from tests.models.tiny import VOCAB, make_model

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")

SITES = ("blocks.0.hook_resid_pre", "blocks.0.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request, tmp_path_factory):
    """A model, token sequences, and by site the rows that TransformerLens caches, one sequence at a time."""
    hf = make_model(request.param)
    lens = make_hooked_transformer(hf, tmp_path_factory.mktemp("lens"))
    rng = np.random.default_rng(0)
    games = [rng.integers(0, VOCAB, n) for n in (9, 23, 1, 14, 2, 17, 23, 5)]
    cached = {site: [] for site in SITES}
    with torch.inference_mode():
        for game in games:
            _, cache = lens.run_with_cache(torch.tensor(game)[None])
            for site in SITES:
                cached[site].append(cache[site][0].reshape(len(game), -1).numpy())
    return pk.load_model(hf), games, cached


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_all_tokens_agree(pair):
    model, games, cached = pair
    store = capture(model, games, SITES, token_budget=60, progress=False)
    for site in SITES:
        close(store.read(site), np.concatenate(cached[site]))


@pytest.mark.parametrize("pool", ["last", "mean", "span"])
def test_pooled_rows_agree(pair, pool):
    model, games, cached = pair
    spans = np.array([[len(g) // 2, len(g)] for g in games])
    pooled = {"last": lambda x: x[-1], "mean": lambda x: x.mean(0), "span": lambda x: x[len(x) // 2 :].mean(0)}[pool]
    data = Dataset("games", tokens=tuple(games), spans=spans)
    store = capture(model, data, SITES, pool=pool, token_budget=60, progress=False)
    for site in SITES:
        close(store.read(site), np.stack([pooled(x) for x in cached[site]]))


def test_its_cache_goes_in_as_arrays(pair):
    model, games, cached = pair
    lengths = [len(g) for g in games]
    given = ArrayActivations(
        {site: np.concatenate(cached[site]) for site in SITES},
        sequence=np.repeat(np.arange(len(games)), lengths),
        position=np.concatenate([np.arange(n) for n in lengths]),
    )
    store = capture(model, games, SITES, progress=False)
    np.testing.assert_array_equal(given.sequence, store.sequence)
    np.testing.assert_array_equal(given.position, store.position)
    rows = np.array([40, 3, 77])
    for site in SITES:
        close(given.read(site, rows), store.read(site, rows))
