"""Which label sets a sweep was asked for, checked against the data before anything is computed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from probekit.data import Dataset, LabelSet, Level
from probekit.probes.rows import Part

Labels: TypeAlias = "str | LabelSet | Sequence[str | LabelSet] | Mapping[str, Any] | None"


def choose_labels(
    labels: Labels, data: Dataset | None, n_sequences: int, n_items: int | None, *, at_least: bool = False
) -> tuple[LabelSet, ...]:
    """The label sets asked for, all of known level and right length.

    Args:
        labels: Names of the data set's label sets, `LabelSet`s, or a mapping from names to values; all of the data
            set's if None.
        n_sequences: Number of sequences.
        n_items: Number of tokens of all sequences together, None where that is not known.
        at_least: Whether there may be more tokens than that.

    Raises:
        KeyError: unknown name.
        TypeError: bare values, which could be mistaken for names.
        ValueError: no labels at all, or the wrong number of values.
    """
    if labels is None:
        if data is None or not data.labels:
            raise ValueError("there are no labels: pass labels={'name': values}, or data with label sets")
        labels = list(data.labels)
    if isinstance(labels, str | LabelSet):
        labels = [labels]
    if isinstance(labels, Mapping):
        chosen = [_from_values(str(name), values, n_sequences, n_items, at_least) for name, values in labels.items()]
    elif isinstance(labels, Sequence) and all(isinstance(label, str | LabelSet) for label in labels):
        chosen = [label if isinstance(label, LabelSet) else _by_name(label, data, len(labels)) for label in labels]
    else:
        raise TypeError(
            f"labels is a bare {type(labels).__name__} of values, which has no name: pass labels={{'my label': values}}"
        )
    if not chosen:
        raise ValueError("labels is empty: name at least one label set")
    names = [c.name for c in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"two label sets have the same name: {sorted(n for n in set(names) if names.count(n) > 1)}")
    for label_set in chosen:
        if "mean" in label_set.targets:
            raise ValueError(
                f"label set {label_set.name!r}: a target cannot be called 'mean', which in results is the mean over targets; "
                "rename it"
            )
        _check_length(label_set, n_sequences, n_items, at_least)
    return tuple(chosen)


def _by_name(name: str, data: Dataset | None, number: int) -> LabelSet:
    if data is not None and name in data.labels:
        return data.label_set(name)
    hint = f"; strings in `labels` are names of label sets: if these {number} are the labels themselves, pass labels={{'my label': [...]}}"
    if data is None:
        raise KeyError(f"labels names {name!r}, but no data set was given{hint}")
    near = difflib.get_close_matches(name, data.labels, n=3) or list(data.labels)
    raise KeyError(
        f"dataset {data.name!r} has no label set {name!r}; near it: {', '.join(near[:5]) or 'none'}{hint if number > 3 else ''}"
    )


def _from_values(name: str, values: Any, n_sequences: int, n_items: int | None, at_least: bool) -> LabelSet:
    if isinstance(values, LabelSet):
        return replace(values, name=name, targets=(name,) if values.targets == (values.name,) else values.targets)
    if isinstance(values, str):
        raise TypeError(f"labels[{name!r}] is one string; give one value an item")
    if not hasattr(values, "__len__"):
        values = list(values)
    level: Level = "sequence"
    if n_items is not None and len(values) != n_sequences:
        level = "token" if len(values) == n_items or (at_least and len(values) > n_items) else "sequence"
    if level == "sequence" and len(values) != n_sequences:
        tokens = "" if n_items is None else f", or one a token ({n_items:,})"
        raise ValueError(
            f"labels[{name!r}] has {len(values):,} values; expected one a sequence ({n_sequences:,}){tokens}"
        )
    return LabelSet.from_values(name, values, level=level)


def _check_length(labels: LabelSet, n_sequences: int, n_items: int | None, at_least: bool) -> None:
    expected = n_sequences if labels.level == "sequence" else n_items
    if at_least and labels.level == "token" and len(labels) > (n_items or 0):
        return
    if expected is not None and len(labels) != expected:
        raise ValueError(
            f"label set {labels.name!r} is {labels.level}-level and has {len(labels):,} values, but there are {expected:,} "
            f"{labels.level}s; it takes exactly one value a {labels.level}"
        )


def usable_targets(labels: LabelSet, train: Part) -> tuple[LabelSet, tuple[str, ...]]:
    """`labels` without the targets that training shows in one class (or one value) only, and a note about those.

    Raises:
        ValueError: no target is left, or fewer training rows than classes.
    """
    values = labels.values[train.items(labels.level)]
    if labels.kind == "continuous":
        varied = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in values.T])
        unit = "value"
    else:
        present = np.stack([(values == c).any(0) for c in range(len(labels.classes))])
        varied = present.sum(0) > 1
        unit = "class"
    if len(train) < max(2, len(labels.classes)):
        raise ValueError(
            f"label set {labels.name!r}: {len(train)} training rows for {len(labels.classes)} classes; more examples are needed"
        )
    if not varied.any():
        raise ValueError(
            f"label set {labels.name!r}: the {len(train):,} training rows show one {unit} only; there is nothing to tell apart"
        )
    notes = [*_note_single_examples(labels)]
    if not varied.all():
        left_out = [t for t, ok in zip(labels.targets, varied, strict=True) if not ok]
        shown = ", ".join(left_out[:8]) + (", ..." if len(left_out) > 8 else "")
        notes.append(
            f"{labels.name}: {len(left_out)} of {len(varied)} targets are left out, training shows one {unit} only: {shown}"
        )
        kept = np.flatnonzero(varied)
        labels = replace(labels, values=labels.values[:, kept], targets=tuple(labels.targets[i] for i in kept))
    elif labels.kind != "continuous" and len(labels.targets) == 1 and not present.all():
        missing = [c for c, ok in zip(labels.classes, present[:, 0], strict=True) if not ok]
        raise ValueError(
            f"label set {labels.name!r}: no training row has class {', '.join(map(repr, missing[:5]))}; it is too rare to be "
            "split (every class needs several groups)"
        )
    return labels, tuple(notes)


def _note_single_examples(labels: LabelSet) -> list[str]:
    if labels.kind == "continuous":
        return []
    counts = np.bincount(labels.values[labels.values >= 0], minlength=len(labels.classes))
    single = [repr(name) for name, count in zip(labels.classes, counts, strict=True) if count == 1]
    if not single:
        return []
    shown = ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
    has = "class {} has" if len(single) == 1 else "the classes {} have"
    return [f"{labels.name}: {has.format(shown)} one example only: no figure says how well that is read"]


def labels_elsewhere(chosen: Sequence[LabelSet], given: Dataset | Mapping[str, Any], name: str) -> dict[str, LabelSet]:
    """The label sets of an out-of-distribution set, by name, in the classes and targets of those `chosen` for training.

    Args:
        given: Its data set, or a mapping from names of label sets to `LabelSet`s or values.

    Raises:
        KeyError: it lacks one of the label sets.
        ValueError: other kind, level, targets, or classes that training does not have.
    """
    known = given.labels if isinstance(given, Dataset) else given
    out = {}
    for labels in chosen:
        if labels.name not in known:
            raise KeyError(
                f"out-of-distribution set {name!r} has no label set {labels.name!r}; it has: {', '.join(known) or 'none'}"
            )
        other = given.label_set(labels.name) if isinstance(given, Dataset) else given[labels.name]
        if not isinstance(other, LabelSet):
            other = LabelSet.from_values(labels.name, other, labels.level, like=labels)
        out[labels.name] = same_labels(labels, other, name)
    return out


def same_labels(labels: LabelSet, other: LabelSet, name: str) -> LabelSet:
    """The label set `other` of the data called `name`, in the classes and targets of `labels`.

    Raises:
        ValueError: other kind, level, targets, or classes that training does not have.
    """
    if (other.kind == "continuous") != (labels.kind == "continuous") or other.level != labels.level:
        raise ValueError(
            f"label set {labels.name!r} is {labels.level}-level {labels.kind} in training but {other.level}-level {other.kind} in {name!r}"
        )
    if len(other.targets) == len(labels.targets) == 1:
        columns = [0]
    elif set(labels.targets) <= set(other.targets):
        columns = [other.targets.index(t) for t in labels.targets]
    else:
        lacking = [t for t in labels.targets if t not in other.targets]
        raise ValueError(f"label set {labels.name!r} lacks the targets {lacking[:5]} in {name!r}")
    values = other.values[:, columns]
    if labels.kind != "continuous":
        strange = sorted(set(other.classes) - set(labels.classes))
        if strange:
            raise ValueError(
                f"label set {labels.name!r} has classes {strange[:5]} in {name!r} that training lacks: {labels.classes}"
            )
        to = np.array([*(labels.classes.index(c) for c in other.classes), -1], dtype=np.int16)
        values = to[values]  # the last entry serves -1, not defined
    return replace(labels, values=values)
