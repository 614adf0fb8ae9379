"""k-sparse probes: how many features does it take to read a label as well as a dense probe reads it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse, stats

from probekit.data import Dataset, split_items
from probekit.probes import fit_grid
from probekit.probes.intervals import Estimate, bootstrap, cluster_counts, paired_interval
from probekit.probes.metrics import CLASS_METRICS, Predictions
from saes.features import SparseFeatures
from saes.progress import tracked
from saes.scoring.columns import ColumnName, Columns, Labels, columns_at, groups_of
from saes.scoring.feature_scores import known_mean
from saes.scoring.parts import draw_parts

if TYPE_CHECKING:
    import pandas as pd

    from probekit.activations import Activations

GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
WIDEST = 4096
"""Features of the widest SAE all of whose features are given to one probe."""
_AUROC = next(metric for metric in CLASS_METRICS if metric.name == "auroc")


@dataclass(frozen=True, repr=False)
class SparseProbes:
    """Probes on few features beside the dense probe: AUROC on test sequences.

    Attributes:
        names: `[column]` what each asks.
        features: `[column, most]` the features chosen for each, best first.
        estimates: By probe, the AUROC of every column with its bootstrap draws; the probes are `"1 feature"`, ...,
            `"all features"`, and `"dense"` when activations were given. All share rows, penalties tried, and bootstrap draws.
        rows: Rows of train, valid and test.
    """

    names: tuple[ColumnName, ...]
    features: np.ndarray
    estimates: dict[str, Estimate]
    rows: tuple[int, int, int]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {known_mean(e.value):.3f}" for name, e in self.estimates.items())
        return f"SparseProbes({len(self.names)} labels, mean AUROC: {shown})"

    def to_frame(self) -> pd.DataFrame:
        """A row a probe and label, and a row a probe for their mean: probe, label_set, target, class, auroc, low, high."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for probe, estimate in self.estimates.items():
            for of, targets in ((estimate, self.names), (estimate.mean(), (ColumnName("", "mean", ""),))):
                low, high = of.interval()
                rows += [
                    {"probe": probe, "label_set": name.label_set, "target": name.target, "class": name.class_}
                    | {"auroc": of.value[i], "low": low[i], "high": high[i]}
                    for i, name in enumerate(targets)
                ]
        return pd.DataFrame(rows)

    def verdicts(self, probe: str) -> pd.DataFrame:
        """Is the dense probe better than the one named, label by label? Paired over the same bootstrap draws.

        Returns:
            label_set, target, class, difference (dense - sparse AUROC), low, high, verdict: `probe better`, `SAE better`,
            `no difference` (the 95 % interval holds zero), or `not defined` (test shows one class, or one group, only); p, two-sided,
            of the difference over its bootstrap standard deviation; q, `p` after Benjamini and Hochberg over the labels.
        """
        import pandas as pd

        if "dense" not in self.estimates or probe not in self.estimates:
            raise ValueError(
                f"there is no {probe if 'dense' in self.estimates else 'dense'} probe here: {list(self.estimates)}"
            )
        dense, other = self.estimates["dense"], self.estimates[probe]
        rows = []
        for i, name in enumerate(self.names):
            low, high = paired_interval(dense.draws[:, i] - other.draws[:, i])
            difference = dense.value[i] - other.value[i]
            verdict = "probe better" if low > 0 else "SAE better" if high < 0 else "no difference"
            if np.isnan([difference, low]).any():
                verdict = "not defined"
            rows.append(
                {"label_set": name.label_set, "target": name.target, "class": name.class_}
                | {"difference": difference, "low": low, "high": high, "verdict": verdict}
            )
        frame = pd.DataFrame(rows)
        drawn = (dense.draws - other.draws).T
        frame["p"] = [_p_value(draws, value) for draws, value in zip(drawn, frame.difference, strict=True)]
        return frame.assign(q=q_values(frame.p.to_numpy()))


def q_values(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg (1995) over those that are not NaN; the others stay NaN."""
    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested], method="bh")
    return q


def _p_value(draws: np.ndarray, difference: float) -> float:
    """Two-sided, by the normal law; NaN where draws are not defined. A difference that no draw changes from zero has 1."""
    known = draws[~np.isnan(draws)]
    if len(known) < 2 or np.isnan(difference):
        return float("nan")
    spread = known.std(ddof=1)
    if spread == 0:
        return float(difference == 0)
    return float(2 * stats.norm.sf(abs(difference) / spread))


def sparse_probes(
    features: SparseFeatures,
    labels: Labels,
    *,
    activations: Activations | None = None,
    groups: np.ndarray | None = None,
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32),
    max_rows: int = 20_000,
    n_boot: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> SparseProbes:
    """Fit probes on the k features that tell a label best, and, given activations, the dense probe on the same rows.

    Features are ranked on training rows by the difference of their means where the label holds and where it does not,
    over their standard deviation; penalties are chosen on validation; figures are of test sequences, without rows
    whose prefix occurs in the others. Sequences of one group are all in one part.

    Source: Gurnee et al. 2023 (arXiv 2305.01610), section 3 (maximum mean difference); Kantamneni et al. 2025
    (arXiv 2502.16681) for the comparison at equal data.

    Args:
        features: From `encode`.
        labels: Label sets of classes, or a data set with some (whose groups and split then hold); must be defined
            everywhere.
        activations: What the features were encoded from, for the dense probe.
        groups: `[sequence]`, sequences that must stay in one part; a data set brings its own.
        counts: Numbers of features; all of them are tried, too, where there are no more than 4,096.
        max_rows: Training rows at most (validation a quarter, test half as many), drawn at random.
        n_boot: Bootstrap draws, over groups.
        seed: Of the split, the rows drawn and the bootstrap.
        progress: Whether to draw a bar (on stderr, where it is a terminal).

    Raises:
        ValueError: no feature ever fires; labels of other data, or not defined everywhere; too many features asked for; too few groups.
    """
    if features.matrix.nnz == 0:
        raise ValueError("no feature ever fires: this SAE is dead, or made for other activations")
    columns = columns_at(features, labels)
    by_sequence = groups_of(features, labels, groups)
    given = labels.split if isinstance(labels, Dataset) else None
    if columns.defined is not None:
        raise ValueError("k-sparse probes need labels that are defined at every row: leave rows out beforehand")
    counts = tuple(sorted(set(counts)))
    if not counts or counts[0] < 1 or counts[-1] > features.width:
        raise ValueError(f"counts must lie between 1 and the {features.width:,} features, got {list(counts)}")
    split = split_items(features.sequence, by_sequence, seed, given=given)
    drawn = draw_parts(split, features.prefix, max_rows, np.random.default_rng([seed, 0x50B5]))
    train, valid, test = drawn["train"], drawn["valid"], drawn["test"]
    if not len(test):
        raise ValueError("no test row is left whose prefix occurs in no other part: the sequences are all alike")
    matrix = features.matrix.tocsr()
    parts = {name: sparse.csc_array(matrix[rows]) for name, rows in drawn.items()}
    chosen = _ranked(parts["train"], columns.of_rows(train))[:, : counts[-1]]
    log_proba: dict[str, list[torch.Tensor]] = {}
    for column in tracked(range(len(columns)), "sparse probes", progress):
        dense = {name: torch.from_numpy(part[:, chosen[column]].toarray()) for name, part in parts.items()}
        truth = columns.positive[:, [column]].astype(np.int64)
        for k in counts:
            name = f"{k} feature{'s' * (k > 1)}"
            fitted = _fitted(dense["train"][:, :k], truth[train], dense["valid"][:, :k], truth[valid])
            log_proba.setdefault(name, []).append(fitted.log_proba(dense["test"][:, :k])[:, 0])
    found = {name: torch.stack(values, 1) for name, values in log_proba.items()}
    truth = columns.positive.astype(np.int64)
    if counts[-1] < features.width <= WIDEST:
        every = {name: part.toarray() for name, part in parts.items()}
        fitted = _fitted(every["train"], truth[train], every["valid"], truth[valid])
        found["all features"] = fitted.log_proba(every["test"])
        del every
    if activations is not None:
        site = features.manifest.site
        x = {name: activations.read(site, rows) for name, rows in drawn.items()}
        found["dense"] = _fitted(x["train"], truth[train], x["valid"], truth[valid]).log_proba(x["test"])
    _, cluster = np.unique(by_sequence[features.sequence[test]], return_inverse=True)
    draws = cluster_counts(int(cluster.max()) + 1, n_boot, seed)
    truth_there = columns.positive[test].astype(np.int64)
    estimates = {
        name: bootstrap(_AUROC, Predictions.of_classes(values, truth_there), torch.from_numpy(cluster), draws)
        for name, values in found.items()
    }
    return SparseProbes(columns.names, chosen, estimates, (len(train), len(valid), len(test)))


def _ranked(features: sparse.csc_array, columns: Columns) -> np.ndarray:
    """`[column, feature]` features from the one that tells the column best to the one that tells it least."""
    positive = columns.positive.astype(np.float64)
    held = positive.sum(0)
    total = np.asarray(features.sum(0)).ravel()
    squares = np.asarray(features.multiply(features).sum(0)).ravel()
    n = features.shape[0]
    spread = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 1e-12))
    sums = (features.T @ positive).T  # [column, feature]
    difference = sums / np.maximum(held, 1)[:, None] - (total - sums) / np.maximum(n - held, 1)[:, None]
    order: np.ndarray = np.argsort(-np.abs(difference) / spread, axis=1, kind="stable")
    return order


def _fitted(X: Any, Y: np.ndarray, X_valid: Any, Y_valid: np.ndarray) -> Any:
    """Probes of all columns of `Y`, each with the penalty that has the least loss on validation."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # columns that show one class only are NaN in the figures
        stack = fit_grid("logistic", X, Y, GRID, n_classes=2)
    return stack.select(torch.nan_to_num(stack.loss(X_valid, Y_valid), nan=torch.inf).argmin(0))
