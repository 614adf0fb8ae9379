"""How many bits it takes to tell someone the labels who has the activations."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from probekit.probes.arrays import as_rows, encode_classes
from probekit.probes.base import ConvergenceWarning
from probekit.probes.controls import shuffle_labels
from probekit.probes.estimator import Estimator
from probekit.probes.grid import fit_grid
from probekit.probes.held_out import fit_copy, group_codes

if TYPE_CHECKING:
    import pandas as pd

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class CodeLength:
    """The length of the online code of some labels.

    Attributes:
        bits: In all.
        uniform_bits: Of a code that knows the classes and nothing else: rows times log2(classes).
        block_bits: `[block]` of each block.
        block_rows: `[block]` number of rows of each block.
        classes: The class labels in order.
        notes: Which blocks could not be read by a probe, and why, and what else was out of the ordinary.
        shuffled: The same code of labels dealt out anew between groups: what there is to gain from class frequencies
            and from luck. None in the control itself.
    """

    bits: float
    uniform_bits: float
    block_bits: np.ndarray
    block_rows: np.ndarray
    classes: tuple[object, ...]
    notes: tuple[str, ...] = ()
    shuffled: CodeLength | None = field(default=None, repr=False)

    @property
    def compression(self) -> float:
        """`uniform_bits / bits`: 1 is nothing gained, and below 1 is worse than guessing."""
        return self.uniform_bits / self.bits

    def to_frame(self) -> pd.DataFrame:
        """A row a block: source (`model` or `shuffled`), block, rows, bits, uniform_bits."""
        import pandas as pd

        frames = [
            pd.DataFrame(
                {
                    "source": source,
                    "block": np.arange(len(code.block_rows)),
                    "rows": code.block_rows,
                    "bits": code.block_bits,
                    "uniform_bits": code.block_rows * np.log2(len(self.classes)),
                }
            )
            for source, code in (("model", self), ("shuffled", self.shuffled))
            if code is not None
        ]
        return pd.concat(frames, ignore_index=True)


def code_length(
    X: np.ndarray | Tensor,
    y: object,
    probe: Estimator | None = None,
    *,
    groups: object = None,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> CodeLength:
    """The online (prequential) code length of labels given activations.

    Voita & Titov 2020, "Information-Theoretic Probing with Minimum Description Length" (arXiv 2003.12298, on online
    coding): rows stand in blocks; the first is sent with a uniform code, each other one with the probabilities of a
    probe fitted on all rows before it. Unlike accuracy this counts how many rows a probe needs, and a probe that learns
    by heart pays for it.

    Three things the paper leaves open. A class that the rows before a block do not show gets probability
    `1 / (rows before + classes)` there. A block that no probe can be fitted for (those rows show one class only, or the
    probe refuses them) is sent with the uniform code, and the notes say so. Without a `probe`, logistic probes with all
    values of `C` of `LogisticProbe.default_grid` share the code: the labels get the mean of the probabilities that the
    values give to all labels so far (a Bayesian mixture), which is never longer than the best value's code by more than
    log2 of their number.

    Args:
        X: `[n, d]` activations, or what `probe` takes.
        y: `[n]` class labels.
        probe: An estimator with classes, of which copies are fitted; one fixed setting. None: as above.
        groups: `[n]` labels of groups (texts, say); blocks are of whole groups, in random order. Default: every row its
            own.
        fractions: Shares of the rows at which blocks end, ascending, the last 1. Those that end within the same group
            are one.
        seed: Of the order of the groups and of the control.

    Raises:
        ValueError: shapes, one class only, continuous `y`, fractions that are not as above, fewer than two blocks, or a
            probe that can be fitted before no block (with its own words).
    """
    rows: np.ndarray | Tensor = X if isinstance(X, Tensor) else np.asarray(X)
    if probe is None or rows.ndim == 2:
        rows = as_rows(rows)
    codes, classes = encode_classes(y, len(rows))
    within = group_codes(groups, len(rows))
    order, ends = _blocks(within, fractions, seed)
    notes: tuple[str, ...] = ()
    if len(ends) < len(fractions):
        notes = (f"{len(fractions)} fractions made {len(ends)} blocks: the others end within the same group of rows",)
    shuffled = shuffle_labels(codes.numpy()[:, None], within, seed)[:, 0]
    names = tuple(classes.tolist())
    control = _code(rows, shuffled, within, order, ends, probe, names, notes)
    return _code(rows, codes.numpy(), within, order, ends, probe, names, notes, control)


def _blocks(groups: np.ndarray, fractions: Sequence[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row indices, group by group in random order, and the places in them where blocks end."""
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or len(shares) < 2 or not (np.diff(shares, prepend=0.0) > 0).all() or shares[-1] != 1:
        raise ValueError(
            f"fractions must be at least two numbers above 0 that ascend and end with 1, got {tuple(fractions)}"
        )
    names, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    place = np.random.default_rng([seed, 0xC0DE]).permutation(len(names))
    order = np.argsort(place[index], kind="stable")
    closed = np.cumsum(sizes[np.argsort(place)])  # rows up to the end of each group, in that order
    ends = np.unique(closed[np.searchsorted(closed, shares * len(groups) - 1e-9)])
    if len(ends) < 2:
        raise ValueError(f"{len(names)} groups make one block only: give finer groups, or fractions that end earlier")
    return order, ends


def _code(
    X: np.ndarray | Tensor,
    codes: np.ndarray,
    groups: np.ndarray,
    order: np.ndarray,
    ends: np.ndarray,
    probe: Estimator | None,
    names: tuple[object, ...],
    notes: tuple[str, ...],
    shuffled: CodeLength | None = None,
) -> CodeLength:
    sizes = np.diff(ends, prepend=0)
    lengths = [np.atleast_1d(sizes[0] * np.log2(len(names)))]  # of each block: [member of the mixture]
    unread: dict[str, list[int]] = {}
    failure: ValueError | None = None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        for block, (start, end) in enumerate(pairwise(ends), 1):
            before, here = order[:start], order[start:end]
            if len(np.unique(codes[before])) < 2:
                unread.setdefault("the rows before them show one class only", []).append(block)
                fitted = None
            else:
                try:
                    fitted = _Reader(probe, X, codes, groups, before, len(names))
                except ValueError as error:
                    unread.setdefault(str(error), []).append(block)
                    fitted, failure = None, error
            if fitted is None:
                lengths.append(np.atleast_1d(sizes[block] * np.log2(len(names))))
            else:
                probability = fitted.log_proba(X[here])[:, np.arange(len(here)), codes[here]]
                lengths.append(-probability.sum(1) / np.log(2))
    if failure is not None and sum(map(len, unread.values())) == len(ends) - 1:
        raise ValueError(f"the probe could be fitted before no block: {failure}") from failure
    total = np.cumsum(np.stack(np.broadcast_arrays(*lengths)), 0)  # [block, member]
    least = total.min(1)
    mixed = least - np.log2(np.mean(2.0 ** (least[:, None] - total), 1))
    slow = sum(issubclass(w.category, ConvergenceWarning) for w in said)
    for other in (w for w in said if not issubclass(w.category, ConvergenceWarning)):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    notes = (
        *notes,
        *(
            f"blocks {', '.join(map(str, which))} ({sizes[which].sum()} rows) are sent with the uniform code: {reason}"
            for reason, which in unread.items()
        ),
        *((f"before {slow} blocks the solver did not converge",) if slow else ()),
    )
    uniform = float(len(codes) * np.log2(len(names)))
    return CodeLength(float(mixed[-1]), uniform, np.diff(mixed, prepend=0.0), sizes, names, notes, shuffled)


class _Reader:
    """What has been fitted on the rows before a block: one probe, or a grid of them."""

    def __init__(
        self,
        probe: Estimator | None,
        X: np.ndarray | Tensor,
        codes: np.ndarray,
        groups: np.ndarray,
        before: np.ndarray,
        n_classes: int,
    ) -> None:
        self.rows, self.n_classes = len(before), n_classes
        self.seen, local = np.unique(codes[before], return_inverse=True)
        self.stack = self.probe = None
        if probe is None:
            self.stack = fit_grid("logistic", X[before], local[:, None], n_classes=len(self.seen))
        else:
            self.probe = fit_copy(probe, X[before], local, groups[before])
            if not hasattr(self.probe, "classes_"):
                raise ValueError("labels are sent class by class, and this probe takes them as continuous")

    def log_proba(self, X: np.ndarray | Tensor) -> np.ndarray:
        """`[member, n, class]` over all classes, those not seen yet too."""
        if self.stack is not None:
            found = self.stack.log_proba(X)[:, :, 0].double().numpy()
        else:
            assert self.probe is not None
            found = np.asarray(self.probe.predict_log_proba(X), dtype=np.float64)[None]
        unseen = self.n_classes - len(self.seen)
        out = np.full((*found.shape[:2], self.n_classes), -np.log(self.rows + self.n_classes))
        out[..., self.seen] = found + np.log1p(-unseen / (self.rows + self.n_classes))
        return out
