"""What a sweep can read: a model and data, or activations that are already there, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np

from probekit.activations.stream import names_of_sites
from probekit.data import Dataset, LabelSet
from probekit.probes.activation_source import ActivationSource, as_activations, check_pool, data_facts
from probekit.probes.label_choice import Labels, choose_labels, labels_elsewhere
from probekit.probes.rows import Capturing, Part, Seen

if TYPE_CHECKING:
    from probekit.models import Model


Elsewhere: TypeAlias = "Dataset | Mapping[str, Dataset | tuple[Any, Dataset | Mapping[str, Any]]] | None"
"""Out-of-distribution sets: data for a model to read, or pairs of activations and what they are of."""


class Source(Protocol):
    """Where a sweep gets its rows from."""

    sites: tuple[str, ...]
    layers: tuple[int | None, ...]

    def label_sets(self, labels: Labels) -> tuple[LabelSet, ...]:
        """The label sets asked for, checked against the data."""

    def parts(self, labels: Sequence[LabelSet], pool: str | None) -> tuple[dict[str, Part], tuple[str, ...]]:
        """Train, valid, test and out-of-distribution rows for label sets of one level, and notes."""

    def title(self, family: str) -> str: ...

    def facts(self) -> dict[str, Any]:
        """What identifies model and data, for the manifest."""


class ModelSource:
    """A model, whose activations are captured for the rows that are needed and thrown away afterwards."""

    def __init__(
        self,
        model: Model,
        data: Dataset | None,
        sites: Sequence[str] | str | None,
        ood: Mapping[str, Dataset],
        *,
        random_weights: bool,
        folder: Path,
        seed: int,
        max_rows: int,
        progress: bool,
    ) -> None:
        if data is None:
            raise ValueError("a model needs data to read: pass a Dataset, a list of texts, or a list of token arrays")
        self.model, self.data, self.ood = model, data, ood
        self.sites = tuple(names_of_sites(sites, model.stream_sites))
        self.layers = tuple(model.site(site).layer for site in self.sites)
        self._splits: dict[str, str] = {}
        self._random = model.randomized(seed) if random_weights else None
        self._capture: dict[str, Any] = {"folder": folder, "seed": seed, "max_rows": max_rows, "progress": progress}

    def label_sets(self, labels: Labels) -> tuple[LabelSet, ...]:
        tokens = self.data.tokens if self.data.tokens is not None else self.model.tokenize(self.data.texts or ())[0]
        chosen = choose_labels(labels, self.data, len(self.data), sum(len(t) for t in tokens))
        self._labels = {name: labels_elsewhere(chosen, data, name) for name, data in self.ood.items()}
        return chosen

    def parts(self, labels: Sequence[LabelSet], pool: str | None) -> tuple[dict[str, Part], tuple[str, ...]]:
        level = labels[0].level
        pool = pool or ("all" if level == "token" else "last")
        check_pool(labels, pool)
        options = self._capture | {"folder": self._capture["folder"] / level}
        capturing = Capturing(self.model, self._random, self.sites, pool, **options)
        parts, notes, self._splits[level] = capturing.parts(self.data)
        seen = Seen.of(parts)
        for number, (name, data) in enumerate(self.ood.items()):
            parts[name], more = capturing.part_elsewhere(name, data, self._labels[name], seen, number)
            notes += more
        return parts, notes

    def title(self, family: str) -> str:
        return f"{family.replace('_', ' ')} probes of {self.model.name} on {self.data.name}"

    def facts(self) -> dict[str, Any]:
        return {
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "data": data_facts(self.data),
            "splits": self._splits,
            "ood": {name: data_facts(data) for name, data in self.ood.items()},
        }


def open_source(
    source: object,
    data: Dataset | None,
    groups: object,
    sites: Sequence[str] | str | None,
    ood: Elsewhere,
    *,
    controls: bool,
    folder: Path,
    seed: int,
    max_rows: int,
    progress: bool,
) -> Source:
    """Tell apart what a sweep was given.

    Raises:
        TypeError: none of the things it can read.
        FileNotFoundError: a path where there is no store.
    """
    if groups is not None and data is not None:
        data = replace(data, groups=np.asarray(groups), group_names=None)
    if ood is not None and not isinstance(ood, Dataset | Mapping):
        raise TypeError(
            f"ood is a {type(ood).__name__}; give a Dataset or a mapping from names to Datasets, and with activations a "
            "mapping from names to pairs (activations, data)"
        )
    named: dict[str, Any] = {ood.name: ood} if isinstance(ood, Dataset) else dict(ood or {})
    marked = data is not None and data.split is not None and bool((data.split == "ood").any())
    for name in named:
        if name in ("train", "valid", "test") or (name == "ood" and marked):
            raise ValueError(f"an out-of-distribution set cannot be called {name!r}: a part of the data is called that")
    if hasattr(source, "run") and hasattr(source, "stream_sites"):
        for name, value in named.items():
            if not isinstance(value, Dataset):
                raise TypeError(
                    f"out-of-distribution set {name!r} is a {type(value).__name__}; with a model it is a Dataset, which the model "
                    "then reads. To use activations that are there already, pass activations as the source too"
                )
        return ModelSource(
            cast("Model", source),
            data,
            sites,
            named,
            random_weights=controls,
            folder=folder,
            seed=seed,
            max_rows=max_rows,
            progress=progress,
        )
    return ActivationSource(
        as_activations(source, data, "source"), data, groups, sites, named, seed=seed, max_rows=max_rows
    )
