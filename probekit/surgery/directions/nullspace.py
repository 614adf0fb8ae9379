"""`inlp`: iterative nullspace projection, an eraser by taking out what one probe after another reads."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from probekit.activations import Activations
from probekit.data import drop_seen_prefixes, split_items
from probekit.probes.base import LinearProbe
from probekit.probes.controls import majority_log_proba
from probekit.probes.direction import model_of, row_mask
from probekit.probes.intervals import bootstrap, cluster_counts
from probekit.probes.logistic import LogisticProbe
from probekit.probes.metrics import Predictions, metrics_for
from probekit.probes.ridge import RidgeProbe
from probekit.surgery.directions.erasers import Eraser
from probekit.surgery.directions.labelled import Labelled, Labels, data_of, group_of_rows
from probekit.surgery.edits.affine import AffineMap

HELD_OUT = 0.3  # share of the rows
DRAWS = 1000


def inlp(
    activations: Activations,
    labels: Labels,
    *,
    site: str,
    rounds: int = 8,
    target: int | str = 0,
    groups: object = None,
    rows: np.ndarray | None = None,
    probe: LinearProbe | None = None,
    seed: int = 0,
) -> Eraser:
    """Iterative nullspace projection: fit a probe, project out what it reads, and again, until a probe is no better than guessing.

    Each round takes out one dimension (with several classes, one less than there are; the mean of the activations stays). It
    stops when the score on held-out sequences is within the 95 % interval of always guessing the commonest class of training
    (of the mean, where labels are continuous). Unlike `leace` it promises nothing of other probes, takes out more dimensions,
    and needs the rows in memory.

    Source: Ravfogel et al. 2020, "Null It Out: Guarding Protected Attributes by Iterative Nullspace Projection" (arXiv
    2004.07667), algorithm 1.

    Args:
        activations: A store, or `ArrayActivations`.
        labels: A label set of the data, or a value for each row. Rows without a label are left out.
        site: Where.
        rounds: The most.
        target: Name or index of the label set's target.
        groups: `[sequence]` of any values; a group is either fitted on or held out. Left out, every sequence is one.
        rows: `[row]` bool mask; all if left out.
        probe: What is fitted; a `LogisticProbe`, or a `RidgeProbe` for continuous labels, if left out.
        seed: Of the split and the interval.

    Returns:
        An eraser whose provenance has the held-out `scores`, before the first round and after each, and that of `guessing`
        with its interval.

    Raises:
        KeyError: no such site or target.
        ValueError: one class only, too few groups to hold some out.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    labelled = Labelled.of(activations, labels).target(target)
    chosen = np.flatnonzero(row_mask(activations, rows) & labelled.defined())
    values, group = labelled.values[chosen, 0], group_of_rows(activations, groups)[chosen]
    if len(np.unique(values)) < 2:
        raise ValueError(
            f"target {labelled.targets[0]!r} shows one class or value only in these rows: nothing to erase"
        )
    names, sequence = np.unique(group, return_inverse=True)
    split = split_items(sequence, np.arange(len(names)), seed, (1 - HELD_OUT, 0.0, HELD_OUT))
    train, test = split.train, split.test
    prefix = activations.prefix[chosen]
    test = test[drop_seen_prefixes(prefix[train], prefix[test])]
    if not len(test) or len(np.unique(values[train])) < 2:
        raise ValueError(
            f"{len(names)} groups of sequences cannot be split into some to fit on, with every class, and some to hold out: "
            "give more sequences, or another seed"
        )
    continuous = labelled.kind == "continuous"
    fitting = probe or (RidgeProbe(kind="continuous") if continuous else LogisticProbe())
    guess, low, high = _guessing(values, train, test, sequence, len(labelled.classes), seed)
    limit = max(high, 0.0) if continuous else high
    X = torch.from_numpy(activations.read(site, chosen))
    mean = X[torch.from_numpy(train)].mean(0, dtype=torch.float64)
    left = torch.eye(
        X.shape[1], dtype=torch.float64
    )  # [d, dimensions left]: the probes see coordinates along its columns
    taken: list[Tensor] = []
    scores: list[float] = []
    for done in range(rounds + 1):
        seen = (X @ left.to(X.dtype)) if done else X
        fitted = type(fitting)(**fitting.get_params()).fit(seen[train], values[train])
        scores.append(float(fitted.score(seen[test], values[test])))
        if scores[-1] <= limit or done == rounds:
            break
        read = _span(torch.from_numpy(fitted.coef_).double())  # [dimensions left, k]
        taken.append(left @ read)
        left = left @ torch.linalg.qr(read, mode="complete")[0][:, read.shape[1] :]
        if not left.shape[1]:
            break
    basis = torch.linalg.qr(torch.cat(taken, 1))[0] if taken else torch.zeros(X.shape[1], 0, dtype=torch.float64)
    reached = scores[-1] <= limit
    _warn(labelled.targets[0], site, scores, limit, reached)
    provenance: dict[str, object] = {
        "method": "INLP",
        "label_set": labelled.name,
        "target": labelled.targets[0],
        "classes": list(labelled.classes),
        "metric": metrics_for(labelled.kind)[0].name,
        "scores": scores,
        "guessing": guess,
        "guessing_interval": [low, high],
        "reached": reached,
        "rounds": len(taken),
        "rank": basis.shape[1],
        "rows": len(train),
        "held_out": len(test),
        "probe": repr(fitting),
        "seed": seed,
        "data": data_of(activations),
    }
    change = AffineMap.replace_coordinates(basis, basis.T @ mean)
    return Eraser(change, site, model_of(activations), provenance)


def _guessing(
    values: np.ndarray, train: np.ndarray, test: np.ndarray, group: np.ndarray, classes: int, seed: int
) -> tuple[float, float, float]:
    """Held-out score of the commonest class (or the mean) of training, and its 95 % interval by groups."""
    truth = values[test][:, None]
    if classes:
        said = majority_log_proba(values[train][:, None], classes)
        predictions = Predictions.of_classes(np.broadcast_to(said, (len(test), *said.shape)).copy(), truth)
    else:
        predictions = Predictions.of_values(np.full(truth.shape, values[train].mean()), truth)
    cluster = np.unique(group[test], return_inverse=True)[1]
    metric = metrics_for("multiclass" if classes else "continuous")[0]
    counts = cluster_counts(int(cluster.max()) + 1, DRAWS, seed)
    found = bootstrap(metric, predictions, torch.from_numpy(cluster), counts)
    low, high = found.interval()
    return float(found.value[0]), float(low[0]), float(high[0])


def _span(weights: Tensor) -> Tensor:
    """Orthonormal columns `[d, k]` of what weights `[output, d]` tell classes apart by."""
    if len(weights) > 1:
        weights = weights - weights.mean(0)
    _, sizes, vectors = torch.linalg.svd(weights, full_matrices=False)
    return vectors[sizes > 1e-6 * sizes[0]].T


def _warn(target: str, site: str, scores: list[float], limit: float, reached: bool) -> None:
    if reached and len(scores) == 1:
        warnings.warn(
            f"{target!r} is not read at {site} better than by guessing ({scores[0]:.3f}): nothing is erased",
            stacklevel=3,
        )
    elif not reached:
        warnings.warn(
            f"after {len(scores) - 1} rounds {target!r} is still read at {site}: {scores[-1]:.3f}, guessing reaches "
            f"{limit:.3f}; give more rounds, or use leace",
            stacklevel=3,
        )
