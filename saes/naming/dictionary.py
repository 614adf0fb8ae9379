"""Names from a label dictionary: a label, or a conjunction of up to three, that says when a feature fires."""

from __future__ import annotations

from functools import partial

import numpy as np

from saes.naming.judging import Claim, firing_rows
from saes.naming.proposals import Proposal
from saes.progress import tracked
from saes.scoring.columns import ColumnName
from saes.scoring.conjunctions import Candidate, Search, holds
from saes.scoring.feature_scores import Half
from saes.scoring.scores import rank


def propose_labels(choose: Half, report: Half, progress: bool = False) -> list[Proposal]:
    """The conjunction of one to three labels that describes each feature best, with its threshold.

    Args:
        choose: Rows to search on, with labels.
        report: Rows that the proposals will be judged on.

    Returns:
        One a feature that any label describes; the rival is the best conjunction that is no part of it.
    """
    ranking = rank(choose.features, choose.columns)
    search = Search(choose.features, choose.columns)
    proposals = []
    for feature in tracked(range(choose.features.shape[1]), "names from labels", progress):
        starts = np.argsort(-ranking.f1[feature], kind="stable")
        candidates = search.of(feature, starts[ranking.f1[feature, starts] > 0])
        if not candidates:
            continue
        best, *others = candidates
        rival = next((c for c in others if not set(c.columns) <= set(best.columns)), None)
        proposals.append(
            Proposal(
                claim=Claim(feature, best.threshold, partial(holds, report.columns, best.columns)),
                text=describe(report.columns.names, best.columns),
                source="labels",
                merit=_accuracy(choose, feature, best),
                rival=None if rival is None else describe(report.columns.names, rival.columns),
                rival_merit=None if rival is None else _accuracy(choose, feature, rival),
            )
        )
    return proposals


def _accuracy(half: Half, feature: int, candidate: Candidate) -> float:
    """Balanced accuracy of the candidate at its own threshold: the measure that names of other sources are compared by."""
    said, known = holds(half.columns, candidate.columns)
    known = np.ones(len(said), bool) if known is None else known
    fires = np.zeros(len(said), bool)
    fires[firing_rows(half, feature, candidate.threshold)] = True
    firing, silent = said[fires & known], said[~fires & known]
    return float((firing.mean() + 1 - silent.mean()) / 2) if len(firing) and len(silent) else 0.5


def describe(names: tuple[ColumnName, ...], conjunction: tuple[int, ...]) -> str:
    """`D3 is mine and E4 is empty`."""
    return " and ".join(str(names[column]) for column in conjunction)
