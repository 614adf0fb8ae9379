"""What each way finds where there is nothing to find: the same recipe, with the labels dealt out again between the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import probekit as pk
from probekit import surgery
from probekit.probes import Direction


@dataclass(frozen=True)
class Controls:
    """Controls by recipe, `count` of each.

    Attributes:
        store: Activations of the texts that directions are found on.
        labels: Whether each text is of the unwanted kind.
    """

    store: pk.ActivationStore
    labels: pk.LabelSet
    count: int
    seed: int

    def means(self, site: str) -> list[Direction]:
        """Differences of means."""
        return surgery.permuted_directions(self.store, self.labels, site, self.count, self.seed)

    def spectrum(self, direction: Direction, model: pk.Model, texts: Sequence[str]) -> list[Direction]:
        """Directions drawn with the covariance that ordinary texts have at the site, their first tokens left out."""
        store = pk.capture(model, list(texts), direction.site, progress=False)
        return surgery.spectrum_directions(direction, store, self.count, self.seed, rows=store.position > 0)

    def probes(self, site: str) -> list[Direction]:
        """Directions of logistic probes."""
        found = []
        for labels in self._dealt():
            result = pk.sweep(
                self.store, labels={"unwanted": labels}, sites=[site], controls=False, n_boot=100, progress=False
            )
            found.append(result.direction("unwanted", site=site))
        return found

    def erasers(self, model: pk.Model) -> list[surgery.Edit]:
        """LEACE at every site of the store."""
        sites = model.stream_sites
        return [surgery.erase(surgery.leace(self.store, labels, sites=sites), model) for labels in self._dealt()]

    def mixed(self, texts: Sequence[str], size: int, count: int) -> list[list[str]]:
        """Texts of both kinds to tune on, as many as there are of the wanted kind."""
        rng = np.random.default_rng([self.seed, 0x301D])
        return [[texts[i] for i in rng.permutation(len(texts))[:size]] for _ in range(count)]

    def _dealt(self) -> list[pk.LabelSet]:
        rng = np.random.default_rng([self.seed, 0xDEA1])
        values = self.labels.values[:, 0]
        return [pk.LabelSet.from_values("unwanted", rng.permutation(values)) for _ in range(self.count)]
