"""Planted truth from the activations to the names, through an SAE that is trained on them; and noise, through the same."""

from __future__ import annotations

import numpy as np
import pytest

import saes
from probekit.activations import ArrayActivations
from probekit.data import LabelSet

SITE = "blocks.0.hook_resid_post"
FEATURES, ROWS = 24, 8000


def labels_of(values: np.ndarray) -> LabelSet:
    return LabelSet(
        "on", values.astype(int), "binary", "token", ("no", "yes"), tuple(f"F{i}" for i in range(values.shape[1]))
    )


def trained(rows: np.ndarray, kind: str, **options):
    activations = ArrayActivations({SITE: rows.astype(np.float32)}, sequence=np.arange(ROWS) // 20)
    sae = saes.train(
        activations, site=SITE, kind=kind, width=32, rows=800 * 256, batch=256, lr=1e-2, progress=False, **options
    )
    return sae, saes.encode(sae, activations, progress=False)


@pytest.mark.parametrize(("kind", "options"), [("jumprelu", {}), ("batchtopk", {"k": 2})])
def test_every_planted_feature_is_found_named_and_tells_its_label(kind, options):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(FEATURES, 40))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    on = rng.random((ROWS, FEATURES)) < 0.06
    sae, features = trained((on * (1 + rng.random(on.shape))) @ directions + 0.5, kind, **options)
    labels = labels_of(on)
    assert saes.score(features, labels).coverage()[1] > 0.98
    assert saes.reconstruct(features, labels).low > 0.98
    names = saes.name(sae, features, labels)
    decoder = sae.W_dec.detach().numpy()
    nearest = (decoder / np.linalg.norm(decoder, axis=1, keepdims=True)) @ directions.T
    rightly = {name.text for name in names if name.text == f"F{nearest[name.feature].argmax()} is yes"}
    assert len(rightly) >= FEATURES - 3
    assert (nearest.max(0) > 0.95).sum() >= FEATURES - 3


def test_noise_has_no_name_whatever_the_sae_finds_in_it():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(ROWS // 20, 40)), 20, axis=0) + rng.normal(size=(ROWS, 40))
    sae, features = trained(rows, "topk", k=3)
    of_sequences = np.repeat(rng.random((ROWS // 20, 6)) < 0.3, 20, axis=0)
    for values in (rng.random((ROWS, 6)) < 0.3, of_sequences):
        nothing = {"least_precision": 0, "least_recall": 0, "least_accuracy": 0}
        assert len(saes.name(sae, features, labels_of(values), **nothing)) == 0
        assert saes.score(features, labels_of(values)).q.min() > 0.05
