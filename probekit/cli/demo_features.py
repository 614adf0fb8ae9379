"""The part of the demo about features: the shipped SAE at a layer, its names, and the probes beside it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.models import SHIPPED
from probekit.report import blocks

if TYPE_CHECKING:
    from probekit.models import Model
    from probekit.probes import SweepResult
    from probekit.report.blocks import Block
    from saes import Comparison, Names

GAMES = 400
SQUARES = ("A1", "B1", "C1", "D1", "B2", "C2", "D2", "C3", "D3", "E4", "F5", "G6", "F6", "H5", "G7", "H8")
"""Squares that features and probes are compared on: corners, edges, and towards the middle."""


@dataclass(frozen=True)
class Features:
    """What the demo says of the features at one site."""

    site: str
    names: Names
    comparison: Comparison

    def summary(self) -> str:
        """A few lines for the terminal."""
        return f"features  {self.names}\n{self.comparison.summary()}"

    def blocks(self) -> list[Block]:
        """The section of the page."""
        import pandas as pd

        from saes.comparing.page import comparison_blocks

        frame = self.names.to_frame().sort_values("f1", ascending=False)
        colour = frame.text.str.contains("mine|theirs")
        columns = ["feature", "text", "precision", "recall", "f1", "balanced_accuracy", "shuffled"]
        shown = pd.concat([frame[colour].head(10), frame[~colour].head(5)])[columns]
        shown = shown.rename(
            columns={"text": "name", "balanced_accuracy": "balanced accuracy", "shuffled": "other names"}
        )
        return [
            blocks.heading("What single features say"),
            blocks.text(
                f"The sparse autoencoder that ships for {self.site} cuts the activations into features that fire rarely. Names are "
                "found on one half of the games and measured on the other; a feature that earns no name has none. "
                f"{len(self.names)} of {self.names.width} features are named, {(~colour).sum()} of them by empty squares alone. "
                "Precision: of the rows where the feature fires, the share that the name covers; recall: of the rows it covers, the share where the feature fires. “other names” is the control: the "
                "balanced accuracy of names of other features, where one half is chance. That a square is empty is easily told, as it is "
                "empty until it is played; that a disc is mine or theirs is not."
            ),
            blocks.table(
                shown,
                "The names with the best F1 on games that did not choose them: ten with colours, then five without.",
            ),
            blocks.heading("Held against the probes", 3),
            blocks.text(
                f"On {len(SQUARES)} squares from the corners to the middle ({', '.join(SQUARES)}), to keep the demo short: each for mine, "
                "theirs and empty."
            ),
            *comparison_blocks(self.comparison),
        ]


def read_features(model: Model, result: SweepResult, site: str, seed: int) -> Features:
    """Name the features of the SAE shipped for `site`, and hold them against the sweep's probes there."""
    import saes
    from probekit.activations import capture
    from probekit.data import LabelSet
    from probekit.testbeds import othello

    games = othello.sample_games(GAMES, seed=seed)
    tile = games.label_set("tile")
    columns = [tile.targets.index(square) for square in SQUARES]
    some = LabelSet(tile.name, tile.values[:, columns], tile.kind, tile.level, tile.classes, SQUARES)
    sae = saes.load(f"othello-mini/{site}")
    with tempfile.TemporaryDirectory(prefix="probekit-demo-") as folder:
        store = capture(model, games, site, out=Path(folder) / "store")
        features = saes.encode(sae, store)
        names = saes.name(sae, features, tile, least_precision=0.7, seed=seed)
        compared = saes.compare(
            result,
            sae,
            store,
            some,
            features=features,
            names=names,
            counts=(1, 4, 16),
            max_rows=4000,
            n_boot=200,
            seed=seed,
        )
    return Features(site, names, compared)


def shipped_sites() -> list[str]:
    """Sites with a shipped SAE."""
    return sorted(folder.name for folder in (SHIPPED["othello-mini"] / "saes").glob("*"))
