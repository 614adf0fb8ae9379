"""Features on disk: what the SAE says, nothing more, and a killed run ends the same."""

from __future__ import annotations

import copy
import json
import tempfile

import numpy as np
import pytest
import torch

import probekit as pk
import saes
from probekit.activations import ArrayActivations
from probekit.data import LabelSet

SITE = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def sae(planted):
    return saes.train(planted[0], site=SITE, width=64, k=3, rows=40 * 256, batch=256, progress=False)


def test_features_are_what_the_sae_encodes(sae, planted, tmp_path):
    activations = planted[0]
    features = saes.encode(sae, activations, out=tmp_path / "f", progress=False)
    with torch.no_grad():
        dense = sae.encode(torch.from_numpy(activations.read(SITE))).numpy()
    np.testing.assert_allclose(features.matrix.toarray(), dense, atol=1e-6)
    again = saes.SparseFeatures.open(tmp_path / "f")
    np.testing.assert_array_equal(again.sequence, activations.sequence)
    np.testing.assert_array_equal(again.prefix, activations.prefix)
    assert again.manifest.nonzeros == again.matrix.nnz == (dense > 0).sum()


def test_a_killed_or_damaged_encoding_goes_on(sae, planted, tmp_path, monkeypatch):
    monkeypatch.setattr("saes.features.SHARD_ROWS", 3000)
    whole = saes.encode(sae, planted[0], out=tmp_path / "whole", progress=False)
    from saes import features as module

    encoded, calls = module._encoded, iter(range(100))

    def dying(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return encoded(*arguments)

    monkeypatch.setattr(module, "_encoded", dying)
    with pytest.raises(KeyboardInterrupt):
        saes.encode(sae, planted[0], out=tmp_path / "killed", progress=False)
    with pytest.raises(ValueError, match="holds 3,000 of 8,000 rows"):
        saes.SparseFeatures.open(tmp_path / "killed")
    (tmp_path / "killed" / "features-00000.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(module, "_encoded", encoded)
    again = saes.encode(sae, planted[0], out=tmp_path / "killed", progress=False)
    assert (again.matrix != whole.matrix).nnz == 0
    assert again.manifest.nonzeros == whole.manifest.nonzeros


def test_what_does_not_fit_is_refused(sae, planted, tmp_path):
    narrow = ArrayActivations({SITE: np.zeros((4, 8), np.float32)})
    with pytest.raises(ValueError, match=r"reads 40 dimensions, but activations at .* have 8"):
        saes.encode(sae, narrow, progress=False)
    with pytest.raises(KeyError):
        saes.encode(sae, planted[0], site="ln_final.hook_normalized", progress=False)
    saes.encode(sae, planted[0], out=tmp_path, progress=False)
    other = saes.train(planted[0], site=SITE, width=16, k=3, rows=2560, batch=256, progress=False)
    with pytest.raises(ValueError, match=r"holds other features .*width: 64 there, 16 now"):
        saes.encode(other, planted[0], out=tmp_path, progress=False)
    with pytest.raises(FileNotFoundError):
        saes.SparseFeatures.open(tmp_path / "nothing")


def test_another_site_than_the_saes_own_is_refused_where_both_are_there(sae, planted):
    rows = planted[0].read(SITE)
    both = ArrayActivations({SITE: rows, "blocks.1.hook_resid_post": rows}, sequence=planted[0].sequence)
    with pytest.raises(ValueError, match=r"reads blocks.0.hook_resid_post, but blocks.1.hook_resid_post was asked for"):
        saes.encode(sae, both, site="blocks.1.hook_resid_post", progress=False)
    same_place = ArrayActivations({SITE: rows, "blocks.1.hook_resid_pre": rows}, sequence=planted[0].sequence)
    assert len(saes.encode(sae, same_place, site="blocks.1.hook_resid_pre", progress=False)) == 8000
    renamed = ArrayActivations({"mine": rows}, sequence=planted[0].sequence)
    assert len(saes.encode(sae, renamed, site="mine", progress=False)) == 8000


def test_an_encoding_that_fails_leaves_nothing_behind(sae, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken = copy.deepcopy(sae)
    with torch.no_grad():
        broken.W_enc[0, 0] = torch.nan
    with pytest.raises(ValueError, match="features are NaN or infinite at row"):
        saes.encode(broken, planted[0], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_features_that_never_fire_are_refused(sae, planted):
    dead = copy.deepcopy(sae)
    with torch.no_grad():
        dead.W_enc.zero_()
        dead.b_enc.fill_(-1.0)
    features = saes.encode(dead, planted[0], progress=False)
    labels = LabelSet("on", (planted[1][:, 0] > 0).astype(int), "binary", "token", ("no", "yes"))
    for ask in (saes.score, saes.reconstruct):
        with pytest.raises(ValueError, match="no feature ever fires"):
            ask(features, labels)
    with pytest.raises(ValueError, match="no feature ever fires"):
        saes.name(dead, features, labels)


def test_other_rows_of_the_same_length_are_refused(sae, planted, tmp_path):
    first, rows = planted[0], planted[0].read(SITE)
    saes.encode(sae, first, out=tmp_path, progress=False)
    again = ArrayActivations({SITE: rows.copy()}, sequence=first.sequence)
    assert len(saes.encode(sae, again, out=tmp_path, progress=False)) == 8000
    with pytest.raises(ValueError, match=r"holds other features \(content: "):
        saes.encode(sae, ArrayActivations({SITE: 2 * rows}, sequence=first.sequence), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"holds other features \(content: "):
        saes.encode(sae, ArrayActivations({SITE: rows}, sequence=first.sequence // 2), out=tmp_path, progress=False)


def test_features_of_a_store_are_known_by_its_manifest(tmp_path):
    model, games = pk.load_model("othello-mini"), pk.testbeds.othello.sample_games(6, seed=0)
    site = "blocks.0.hook_resid_post"
    store, shipped = pk.capture(model, games, site, progress=False), saes.load(f"othello-mini/{site}")
    first = saes.encode(shipped, store, out=tmp_path, progress=False)
    other = pk.capture(model, games, site, dtype="float16", progress=False)
    with pytest.raises(ValueError, match="dtype: float32 there, float16 now"):
        saes.encode(shipped, other, out=tmp_path, progress=False)
    manifest = json.loads((tmp_path / "features.json").read_text())
    manifest["source"] = {"tokens": store.manifest.token_fingerprint}  # as it was written before
    (tmp_path / "features.json").write_text(json.dumps(manifest))
    assert saes.encode(shipped, store, out=tmp_path, progress=False).manifest.nonzeros == first.manifest.nonzeros


def test_damaged_files_are_refused_when_opened(sae, planted, tmp_path):
    saes.encode(sae, planted[0], out=tmp_path / "f", progress=False)
    shard = tmp_path / "f" / "features-00000.safetensors"
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 0x40
    for damaged in (bytes(flipped), whole[:200]):
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"features-00000\.safetensors is damaged"):
            saes.SparseFeatures.open(tmp_path / "f")
    shard.unlink()
    with pytest.raises(ValueError, match=r"features-00000\.safetensors is missing"):
        saes.SparseFeatures.open(tmp_path / "f")
    sae.save_model(tmp_path / "sae")
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:100])
    with pytest.raises(ValueError, match=r"sae_weights\.safetensors is damaged"):
        saes.load(tmp_path / "sae")
    weights.write_bytes(good)
    (tmp_path / "sae" / "cfg.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no SAE"):
        saes.load(tmp_path / "sae")
