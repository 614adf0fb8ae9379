"""`split_half_reliability`: do two halves of the data give the same direction?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from probekit.activations import Activations
from probekit.probes.direction import row_mask
from probekit.surgery.directions.labelled import Labelled, Labels, group_of_rows, sums_by

BLOCKS = 20  # of groups that the jackknife leaves out, one at a time
FEWEST = 4  # groups of each class, so that a half has two
_AT_ONCE = 400  # weighted differences worked on at a time


@dataclass(frozen=True)
class Reliability:
    """How far the directions of two halves of the data agree.

    Attributes:
        cosine: Mean cosine between the differences of means of two halves.
        low, high: Its 95 % interval.
        null: `[permutation]` the same where the classes tell nothing.
        p: Share of those that are as large, the data itself counted among them.
        groups: Number of groups (or sequences) that were dealt into halves.
        halves: Number of divisions into halves.
        site: Where.
    """

    cosine: float
    low: float
    high: float
    null: np.ndarray = field(repr=False)
    p: float
    groups: int
    halves: int
    site: str

    @property
    def chance(self) -> float:
        """What 95 % of the null lies below."""
        return float(np.quantile(self.null, 0.95))

    @property
    def full(self) -> float:
        """Cosine to expect between the directions of two data sets as large as the whole (Spearman-Brown)."""
        return 2 * self.cosine / (1 + self.cosine) if self.cosine > 0 else self.cosine

    def __str__(self) -> str:
        trusted = (
            "" if self.p < 0.05 and self.cosine > 0.5 else "; a direction whose halves do not agree steers by chance"
        )
        return (
            f"at {self.site}, halves of {self.groups:,} groups of sequences give directions of cosine {self.cosine:.2f} "
            f"({self.low:.2f} to {self.high:.2f}), against at most {self.chance:.2f} in 95 % of the cases where the classes tell "
            f"nothing (p = {self.p:.3g}){trusted}"
        )


def split_half_reliability(
    activations: Activations,
    labels: Labels,
    *,
    site: str,
    target: int | str = 0,
    classes: tuple[str, str] | None = None,
    groups: object = None,
    rows: np.ndarray | None = None,
    halves: int = 20,
    permutations: int = 200,
    seed: int = 0,
) -> Reliability:
    """Whether the difference of means is a property of the concept or of the sample.

    Groups of sequences, never tokens of one sequence, are dealt into two halves, the difference of means is taken in each, and
    the cosine between the two is averaged over many divisions. A direction whose halves disagree cannot be trusted to steer.

    The null has the classes of whole groups exchanged at random. That a strong concept should not pass for noise of its own
    null, it is not the activations that are dealt with so but their deviations from their class means (Freedman & Lane 1983
    for residuals; Cameron, Gelbach & Miller 2008, "Bootstrap-based improvements for inference with clustered errors", for
    signs by cluster): what is left when the classes tell nothing. Numbers of rows, and what tokens of a sequence share, stay.

    The interval is of Fisher's z of the mean cosine, from a jackknife that leaves out 20 blocks of groups in turn (Efron &
    Tibshirani 1993, chapter 11). Memory is a vector a group and class.

    Args:
        activations: A store, or `ArrayActivations`.
        labels: A label set of the data, or a value for each row.
        site: Where.
        target, classes: As in `difference_of_means`.
        groups: `[sequence]` of any values, kept together; left out, every sequence is a group of its own.
        rows: `[row]` bool mask; all if left out.
        halves: Number of divisions.
        permutations: Number of draws of the null.
        seed: Of both.

    Raises:
        KeyError: no such site, target or class.
        ValueError: fewer than four groups with rows of each class.
    """
    from scipy import stats

    if halves < 1 or permutations < 19:
        raise ValueError(f"halves must be at least 1 and permutations at least 19, got {halves} and {permutations}")
    codes, pair = Labelled.of(activations, labels).target(target).pair(classes)
    codes = np.where(row_mask(activations, rows), codes, -1)
    group = group_of_rows(activations, groups)
    # A cell is the rows of one class in one group.
    cells, index = np.unique(2 * group[codes >= 0] + codes[codes >= 0], return_inverse=True)
    number = np.full(len(codes), -1, dtype=np.int64)
    number[codes >= 0] = index
    sums, counts = sums_by(activations, site, number, len(cells))
    names, group_of = np.unique(cells // 2, return_inverse=True)
    data = _Cells(sums, counts.astype(np.float64), cells % 2, group_of)
    for k, name in enumerate(pair):
        if (found := int((data.of_class == k).sum())) < FEWEST:
            raise ValueError(
                f"class {name!r} occurs in {found} groups of sequences: at least {FEWEST} are needed to compare halves"
            )
    rng = np.random.default_rng([seed, 0x4A1F])
    first = _deal(data, len(names), halves, rng)
    blocks = rng.permutation(len(names)) % min(BLOCKS, len(names))
    kept = np.stack([blocks != b for b in range(blocks.max() + 1)]).astype(np.float64)
    whole, *left = data.agreement(np.concatenate([np.ones((1, len(names))), kept]), first)
    z = np.arctanh(np.clip([whole, *left], -1 + 1e-12, 1 - 1e-12))
    error = np.sqrt((len(left) - 1) / len(left) * np.square(z[1:] - z[1:].mean()).sum())
    reach = float(stats.t.ppf(0.975, len(left) - 1)) * error
    signs = rng.choice([-1.0, 1.0], (permutations, len(names)))
    null = data.without_classes().agreement(np.ones_like(signs), first, signs)
    return Reliability(
        cosine=float(whole),
        low=float(np.tanh(z[0] - reach)),
        high=float(np.tanh(z[0] + reach)),
        null=null,
        p=float((1 + (null >= whole).sum()) / (1 + permutations)),
        groups=len(names),
        halves=halves,
        site=site,
    )


@dataclass(frozen=True)
class _Cells:
    """Sums of activations `[cell, d]` of the rows of one class in one group, their numbers, class and group `[cell]`."""

    sums: np.ndarray
    counts: np.ndarray
    of_class: np.ndarray
    group: np.ndarray

    def without_classes(self) -> _Cells:
        """Of deviations from the class means."""
        means = np.stack([self.sums[self.of_class == k].sum(0) / self.counts[self.of_class == k].sum() for k in (0, 1)])
        return _Cells(self.sums - self.counts[:, None] * means[self.of_class], self.counts, self.of_class, self.group)

    def agreement(self, weights: np.ndarray, first: np.ndarray, signs: np.ndarray | None = None) -> np.ndarray:
        """Mean over divisions of the cosine between two halves' differences of means, `[q]`.

        Args:
            weights: `[q, group]` 0 or 1, which groups count.
            first: `[half, group]` bool, the groups of the first half in each division.
            signs: `[q, group]` what a group's sums are multiplied with.
        """
        # About the mean of all rows, so that float32 keeps what differs.
        centred = self.sums - self.counts[:, None] * (self.sums.sum(0) / self.counts.sum())
        centred = centred.astype(np.float32)
        out = []
        step = max(1, _AT_ONCE // len(first))
        for start in range(0, len(weights), step):
            some = weights[start : start + step]
            sign = None if signs is None else signs[start : start + step, None]
            differences = [
                self._difference((some[:, None] * side).reshape(-1, some.shape[1]), sign, centred)
                for side in (first, ~first)
            ]
            one, other = (d.reshape(len(some), len(first), -1) for d in differences)
            length = np.linalg.norm(one, axis=2) * np.linalg.norm(other, axis=2)
            cosine = (one * other).sum(2) / np.maximum(length, np.finfo(np.float32).tiny)
            out.append(cosine.mean(1, dtype=np.float64))
        return np.concatenate(out)

    def _difference(self, chosen: np.ndarray, sign: np.ndarray | None, centred: np.ndarray) -> np.ndarray:
        """`[q, d]` mean of class 1 minus mean of class 0 among the groups of `chosen [q, group]`."""
        coefficients = chosen[:, self.group]
        for k, toward in ((0, -1.0), (1, 1.0)):
            mine = self.of_class == k
            rows = coefficients[:, mine] @ self.counts[mine]
            coefficients[:, mine] *= toward / np.maximum(rows, 1)[:, None]
        if sign is not None:
            by_group = np.broadcast_to(sign, (len(sign), len(chosen) // len(sign), sign.shape[2]))
            coefficients *= by_group.reshape(len(chosen), -1)[:, self.group]
        found: np.ndarray = coefficients.astype(np.float32) @ centred
        return found


def _deal(cells: _Cells, groups: int, halves: int, rng: np.random.Generator) -> np.ndarray:
    """`[half, group]` bool: groups dealt into halves so that each has about as many of every kind of group.

    A kind is which of the classes occur in a group; dealt kind by kind, no half is left without a class.
    """
    kind = np.zeros(groups, dtype=np.int64)
    np.add.at(kind, cells.group, 1 + cells.of_class)  # 1: the first class only, 2: the second, 3: both
    first = np.zeros((halves, groups), dtype=bool)
    for division in first:
        side = int(rng.integers(2))
        for k in (1, 2, 3):
            members = rng.permutation(np.flatnonzero(kind == k))
            division[members[side::2]] = True
            side = (side + len(members)) % 2
    return first
