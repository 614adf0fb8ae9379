"""The settings of the board: as much data as there is, little, unbalanced, wrongly labelled, from elsewhere.

Source: Kantamneni et al. 2025 (arXiv 2502.16681), sections 3 and 4. Here all conditions of a task draw from the same two pools of
texts, so that a model reads each text once, and no group of texts is in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from probekit.leaderboard.tasks import Task
from probekit.probes.held_out import fold_of_rows, group_codes

SETTINGS = ("normal", "scarcity", "imbalance", "noise", "ood")
SIZES = (8, 16, 32, 64, 128, 256, 512)
"""Training texts of the setting `scarcity`, as far as the pool has more and there are two for each class."""
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Of the second class, in training and in test, in the setting `imbalance`, as far as `RAREST` texts of either class are in both."""
RAREST = 4
"""Texts of the rarer class that an unbalanced set must have."""
WRONG = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Of the training labels, changed to another class, in the setting `noise`."""

FOLDS = 20
"""Parts that the texts of a task are dealt into before some are joined to a test."""


@dataclass(frozen=True)
class Pools:
    """Texts of a task that are used: `train` and `test` are indices, in random order, classes in turn."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Condition:
    """One training set and one test set of a task.

    Attributes:
        setting: One of `SETTINGS`.
        amount: What varies within the setting: training texts, share of the second class, share of wrong labels; NaN where nothing
            does.
        train: `[n]` texts to fit and to choose on.
        labels: `[n]` their labels, as they are given to the probe.
        test: Texts that are reported on; of `elsewhere` where that is named.
        elsewhere: Name of the task's texts from elsewhere that are the test, if they are.
    """

    setting: str
    amount: float
    train: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    elsewhere: str | None = None


def draw_pools(task: Task, train: int, test: int, seed: int) -> Pools:
    """Texts to train and to test on, equally many of each class as far as there are as many.

    Args:
        task: Whose.
        train, test: Texts at most. A small task is split in this proportion.
        seed: The same seed gives the same texts.

    Raises:
        ValueError: a pool shows one class only, or there are too few groups for two pools.
    """
    share = max(0.2, test / (train + test)) if len(task) < train + test else test / (train + test)
    parts = _two_parts(task, share, seed)
    rng = np.random.default_rng([seed, 0xB0A2])
    one, other = (in_turn(task, part, most, rng) for part, most in zip(parts, (train, test), strict=True))
    for name, pool in (("train", one), ("test", other)):
        if task.kind != "continuous" and len(np.unique(task.values[pool])) < 2:
            raise ValueError(
                f"the {len(pool)} texts to {name} on show one class only: give more texts of the rarer class, or smaller groups"
            )
    return Pools(one, other)


def _two_parts(task: Task, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts to train on and about this share of them to test on: whole groups, every class in both as far as groups allow.

    Texts are dealt into many folds, and the smaller ones that show all classes are joined first, so that one large group does not make a
    test by itself.
    """
    groups = group_codes(task.groups, len(task))
    codes = np.zeros(len(task), int) if task.kind == "continuous" else task.values.astype(int)
    rarest = np.bincount(codes)[np.unique(codes)].min()
    fold = fold_of_rows(codes, groups, int(np.clip(rarest // 2, round(1 / min(share, 1 - share)), FOLDS)), seed)
    sizes = np.bincount(fold)
    shown = np.array([len(np.unique(codes[fold == one])) for one in range(len(sizes))])
    order = np.lexsort((sizes, -shown))
    total = np.cumsum(sizes[order])
    count = 1 + int(np.abs(total[:-1] - share * len(task)).argmin())  # never all of them
    chosen = order[:count]
    if task.kind != "continuous" and not show_two(*(codes[np.isin(fold, part)] for part in (chosen, order[count:]))):
        chosen = _of_two_classes(codes, fold, order, share * len(task))
    test = np.isin(fold, chosen)
    return np.flatnonzero(~test), np.flatnonzero(test)


def show_two(*parts: np.ndarray) -> bool:
    """Whether each of the parts shows two classes at least."""
    return all(len(np.unique(part)) > 1 for part in parts)


def _of_two_classes(codes: np.ndarray, fold: np.ndarray, order: np.ndarray, wanted: float) -> np.ndarray:
    """Where groups show one class each: two folds that show two, then others up to about the size that is wanted, as long as those that are
    left show two as well."""
    chosen, left = [int(order[0])], [int(one) for one in order[1:]]
    first = codes[fold == chosen[0]]
    other = next((one for one in left if not np.isin(codes[fold == one], first).all()), None)
    if other is not None:
        chosen.append(other)
        left.remove(other)
    for one in list(left):
        size, more = np.isin(fold, chosen).sum(), (fold == one).sum()
        if abs(size + more - wanted) >= abs(size - wanted):
            break
        if show_two(codes[np.isin(fold, [other for other in left if other != one])]):
            chosen.append(one)
            left.remove(one)
    return np.array(chosen)


def in_turn(task: Task, texts: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `most` of the texts in random order, the classes in turn, so that any beginning is as balanced as can be."""
    texts = rng.permutation(texts)
    if task.kind == "continuous":
        return texts[:most]
    values = task.values[texts]
    rank = np.empty(len(texts), int)
    for class_ in np.unique(values):
        of_class = np.flatnonzero(values == class_)
        rank[of_class] = np.arange(len(of_class))
    order = np.argsort(rank, kind="stable")
    chosen: np.ndarray = texts[order]
    if task.kind == "binary":  # the rest would all be of one class
        chosen = chosen[: 2 * int(np.bincount(values.astype(int), minlength=2).min())]
    return chosen[:most]


def texts_of(task: Task, pools: Pools) -> list[str]:
    """The texts of a task that are used, elsewhere too."""
    own = [task.texts[i] for i in np.concatenate([pools.train, pools.test])]
    return own + [text for data in task.elsewhere.values() for text in data.texts or ()]


def each_once(tasks: Mapping[str, Task], pools: Mapping[str, Pools]) -> list[str]:
    """The texts of all tasks that are used."""
    return list(dict.fromkeys(text for name, task in tasks.items() for text in texts_of(task, pools[name])))


def conditions(task: Task, pools: Pools, setting: str, seed: int) -> Iterator[Condition]:
    """The conditions of one setting; none where it does not apply (classes out of balance for numbers, say).

    Raises:
        ValueError: no such setting.
    """
    values, nothing = task.values, float("nan")
    rng = np.random.default_rng([seed, SETTINGS.index(setting) if setting in SETTINGS else 0])
    if setting == "normal":
        yield Condition(setting, nothing, pools.train, values[pools.train], pools.test)
    elif setting == "scarcity":
        for size in SIZES:
            if 2 * len(task.labels.classes) <= size < len(pools.train):
                few = pools.train[:size]
                yield Condition(setting, size, few, values[few], pools.test)
    elif setting == "imbalance":
        if task.kind == "binary":
            sizes = [_most(values[part]) for part in (pools.train, pools.test)]
            for share in SHARES:
                train, test = (
                    _unbalanced(part, values, share, size)
                    for part, size in zip((pools.train, pools.test), sizes, strict=True)
                )
                if min(min(np.bincount(values[part], minlength=2)) for part in (train, test)) < RAREST:
                    continue
                yield Condition(setting, share, train, values[train], test)
    elif setting == "noise":
        if task.kind != "continuous":
            order = rng.permutation(len(pools.train))
            classes = len(task.labels.classes)
            shift = rng.integers(1, classes, len(order))
            for share in WRONG:
                labels = values[pools.train].copy()
                wrong = order[: round(share * len(order))]
                labels[wrong] = (labels[wrong] + shift[wrong]) % classes
                yield Condition(setting, share, pools.train, labels, pools.test)
    elif setting == "ood":
        for name, data in task.elsewhere.items():
            yield Condition(setting, nothing, pools.train, values[pools.train], np.arange(len(data)), name)
    else:
        raise ValueError(f"there is no setting {setting!r}; there are {', '.join(SETTINGS)}")


def _most(values: np.ndarray) -> int:
    """Texts that every share of `SHARES` leaves enough of either class for, so that all conditions have as many."""
    first, second = (int((values == k).sum()) for k in (0, 1))
    return int(min(second / max(SHARES), first / (1 - min(SHARES))))


def _unbalanced(part: np.ndarray, values: np.ndarray, share: float, size: int) -> np.ndarray:
    second = round(share * size)
    taken = np.concatenate([part[values[part] == 1][:second], part[values[part] == 0][: size - second]])
    return np.sort(taken)
