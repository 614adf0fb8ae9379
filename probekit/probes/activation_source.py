"""Activations that are already there, as what a sweep reads: a store, or arrays, and out-of-distribution sets of the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probekit.activations import Activations, ActivationStore, ArrayActivations
from probekit.activations.stream import names_of_sites
from probekit.data import Dataset, LabelSet
from probekit.data.dataset import as_groups
from probekit.probes.label_choice import Labels, choose_labels, labels_elsewhere
from probekit.probes.rows import Part, Seen, parts_of, plan_elsewhere, plan_rows


class ActivationSource:
    """Activations that are already there.

    Args:
        ood: By name, pairs `(activations, data)`, where `data` is a `Dataset` or a mapping from names of label sets to values.
    """

    def __init__(
        self,
        activations: Activations,
        data: Dataset | None,
        groups: object,
        sites: Sequence[str] | str | None,
        ood: Mapping[str, Any],
        *,
        seed: int,
        max_rows: int,
    ) -> None:
        self.activations, self.data = activations, data
        self.sites = tuple(names_of_sites(sites, activations.sites))
        for site in self.sites:
            activations.width(site)  # raises, naming near sites
        self.layers = tuple(_layer(site) for site in self.sites)
        self._seed, self._max_rows = seed, max_rows
        self._sequences = _count_sequences(activations, data)
        self.ood = {name: self._checked(name, value) for name, value in ood.items()}
        self._splits: dict[str, str] = {}
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
        at_tokens = any(label_set.level == "token" for label_set in chosen)
        if at_tokens:
            _check_items(self.activations, self.data)
        self._labels = {}
        for name, (other, given) in self.ood.items():
            self._labels[name] = labels_elsewhere(chosen, given, name)
            for label_set in self._labels[name].values():
                last = int((other.item if label_set.level == "token" else other.sequence).max())
                if last >= len(label_set):
                    raise ValueError(
                        f"label set {label_set.name!r} has {len(label_set):,} values in {name!r}, but its activations are of "
                        f"{last + 1:,} {label_set.level}s"
                    )
            if at_tokens:
                _check_items(other, given if isinstance(given, Dataset) else None)
        return chosen

    def _checked(self, name: str, value: Any) -> tuple[Activations, Dataset | Mapping[str, Any]]:
        """An out-of-distribution set, refused unless its activations are of the same kind as those of training."""
        where = f"out-of-distribution set {name!r}"
        if isinstance(value, Dataset):
            raise ValueError(
                f"{where} is a Dataset, and only a model can read it; with activations, give a pair (activations, data), or mark "
                "rows of `data` by split='ood'"
            )
        if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Dataset | Mapping)):
            raise TypeError(
                f"{where} must be a pair (activations, data): activations as the source is, and their Dataset or a mapping from "
                "names of label sets to values"
            )
        given: Dataset | Mapping[str, Any] = value[1]
        data = given if isinstance(given, Dataset) else None
        if data is None and self.data is not None:
            raise ValueError(
                f"{where} comes with labels only; give its Dataset, so that its texts or tokens are known too"
            )
        other = as_activations(value[0], data, where)
        _count_sequences(other, data)
        lacking = [site for site in self.sites if site not in other.sites]
        if lacking:
            raise ValueError(
                f"{where} has no activations at {', '.join(lacking[:4])}{', ...' if len(lacking) > 4 else ''}; it has "
                f"{', '.join(other.sites[:4])}{', ...' if len(other.sites) > 4 else ''}. Capture it at the sites of training"
            )
        for site in self.sites:
            widths = self.activations.width(site), other.width(site)
            if widths[0] != widths[1]:
                raise ValueError(f"{where} is {widths[1]} wide at {site}, training {widths[0]}: it is of another model")
        if isinstance(self.activations, ActivationStore) and isinstance(other, ActivationStore):
            ours, theirs = self.activations.manifest, other.manifest
            for what, one, two in (
                ("model", ours.model_fingerprint, theirs.model_fingerprint),
                ("pool", ours.pool, theirs.pool),
            ):
                if one != two:
                    raise ValueError(
                        f"{where} was captured with another {what} than training: {two} ({theirs.model}), not {one} ({ours.model})"
                    )
        return other, given

    def parts(self, labels: Sequence[LabelSet], pool: str | None) -> tuple[dict[str, Part], tuple[str, ...]]:
        own = getattr(getattr(self.activations, "manifest", None), "pool", None)
        if pool is not None and own is not None and pool != own:
            raise ValueError(f"the store was captured with pool={own!r}; pool={pool!r} cannot be asked of it")
        if own is not None:
            check_pool(labels, own)
        a = self.activations
        given = None if self.data is None else self.data.split
        plan = plan_rows(a.sequence, self._groups, a.prefix, given=given, seed=self._seed, max_rows=self._max_rows)
        parts, notes = parts_of(a, self.data, self._groups, plan), plan.notes
        self._splits[labels[0].level] = plan.split
        seen = Seen.of(parts)
        for number, (name, (other, of)) in enumerate(self.ood.items()):
            rows, more = plan_elsewhere(
                name,
                of if isinstance(of, Dataset) else None,
                other.sequence,
                other.prefix,
                seen,
                seed=self._seed,
                number=number,
                max_rows=self._max_rows,
            )
            data = of if isinstance(of, Dataset) else None
            group = other.sequence[rows] if data is None or data.groups is None else data.groups[other.sequence[rows]]
            cluster = np.unique(group, return_inverse=True)[1]
            parts[name] = Part(name, data, other, None, rows, cluster, self._labels[name])
            notes += more
        return parts, notes

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
        out: dict[str, Any] = {"data": None if self.data is None else data_facts(self.data), "splits": self._splits}
        out["ood"] = {
            n: data_facts(of) if isinstance(of, Dataset) else {"rows": len(a)} for n, (a, of) in self.ood.items()
        }
        if isinstance(self.activations, ActivationStore):
            m = self.activations.manifest
            out["model"] = {"name": m.model, "fingerprint": m.model_fingerprint}
            out["store"] = {"path": str(self.activations.path), "data_fingerprint": m.data_fingerprint, "pool": m.pool}
        else:
            out["arrays"] = {site: [len(self.activations), self.activations.width(site)] for site in self.sites}
            if isinstance(self.activations, ArrayActivations):
                out["arrays_fingerprint"] = self.activations.fingerprint()
        return out


def as_activations(source: object, data: Dataset | None, where: str) -> Activations:
    """Activations of a store or its path (checksums are compared once), arrays, or a mapping from sites to arrays.

    Args:
        data: What they are of, if known.
        where: What `source` is, for errors.

    Raises:
        TypeError: none of these.
        FileNotFoundError: a path where there is no store.
        ValueError: a mapping whose arrays have not one row a sequence; a damaged store.
    """
    if isinstance(source, str | Path):
        if not Path(source).is_dir() or (Path(source) / "config.json").is_file():
            raise FileNotFoundError(
                f"no activation store at {str(source)!r}; a model is given as an object: sweep(probekit.load_model({str(source)!r}), ...), in a "
                "shell `probekit probe`"
            )
        source = ActivationStore.open(source)
    elif isinstance(source, Mapping):
        source = ArrayActivations(source)
        if data is not None and len(source) != len(data):
            raise ValueError(
                f"the arrays have {len(source):,} rows, but the data has {len(data):,} sequences; a plain dict needs one row a "
                "sequence, in their order: for other rows, pass ArrayActivations(arrays, sequence=..., item=...)"
            )
    if isinstance(source, ActivationStore) and not source.verified:
        source.verify()
    if not isinstance(source, Activations):
        raise TypeError(
            f"{where} is a {type(source).__name__}; it must be a Model (load_model makes one), an ActivationStore or its path, ArrayActivations, or a "
            "dict {site name: array [row, width]}"
        )
    return source


def _count_sequences(activations: Activations, data: Dataset | None) -> int:
    """How many sequences there are, after a check that the activations are of this data."""
    found = int(activations.sequence.max()) + 1
    if isinstance(activations, ActivationStore):
        if data is not None:
            activations.check(data=data)
        return activations.manifest.sequences
    if data is not None and found > len(data):
        raise ValueError(f"the activations are of {found} sequences, but the data has {len(data)}")
    return found if data is None else len(data)


def _check_items(activations: Activations, data: Dataset | None) -> None:
    """Refuse rows whose item is no token of their sequence: they would be given the labels of others."""
    if data is None or data.tokens is None:
        return
    lengths = np.array([len(t) for t in data.tokens])
    item, sequence, ends = activations.item, activations.sequence, np.cumsum(lengths)
    wrong = np.flatnonzero((item >= ends[sequence]) | (item < (ends - lengths)[sequence]))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"row {row} of the activations is of sequence {sequence[row]}, but its item {item[row]} is a token of another; "
            "pass ArrayActivations(..., item=...), the index of each row's token among all tokens of the data"
        )


def check_pool(labels: Sequence[LabelSet], pool: str) -> None:
    """Refuse labels of tokens where a row is a sequence."""
    token_level = [label.name for label in labels if label.level == "token"]
    if token_level and pool != "all":
        raise ValueError(
            f"{', '.join(token_level)}: labels of tokens need a row a token, but pool={pool!r} makes one a sequence; use "
            "pool='all' (the default for them)"
        )


def data_facts(data: Dataset) -> dict[str, Any]:
    """What identifies a data set, for the manifest; the label sets that are asked are identified there by name."""
    facts = {"name": data.name, "sequences": len(data), "fingerprint": data.fingerprint(), "facts": dict(data.facts)}
    for name, values in (("groups", data.groups), ("split", data.split)):
        facts[f"{name}_fingerprint"] = None if values is None else digest_of(values)
    return facts


def digest_of(values: np.ndarray) -> str:
    """SHA-256 (first 16 hex digits) of an array: dtype, shape and values."""
    head = f"{values.dtype.str} {values.shape} ".encode()
    return hashlib.sha256(head + values.tobytes()).hexdigest()[:16]


def _layer(site: str) -> int | None:
    match = re.match(r"blocks\.(\d+)\.", site)
    return int(match[1]) if match else None
