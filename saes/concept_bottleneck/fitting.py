"""`bottleneck`: a class read from a few named features by a sparse linear head, beside the dense probe and controls."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from probekit.data import split_items
from probekit.probes import LogisticProbe, fit_grid
from probekit.probes.controls import majority_log_proba, shuffle_labels
from probekit.probes.intervals import Estimate, bootstrap, cluster_counts
from probekit.probes.metrics import CLASS_METRICS, Predictions
from saes.concept_bottleneck.concepts import Utility, choose_concepts, class_separation, squared_correlation
from saes.concept_bottleneck.items import Items, items_of
from saes.concept_bottleneck.pooling import Pool, pool_activations, pool_features
from saes.concept_bottleneck.result import CONCEPTS, Bottleneck, Head
from saes.naming.names import Names
from saes.scoring.parts import draw_parts

if TYPE_CHECKING:
    from probekit.activations import Activations
    from probekit.data import Dataset, LabelSet
    from saes.features import SparseFeatures

GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse penalties of the heads (L1)."""
DENSE_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse penalties of the dense probe (L2)."""
CANDIDATES = 1024
"""Concepts are chosen from so many named features at most, those that tell the classes best one by one."""
RANDOM_DRAWS = 3
_METRICS = tuple(m for m in CLASS_METRICS if m.name in ("accuracy", "balanced_accuracy", "auroc"))


def bottleneck(
    features: SparseFeatures,
    labels: LabelSet | Dataset,
    names: Names | Mapping[int, str] | None = None,
    *,
    pool: Pool = "max",
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128),
    activations: Activations | None = None,
    groups: np.ndarray | None = None,
    diversity: float = 0.5,
    max_items: int = 20_000,
    n_boot: int = 1000,
    seed: int = 0,
) -> Bottleneck:
    """Predict a label from few named features, chosen to tell the classes and not to repeat each other.

    Sequences are split 60 / 20 / 20 into train, valid and test. On train, concepts are chosen (see `saes.concepts`) and
    L1-penalised logistic regressions fitted on the first 1, 2, 4, ... of them; on valid, the penalties and the number of
    concepts are chosen; figures are of test, without items whose whole input also occurs in the other parts.

    Source: Discover-then-Name (Rao et al. 2024, arXiv 2407.14499) for named SAE features under a sparse linear head;
    LaBo (Yang et al. 2023, arXiv 2211.11158) for the choice of concepts.

    Args:
        features: From `encode`.
        labels: One label set of classes with one target, or a data set that has one such (whose groups and split then
            hold). Of sequences: features are pooled over each sequence's rows. Of tokens: every row is an item. Items
            whose label is not defined are left out.
        names: What features are called: from `saes.name`, or texts by number. Only named features may
            be concepts. Left out, every feature is called by its number.
        pool: `"max"` or `"mean"` over the rows of a sequence.
        counts: Numbers of concepts. Those above the number of usable features become that number.
        activations: What the features were encoded from, for the dense probe: logistic regression (L2) on the same
            items, pooled by whichever of maximum and mean has the lower loss on valid.
        groups: `[sequence]` integers, sequences that must stay in one part; a data set brings its own.
        diversity: Weight of diversity against telling the classes one by one, from 0 to 1.
        max_items: Training items at most (validation a quarter, test half as many), drawn at random.
        n_boot: Bootstrap draws, over groups.
        seed: Of the split, the items drawn, the controls and the bootstrap.

    Raises:
        TypeError: labels of another type.
        ValueError: labels of other data, continuous, of several targets, or that show a class in too few groups; no name,
            or none of a feature that fires; names or activations of another SAE or store; counts below 1.
    """
    wanted = sorted(set(counts))
    if not wanted or wanted[0] < 1:
        raise ValueError(f"counts must be numbers of concepts of at least 1, got {list(counts)}")
    items = items_of(features, labels, groups)
    classes = items.labels.classes
    parts = _parts(items, max_items, seed)
    y = {name: items.y[rows] for name, rows in parts.items()}
    matrix = features.matrix if items.labels.level == "token" else pool_features(features, pool)
    rows_of = matrix.tocsr()
    x = {name: sparse.csc_array(rows_of[items.index[rows]]) for name, rows in parts.items()}
    named = _named(names, features)
    usable = np.array(sorted(named), np.int64)
    usable = usable[_varies(x["train"][:, usable])]
    if not len(usable):
        raise ValueError(
            f"none of the {len(named):,} named features changes over the {len(y['train']):,} training items: name "
            "features that fire on this data"
        )
    x = {name: part[:, usable] for name, part in x.items()}
    counts = sorted({min(count, len(usable)) for count in wanted})
    scorer = _Scorer(y["test"], items.group[parts["test"]], n_boot, seed)

    order = _ordered(x["train"], y["train"], len(classes), counts[-1], diversity)
    fitted = {count: _fitted(x, y, order[:count], classes) for count in counts}
    found = {(CONCEPTS, count): scorer.of(fit.test) for count, fit in fitted.items()}
    fake = y | {name: _shuffled(items, parts[name], seed) for name in ("train", "valid")}
    order_of_fake = _ordered(x["train"], fake["train"], len(classes), counts[-1], diversity)
    rng = np.random.default_rng([seed, 0xC0CE])
    drawn = [rng.permutation(len(usable)) for _ in range(RANDOM_DRAWS)]
    for count in counts:
        at_random = [scorer.of(_fitted(x, y, one[:count], classes).test) for one in drawn]
        found["random", count] = {m.name: _mean([one[m.name] for one in at_random]) for m in _METRICS}
        found["shuffled", count] = scorer.of(_fitted(x, fake, order_of_fake[:count], classes).test)
    found["majority", 0] = scorer.of(
        np.tile(majority_log_proba(y["train"][:, None], len(classes)), (len(y["test"]), 1))
    )
    if activations is not None:
        found["dense", 0] = scorer.of(_dense(activations, features, items, parts, y))

    chosen = x["train"][:, order]
    mean, squares = (np.asarray(v.mean(0)).ravel() for v in (chosen, chosen.multiply(chosen)))
    return Bottleneck(
        label_set=items.labels.name,
        classes=classes,
        features=usable[order],
        names=tuple(named[int(feature)] for feature in usable[order]),
        fires=np.diff(chosen.indptr) / chosen.shape[0],
        spread=np.sqrt(np.maximum(squares - mean**2, 0)).astype(np.float64),
        heads={count: fit.head for count, fit in fitted.items()},
        count=_fewest(fitted, items.group[parts["valid"]]),
        level=items.labels.level,
        pool=pool,
        width=features.width,
        estimates=found,
        parts={name: items.index[rows] for name, rows in parts.items()},
    )


def _parts(items: Items, max_items: int, seed: int) -> dict[str, np.ndarray]:
    """Positions among the items of each part."""
    split = split_items(items.sequence, items.groups, seed, given=items.split)
    parts = draw_parts(split, items.prefix, max_items, np.random.default_rng([seed, 0xB077]))
    for name, rows in parts.items():
        if not len(rows):
            raise ValueError(
                f"no items are left for {name}: {len(items):,} items with a label are too few or all alike"
            )
    classes, shown = items.labels.classes, np.unique(items.y[parts["train"]])
    lacking = [name for i, name in enumerate(classes) if i not in shown]
    if lacking:
        raise ValueError(
            f"label {items.labels.name!r}: no training item is of class {', '.join(map(repr, lacking))} "
            f"(of {len(parts['train']):,}): use another seed, merge rare classes, or leave the class out of the label set"
        )
    return parts


def _named(names: Names | Mapping[int, str] | None, features: SparseFeatures) -> dict[int, str]:
    """Text of each feature that may be a concept."""
    if names is None:
        return {feature: f"feature {feature}" for feature in range(features.width)}
    if isinstance(names, Names):
        if names.width != features.width:
            raise ValueError(
                f"the names are of an SAE with {names.width:,} features, not of this with {features.width:,}"
            )
        found = {name.feature: name.text for name in names}
    else:
        found = {int(feature): str(text) for feature, text in names.items()}
    if not found:
        raise ValueError("there are no names: name features first, or leave names out to use all features by number")
    outside = [feature for feature in found if not 0 <= feature < features.width]
    blank = [feature for feature, text in found.items() if not text.strip()]
    if outside:
        raise ValueError(f"names of features {outside[:5]}, but the SAE has features 0 to {features.width - 1}")
    if blank:
        raise ValueError(f"the names of features {blank[:5]} are empty: leave such features out")
    return found


def _varies(x: sparse.csc_array) -> np.ndarray:
    """`[feature]` bool."""
    largest, least = (np.asarray(v.toarray()).ravel() for v in (x.max(0), x.min(0)))
    varies: np.ndarray = largest > least
    return varies


def _ordered(x: sparse.csc_array, y: np.ndarray, classes: int, count: int, diversity: float) -> np.ndarray:
    """`[count]` columns of `x`, in the order chosen."""
    scores = class_separation(x, y, classes)
    candidates = np.sort(np.argsort(-scores, kind="stable")[: max(CANDIDATES, count)])
    utility = Utility(scores[candidates], squared_correlation(x[:, candidates]), diversity)
    order: np.ndarray = candidates[choose_concepts(utility, count)]
    return order


@dataclass(frozen=True)
class _Fit:
    """A head, its log-loss on each validation item, and its log-probabilities `[item, class]` on test."""

    head: Head
    valid_loss: np.ndarray
    test: np.ndarray


def _fitted(
    x: Mapping[str, sparse.csc_array], y: Mapping[str, np.ndarray], columns: np.ndarray, classes: tuple[str, ...]
) -> _Fit:
    dense = {name: torch.from_numpy(part[:, columns].toarray()) for name, part in x.items()}
    stack = _chosen_on_valid(LogisticProbe(penalty="l1"), GRID, dense, y, classes)
    log_proba = stack.log_proba(dense["valid"])[:, 0].double().numpy()
    return _Fit(
        head=Head(stack.coef[0].double().numpy(), stack.intercept[0].double().numpy(), float(stack.chosen[0])),
        valid_loss=-log_proba[np.arange(len(log_proba)), y["valid"]],
        test=stack.log_proba(dense["test"])[:, 0].double().numpy(),
    )


def _chosen_on_valid(
    probe: LogisticProbe,
    grid: Sequence[float],
    x: Mapping[str, Any],
    y: Mapping[str, np.ndarray],
    classes: tuple[str, ...],
) -> Any:
    """The probes of a grid of penalties with the least loss on validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a head that is given up early has a worse loss on validation
        stack = fit_grid(probe, x["train"], y["train"][:, None].astype(np.int64), grid, classes=classes)
    return stack.select(stack.loss(x["valid"], y["valid"][:, None].astype(np.int64)).argmin(0))


def _fewest(fitted: Mapping[int, _Fit], group: np.ndarray) -> int:
    """The fewest concepts whose loss on validation is within one standard error (over groups) of the least."""
    loss = {count: float(fit.valid_loss.mean()) for count, fit in fitted.items()}
    best = min(loss, key=lambda count: loss[count])
    _, cluster = np.unique(group, return_inverse=True)
    error = np.sqrt((np.bincount(cluster, fitted[best].valid_loss - loss[best]) ** 2).sum()) / len(group)
    return min(count for count, value in loss.items() if value <= loss[best] + error)


def _shuffled(items: Items, rows: np.ndarray, seed: int) -> np.ndarray:
    token = items.labels.level == "token"
    shuffled: np.ndarray = shuffle_labels(items.y[rows, None], items.sequence[rows] if token else rows, seed)[:, 0]
    return shuffled


def _dense(
    activations: Activations,
    features: SparseFeatures,
    items: Items,
    parts: Mapping[str, np.ndarray],
    y: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Log-probabilities `[item, class]` on test of the dense probe that is better on validation, of those pooled by maximum
    and by mean."""
    site = features.manifest.site
    if not np.array_equal(activations.sequence, features.sequence):
        raise ValueError(
            f"the activations ({len(activations):,} rows) are not those the features ({len(features.sequence):,} rows) were "
            "encoded from: pass the store that was given to encode"
        )
    if items.labels.level == "token":
        read = [{name: activations.read(site, items.index[rows]) for name, rows in parts.items()}]
    else:
        pools: tuple[Pool, ...] = ("max", "mean")
        pooled = [pool_activations(activations, site, pool) for pool in pools]
        read = [{name: values[items.index[rows]] for name, rows in parts.items()} for values in pooled]
    stacks = [_chosen_on_valid(LogisticProbe(), DENSE_GRID, x, y, items.labels.classes) for x in read]
    losses = [
        float(s.loss(x["valid"], y["valid"][:, None].astype(np.int64))[0]) for s, x in zip(stacks, read, strict=True)
    ]
    best = int(np.argmin(losses))
    found: np.ndarray = stacks[best].log_proba(read[best]["test"])[:, 0].double().numpy()
    return found


class _Scorer:
    """Figures of test items, all with the same bootstrap draws."""

    def __init__(self, y: np.ndarray, group: np.ndarray, n_boot: int, seed: int) -> None:
        self._y, self._cluster = y, torch.from_numpy(np.unique(group, return_inverse=True)[1])
        self._counts = cluster_counts(int(self._cluster.max()) + 1, n_boot, seed)

    def of(self, log_proba: np.ndarray) -> dict[str, Estimate]:
        said = Predictions.of_classes(log_proba, self._y)
        return {metric.name: bootstrap(metric, said, self._cluster, self._counts) for metric in _METRICS}


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Of several bottlenecks, on the same draws of test items."""
    value, draws = (np.mean([getattr(e, name) for e in estimates], axis=0) for name in ("value", "draws"))
    return Estimate(estimates[0].metric, value, draws, estimates[0].clusters)
