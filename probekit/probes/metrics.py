"""Metrics of all targets of a label set at once, each written so that it can be bootstrapped by clusters.

A metric is two functions. `sums` adds per-row quantities up within each cluster, `[cluster, target, k]`; `value` turns
(re-weighted) totals of those quantities into the figure. A bootstrap draw is then a weighted sum over clusters, and a
thousand draws of a thousand clusters are one matrix product (`intervals.py`).

AUROC and Spearman are not functions of sums. Their sums hold each row's first-order share instead (placement values:
DeLong et al. 1988, Biometrics 44:837; for Spearman the derivative of the rank correlation with respect to the weight of
a row), which is exact at the full sample and linear around it. With few rows the bootstrap uses `redraw`, the exact
weighted statistic, instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

BINS = 15  # equal-width confidence bins of the calibration error
FALSE_ALARMS = 0.01
_LOG_FLOOR = float(np.log(np.finfo(np.float64).eps))  # scikit-learn clips probabilities at the same place


@dataclass(frozen=True)
class Predictions:
    """What a probe says about `n` items for `t` targets of `c` classes, beside the truth.

    Attributes:
        truth: `[n, t]`; class indices with -1 where not defined, or float with NaN where not defined.
        log_proba: `[n, t, c]` for classes, None for a continuous label set.
        estimate: `[n, t]` for a continuous label set, None for classes.
        thresholds: `[t, c]` log-odds above which a class counts as found (`false_alarm_thresholds` on validation
            data). Without them recall at 1 % false alarms is not computed.
    """

    truth: Tensor
    log_proba: Tensor | None = None
    estimate: Tensor | None = None
    thresholds: Tensor | None = None

    @staticmethod
    def of_classes(log_proba: object, truth: object, thresholds: Tensor | None = None) -> Predictions:
        """From arrays: `log_proba` `[n, t, c]` (or `[n, c]` for one target), `truth` `[n, t]` (or `[n]`)."""
        logp, y = torch.as_tensor(log_proba), torch.as_tensor(truth).long()
        if y.ndim == 1:
            logp, y = logp.reshape(len(y), 1, -1), y[:, None]
        if logp.shape[:2] != y.shape:
            raise ValueError(
                f"log_proba {tuple(logp.shape)} and truth {tuple(y.shape)} are not about the same items and targets"
            )
        return Predictions(y, log_proba=logp, thresholds=thresholds)

    @staticmethod
    def of_values(estimate: object, truth: object) -> Predictions:
        """From arrays: both `[n, t]` or `[n]`."""
        guess, y = torch.as_tensor(estimate).double(), torch.as_tensor(truth).double()
        if guess.shape != y.shape:
            raise ValueError(
                f"estimate {tuple(guess.shape)} and truth {tuple(y.shape)} are not about the same items and targets"
            )
        return Predictions(y.reshape(len(y), -1), estimate=guess.reshape(len(y), -1))

    @cached_property
    def defined(self) -> Tensor:
        """`[n, t]` bool."""
        return ~torch.isnan(self.truth) if self.log_proba is None else self.truth >= 0

    @cached_property
    def choice(self) -> Tensor:
        """`[n, t]` most probable class."""
        assert self.log_proba is not None
        return self.log_proba.argmax(-1)

    @cached_property
    def correct(self) -> Tensor:
        """`[n, t]` bool, False where the truth is not defined."""
        return (self.choice == self.truth) & self.defined

    @cached_property
    def odds(self) -> Tensor:
        """`[n, t, j]` log-odds of a class against all others: what AUROC and recall rank by.

        `j` is 1 (the second class) for binary targets and the number of classes otherwise. Log-odds keep their
        resolution where a probability rounds to one.
        """
        assert self.log_proba is not None
        logp = self.log_proba
        classes = logp.shape[-1]
        if classes == 2:
            return logp[..., 1:] - logp[..., :1]
        others = [torch.logsumexp(logp[..., [k for k in range(classes) if k != c]], -1) for c in range(classes)]
        return logp - torch.stack(others, -1)

    @cached_property
    def member(self) -> Tensor:
        """`[n, t, j]` bool, beside `odds`: the item is of the class."""
        assert self.log_proba is not None
        classes = self.log_proba.shape[-1]
        wanted = torch.tensor([1]) if classes == 2 else torch.arange(classes)
        return self.truth[..., None] == wanted

    @cached_property
    def ordering(self) -> Ordering:
        """Ranks of `odds` over items, `[t * j, n]`."""
        return Ordering(self.odds.flatten(1).T)


class Ordering:
    """The order of scores `[m, n]` along the last axis, with ties, for (weighted) mid-ranks."""

    def __init__(self, scores: Tensor) -> None:
        ranked, self.order = torch.sort(scores.contiguous(), dim=-1)
        n = scores.shape[-1]
        index = torch.arange(n).expand_as(ranked)
        new = torch.ones_like(ranked, dtype=torch.bool)
        new[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
        self.first = torch.where(new, index, 0).cummax(-1).values  # first position of each run of ties
        ends = torch.ones_like(new)
        ends[..., :-1] = new[..., 1:]
        self.last = torch.where(ends, index, n).flip(-1).cummin(-1).values.flip(-1)

    def below(self, weights: Tensor) -> Tensor:
        """`[..., m, n]`: total weight of the items that rank below each item, ties counted half.

        Boolean weights are counted in float32, which is exact up to 16 million items.
        """
        order, first, last = (i.expand_as(weights) for i in (self.order, self.first, self.last))
        ranked = (weights.float() if weights.dtype == torch.bool else weights.double()).gather(-1, order)
        upto = ranked.cumsum(-1)
        before = (upto - ranked).gather(-1, first)
        return torch.zeros_like(upto).scatter_(-1, order, (before + upto.gather(-1, last)) / 2)


@dataclass(frozen=True)
class Metric:
    """One figure a target.

    Attributes:
        sums: `(predictions, cluster [n], number of clusters) -> [cluster, t, k]` float64.
        value: `(totals [..., t, k], totals of the full sample [t, k]) -> [..., t]`; NaN where not defined.
        higher: Whether more is better.
        unit_range: Values of exactly 0 or 1 can be reached by luck, so intervals there need care.
        recentre: The bootstrap is biased (upwards, for the calibration error); its draws are shifted back.
        redraw: `(predictions, weights [draw, n]) -> [draw, t]`, the exact statistic for few rows.
    """

    name: str
    sums: Callable[[Predictions, Tensor, int], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    higher: bool = True
    unit_range: bool = False
    recentre: bool = False
    redraw: Callable[[Predictions, Tensor], Tensor] | None = None


def add_up(rows: Tensor, cluster: Tensor, clusters: int) -> Tensor:
    """Sum `[n, ...]` within clusters, `[cluster, ...]` in float64."""
    rows = rows.double()
    if clusters == len(rows) and bool((cluster == torch.arange(clusters)).all()):
        return rows
    return torch.zeros((clusters, *rows.shape[1:]), dtype=torch.float64).index_add_(0, cluster, rows)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 0, top / bottom.clamp_min(1e-300), torch.nan)


# Classes


def _accuracy_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    return add_up(torch.stack([p.correct, p.defined], -1), cluster, clusters)


def _log_loss_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    assert p.log_proba is not None
    picked = p.log_proba.gather(-1, p.truth.clamp_min(0)[..., None])[..., 0].double().clamp_min(_LOG_FLOOR)
    loss = torch.where(p.defined, -picked, 0.0)
    return add_up(torch.stack([loss, p.defined.double()], -1), cluster, clusters)


def _first_by_second(total: Tensor, full: Tensor) -> Tensor:
    return _ratio(total[..., 0], total[..., 1])


def _balanced_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    assert p.log_proba is not None
    of_class = p.truth[..., None] == torch.arange(p.log_proba.shape[-1])
    return add_up(torch.cat([of_class & p.correct[..., None], of_class], -1), cluster, clusters)


def _balanced_value(total: Tensor, full: Tensor) -> Tensor:
    hits, present = total.chunk(2, -1)
    return torch.nanmean(_ratio(hits, present), -1)


def _calibration_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    assert p.log_proba is not None
    t = p.truth.shape[1]
    confidence = p.log_proba.amax(-1).double().exp()
    bins = bin_of(confidence)
    gap = torch.where(p.defined, p.correct.double() - confidence, 0.0)
    cell = (cluster[:, None] * t + torch.arange(t)) * (BINS + 1)
    out = torch.zeros(clusters * t * (BINS + 1), dtype=torch.float64)
    out.index_add_(0, (cell + bins).flatten(), gap.flatten())
    out.index_add_(0, (cell + BINS).flatten(), p.defined.double().flatten())
    return out.reshape(clusters, t, BINS + 1)


def _calibration_value(total: Tensor, full: Tensor) -> Tensor:
    return _ratio(total[..., :-1].abs().sum(-1), total[..., -1])


def bin_of(confidence: Tensor) -> Tensor:
    """Which of the `BINS` equal-width bins (right edge included) a confidence in 0..1 falls into."""
    return (torch.ceil(confidence * BINS) - 1).clamp(0, BINS - 1).long()


def _auroc_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    t = p.truth.shape[1]
    member = (p.member & p.defined[..., None]).flatten(1).T
    other = (~p.member & p.defined[..., None]).flatten(1).T
    n_member, n_other = (x.sum(-1, keepdim=True).clamp_min(1) for x in (member, other))
    beats = p.ordering.below(other) / n_other  # share of the other classes that the item ranks above
    beaten = 1 - p.ordering.below(member) / n_member
    parts = (torch.where(member, beats, 0), member, torch.where(other, beaten, 0), other)  # each [m, n]
    summed = [torch.zeros((len(x), clusters), dtype=torch.float64).index_add_(1, cluster, x.double()) for x in parts]
    return torch.stack(summed, -1).transpose(0, 1).reshape(clusters, t, -1)


def _auroc_value(total: Tensor, full: Tensor) -> Tensor:
    total, full = (x.unflatten(-1, (-1, 4)) for x in (total, full))
    linear = (
        _ratio(total[..., 0], total[..., 1]) + _ratio(total[..., 2], total[..., 3]) - _ratio(full[..., 0], full[..., 1])
    )
    return torch.nanmean(linear, -1).clamp(0, 1)


def _auroc_redraw(p: Predictions, weights: Tensor) -> Tensor:
    t = p.truth.shape[1]
    member = (p.member & p.defined[..., None]).flatten(1).T.double()
    other = (~p.member & p.defined[..., None]).flatten(1).T.double()
    w_member, w_other = weights[:, None] * member, weights[:, None] * other  # [draw, m, n]
    wins = (p.ordering.below(w_other) * w_member).sum(-1)
    return torch.nanmean(_ratio(wins, w_member.sum(-1) * w_other.sum(-1)).unflatten(-1, (t, -1)), -1)


def _detection_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    assert p.thresholds is not None
    found = p.odds > p.thresholds
    member, other = p.member & p.defined[..., None], ~p.member & p.defined[..., None]
    return add_up(torch.stack([found & member, member, found & other, other], -1).flatten(2), cluster, clusters)


def _recall_value(total: Tensor, full: Tensor) -> Tensor:
    cell = total.unflatten(-1, (-1, 4))
    return torch.nanmean(_ratio(cell[..., 0], cell[..., 1]), -1)


def _false_alarm_value(total: Tensor, full: Tensor) -> Tensor:
    cell = total.unflatten(-1, (-1, 4))
    return torch.nanmean(_ratio(cell[..., 2], cell[..., 3]), -1)


def false_alarm_thresholds(validation: Predictions, rate: float = FALSE_ALARMS) -> Tensor:
    """`[t, j]` log-odds above which at most `rate` of the validation items of the other classes lie.

    With fewer than `1 / rate` such items the threshold is the largest of them; with none it is NaN (nothing is found).
    """
    odds = validation.odds.flatten(1).T
    other = (~validation.member & validation.defined[..., None]).flatten(1).T
    ranked = torch.where(other, odds, -torch.inf).sort(-1, descending=True).values
    count = other.sum(-1, keepdim=True)
    allowed = torch.floor(count * rate + 1e-9).long()  # so many may lie above
    picked = ranked.gather(-1, allowed.clamp_max(ranked.shape[-1] - 1))
    return torch.where(count > 0, picked, torch.nan).reshape(validation.odds.shape[1:])


# Continuous


def _r2_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    assert p.estimate is not None
    y = torch.where(p.defined, p.truth, torch.nan)
    y = torch.where(p.defined, y - torch.nanmean(y, 0), 0.0)  # centred: the sums of squares stay exact
    residual = torch.where(p.defined, p.truth - p.estimate, 0.0)
    return add_up(torch.stack([p.defined.double(), y, y.square(), residual.square()], -1), cluster, clusters)


def _r2_value(total: Tensor, full: Tensor) -> Tensor:
    n, y, y2, r2 = total.unbind(-1)
    spread = y2 - y.square() / n.clamp_min(1e-300)
    real = spread > 1e-12 * full[..., 2] / full[..., 0].clamp_min(1)
    return torch.where(real & (spread > 0), 1 - r2 / spread.clamp_min(1e-300), torch.nan)


def _rank_parts(p: Predictions) -> tuple[Ordering, Ordering, Tensor, Tensor, Tensor, Tensor]:
    assert p.estimate is not None
    defined = p.defined.T.double()
    by_guess, by_truth = Ordering(torch.nan_to_num(p.estimate.T)), Ordering(torch.nan_to_num(p.truth.T))
    n = defined.sum(-1, keepdim=True).clamp_min(1)
    return by_guess, by_truth, by_guess.below(defined) / n, by_truth.below(defined) / n, defined, n


def _spearman_sums(p: Predictions, cluster: Tensor, clusters: int) -> Tensor:
    by_guess, by_truth, u, v, defined, n = _rank_parts(p)

    def above(ordering: Ordering, values: Tensor) -> Tensor:  # how the mean of values x rank moves with a row's weight
        values = values * defined
        return (values.sum(-1, keepdim=True) - ordering.below(values)) / n

    uu = u.square() + 2 * above(by_guess, u)
    vv = v.square() + 2 * above(by_truth, v)
    uv = u * v + above(by_guess, v) + above(by_truth, u)
    rows = torch.stack([torch.ones_like(u), uu, vv, uv], -1) * defined[..., None]
    return add_up(rows.transpose(0, 1), cluster, clusters)


def _spearman_value(total: Tensor, full: Tensor) -> Tensor:
    moments = _ratio(total[..., 1:], total[..., :1]) - _ratio(full[..., 1:], full[..., :1]) * 2 / 3
    uu, vv, uv = (moments - 0.25).unbind(-1)  # mid-ranks have mean one half under any weights
    spread = uu * vv
    return torch.where((uu > 1e-12) & (vv > 1e-12), uv / spread.clamp_min(1e-300).sqrt(), torch.nan).clamp(-1, 1)


def _spearman_redraw(p: Predictions, weights: Tensor) -> Tensor:
    by_guess, by_truth, *_, defined, _ = _rank_parts(p)
    w = weights[:, None] * defined
    total = w.sum(-1, keepdim=True).clamp_min(1e-300)
    u, v = by_guess.below(w) / total - 0.5, by_truth.below(w) / total - 0.5
    uu, vv, uv = ((w * a * b).sum(-1) / total[..., 0] for a, b in ((u, u), (v, v), (u, v)))
    return torch.where((uu > 1e-12) & (vv > 1e-12), uv / (uu * vv).clamp_min(1e-300).sqrt(), torch.nan)


CLASS_METRICS: tuple[Metric, ...] = (
    Metric("accuracy", _accuracy_sums, _first_by_second, unit_range=True),
    Metric("balanced_accuracy", _balanced_sums, _balanced_value, unit_range=True),
    Metric("auroc", _auroc_sums, _auroc_value, unit_range=True, redraw=_auroc_redraw),
    Metric("recall_at_1pct", _detection_sums, _recall_value, unit_range=True),
    Metric("false_alarm_rate", _detection_sums, _false_alarm_value, higher=False, unit_range=True),
    Metric("log_loss", _log_loss_sums, _first_by_second, higher=False),
    Metric("calibration_error", _calibration_sums, _calibration_value, higher=False, recentre=True),
)
VALUE_METRICS: tuple[Metric, ...] = (
    Metric("r2", _r2_sums, _r2_value),
    Metric("spearman", _spearman_sums, _spearman_value, redraw=_spearman_redraw),
)


UNBALANCED = 0.7  # share of the commonest class above which accuracy says little: a constant guess is as right as that


def metrics_for(kind: str) -> tuple[Metric, ...]:
    """The metrics of a label set's kind; the first (accuracy, or R2) is what selectivity is made of."""
    return VALUE_METRICS if kind == "continuous" else CLASS_METRICS


def headline_metric(kind: str, majority: float | None) -> str:
    """What a label set is chosen and reported by unless another metric is named.

    R2 for continuous labels; accuracy for classes, and AUROC where the commonest class makes up more than 70 % of the
    training labels (`majority`, the mean over targets): it does not reward guessing that class, and needs no threshold.
    """
    unbalanced = kind != "continuous" and majority is not None and majority > UNBALANCED
    return "auroc" if unbalanced else metrics_for(kind)[0].name


def usable(predictions: Predictions, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Those of `metrics` that can be computed: the ones with a threshold need `predictions.thresholds`."""
    return tuple(m for m in metrics if m.sums is not _detection_sums or predictions.thresholds is not None)


def measure(predictions: Predictions, metrics: tuple[Metric, ...] | None = None) -> dict[str, np.ndarray]:
    """Each metric's value, `[target]`, without intervals."""
    wanted = metrics or (CLASS_METRICS if predictions.log_proba is not None else VALUE_METRICS)
    one = torch.zeros(len(predictions.truth), dtype=torch.long)
    out = {}
    for metric in usable(predictions, wanted):
        total = metric.sums(predictions, one, 1)[0]
        out[metric.name] = metric.value(total, total).numpy()
    return out
