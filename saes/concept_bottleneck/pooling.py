"""Features and activations of a whole sequence: the maximum, or the mean, over its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from probekit.activations import Activations
    from saes.features import SparseFeatures

Pool: TypeAlias = Literal["max", "mean"]


def pool_features(features: SparseFeatures, pool: Pool = "max") -> sparse.csr_array:
    """`[sequence, feature]` float32, sparse all the way; a sequence without rows has an empty row.

    Args:
        features: From `encode`; row i of the result is sequence i of the data set.
        pool: `"max"` (did the feature fire anywhere, and how strongly?) or `"mean"` over all rows of the sequence.

    Raises:
        ValueError: another way to pool.
    """
    sequence = features.sequence
    count = int(sequence.max(initial=-1)) + 1
    if pool == "mean":
        weight = 1 / np.bincount(sequence, minlength=count)[sequence]
        mean = sparse.csr_array((weight, (sequence, np.arange(len(sequence)))), shape=(count, len(sequence)))
        return sparse.csr_array(mean @ features.matrix, dtype=np.float32)
    if pool != "max":
        raise ValueError(f'pool must be "max" or "mean", got {pool!r}')
    fired = features.matrix.tocoo()
    owner, column, value = sequence[fired.row], fired.col.astype(np.int64), fired.data
    place = column * count + owner
    order = np.argsort(place, kind="stable")
    begins = np.flatnonzero(np.diff(place[order], prepend=-1))
    largest = np.maximum.reduceat(value[order], begins) if len(begins) else value
    first = order[begins]
    return sparse.csr_array((largest, (owner[first], column[first])), shape=(count, fired.shape[1]), dtype=np.float32)


def pool_activations(activations: Activations, site: str, pool: Pool) -> np.ndarray:
    """`[sequence, width]` float32, as `pool_features`; read in batches. A sequence without rows is zero."""
    sequence = activations.sequence
    count = int(sequence.max(initial=-1)) + 1
    join = np.maximum if pool == "max" else np.add
    total = np.full((count, activations.width(site)), -np.inf if pool == "max" else 0.0)
    for rows, values in activations.batches(site):
        order = np.argsort(sequence[rows], kind="stable")
        owner = sequence[rows][order]
        begins = np.flatnonzero(np.diff(owner, prepend=-1))
        at = owner[begins]
        total[at] = join(total[at], join.reduceat(values[order].astype(np.float64), begins))
    size = np.bincount(sequence, minlength=count)[:, None]
    pooled = np.where(size > 0, total if pool == "max" else total / np.maximum(size, 1), 0.0)
    return pooled.astype(np.float32)
