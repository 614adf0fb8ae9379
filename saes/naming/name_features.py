"""`name`: proposals from labels, a vocabulary and a language model, judged together on rows that made none of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from probekit.data import Dataset
from saes.features import SparseFeatures, encode
from saes.loading import check_features
from saes.naming.contexts import Contexts, Decode
from saes.naming.dictionary import propose_labels
from saes.naming.judging import controlled, judge, nearest_features
from saes.naming.names import Evidence, Name, Names
from saes.naming.proposals import Proposal
from saes.scoring.columns import Labels, check_same_data, class_label_sets, groups_of
from saes.scoring.feature_scores import halves

if TYPE_CHECKING:
    from probekit.activations import Activations
    from saes.naming.language_model import LanguageModel
    from saes.naming.vocabulary import Vocabulary

PRECISE = 0.95
"""Precision from which evidence is reported as of the class `precise` (Karvonen et al. 2024, board reconstruction)."""


def name(
    sae: Any,
    activations: Activations | SparseFeatures,
    labels: Labels | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    language_model: LanguageModel | None = None,
    decode: Decode | Any = None,
    groups: np.ndarray | None = None,
    least_precision: float = 0.8,
    least_recall: float = 0.2,
    least_accuracy: float = 0.7,
    false_names: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> Names:
    """Name features. Each source proposes names from one half of the sequences; the other half is the judge.

    A name is given when its association with the feature is beyond chance, with the share of false names among those given
    controlled over all features and candidates, and when it says enough: by the balanced accuracy with which its text alone tells
    firing rows from silent ones, a name from labels by its precision and recall, too, any other against hard silent rows, too
    (where the nearest features fire), and one from a language model by its fuzzing. Of several that earn it, the one that did best
    on the half it was made from is given. A feature that earns no name has none.

    Args:
        sae: A `sae_lens.SAE`.
        activations: A store, arrays, or the features already encoded.
        labels: Label sets of classes, or a data set with some: names are labels and conjunctions of up to three. A data set's
            groups are kept together, and a split of its own is kept to, also where it has no labels and other sources name.
        vocabulary: Words to name features with (see `Vocabulary`); needs `decode`.
        language_model: A model behind an endpoint that explains features (see `LanguageModel`); needs `decode`. A server that
            fails leaves features without a name from it and says so in a warning and in `notes`.
        decode: A tokenizer, a model that has one, or a function from token ids to their texts.
        groups: `[sequence]` of any values: sequences of one group are never in both halves, and intervals and p-values are of
            groups. A data set given as labels brings its own.
        least_precision: Of a name from labels: of the rows where the feature fires, the share that the name must cover.
        least_recall: Of a name from labels: of the rows the name covers, the share where the feature must fire.
        least_accuracy: What the balanced accuracy of a name from labels, and the `strictest_accuracy` of any other, must reach;
            a name that says nothing scores 0.5.
        false_names: Expected share, at most, of names with no association at all among the names given (Benjamini and Hochberg's
            rule over all features and candidates; see `Evidence.q`).
        seed: Of the halving of the sequences, of the bootstrap and of the shuffled names.
        progress: Whether to draw bars (on stderr, where it is a terminal).

    Raises:
        ValueError: no source of names; labels of other data; features of another SAE; too few sequences; no feature that ever fires.
        ConnectionError: nothing answers where the language model should be, and no answer is kept.
    """
    data = labels if isinstance(labels, Dataset) else None
    if data is not None and not class_label_sets(data):
        labels = None
    if labels is None and vocabulary is None and language_model is None:
        raise ValueError("nothing to name features with: give labels, a vocabulary or a language model")
    if decode is None and (vocabulary is not None or language_model is not None):
        source = "a language model" if vocabulary is None else "a vocabulary"
        raise ValueError(f"{source} names features by the texts around them: give decode= (a tokenizer or a model)")
    features = cast("SparseFeatures", activations if hasattr(activations, "matrix") else encode(sae, activations))
    check_features(sae, features)
    if data is not None and labels is None:
        check_same_data(data, features)
        groups_of(features, data, groups)  # refuses groups= beside those of the data set
        choose, report, _ = halves(features, None, seed, data.groups, data.split)
    else:
        choose, report, _ = halves(features, labels, seed, groups)
    neighbours = nearest_features(sae)
    contexts = Contexts(features, decode) if vocabulary is not None or language_model is not None else None
    proposals: list[Proposal] = []
    explained: list[Proposal] = []
    notes: list[str] = []
    if language_model is not None and contexts is not None:  # first, as a server that is not there is said at once
        explained, notes = language_model.propose(choose, report, features, contexts, neighbours, seed=seed)
    if labels is not None:
        proposals += propose_labels(choose, report, progress)
    if vocabulary is not None and contexts is not None:
        proposals += vocabulary.propose(sae, choose, report, contexts, neighbours, seed=seed, progress=progress)
    proposals += explained
    evidence = judge(report, [proposal.claim for proposal in proposals], neighbours, seed=seed)
    evidence = [replace(found, **one.measured) for one, found in zip(proposals, evidence, strict=True)]

    def says_enough(proposal: Proposal, found: Evidence) -> bool:
        if proposal.source != "labels":
            return found.strictest_accuracy >= least_accuracy
        least = (least_precision, least_recall, least_accuracy)
        figures = (found.precision, found.recall, found.balanced_accuracy)
        return all(figure >= asked for figure, asked in zip(figures, least, strict=True))

    q = controlled(
        np.array([found.p for found in evidence]),
        np.array([says_enough(*pair) for pair in zip(proposals, evidence, strict=True)], bool),
        np.array([proposal.claim.feature for proposal in proposals], int),
    )
    earned = [
        _name(proposals[i], replace(evidence[i], q=float(q[i])))
        for i in sorted(np.flatnonzero(q <= false_names), key=lambda i: -proposals[i].merit)
    ]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return Names(
        _first_of_each(earned),
        features.width,
        site_of_features(features),
        tuple(notes),
        seed,
        _halved(data, groups),
        report.name,
    )


def _halved(data: Dataset | None, groups: np.ndarray | None) -> str:
    if data is not None:
        return "groups" if data.split is None else "split"
    return "sequences" if groups is None else "groups"


def site_of_features(features: Any) -> str:
    return str(features.manifest.site) if hasattr(features, "manifest") else ""


def _name(proposal: Proposal, evidence: Evidence) -> Name:
    return Name(
        feature=proposal.claim.feature,
        text=proposal.text,
        source=proposal.source,
        kind="precise" if evidence.precision >= PRECISE else "fair",
        evidence=evidence,
        merit=proposal.merit,
        rival=proposal.rival,
        rival_merit=proposal.rival_merit,
    )


def _first_of_each(names: Iterable[Name]) -> tuple[Name, ...]:
    """The first name of each feature, in order of features."""
    found: dict[int, Name] = {}
    for one in names:
        found.setdefault(one.feature, one)
    return tuple(found[feature] for feature in sorted(found))
