"""A small world for pages: games on a board of 4 x 4 squares, a random model that reads them, an SAE, and names by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

import saes
from probekit.activations import capture
from probekit.data import Dataset, LabelSet
from probekit.models import Model, load_model
from saes import Check, Evidence, Name, Names, SparseFeatures
from tests.models.tiny import make_model

SITE = "blocks.1.hook_resid_post"
HOSTILE = "<img src=x onerror=console.error('run')></script><script>console.error('run')</script>"
GAMES, SQUARES = 60, 16
EVIDENCE = Evidence(
    precision=0.97, recall=0.5, f1=0.66, balanced_accuracy=0.91, hard_accuracy=0.8, precision_low=0.9, recall_low=0.4,
    balanced_accuracy_low=0.88, hard_accuracy_low=0.75, threshold=0.01, rows=1234, p=1e-9, q=2e-8, shuffled=0.51,
)  # fmt: skip


@dataclass(frozen=True)
class World:
    model: Model
    store: Any
    sae: Any
    features: SparseFeatures
    tile: LabelSet
    names: Names

    def decode(self, ids: Any) -> list[str]:
        """Token 7 is hostile; the others are words with a space in front."""
        return [HOSTILE if i == 7 else f" t{i}" for i in ids]


@cache
def world() -> World:
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.permutation(SQUARES) for _ in range(GAMES)]) + 1  # square + 1
    model = load_model(make_model("llama"))
    store = capture(model, Dataset("games", tokens=tuple(tokens.astype(np.int32))), SITE, progress=False)
    sae = saes.train(store, site=SITE, width=48, k=4, rows=64 * 200, batch=64, lr=0.01, progress=False)
    features = saes.encode(sae, store, progress=False)
    return World(model, store, sae, features, _tile(tokens), _names(features))


def _tile(tokens: np.ndarray) -> LabelSet:
    """Whose disc is on each square after each move; seen by the player to move, so that the last mover is `theirs`."""
    values = np.full((*tokens.shape, SQUARES), 2, np.int16)
    for game, moves in enumerate(tokens - 1):
        for after in range(SQUARES):
            for move in range(after + 1):
                values[game, after, moves[move]] = (after - move) % 2
    targets = tuple(f"{'abcd'[s % 4]}{s // 4 + 1}".upper() for s in range(SQUARES))
    return LabelSet("tile", values.reshape(-1, SQUARES), "multiclass", "token", ("theirs", "mine", "empty"), targets)


def _names(features: SparseFeatures) -> Names:
    """Three names: one precise with a check that holds, one fair that is hostile, one without hard negatives."""
    fired = np.diff(features.matrix.indptr)
    first, second, third = sorted(np.argsort(-fired)[[2, 5, 8]].tolist())
    holds = Check(
        what="log odds by the probes",
        q=0.002,
        effect=-1.2,
        low=-1.5,
        high=-0.9,
        control=-0.1,
        beyond_high=-0.7,
        rows=50,
        p=0.001,
    )
    nan = float("nan")
    fair = replace(EVIDENCE, precision=0.85, balanced_accuracy=0.99, hard_accuracy=0.95, threshold=0.5)
    alone = replace(
        EVIDENCE,
        balanced_accuracy=0.7,
        hard_accuracy=nan,
        hard_accuracy_low=nan,
        recall=nan,
        recall_low=nan,
        f1=nan,
        fuzzing=0.66,
    )
    return Names(
        (
            Name(first, "B2 is mine and C3 is empty", "labels", "precise", EVIDENCE, 0.9, "D4 is mine", 0.8, holds),
            Name(second, f"words like “{HOSTILE}”", "vocabulary", "fair", fair, 0.9, HOSTILE, 0.7),
            Name(third, "said of rivers", "language_model", "fair", alone, 0.7, check=replace(holds, high=0.2)),
        ),
        features.width,
        SITE,
    )
