"""Names from a label dictionary: a label, or a conjunction of up to three, that says when a feature fires."""

from __future__ import annotations

import numpy as np
from scipy import sparse, stats

from saes.columns import ColumnName, Columns, Labels
from saes.conjunctions import Candidate, Search, holds
from saes.features import SparseFeatures
from saes.names import Evidence, Name, Names
from saes.scores import p_values, rank
from saes.scoring import Half, drawn_figures, halves, pair_sums

PRECISE = 0.95
"""Precision from which evidence is reported as of the class `precise` (Karvonen et al. 2024, board reconstruction)."""


def name_by_labels(
    features: SparseFeatures,
    labels: Labels,
    *,
    least_precision: float = 0.8,
    least_recall: float = 0.2,
    false_names: float = 0.05,
    seed: int = 0,
) -> Names:
    """Name features by labels.

    On one half of the sequences each feature gets its best conjunction of one to three labels and a threshold. On the
    other half the name has to earn itself: its precision and recall must reach what is asked for, and the association
    must be beyond chance. One hypothesis is tested a feature, and the share of false names among those given is
    controlled by Benjamini and Hochberg's procedure.

    Args:
        features: From `encode`.
        labels: Label sets of classes, or a data set with some.
        least_precision: Of the rows where the feature fires (above its threshold), the share that the name must cover.
        least_recall: Of the rows that the name covers, the share where the feature must fire.
        false_names: Share of false names among the names given, at most.
        seed: Of the halving of the sequences.
    """
    choose, report, _ = halves(features, labels, seed)
    ranking = rank(choose.features, choose.columns)
    search = Search(choose.features, choose.columns)
    found: dict[int, list[Candidate]] = {}
    for feature in range(features.width):
        starts = np.argsort(-ranking.f1[feature], kind="stable")
        candidates = search.of(feature, starts[ranking.f1[feature, starts] > 0])
        if candidates:
            found[feature] = candidates
    tested = _tested(report, found, seed)
    q = stats.false_discovery_control([e.p for e in tested.values()], method="bh") if tested else []
    names = []
    for (feature, evidence), value in zip(tested.items(), q, strict=True):
        earned = value <= false_names and evidence.precision >= least_precision and evidence.recall >= least_recall
        if earned:
            best, *others = found[feature]
            rival = next((c for c in others if not set(c.columns) <= set(best.columns)), None)
            names.append(
                Name(
                    feature=feature,
                    text=describe(report.columns.names, best.columns),
                    source="labels",
                    evidence=evidence.of_q(float(value)),
                    kind="precise" if evidence.precision >= PRECISE else "fair",
                    rival=None if rival is None else describe(report.columns.names, rival.columns),
                    rival_f1=None if rival is None else rival.f1,
                )
            )
    return Names(tuple(names), features.width, features.manifest.site if hasattr(features, "manifest") else "")


def describe(names: tuple[ColumnName, ...], conjunction: tuple[int, ...]) -> str:
    """`D3 is mine and E4 is empty`."""
    return " and ".join(str(names[column]) for column in conjunction)


def _tested(report: Half, found: dict[int, list[Candidate]], seed: int) -> dict[int, Evidence]:
    """Evidence for each feature's best candidate on rows that played no part in choosing it."""
    if not found:
        return {}
    chosen = list(found)
    masks = [holds(report.columns, found[feature][0].columns) for feature in chosen]
    positive = np.stack([mask for mask, _ in masks], 1)
    known = [mask for _, mask in masks if mask is not None]
    columns = Columns((), positive, np.stack(known, 1) if known else None)
    half = Half(sparse.csc_array(report.features[:, chosen]), columns, report.sequence)
    pairs = np.stack([np.arange(len(chosen))] * 2, 1)
    threshold = np.array([found[feature][0].threshold for feature in chosen])
    _, cluster = np.unique(report.sequence, return_inverse=True)
    sums = pair_sums(half, pairs, threshold, cluster)
    draws = drawn_figures(sums, seed)
    true, said, held = sums.sum(0).T
    p = _paired_p_values(half)
    out = {}
    for i, feature in enumerate(chosen):
        low = {name: _low(values[:, i]) for name, values in draws.items()}
        out[feature] = Evidence(
            precision=float(true[i] / said[i]) if said[i] else float("nan"),
            recall=float(true[i] / held[i]) if held[i] else float("nan"),
            f1=float(2 * true[i] / (said[i] + held[i])) if said[i] + held[i] else 0.0,
            precision_low=low["precision"],
            recall_low=low["recall"],
            threshold=float(threshold[i]),
            rows=int(said[i]),
            p=float(p[i]),
        )
    return out


def _low(draws: np.ndarray) -> float:
    known = draws[~np.isnan(draws)]
    return float(np.quantile(known, 0.025)) if len(known) else float("nan")


def _paired_p_values(half: Half) -> np.ndarray:
    """`[feature]` p-value of each feature with the column of the same number."""
    values = []
    for i in range(half.features.shape[1]):
        columns = half.columns
        one = Columns((), columns.positive[:, [i]], None if columns.defined is None else columns.defined[:, [i]])
        values.append(p_values(half.features[:, [i]], one, half.sequence)[0, 0])
    return np.array(values)
