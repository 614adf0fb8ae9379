"""A random model, texts with a label planted in their words, and a probe that reads it."""

from __future__ import annotations

import numpy as np

import probekit as pk
from probekit.models import Model
from probekit.probes import LogisticProbe
from tests.models.tiny import WORDS, make_model, make_tokenizer

SITE = "blocks.0.hook_resid_post"
WARM = ["happy", "red", "cat"]
COLD = [word for word in WORDS if word not in WARM]


def tiny(family: str = "llama", seed: int = 0) -> Model:
    return pk.load_model(make_model(family, seed), tokenizer=make_tokenizer())


def texts_of(n: int, seed: int, longest: int = 14) -> tuple[list[str], np.ndarray]:
    """Texts of cold words; those of class 1 end in warm ones, and some others hold one, too."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.5).astype(int)
    texts = []
    for label in labels:
        words = list(map(str, rng.choice(COLD, rng.integers(4, longest))))
        if label:
            words += list(map(str, rng.choice(WARM, rng.integers(1, 4))))
        elif rng.random() < 0.2:
            words[rng.integers(len(words))] = str(rng.choice(WARM))
        texts.append(" ".join(words))
    return texts, labels


def probe_of(
    model: Model, site: str = SITE, n: int = 400, seed: int = 100, pool: str = "last", C: float = 0.1
) -> LogisticProbe:
    texts, labels = texts_of(n, seed)
    rows = pk.capture(model, texts, [site], pool=pool, progress=False).read(site)
    probe = LogisticProbe(C=C).fit(rows, labels)
    probe.site_ = site
    return probe
