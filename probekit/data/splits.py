"""Which rows train a probe, which choose its settings, and which are reported."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

import numpy as np

from probekit.data.labels import LabelSet

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """Row indices of the three parts, ascending; no group is in two of them.

    Attributes:
        train: Rows that probes are fitted on.
        valid: Rows that settings and the best layer are chosen on.
        test: Rows that are reported.
        ood: Rows of sequences marked `"ood"` in a given split, which belong to no other part.
        left_out: Number of rows in no part, because their group is also in a part that comes first
            (train, then valid).
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    ood: np.ndarray
    left_out: int = 0

    def digest(self, sequence: np.ndarray) -> str:
        """16 hex digits that change with which sequences are in which part; `sequence` is that of each row."""
        digest = hashlib.sha256()
        for name in PARTS:
            digest.update(np.unique(sequence[getattr(self, name)]).astype(np.int64).tobytes() + b"|")
        return digest.hexdigest()[:16]

    def require_classes(self, labels: LabelSet, item: np.ndarray) -> None:
        """Check that every class of every target that occurs anywhere occurs in train.

        Args:
            labels: The label set.
            item: `[row]` index into `labels` of each row.

        Raises:
            ValueError: names the target and the classes that train lacks.
        """
        if labels.kind == "continuous":
            for target, name in enumerate(labels.targets):
                values = labels.values[item[self.train], target]
                if len(np.unique(values[~np.isnan(values)])) < 2:
                    raise ValueError(f"label {name!r} has fewer than two different values in the training part")
            return
        for target, name in enumerate(labels.targets):
            everywhere = _counts(labels, target, item)
            train = _counts(labels, target, item[self.train])
            lacking = np.flatnonzero((everywhere > 0) & (train == 0))
            if len(lacking) or (train > 0).sum() < 2:
                missed = ", ".join(f"{labels.classes[c]!r} ({everywhere[c]} examples)" for c in lacking)
                missed = missed or "a second class"
                raise ValueError(
                    f"label {name!r}: no example of {missed} in the {len(self.train)} training rows; use another seed "
                    f"or a larger training fraction, merge rare classes, or leave the class out"
                )


def split_items(
    sequence: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    given: np.ndarray | None = None,
) -> Split:
    """Split rows into train, valid and test by group: rows of one group all land in one part.

    Groups are shuffled with `seed` and dealt in that order, so that each part gets its fraction of the rows as nearly
    as whole groups allow.

    Args:
        sequence: `[row]` integer, the sequence of each row.
        groups: `[sequence]` integer, the group of each sequence.
        seed: Of the shuffle. The same seed gives the same split.
        fractions: Of rows in train, valid and test; they sum to 1. `valid` may be 0, then `valid` is empty.
        given: `[sequence]` of `"train"`, `"valid"`, `"test"` or `"ood"`, respected as it is. Without `"valid"`, that
            part is taken from train by group, in the proportion that `fractions` has; without `"test"`, likewise
            the test part.

    Raises:
        ValueError: fewer groups than parts, a `given` without train, or arguments that do not fit together.
    """
    sequence, groups = np.asarray(sequence), np.asarray(groups)
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or shares[0] == 0 or not np.isclose(shares.sum(), 1):
        raise ValueError(f"fractions must be three numbers >= 0 that sum to 1, with train > 0; got {fractions}")
    if len(sequence) and (sequence.min() < 0 or sequence.max() >= len(groups)):
        raise ValueError(f"sequence indices run to {sequence.max()}, but there are groups for {len(groups)} sequences")
    row_group = groups[sequence]
    part = np.full(len(sequence), -1)  # index into PARTS; 3 is ood
    left_out = 0
    if given is not None:
        given = np.asarray(given).astype(str)
        if len(given) != len(groups):
            raise ValueError(f"given has {len(given)} entries for {len(groups)} sequences")
        strange = sorted(set(given.tolist()) - {*PARTS, "ood"})
        if strange:
            raise ValueError(f"given split has values {strange[:5]}; allowed are train, valid, test, ood")
        part = np.array([*PARTS, "ood"])[:, None] == given[sequence]
        part = part.argmax(axis=0)
        if not (part == 0).any():
            raise ValueError("the given split has no row marked 'train'")
        for earlier in range(3):  # a group also met in an earlier part leaves the later ones
            clash = (part > earlier) & np.isin(row_group, row_group[part == earlier])
            left_out += int(clash.sum())
            part[clash] = -1
        missing = [p for p in (1, 2) if not (given == PARTS[p]).any() and shares[p] > 0]
        pool = np.flatnonzero(part == 0)
        wanted = shares * np.isin(np.arange(3), [0, *missing])
    else:
        missing, pool, wanted = [1, 2], np.arange(len(sequence)), shares
    if missing:
        part[pool] = _deal(row_group[pool], wanted / wanted.sum(), seed)
    train, valid, test, ood = (np.flatnonzero(part == p) for p in range(4))
    empty = [PARTS[p] for p, rows in enumerate((train, valid, test)) if not len(rows) and shares[p] > 0]
    if empty:
        raise ValueError(
            f"no rows are left for {' and '.join(empty)}: {left_out} rows share a group (or an identical text) with an "
            f"earlier part, of {len(sequence)} in all"
        )
    if left_out * 2 > left_out + len(valid) + len(test):
        warnings.warn(
            f"the given split and the groups disagree: {left_out} rows share a group with an earlier part and are left "
            f"out, {len(test)} test rows stay",
            stacklevel=2,
        )
    return Split(train, valid, test, ood, left_out)


def drop_seen_prefixes(train_prefix: np.ndarray, test_prefix: np.ndarray) -> np.ndarray:
    """`[test row]` bool: True where the row stays, False where its prefix occurs in training and it must be dropped.

    An activation of a causal model is a function of the tokens up to its position. A test row whose whole prefix
    occurs in training is therefore a training row, whatever group it came from, and may not count.

    Args:
        train_prefix: `[train row]` uint64, `Activations.prefix` of the rows that were trained or chosen on.
        test_prefix: `[test row]` uint64.
    """
    return ~np.isin(np.asarray(test_prefix), np.asarray(train_prefix))


def _deal(row_group: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """`[row]` part index: whole groups in shuffled order, cut where the cumulative share of rows is reached."""
    names, index, sizes = np.unique(row_group, return_inverse=True, return_counts=True)
    parts = np.flatnonzero(shares > 0)
    if len(names) < len(parts):
        raise ValueError(
            f"{len(names)} groups cannot be split into {len(parts)} parts ({', '.join(PARTS[p] for p in parts)}): "
            f"every part needs a group of its own; give a finer group, or none"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    middle = np.cumsum(sizes[order]) - sizes[order] / 2  # a group goes where its middle row falls
    cuts = np.searchsorted(middle, np.cumsum(shares[parts])[:-1] * len(row_group))
    for i in range(len(cuts)):  # uneven groups could leave a part without any: each keeps one at least
        cuts[i] = min(max(cuts[i], cuts[i - 1] + 1 if i else 1), len(names) - (len(cuts) - i))
    place = np.searchsorted(cuts, np.arange(len(names)), side="right")
    of_group = np.empty(len(names), dtype=int)
    of_group[order] = parts[place]
    return of_group[index]


def _counts(labels: LabelSet, target: int, item: np.ndarray) -> np.ndarray:
    values = labels.values[item, target]
    return np.bincount(values[values >= 0], minlength=len(labels.classes))
