"""What a sweep can read: a model and data, or activations that are already there, behind one interface."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from probekit.activations import Activations, ActivationStore, ArrayActivations
from probekit.data import Dataset, LabelSet
from probekit.data.dataset import as_groups
from probekit.probes.label_choice import Labels, choose_labels, same_labels
from probekit.probes.rows import Capturing, Part, parts_of, plan_rows

if TYPE_CHECKING:
    from probekit.models import Model


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
        chosen = (sites,) if isinstance(sites, str) else tuple(model.stream_sites if sites is None else sites)
        if not chosen:
            raise ValueError("sites is empty: name at least one, or leave it out for the residual stream")
        self.sites = tuple(dict.fromkeys(chosen))
        self.layers = tuple(model.site(site).layer for site in self.sites)
        self._random = model.randomized(seed) if random_weights else None
        self._capture: dict[str, Any] = {"folder": folder, "seed": seed, "max_rows": max_rows, "progress": progress}

    def label_sets(self, labels: Labels) -> tuple[LabelSet, ...]:
        tokens = self.data.tokens if self.data.tokens is not None else self.model.tokenize(self.data.texts or ())[0]
        chosen = choose_labels(labels, self.data, len(self.data), sum(len(t) for t in tokens))
        for name, data in self.ood.items():
            for label_set in chosen:
                same_labels(label_set, data, name)  # refused before anything is captured
        return chosen

    def parts(self, labels: Sequence[LabelSet], pool: str | None) -> tuple[dict[str, Part], tuple[str, ...]]:
        level = labels[0].level
        pool = pool or ("all" if level == "token" else "last")
        _check_pool(labels, pool)
        options = self._capture | {"folder": self._capture["folder"] / level}
        capturing = Capturing(self.model, self._random, self.sites, pool, **options)
        parts, notes = capturing.parts(self.data)
        seen = np.concatenate([p.activations.prefix[p.rows] for p in (parts["train"], parts["valid"])])
        for number, (name, data) in enumerate(self.ood.items()):
            parts[name], more = capturing.ood_part(name, data, seen, number)
            notes += more
        return parts, notes

    def title(self, family: str) -> str:
        return f"{family.replace('_', ' ')} probes of {self.model.name} on {self.data.name}"

    def facts(self) -> dict[str, Any]:
        return {
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "data": _data_facts(self.data),
            "ood": {name: _data_facts(data) for name, data in self.ood.items()},
        }


class ActivationSource:
    """Activations that are already there."""

    def __init__(
        self,
        activations: Activations,
        data: Dataset | None,
        groups: object,
        sites: Sequence[str] | str | None,
        *,
        seed: int,
        max_rows: int,
    ) -> None:
        self.activations, self.data = activations, data
        chosen = (sites,) if isinstance(sites, str) else tuple(activations.sites if sites is None else sites)
        if not chosen:
            raise ValueError("sites is empty: name at least one, or leave it out for all there are")
        for site in chosen:
            activations.width(site)  # raises, naming near sites
        self.sites = tuple(dict.fromkeys(chosen))
        self.layers = tuple(_layer(site) for site in self.sites)
        self._seed, self._max_rows = seed, max_rows
        self._sequences = len(data) if data is not None else int(activations.sequence.max()) + 1
        if isinstance(activations, ActivationStore):
            if data is not None:
                activations.check(data=data)
            self._sequences = activations.manifest.sequences
        elif data is not None and activations.sequence.max() >= len(data):
            raise ValueError(
                f"the activations are of {int(activations.sequence.max()) + 1} sequences, but the data has {len(data)}"
            )
        self._groups: np.ndarray = np.arange(self._sequences)
        if data is not None and data.groups is not None:
            self._groups = data.groups
        if groups is not None and data is None:
            self._groups = as_groups(groups)
            if self._groups.shape != (self._sequences,):
                raise ValueError(
                    f"groups has {len(self._groups)} entries for {self._sequences} sequences; give one a sequence"
                )

    def label_sets(self, labels: Labels) -> tuple[LabelSet, ...]:
        tokens = None if self.data is None else self.data.tokens
        items = sum(map(len, tokens)) if tokens is not None else int(self.activations.item.max()) + 1
        manifest = getattr(self.activations, "manifest", None)
        # Of texts of which only some tokens were captured it is known how many tokens there are at least.
        some = tokens is None and manifest is not None and (manifest.every > 1 or manifest.selection != "")
        chosen = choose_labels(labels, self.data, self._sequences, items, at_least=some)
        if tokens is not None and any(label_set.level == "token" for label_set in chosen):
            self._check_items(np.array([len(t) for t in tokens]))
        return chosen

    def _check_items(self, lengths: np.ndarray) -> None:
        """Refuse rows whose item is no token of their sequence: they would be given the labels of others."""
        item, sequence, ends = self.activations.item, self.activations.sequence, np.cumsum(lengths)
        wrong = np.flatnonzero((item >= ends[sequence]) | (item < (ends - lengths)[sequence]))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"row {row} of the activations is of sequence {sequence[row]}, but its item {item[row]} is a token of another; "
                "pass ArrayActivations(..., item=...), the index of each row's token among all tokens of the data"
            )

    def parts(self, labels: Sequence[LabelSet], pool: str | None) -> tuple[dict[str, Part], tuple[str, ...]]:
        own = getattr(getattr(self.activations, "manifest", None), "pool", None)
        if pool is not None and own is not None and pool != own:
            raise ValueError(f"the store was captured with pool={own!r}; pool={pool!r} cannot be asked of it")
        if own is not None:
            _check_pool(labels, own)
        a = self.activations
        given = None if self.data is None else self.data.split
        plan = plan_rows(a.sequence, self._groups, a.prefix, given=given, seed=self._seed, max_rows=self._max_rows)
        return parts_of(a, self.data, self._groups, plan), plan.notes

    def title(self, family: str) -> str:
        origin = (
            f"{self.activations.manifest.model} (stored)"
            if isinstance(self.activations, ActivationStore)
            else "given activations"
        )
        return f"{family.replace('_', ' ')} probes of {origin}" + (
            f" on {self.data.name}" if self.data is not None else ""
        )

    def facts(self) -> dict[str, Any]:
        out: dict[str, Any] = {"data": None if self.data is None else _data_facts(self.data)}
        if isinstance(self.activations, ActivationStore):
            m = self.activations.manifest
            out["model"] = {"name": m.model, "fingerprint": m.model_fingerprint}
            out["store"] = {"path": str(self.activations.path), "data_fingerprint": m.data_fingerprint, "pool": m.pool}
        else:
            out["arrays"] = {site: [len(self.activations), self.activations.width(site)] for site in self.sites}
        return out


def open_source(
    source: object,
    data: Dataset | None,
    groups: object,
    sites: Sequence[str] | str | None,
    ood: Dataset | Mapping[str, Dataset] | None,
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
        data = replace(data, groups=np.asarray(groups))
    if isinstance(source, str | Path):
        if not Path(source).is_dir() or (Path(source) / "config.json").is_file():
            raise FileNotFoundError(
                f"no activation store at {str(source)!r}; a model is given as an object: sweep(probekit.load_model({str(source)!r}), ...)"
            )
        source = ActivationStore.open(source)
        source.verify()  # who opens a store decides for themselves
    elif isinstance(source, Mapping):
        source = ArrayActivations(source)
        if data is not None and len(source) != len(data):
            raise ValueError(
                f"the arrays have {len(source):,} rows, but the data has {len(data):,} sequences; a plain dict needs one row a "
                "sequence, in their order: for other rows, pass ArrayActivations(arrays, sequence=..., item=...)"
            )
    if ood is not None and not isinstance(ood, Dataset | Mapping):
        raise TypeError(f"ood is a {type(ood).__name__}; give a Dataset, or a mapping from names to Datasets")
    named = {ood.name: ood} if isinstance(ood, Dataset) else dict(ood or {})
    marked = data is not None and data.split is not None and bool((data.split == "ood").any())
    for name in named:
        if name in ("train", "valid", "test") or (name == "ood" and marked):
            raise ValueError(f"an out-of-distribution set cannot be called {name!r}: a part of the data is called that")
    if hasattr(source, "run") and hasattr(source, "stream_sites"):
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
    if not isinstance(source, Activations):
        raise TypeError(
            f"source is a {type(source).__name__}; it must be a Model (load_model makes one), an ActivationStore or its path, ArrayActivations, or a "
            "dict {site name: array [row, width]}"
        )
    if named:
        raise ValueError("ood needs a model to read it; with activations, mark rows of `data` by split='ood' instead")
    return ActivationSource(source, data, groups, sites, seed=seed, max_rows=max_rows)


def _check_pool(labels: Sequence[LabelSet], pool: str) -> None:
    token_level = [label.name for label in labels if label.level == "token"]
    if token_level and pool != "all":
        raise ValueError(
            f"{', '.join(token_level)}: labels of tokens need a row a token, but pool={pool!r} makes one a sequence; use "
            "pool='all' (the default for them)"
        )


def _data_facts(data: Dataset) -> dict[str, Any]:
    return {"name": data.name, "sequences": len(data), "fingerprint": data.fingerprint(), "facts": dict(data.facts)}


def _layer(site: str) -> int | None:
    match = re.match(r"blocks\.(\d+)\.", site)
    return int(match[1]) if match else None
