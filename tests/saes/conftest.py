"""Activations made of known sparse features: the truth an SAE should find."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.activations import ArrayActivations

SITE = "blocks.0.hook_resid_post"


@pytest.fixture(scope="session")
def planted():
    """`(activations [8000, 40], features [8000, 48], directions [48, 40])`, sequences of 20 rows."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(48, 40))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    features = (rng.random((8000, 48)) < 0.04) * (1 + rng.random((8000, 48)))
    rows = (features @ directions + 0.5).astype(np.float32)
    return ArrayActivations({SITE: rows}, sequence=np.arange(8000) // 20), features, directions
