"""`Moments`: what ridge, LDA and difference in means need of the data, summed in one pass with nothing stored."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from probekit.activations.plan import make_plan
from probekit.activations.progress import Bar, Estimate
from probekit.activations.source import Activations
from probekit.activations.stream import computing_dtype, names_of_sites, run_batch, stream_of, warn_of_cut
from probekit.data import Dataset, LabelSet, as_dataset

if TYPE_CHECKING:
    from probekit.models import Model


class Moments:
    """Sums over rows of activations X and labels Y, in float64, that closed-form probes are solved from.

    Every field is a plain sum over rows, so two `Moments` of disjoint rows merge by adding, in any order, and the
    result is that of one pass over all rows (up to float64 rounding, about 1e-15 of each sum).

    Class labels enter as indicators: an indicator's sum is the number of examples of the class, and its product with
    X is the sum of the class's activations. Continuous labels enter as they are. `k` below is the number of classes,
    or 1 for continuous labels.

    Args:
        width: d, the number of activation dimensions.
        targets: t, the number of label columns.
        classes: How many classes each target has; 0 for continuous labels.

    Attributes:
        n: Number of rows summed.
        left_out: Number of rows left out because a label of theirs is not defined (-1, or NaN). One undefined target
            leaves out the row for all targets, because X^T X is shared between them: make separate `Moments` for
            targets that are defined on different rows.
        x_sum: `[d]` sum of X.
        xx: `[d, d]` X^T X, not centred.
        y_sum: `[t, k]` sum of Y: the class counts, or the sum of each continuous target.
        yy: `[t, k]` sum of Y^2 (for classes the same as `y_sum`).
        xy: `[t, k, d]` Y^T X: the sum of X over each class, or the product with each continuous target.
    """

    def __init__(self, width: int, targets: int = 1, classes: int = 0) -> None:
        if width < 1 or targets < 1 or classes < 0 or classes == 1:
            raise ValueError(
                f"Moments needs width >= 1, targets >= 1 and classes 0 (continuous) or >= 2; "
                f"got width={width}, targets={targets}, classes={classes}"
            )
        k = classes or 1
        self.classes = classes
        self.n = 0
        self.left_out = 0
        self.x_sum = np.zeros(width)
        self.xx = np.zeros((width, width))
        self.y_sum = np.zeros((targets, k))
        self.yy = np.zeros((targets, k))
        self.xy = np.zeros((targets, k, width))

    def update(self, X: np.ndarray, Y: np.ndarray) -> Moments:
        """Add rows.

        Args:
            X: `[n, d]` activations of any float dtype; summed in float64.
            Y: `[n]` or `[n, t]`: integer class indices (-1 where not defined) if the `Moments` has classes, otherwise
                floats (NaN where not defined).

        Raises:
            ValueError: shapes or class indices do not fit, or X is not finite.
        """
        X = np.asarray(X)
        Y = np.asarray(Y)
        Y = Y[:, None] if Y.ndim == 1 else Y
        targets, _, width = self.xy.shape
        if X.ndim != 2 or X.shape[1] != width or Y.shape != (len(X), targets):
            raise ValueError(f"Moments of width {width} and {targets} targets got X {X.shape} and Y {Y.shape}")
        if self.classes and not np.issubdtype(Y.dtype, np.integer):
            raise ValueError(f"these Moments have {self.classes} classes, so Y must be integer indices, got {Y.dtype}")
        defined = (Y >= 0 if self.classes else ~np.isnan(Y)).all(axis=1)
        if self.classes and len(Y) and Y.max() >= self.classes:
            raise ValueError(f"class index {Y.max()} in Y, but these Moments have {self.classes} classes")
        if not defined.all():
            X, Y = X[defined], Y[defined]
            self.left_out += int((~defined).sum())
        if not len(X):
            return self
        X = X.astype(np.float64)
        sums = X.sum(axis=0)
        if not np.isfinite(sums).all():
            rows = np.flatnonzero(~np.isfinite(X).all(axis=1))
            raise ValueError(f"activations are not finite in rows {rows[:5].tolist()} of this batch")
        # [n, t, k]: an indicator a class, or the value itself.
        Z = (Y[:, :, None] == np.arange(self.classes) if self.classes else Y[:, :, None]).astype(np.float64)
        self.n += len(X)
        self.x_sum += sums
        self.xx += X.T @ X
        self.y_sum += Z.sum(axis=0)
        self.yy += (Z**2).sum(axis=0)
        self.xy += (Z.reshape(len(X), -1).T @ X).reshape(self.xy.shape)
        return self

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows, as a new object."""
        if self.xy.shape != other.xy.shape or self.classes != other.classes:
            raise ValueError(
                f"cannot merge moments of shape [target, class, width] {self.xy.shape} and {other.xy.shape}"
            )
        targets, _, width = self.xy.shape
        both = Moments(width, targets, self.classes)
        for field in ("n", "left_out", "x_sum", "xx", "y_sum", "yy", "xy"):
            setattr(both, field, getattr(self, field) + getattr(other, field))
        return both

    def mean(self) -> np.ndarray:
        """`[d]` mean of X."""
        self._need_rows()
        return self.x_sum / self.n

    def covariance(self) -> np.ndarray:
        """`[d, d]` covariance of X, divided by n."""
        mean = self.mean()
        return self.xx / self.n - np.outer(mean, mean)

    def cross_covariance(self) -> np.ndarray:
        """`[t, k, d]` covariance of each class indicator, or each continuous target, with X, divided by n."""
        covariance: np.ndarray = self.xy / self.n - (self.y_sum / self.n)[:, :, None] * self.mean()
        return covariance

    def class_means(self) -> np.ndarray:
        """`[t, k, d]` mean of X over each class; NaN for a class with no example."""
        if not self.classes:
            raise ValueError("these Moments are of continuous labels: there are no classes to average over")
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.xy / self.y_sum[:, :, None]

    def within_covariance(self, target: int = 0) -> np.ndarray:
        """`[d, d]` pooled covariance of X about its class mean, divided by n: what LDA whitens with."""
        means = self.class_means()[target]
        counts = self.y_sum[target]
        seen = counts > 0
        self._need_rows()
        within: np.ndarray = (self.xx - (means[seen].T * counts[seen]) @ means[seen]) / self.n
        return within

    def _need_rows(self) -> None:
        if not self.n:
            raise ValueError(f"these Moments hold no rows ({self.left_out} were left out for an undefined label)")


def capture_moments(
    model: Model,
    data: Dataset | Sequence[str] | Sequence[np.ndarray],
    labels: LabelSet | str,
    sites: Sequence[str] | str | None = None,
    *,
    pool: str = "all",
    every: int = 1,
    rows: np.ndarray | None = None,
    compute_dtype: str | None = None,
    token_budget: int = 8192,
    progress: bool = True,
) -> dict[str, Moments]:
    """Run the model over the data once and sum `Moments` at every site; no activation is kept.

    For train, valid and test moments call it three times with `rows`: sequences of which nothing is kept are not run,
    so together they are still one pass.

    Args:
        labels: A label set, or the name of one of the data set.
        model, data, sites, pool, every, rows, compute_dtype, token_budget, progress: As in `capture`.
    """
    dataset = as_dataset(data)
    targets = dataset.label_set(labels) if isinstance(labels, str) else labels
    names = names_of_sites(sites, stream_of(model))
    widths = {name: int(model.site(name).width) for name in names}
    computing = computing_dtype(compute_dtype, model)
    row_bytes = sum(widths.values()) * 4
    plan = make_plan(model, dataset, pool, every, rows, token_budget, row_bytes, row_bytes)
    warn_of_cut(plan, model)
    item = plan.index["item" if targets.level == "token" else "sequence"]
    sums = {name: Moments(widths[name], targets.values.shape[1], len(targets.classes)) for name in names}
    total, _ = plan.totals()
    most = max(plan.padded_tokens(batch) for shard in plan.batches for batch in shard)
    memory = most * max(widths.values()) * 12 + sum(s.xx.nbytes + s.xy.nbytes for s in sums.values())

    def add(Y: np.ndarray, site: str, values: torch.Tensor) -> None:
        try:
            sums[site].update(values.float().cpu().numpy(), Y)
        except ValueError as error:
            raise ValueError(f"site {site}: {error}") from error

    bar = Bar(progress, total, f"moments of {plan.rows:,} rows at {len(names)} sites of {model.name}")
    bar.announce(Estimate(memory, 0), None)
    try:
        for batch in [batch for shard in plan.batches for batch in shard]:
            began, tokens = time.perf_counter(), plan.padded_tokens(batch)
            of_rows = targets.values[item[plan.rows_of(batch)]]
            run_batch(model, plan, batch, names, computing, functools.partial(add, of_rows))
            bar.time((time.perf_counter() - began) / tokens * total)
            bar.advance(tokens)
    finally:
        bar.close()
    return sums


def moments_of(
    activations: Activations,
    labels: LabelSet,
    sites: Sequence[str] | str | None = None,
    rows: np.ndarray | None = None,
) -> dict[str, Moments]:
    """`Moments` at every site of captured activations, read a batch at a time.

    Args:
        activations: A store, or `ArrayActivations`.
        labels: A label set of the data the activations are of.
        sites: Names of sites; all if left out.
        rows: Mask over the rows, or None for all.
    """
    names = list(dict.fromkeys([sites] if isinstance(sites, str) else sites or activations.sites))
    item = activations.item if labels.level == "token" else activations.sequence
    kept = np.ones(len(activations), dtype=bool) if rows is None else np.asarray(rows)
    if kept.dtype != bool or kept.shape != (len(activations),):
        raise ValueError(f"rows must be a mask of {len(activations)} booleans, got {kept.dtype} {kept.shape}")
    if item.max() >= len(labels):
        raise ValueError(
            f"label set {labels.name!r} has {len(labels)} items, but the activations refer to {item.max()}"
        )
    sums = {}
    for name in names:
        sums[name] = Moments(activations.width(name), labels.values.shape[1], len(labels.classes))
        for part, values in activations.batches(name):
            some = kept[part]
            if some.any():
                sums[name].update(values[some], labels.values[item[part][some]])
    return sums
