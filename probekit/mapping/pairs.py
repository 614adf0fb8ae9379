"""`Pairs`: activations of two models whose rows belong together, checked, and split by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probekit.activations import Activations, ActivationStore, ArrayActivations
from probekit.activations.stream import names_of_sites
from probekit.data import Dataset, drop_seen_prefixes, split_items
from probekit.data.dataset import as_groups
from probekit.probes.rows import draw_evenly

TRAIN, VALID, TEST, OUT = 0, 1, 2, -1
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
FEWEST = {"train": 10, "valid": 5, "test": 10}  # rows below which no figure says anything
TESTED = 2000
"""Test rows that are scored at most: all site pairs are scored on the same ones, which are kept in memory."""


@dataclass(frozen=True)
class Pairs:
    """Row i of `a` and row i of `b` (and of `twin`) are of the same text, at the same place.

    Attributes:
        part: `[row]` int8: `TRAIN`, `VALID`, `TEST`, or `OUT` where a row counts nowhere.
        group: `[row]` group of each row.
        split: Digest of which sequences are in which part.
        notes: What was left out.
    """

    a: Activations
    b: Activations
    twin: Activations | None
    sites_a: tuple[str, ...]
    sites_b: tuple[str, ...]
    part: np.ndarray
    group: np.ndarray
    split: str
    notes: tuple[str, ...]

    def rows(self, part: int) -> np.ndarray:
        """Ascending row numbers of a part."""
        return np.flatnonzero(self.part == part)

    def tested(self, seed: int) -> np.ndarray:
        """The test rows that are scored: all of them, or `TESTED` drawn evenly over the sequences."""
        rows = self.rows(TEST)
        return draw_evenly(rows, self.a.sequence[rows], TESTED, np.random.default_rng([seed, 0x7E57]))


def pair_up(
    a: Any,
    b: Any,
    twin: Any,
    sites_a: Sequence[str] | str | None,
    sites_b: Sequence[str] | str | None,
    groups: object,
    seed: int,
) -> Pairs:
    """Check that the rows belong together, and split them.

    Raises:
        KeyError: unknown sites.
        TypeError: no activations.
        ValueError: activations of other data, or whose rows do not belong together; too few rows or groups.
    """
    first, second = as_activations(a, "the first activations"), as_activations(b, "the second activations")
    third = None if twin is None else as_activations(twin, "twin")
    require_pairs(first, second, "the second activations")
    names_a, names_b = _sites(first, sites_a), _sites(second, sites_b)
    if third is not None:
        require_pairs(second, third, "twin")
        for site in names_b:
            if site not in third.sites or third.width(site) != second.width(site):
                raise ValueError(f"twin must have the sites of the second activations, as wide; {site} is not so")
    data = groups if isinstance(groups, Dataset) else None
    of_sequence = groups_of(first, groups)
    given = None if data is None else data.split
    seen = [first.prefix, second.prefix]
    part, notes, split = split_rows(first.sequence, of_sequence, seen, given=given, seed=seed)
    for name, number in PARTS.items():
        count = int((part == number).sum())
        if count < FEWEST[name]:
            raise ValueError(
                f"{count} of the {len(first):,} pairs of rows are left for {name}; a map needs {FEWEST['train']} to be fitted, "
                f"{FEWEST['valid']} to choose its penalty, {FEWEST['test']} to be tested. Give more texts"
            )
    pairs = Pairs(first, second, third, names_a, names_b, part, of_sequence[first.sequence], split, notes)
    count = int((part == TEST).sum())
    if count > TESTED:
        said = f"{TESTED:,} of {count:,} test rows are scored, drawn evenly over the sequences"
        return Pairs(**{**vars(pairs), "notes": (*notes, said)})
    return pairs


def as_activations(source: Any, what: str) -> Activations:
    """Activations as they are, of a store's path, or of a mapping from sites to arrays."""
    if isinstance(source, str | Path):
        source = ActivationStore.open(source)
    elif isinstance(source, Mapping):
        source = ArrayActivations(source)
    if not isinstance(source, Activations):
        raise TypeError(
            f"{what}: a {type(source).__name__} has no rows; give an ActivationStore (probekit.capture makes one) or its path, "
            "ArrayActivations, or a dict {site name: array [row, width]}"
        )
    return source


def require_pairs(a: Activations, b: Activations, what: str) -> None:
    """Refuse rows that do not belong together, as far as can be known.

    Raises:
        ValueError: says what differs.
    """
    one, two = getattr(a, "manifest", None), getattr(b, "manifest", None)
    if one is not None and two is not None:
        if one.data_fingerprint != two.data_fingerprint:
            raise ValueError(
                f"{what} are of other data: {two.data!r} (fingerprint {two.data_fingerprint}), not {one.data!r} "
                f"({one.data_fingerprint}). Capture both models on the same texts, in the same order"
            )
        if one.pool != two.pool:
            raise ValueError(f"{what} were captured with pool={two.pool!r}, the others with pool={one.pool!r}")
        tokenized_alike = one.tokenizer_fingerprint == two.tokenizer_fingerprint
        if one.pool == "all" and not tokenized_alike and not (one.selection and two.selection):
            raise ValueError(
                f"{what} are of another tokenizer, so a row a token does not pair up: capture with pool='last' or 'mean', or "
                "capture the tokens that end at the same characters, rows=probekit.mapping.paired_tokens(...)"
            )
    if len(a) != len(b):
        raise ValueError(
            f"{what} have {len(b):,} rows, the others {len(a):,}: rows must belong together one by one. With one row a text, "
            "capture the same texts with pool='last' or 'mean'; with a row a token, see probekit.mapping.paired_tokens"
        )
    differ = np.flatnonzero(a.sequence != b.sequence)
    if len(differ):
        row = int(differ[0])
        raise ValueError(
            f"row {row} of {what} is of sequence {b.sequence[row]}, of the others of sequence {a.sequence[row]}: the rows do not "
            "belong together"
        )


def groups_of(activations: Activations, groups: object) -> np.ndarray:
    """`[sequence]` group numbers: those given, those of a `Dataset`, or each sequence its own.

    Raises:
        ValueError: groups, or a data set, that do not fit the activations.
    """
    manifest = getattr(activations, "manifest", None)
    count = int(activations.sequence.max()) + 1 if manifest is None else int(manifest.sequences)
    if groups is None:
        return np.arange(count)
    if isinstance(groups, Dataset):
        if isinstance(activations, ActivationStore):
            activations.check(data=groups)
        groups = groups.groups
    numbers = as_groups(groups)
    fits = len(numbers) == count if manifest is not None else len(numbers) >= count
    if not fits:
        raise ValueError(f"groups has {len(numbers)} entries for {count} sequences; give one a sequence")
    return numbers


def split_rows(
    sequence: np.ndarray, groups: np.ndarray, prefixes: Sequence[np.ndarray], *, given: np.ndarray | None, seed: int
) -> tuple[np.ndarray, tuple[str, ...], str]:
    """`[row]` part of each row, notes, and the digest of which sequences are in which part.

    Args:
        prefixes: `[row]` each, of each model's tokens. Rows of validation whose prefix occurs in training in any of these, and
            rows of test whose prefix occurs in training or validation, count nowhere. Of rows of one part with the same
            prefix in all of these the first counts: they are one row, met again ("The city of ...").
        given: `[sequence]` a split that came with the data.
    """
    split = split_items(sequence, groups, seed, given=given)
    part = np.full(len(sequence), OUT, np.int8)
    notes = []
    if split.left_out:
        notes.append(f"{split.left_out:,} rows are in no part: their group is in another part of the given split")
    known = np.zeros(0, np.int64)
    for name, number in PARTS.items():
        rows: np.ndarray = getattr(split, name)
        new = np.ones(len(rows), bool)
        for prefix in prefixes:
            new &= drop_seen_prefixes(prefix[known], prefix[rows])
        known = np.concatenate([known, rows])
        kept = rows[new]
        first = np.unique(np.stack([prefix[kept] for prefix in prefixes], 1), axis=0, return_index=True)[1]
        part[kept[first]] = number
        if len(kept) < len(rows):
            notes.append(
                f"{len(rows) - len(kept):,} of {len(rows):,} {name} rows do not count: their whole prefix occurs before"
            )
        if len(first) < len(kept):
            notes.append(
                f"{len(kept) - len(first):,} of {len(kept):,} {name} rows repeat another of them, which counts once"
            )
    return part, tuple(notes), split.digest(sequence)


def _sites(activations: Activations, sites: Sequence[str] | str | None) -> tuple[str, ...]:
    names = tuple(names_of_sites(sites, activations.sites))
    for name in names:
        activations.width(name)  # raises, naming near sites
    return names
