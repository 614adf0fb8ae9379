"""`transfer`: a probe of one model reads another model through a map, beside a probe of that model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.activations import Activations
from probekit.data import Dataset, LabelSet
from probekit.mapping.maps import Maps
from probekit.mapping.pairs import OUT, PARTS, TEST, TRAIN, VALID, as_activations, groups_of, require_pairs, split_rows
from probekit.mapping.transfer_result import Transfer
from probekit.probes.activation_source import digest_of
from probekit.probes.base import LinearProbe
from probekit.probes.direction import model_of
from probekit.probes.fitting import fit_chosen
from probekit.probes.grid import FAMILIES
from probekit.probes.intervals import bootstrap, cluster_counts
from probekit.probes.label_choice import choose_labels, same_labels
from probekit.probes.metrics import CLASS_METRICS, VALUE_METRICS, Metric, Predictions, measure
from probekit.probes.result import SweepResult
from probekit.probes.rows import draw_evenly
from probekit.probes.scoring import predict
from probekit.probes.stack import ProbeStack

Probes = SweepResult | ProbeStack | Mapping[str, ProbeStack] | str | LinearProbe
MOST = {TRAIN: 20_000, VALID: 5_000, TEST: 10_000}  # rows of each part that are used at most


def transfer(
    maps: Maps,
    probes: Probes,
    activations: Activations | Mapping[str, Any],
    labels: LabelSet | Mapping[str, Any] | Sequence[Any] | np.ndarray,
    *,
    home: Activations | Mapping[str, Any] | None = None,
    groups: object = None,
    n_boot: int = 1000,
) -> Transfer:
    """Read model A with a probe that was trained on model B.

    Which way the map goes: a probe reads what is brought into *its* space. `probes` are of the model that the maps lead *to*,
    `activations` of the one they lead *from*. So where `maps = fit(store_a, store_b)`, probes of B read A. (To read B with a probe
    of A, fit the other way round, `fit(store_b, store_a)`; the transpose of a map is not its inverse.) The probe and the map
    together are one linear probe of A, `LinearMap.pull_back`; no row of A with a label is used to make it. Accuracy uses the
    probe's own threshold, AUROC needs none.

    Beside it: a probe trained on A itself (`own`), B's probe on B (`home`, where B's activations are given), and `chance`. All are
    scored on the same test rows: those of the maps' split where these are the maps' rows; where they are other rows of the maps'
    texts (another pool, other tokens), those of the texts in the maps' test part; else of a new split by group, and `notes` say what
    may have been trained on.

    Args:
        maps: From the model that is read to the model of the probes.
        probes: A `SweepResult` of B (its label set of the labels' name, or its only one); a `ProbeStack` of one site or several,
            or stacks by site; or a family (`"logistic"`) or an estimator, which is then trained on the training rows of `home`.
            Probes that were trained elsewhere may have seen the texts of the test rows: sweep with the maps' groups and seed,
            or let them be trained here.
        activations: Of A.
        labels: A sequence-level or token-level label set of the rows' data, a mapping from one name to values, or values.
        home: Activations of B, whose rows pair up with `activations`.
        groups: As in `fit`; the maps' own where these are their rows, or of their texts.
        n_boot: Bootstrap draws over groups.

    Raises:
        KeyError: no map, or no label set, fits.
        TypeError: probes or labels of another type.
        ValueError: maps of the other direction; activations and labels that do not fit.
    """
    rows_of = as_activations(activations, "activations")
    at_home = None if home is None else as_activations(home, "home")
    if at_home is not None:
        require_pairs(rows_of, at_home, "home")
    if n_boot < 100:
        raise ValueError(f"n_boot must be at least 100, got {n_boot}")
    _check_direction(maps, probes, rows_of, at_home)
    label_set = _labels(labels, rows_of)
    parts, group, notes, dealt = _split(maps, rows_of, groups)
    item = rows_of.item if label_set.level == "token" else rows_of.sequence
    if item.max() >= len(label_set):
        raise ValueError(f"{len(label_set):,} labels for rows of {int(item.max()) + 1:,} {label_set.level}s")

    def truth(part: int) -> np.ndarray:
        found: np.ndarray = label_set.values[item[parts[part]]]
        return found

    _require_two_values(truth(TRAIN), label_set)
    sites_a = tuple(site for site in maps.sites_a if site in rows_of.sites)
    if not sites_a:
        raise KeyError(
            f"these activations have none of the sites that the maps lead from: {', '.join(maps.sites_a[:4])}"
        )
    if isinstance(probes, str | LinearProbe):
        if at_home is None:
            raise ValueError("a probe that is to be trained here needs home=, the activations of its model")
        stacks = _trained(probes, at_home, maps.sites_b, parts, truth, label_set)
    else:
        stacks, said = _given(probes, label_set, maps, dealt)
        notes += said
        first = next(iter(stacks.values()))
        label_set = _in_terms_of(first, label_set)
    metrics = VALUE_METRICS if label_set.kind == "continuous" else _CLASSES
    scorer = _Scorer(
        label_set, metrics, truth(TEST), truth(VALID), group[parts[TEST]], n_boot, int(maps.manifest["seed"])
    )
    family: str | LinearProbe = probes if isinstance(probes, LinearProbe) else next(iter(stacks.values())).family
    family = family if isinstance(family, LinearProbe) or family in FAMILIES else "logistic"
    for site_a in sites_a:
        X = {part: torch.from_numpy(rows_of.read(site_a, rows)) for part, rows in parts.items()}
        for site_b, stack in stacks.items():
            scorer.add("map", site_a, site_b, maps[site_a, site_b].pull_back(stack), X)
        own = fit_chosen(family, X[TRAIN], truth(TRAIN), X[VALID], truth(VALID), None, label_set, site_a)
        scorer.add("own", site_a, None, own, X)
    for site_b, stack in stacks.items() if at_home is not None else ():
        assert at_home is not None
        scorer.add(
            "home", None, site_b, stack, {p: torch.from_numpy(at_home.read(site_b, parts[p])) for p in (TEST, VALID)}
        )
    scorer.add_chance(truth(TRAIN))
    names = (maps.name("a"), maps.name("b"))
    return Transfer(tuple(scorer.figures), sites_a, tuple(stacks), label_set.name, metrics[0].name, names, tuple(notes))


_CLASSES = tuple(metric for metric in CLASS_METRICS if metric.name in ("accuracy", "auroc"))


class _Scorer:
    """Scores stacks on the same rows and keeps the figures."""

    def __init__(
        self, labels: LabelSet, metrics: Sequence[Metric], test: np.ndarray, valid: np.ndarray, group: np.ndarray,
        n_boot: int, seed: int,
    ) -> None:  # fmt: skip
        self.labels, self.metrics, self.truth = labels, tuple(metrics), {TEST: test, VALID: valid}
        cluster = np.unique(group, return_inverse=True)[1]
        self.cluster = torch.from_numpy(cluster)
        self.counts = cluster_counts(int(cluster.max()) + 1, n_boot, seed)
        self.figures: list[dict[str, Any]] = []

    def add(
        self, source: str, site_a: str | None, site_b: str | None, stack: ProbeStack, X: Mapping[int, Tensor]
    ) -> None:
        test, valid = (predict(stack, X[part], self.truth[part]) for part in (TEST, VALID))
        self._add(source, site_a, site_b, test, measure(valid, self.metrics))

    def add_chance(self, train: np.ndarray) -> None:
        """The commonest class of training, or its mean, for every row."""
        test = self.truth[TEST]
        if self.labels.kind == "continuous":
            guess = np.repeat(np.nanmean(train, 0)[None], len(test), 0)
            predictions = Predictions.of_values(guess, test)
        else:
            share = np.stack([(train == k).sum(0) for k in range(len(self.labels.classes))], -1) + 1e-9
            known = np.log(share / share.sum(-1, keepdims=True))
            predictions = Predictions.of_classes(np.broadcast_to(known, (len(test), *known.shape)).copy(), test)
        self._add("chance", None, None, predictions, {m.name: np.full(test.shape[1], np.nan) for m in self.metrics})

    def _add(
        self, source: str, site_a: str | None, site_b: str | None, test: Predictions, valid: Mapping[str, np.ndarray]
    ) -> None:
        n = test.defined.sum(0).tolist()
        for metric in self.metrics:
            found = bootstrap(metric, test, self.cluster, self.counts)
            low, high = found.interval()
            for i, target in enumerate(self.labels.targets):
                self.figures.append(
                    {
                        "source": source, "site_a": site_a, "site_b": site_b, "target": target, "metric": metric.name,
                        "value": float(found.value[i]), "low": float(low[i]), "high": float(high[i]),
                        "valid": float(valid[metric.name][i]), "n": int(n[i]),
                    }
                )  # fmt: skip


def _check_direction(maps: Maps, probes: Probes, read: Activations, home: Activations | None) -> None:
    """Refuse maps that lead the other way, where the models are known."""
    known = [(maps.manifest.get(f"model_{whose}") or {}).get("fingerprint") for whose in "ab"]
    of_probes = (probes.manifest.get("model") or {}).get("fingerprint") if isinstance(probes, SweepResult) else None
    for what, model, wanted, other in (
        ("the activations", model_of(read), *known),
        ("the probes", of_probes, *reversed(known)),
        ("home", None if home is None else model_of(home), *reversed(known)),
    ):
        if model is None or wanted is None or model == wanted:
            continue
        if model == other:
            raise ValueError(
                f"these maps lead the other way: {what} are of the model at their other end. A probe reads what is mapped into its "
                "own space, so fit(activations of the model that is read, activations of the probe's model)"
            )
        raise ValueError(f"{what} are of another model (fingerprint {model}) than the maps ({wanted})")


def _labels(labels: object, activations: Activations) -> LabelSet:
    if isinstance(labels, LabelSet):
        return labels
    if isinstance(labels, str):
        raise TypeError("labels is one string; give a LabelSet (dataset.label_set(name)) or the values")
    named: Mapping[str, Any] = labels if isinstance(labels, Mapping) else {"label": labels}
    if len(named) != 1:
        raise TypeError(f"give one label set at a time, not {len(named)}")
    manifest = getattr(activations, "manifest", None)
    count = int(activations.sequence.max()) + 1 if manifest is None else int(manifest.sequences)
    tokens = None if len(activations) <= count else int(activations.item.max()) + 1
    return choose_labels(dict(named), None, count, tokens, at_least=manifest is not None)[0]


def _require_two_values(train: np.ndarray, labels: LabelSet) -> None:
    """Refuse labels of which the training rows show one class, or one value, only."""
    known = [column[~np.isnan(column)] if labels.kind == "continuous" else column[column >= 0] for column in train.T]
    if all(len(np.unique(column)) < 2 for column in known):
        unit = "value" if labels.kind == "continuous" else "class"
        raise ValueError(f"the training rows show one {unit} of {labels.name!r} only: there is nothing to tell apart")


@dataclass(frozen=True)
class _Dealt:
    """What rows were split from: the fingerprint of their data, and the digest of the split, where they are known."""

    data: str | None
    split: str | None


def _split(
    maps: Maps, activations: Activations, groups: object
) -> tuple[dict[int, np.ndarray], np.ndarray, list[str], _Dealt]:
    """Row numbers by part, `[row]` group, notes, and what tells the split from another."""
    data, manifest = maps.manifest["data"], getattr(activations, "manifest", None)
    theirs, known = data.get("fingerprint"), None if manifest is None else manifest.data_fingerprint
    seed, notes = int(maps.manifest["seed"]), list[str]()
    split = maps.manifest.get("split")
    texts = _texts_of_rows(maps)
    if digest_of(activations.sequence) == data["sequences"] and theirs in (None, known):
        part = maps.part
        group = maps.group if groups is None else groups_of(activations, groups)[activations.sequence]
    elif texts is not None and theirs is not None and theirs == known:
        part, group, notes = _carried(maps, texts, activations, groups)
    else:
        of_sequence = groups_of(activations, groups)
        given = groups.split if isinstance(groups, Dataset) else None
        part, said, split = split_rows(activations.sequence, of_sequence, [activations.prefix], given=given, seed=seed)
        if theirs is None or known is None:
            what = "whether they are of the maps' texts is not known: test texts may be ones the maps were fitted on"
        elif theirs == known:
            what = "they are of the maps' texts, and these maps do not say which of them they were fitted on: test texts may be among them"
        else:
            what = (
                "they are of other data: test texts that the maps' data hold, too, may be ones the maps were fitted on"
            )
        group = of_sequence[activations.sequence]
        notes = [*said, f"these rows are not the maps' and were split anew; {what}"]
    rows, rng = {}, np.random.default_rng([seed, 0x71A5])
    for number, most in MOST.items():
        found = np.flatnonzero(part == number)
        if not len(found):
            raise ValueError("a part of the split has no rows: give more texts")
        rows[number] = draw_evenly(found, activations.sequence[found], most, rng)
        if len(rows[number]) < len(found):
            notes.append(
                f"{len(rows[number]):,} of {len(found):,} rows of a part are used, drawn evenly over the sequences"
            )
    return rows, group, notes, _Dealt(known, split)


def _texts_of_rows(maps: Maps) -> np.ndarray | None:
    """`[row]` sequence of each of the maps' rows, where it is known."""
    if maps.sequence is None and maps.manifest.get("groups") is None:
        return maps.group  # maps saved without it: without groups each sequence is its own
    return maps.sequence


def _carried(
    maps: Maps, texts: np.ndarray, activations: Activations, groups: object
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """`[row]` part and group, and notes, of other rows of the maps' texts: each text stays in the part that the maps have it in.

    Args:
        texts: `[row of the maps]` sequence of each.
    """
    of_sequence = groups_of(activations, groups)
    if groups is None:
        of_sequence = of_sequence + int(maps.group.max()) + 1  # of texts that the maps have no row of
        of_sequence[texts] = maps.group
    part_of, known = np.full(len(of_sequence), OUT, np.int8), maps.part != OUT
    part_of[texts[known]] = maps.part[known]
    here = part_of[activations.sequence]
    lacking = [name for name, number in PARTS.items() if not (here == number).any()]
    if lacking:
        raise ValueError(
            f"these rows hold no text of the maps' {' or '.join(lacking)} part: capture all of the maps' texts"
        )
    names = np.array([*PARTS, "ood"])  # OUT, -1, is the last of them, which is no part
    part, said, _ = split_rows(activations.sequence, of_sequence, [activations.prefix], given=names[part_of], seed=0)
    notes = ["these are other rows of the maps' texts: each text is in the part that the maps have it in", *said]
    if left := int((here == OUT).sum()):
        notes.append(f"{left:,} rows are of texts that count nowhere in the maps, and count nowhere here")
    return part, of_sequence[activations.sequence], notes


def _trained(
    probe: str | LinearProbe, home: Activations, sites: Sequence[str], parts: Mapping[int, np.ndarray], truth: Any, labels: LabelSet
) -> dict[str, ProbeStack]:  # fmt: skip
    if isinstance(probe, str) and probe not in FAMILIES:
        raise ValueError(f"no probe family {probe!r}; there are {', '.join(FAMILIES)}")
    if labels.kind == "continuous":
        probe = "ridge"
    out = {}
    for site in sites:
        if site in home.sites:
            train, valid = (torch.from_numpy(home.read(site, parts[part])) for part in (TRAIN, VALID))
            out[site] = fit_chosen(probe, train, truth(TRAIN), valid, truth(VALID), None, labels, site)
    if not out:
        raise KeyError(f"home has none of the sites that the maps lead to: {', '.join(sites[:4])}")
    return out


def _given(probes: Probes, labels: LabelSet, maps: Maps, dealt: _Dealt) -> tuple[dict[str, ProbeStack], list[str]]:
    """Stacks by site, and a note where they may have been trained on test rows."""
    notes = []
    if isinstance(probes, SweepResult):
        names = list(probes.probes)
        if labels.name not in names and len(names) > 1:
            raise KeyError(f"the sweep has no label set {labels.name!r}; it has {', '.join(names)}")
        found: Mapping[str, ProbeStack] = probes.probes[labels.name if labels.name in names else names[0]]
        if (said := _split_otherwise(probes, labels.level, int(maps.manifest["seed"]), dealt)) is not None:
            notes.append(f"{said}: the probes may have been trained on texts of test rows")
    elif isinstance(probes, ProbeStack):
        found = dict(_by_site(probes))
        notes.append("where the probes were trained is not known: they may have seen texts of test rows")
    elif isinstance(probes, Mapping) and all(isinstance(each, ProbeStack) for each in probes.values()):
        found = probes
        notes.append("where the probes were trained is not known: they may have seen texts of test rows")
    else:
        raise TypeError(
            f"probes is a {type(probes).__name__}; give a SweepResult, a ProbeStack, or the name of a family"
        )
    fitting = {site: found[site] for site in maps.sites_b if site in found}
    if not fitting:
        raise KeyError(
            f"no map leads to a site of these probes ({', '.join(list(found)[:4])}); the maps lead to {', '.join(maps.sites_b[:4])}"
        )
    for site, stack in fitting.items():
        if stack.axes:
            raise ValueError(f"the probes at {site} still have axes {stack.axes}: select a grid value first")
    return fitting, notes


def _split_otherwise(sweep: SweepResult, level: str, seed: int, dealt: _Dealt) -> str | None:
    """Why the training part of a sweep may hold texts that are tested on here; None where it was split as these rows were."""
    found = sweep.manifest
    if found.get("seed") != seed:
        return f"the probes' sweep was split with seed {found.get('seed')}, the maps with {seed}"
    read = (found.get("store") or {}).get("data_fingerprint") or (found.get("data") or {}).get("fingerprint")
    if None not in (read, dealt.data) and read != dealt.data:
        return f"the probes' sweep is of other data ({read}) than these rows ({dealt.data})"
    split = (found.get("splits") or {}).get(level)
    if None in (split, dealt.split):
        return "how the probes' sweep, or the maps, were split is not known"
    return None if split == dealt.split else "the probes' sweep was split otherwise (other groups, or other rows)"


def _by_site(stack: ProbeStack) -> Iterator[tuple[str, ProbeStack]]:
    if not stack.sites:
        raise ValueError("these probes name no site: give them by site, {site: stack}")
    for site in stack.sites:
        yield site, stack.at(site) if "site" in stack.axes else stack


def _in_terms_of(stack: ProbeStack, labels: LabelSet) -> LabelSet:
    """The labels with the classes and targets of the probes, in their order."""
    continuous = stack.kind == "continuous"
    if continuous != (labels.kind == "continuous"):
        raise ValueError(f"the probes read {stack.kind} labels, these are {labels.kind}")
    values = np.zeros((1, len(stack.targets)), np.float32 if continuous else np.int16)
    like = LabelSet(labels.name, values, stack.kind, labels.level, stack.classes, stack.targets)
    return replace(same_labels(like, labels, "the labels given"), reason=labels.reason)
