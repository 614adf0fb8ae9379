"""`score`: every feature against every label, thresholds chosen on one half of the sequences, figures from the other.

Sequences of one group are never in both halves, and intervals and p-values are of groups.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse, stats

from probekit.data import Dataset, drop_seen_prefixes, split_items
from probekit.probes.intervals import bootstrap, cluster_counts
from probekit.probes.metrics import CLASS_METRICS, Predictions
from saes.scoring.columns import ColumnName, Columns, Labels, columns_at, groups_of
from saes.scoring.scores import Ranking, at_threshold, fired, p_values, rank

if TYPE_CHECKING:
    import pandas as pd

    from saes.features import SparseFeatures

DRAWS = 1000
_AUROC = next(metric for metric in CLASS_METRICS if metric.name == "auroc")


@dataclass(frozen=True)
class Half:
    """Rows of one half of the sequences: their features, labels, sequences, numbers among all rows, and groups."""

    features: sparse.csc_array
    columns: Columns
    sequence: np.ndarray
    rows: np.ndarray
    group: np.ndarray

    @cached_property
    def name(self) -> str:
        """SHA-256 (first 16 hex digits) of which rows these are."""
        return hashlib.sha256(np.ascontiguousarray(self.rows, np.int64).tobytes()).hexdigest()[:16]

    @cached_property
    def cluster(self) -> np.ndarray:
        """`[row]` int64: groups numbered from zero."""
        number: np.ndarray = np.unique(self.group, return_inverse=True)[1]
        return number

    @cached_property
    def occurs(self) -> np.ndarray:
        """`[column]` bool: whether it holds at some rows and fails at others. Of other columns nothing can be told."""
        held = self.columns.positive.sum(0)
        known = len(self.rows) if self.columns.defined is None else self.columns.defined.sum(0)
        both: np.ndarray = (held > 0) & (held < known)
        return both


def halves(
    features: SparseFeatures,
    labels: Labels | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
    split: np.ndarray | None = None,
) -> tuple[Half, Half, int]:
    """`(choose, report, dropped)`: groups dealt into two halves at random; without labels, halves without columns.

    Groups are those of a data set given as labels, or `groups [sequence]`, or every sequence by itself. A split that came with
    the data (the data set's, or `split [sequence]`) is kept to: its `test` is reported on, `train` and `valid` are chosen on, and
    `ood` is neither; without `test`, half of `train` is reported on. Rows to report on whose group or whole prefix also occurs in
    the other half are dropped: the model computes the same there.

    Raises:
        ValueError: no feature ever fires; labels of other data; a half that would be empty.
    """
    if features.matrix.nnz == 0:
        raise ValueError("no feature ever fires: this SAE is dead, or made for other activations")
    none = Columns((), np.zeros((len(features.sequence), 0), bool), None)
    columns = none if labels is None else columns_at(features, labels)
    of_sequence = groups_of(features, labels, groups)
    group = of_sequence[features.sequence]
    split = labels.split if isinstance(labels, Dataset) else split
    names = np.unique(group)
    choose, rest = np.zeros(len(group), bool), np.zeros(len(group), bool)
    if split is None:
        first = np.random.default_rng([seed, 0x4A1F]).permutation(names)[: len(names) // 2]
        choose = np.isin(group, first)
        rest = ~choose
    else:
        parts = split_items(features.sequence, of_sequence, seed, (0.5, 0.0, 0.5), given=split)
        choose[parts.train], choose[parts.valid], rest[parts.test] = True, True, True
    new = rest.copy()
    new[rest] = drop_seen_prefixes(features.prefix[choose], features.prefix[rest])
    if not choose.any() or not new.any():
        said = "" if split is None else " by the split that came with the data (train and valid against test)"
        raise ValueError(
            f"{len(names)} group{'s' * (len(names) != 1)} of sequences cannot be halved{said} into one half to choose "
            "thresholds on and one to report on"
        )
    by_rows = features.matrix.tocsr()
    one, other = (
        Half(
            sparse.csc_array(by_rows[mask]),
            columns.of_rows(mask),
            features.sequence[mask],
            np.flatnonzero(mask),
            group[mask],
        )
        for mask in (choose, new)
    )
    return one, other, int(rest.sum() - new.sum())


@dataclass(frozen=True)
class BestFeatures:
    """The best feature of each label; arrays are `[column]`.

    Attributes:
        feature: With the best F1 on the half for choosing.
        precision, recall, f1: On the other half, at the threshold chosen; F1 is NaN where that half shows one class only.
        coverage, low, high: Mean of `f1` over the other columns, with its 95 % interval (see `FeatureScores.coverage`).
        features: Features in all.
        rows: Rows reported on.
    """

    feature: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    coverage: float
    low: float
    high: float
    features: int
    rows: int


@dataclass(frozen=True, repr=False)
class FeatureScores:
    """Every feature against every label; arrays are `[feature, column]`.

    Attributes:
        names: `[column]` what each asks.
        chosen: Ranking on the half that thresholds and best features are chosen on.
        auroc: On the other half, like all that follows. NaN where the column shows one class only.
        precision, recall, f1: At the thresholds chosen. Precision is NaN where the feature never says yes, recall where the
            column never holds; F1 is 0 in both cases.
        positives: `[column]` rows where it holds.
        fired: `[feature]` rows where it fires.
        rows: Rows in all.
        dropped: Rows left out because their prefix occurs in the first half.
    """

    names: tuple[ColumnName, ...]
    chosen: Ranking
    auroc: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    positives: np.ndarray
    fired: np.ndarray
    rows: int
    dropped: int
    _half: Half
    _seed: int

    @property
    def occurs(self) -> np.ndarray:
        """`[column]` bool: whether it shows both classes on the half that is reported; of others nothing can be told."""
        return self._half.occurs

    @cached_property
    def best_feature(self) -> np.ndarray:
        """`[column]` the feature with the best F1 on the half for choosing."""
        best: np.ndarray = self.chosen.f1.argmax(0)
        return best

    @cached_property
    def p(self) -> np.ndarray:
        """One-sided p-values, clustered by group (see `scores.p_values`); computed when first asked for."""
        return p_values(self._half.features, self._half.columns, self._half.cluster)

    @cached_property
    def q(self) -> np.ndarray:
        """`p` after Benjamini and Hochberg (1995) over all pairs: pairs with `q <= 0.05` hold 5 % false ones
        at most, by expectation. With few groups the tests have little power: they may find less than there is."""
        controlled: np.ndarray = stats.false_discovery_control(self.p.ravel(), method="bh").reshape(self.p.shape)
        return controlled

    def __repr__(self) -> str:
        seen = f", {self.dropped:,} more left out, whose prefix is in the other half" if self.dropped else ""
        return f"FeatureScores({len(self.fired):,} features, {len(self.names):,} labels, {self.rows:,} rows{seen})"

    def coverage(self) -> tuple[float, float, float]:
        """Mean over columns of the best feature's F1, with its 95 % interval (bootstrap over groups).

        Columns that show one class only on the half that is reported are left out, as a draw leaves out those that it never
        holds; NaN where that leaves none.

        Source: Karvonen et al. 2024 (arXiv 2408.00113), section 3.1; here the feature and its threshold are chosen on
        other sequences than the F1 is of.
        """
        pairs = np.stack([self.best_feature, np.arange(len(self.names))], 1)[self.occurs]
        low, high = ends(known_mean(self._draws(pairs)["f1"])[:, None])
        return float(known_mean(self.f1[pairs[:, 0], pairs[:, 1]])), float(low[0]), float(high[0])

    def best(self) -> BestFeatures:
        """Each label's best feature alone, without the rows that scored it."""
        at = (self.best_feature, np.arange(len(self.names)))
        return BestFeatures(
            self.best_feature,
            self.precision[at],
            self.recall[at],
            np.where(self.occurs, self.f1[at], np.nan),
            *self.coverage(),
            features=len(self.fired),
            rows=self.rows,
        )

    def to_frame(self, pairs: np.ndarray | None = None, *, intervals: bool = True) -> pd.DataFrame:
        """A row a pair.

        Args:
            pairs: `[pair, 2]` feature and column; left out, each column with its best feature.
            intervals: Whether to bootstrap the ends of 95 % intervals of AUROC, precision, recall and F1 over groups.

        Returns:
            feature, label_set, target, class, auroc, effect (2 AUROC - 1, the rank-biserial correlation; its interval is that of the
            AUROC, doubled less one), threshold, precision, recall, f1, each figure with `_low` and `_high`, p, q, positives, fired.
        """
        import pandas as pd

        if pairs is None:
            pairs = np.stack([self.best_feature, np.arange(len(self.names))], 1)
        at = (pairs[:, 0], pairs[:, 1])
        data: dict[str, Any] = {"feature": pairs[:, 0]}
        for field in ("label_set", "target", "class_"):
            data[field.rstrip("_")] = [getattr(self.names[c], field) for c in pairs[:, 1]]
        data["auroc"] = self.auroc[at]
        if intervals:
            data["auroc_low"], data["auroc_high"] = auroc_ends(self._half, pairs, self._seed)
        data |= {"effect": 2 * self.auroc[at] - 1, "threshold": self.chosen.threshold[at]}
        draws = self._draws(pairs) if intervals else {}
        for name in ("precision", "recall", "f1"):
            data[name] = getattr(self, name)[at]
            if intervals:
                data[f"{name}_low"], data[f"{name}_high"] = ends(draws[name])
        data |= {"p": self.p[at], "q": self.q[at]}
        data |= {"positives": self.positives[pairs[:, 1]], "fired": self.fired[pairs[:, 0]]}
        return pd.DataFrame(data)

    def _draws(self, pairs: np.ndarray) -> dict[str, np.ndarray]:
        """`[draw, pair]` precision, recall and F1 of groups drawn with replacement."""
        sums = pair_sums(self._half, pairs, self.chosen.threshold[pairs[:, 0], pairs[:, 1]])
        return drawn_figures(sums, self._seed)


def auroc_ends(half: Half, pairs: np.ndarray, seed: int, at_a_time: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """`[pair]` ends of 95 % intervals of the AUROC, from a bootstrap over groups; NaN where a column shows one class only."""
    cluster, columns = torch.from_numpy(half.cluster), half.columns
    counts = cluster_counts(int(half.cluster.max()) + 1, DRAWS, seed)
    found = np.full((2, len(pairs)), np.nan)
    for start in range(0, len(pairs), at_a_time):
        some = np.flatnonzero(half.occurs[pairs[start : start + at_a_time, 1]]) + start
        if not len(some) or len(counts[0]) < 2:
            continue
        feature, column = pairs[some].T
        fired_at = torch.from_numpy(half.features[:, feature].toarray())
        truth = columns.positive[:, column].astype(np.int64)
        if columns.defined is not None:
            truth = np.where(columns.defined[:, column], truth, -1)
        predictions = Predictions.of_classes(torch.stack([torch.zeros_like(fired_at), fired_at], -1), truth)
        found[:, some] = bootstrap(_AUROC, predictions, cluster, counts).interval()
    low, high = found
    return low, high


def pair_sums(half: Half, pairs: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """`[cluster, pair, 3]`: rows where the feature says yes rightly, says yes, and where the label holds."""
    cluster = half.cluster
    clusters = int(cluster.max()) + 1
    sums = np.zeros((clusters, len(pairs), 3))
    columns = half.columns
    for i, (feature, column) in enumerate(pairs):
        rows, values = fired(half.features, feature)
        rows = rows[values >= threshold[i]]
        if columns.defined is not None:
            rows = rows[columns.defined[rows, column]]
        true = rows[columns.positive[rows, column]]
        for k, counted in enumerate((true, rows, np.flatnonzero(columns.positive[:, column]))):
            sums[:, i, k] = np.bincount(cluster[counted], minlength=clusters)
    return sums


def drawn_sums(sums: np.ndarray, seed: int) -> np.ndarray:
    """`[draw, ...]` sums over clusters drawn with replacement, of `[cluster, ...]`."""
    clusters = len(sums)
    counts = np.random.default_rng([seed, 0xB007]).multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS)
    drawn: np.ndarray = (counts @ sums.reshape(clusters, -1)).reshape(DRAWS, *sums.shape[1:])
    return drawn


def drawn_figures(sums: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """`[draw, pair]` precision, recall and F1 over bootstrap draws of the clusters of `pair_sums`.

    Recall and F1 are NaN in a draw where the label never holds. One cluster says nothing of others: all is NaN.
    """
    true, said, held = np.moveaxis(drawn_sums(sums, seed), 2, 0)
    if len(sums) < 2:
        true = np.full_like(true, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(held > 0, 2 * true / (said + held), np.nan)
        return {"precision": true / said, "recall": true / held, "f1": f1}


def ends(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of 95 % intervals of `[draw, pair]`; NaN where no draw is defined."""
    known = ~np.isnan(draws).all(0)
    low, high = np.full(draws.shape[1], np.nan), np.full(draws.shape[1], np.nan)
    if known.any():
        low[known], high[known] = np.nanquantile(draws[:, known], [0.025, 0.975], axis=0)
    return low, high


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def score(
    features: SparseFeatures, labels: Labels, *, groups: np.ndarray | None = None, seed: int = 0
) -> FeatureScores:
    """Score every feature against every label.

    Args:
        features: From `encode`.
        labels: Label sets of classes, or a data set with some: for three and more classes each class is a column of its
            own, for two the second. A split that the data set came with is kept to (see `halves`).
        groups: `[sequence]`, sequences that must stay in one half; a data set brings its own.
        seed: Of the halving of the sequences.

    Raises:
        ValueError: no feature ever fires; labels of other data; a continuous label set asked for by name; too few sequences or groups.
    """
    choose, report, dropped = halves(features, labels, seed, groups)
    chosen = rank(choose.features, choose.columns)
    held_out = rank(report.features, report.columns)
    there = at_threshold(report.features, report.columns, chosen.threshold)
    return FeatureScores(
        names=report.columns.names,
        chosen=chosen,
        auroc=held_out.auroc,
        precision=there.precision,
        recall=there.recall,
        f1=there.f1,
        positives=report.columns.positive.sum(0),
        fired=np.diff(report.features.indptr),
        rows=len(report.sequence),
        dropped=dropped,
        _half=report,
        _seed=seed,
    )
