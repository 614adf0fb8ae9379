"""The logistic loss of many targets and penalties over the rows of one site, and a guess of its inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probekit.probes.spectrum import Eigenbasis

ELEMENTS = 1 << 18  # scores worked on at a time: they stay in the processor's cache between the two matrix products
SAMPLE = 4096  # rows, at least, that the preconditioner's mean weight is taken over


@dataclass(frozen=True)
class PenaltyMetric:
    """What the penalty weighs where targets have different rows, hence different standard deviations of a feature.

    Weights on features standardised over a target's own rows are the weights on the shared ones times `ratio`, the
    target's standard deviation over the shared one.
    """

    vectors: Tensor  # [d, r] eigenbasis of the shared features
    ratio: Tensor  # [t, d] squared

    @classmethod
    def of_targets(cls, standard: Tensor, kept: Tensor, basis: Eigenbasis) -> PenaltyMetric:
        """For `standard [n, d]` rows (standardised over all of them) of which target t has `kept [n, t]`."""
        weights = kept.to(standard.dtype).T
        weights = weights / weights.sum(1, keepdim=True)
        ratio = weights @ standard.square() - (weights @ standard).square()
        return cls(basis.vectors, torch.where(ratio > 1e-6, ratio, 1.0))  # a constant feature gets weight 0 anyway

    def apply(self, weights: Tensor, target: Tensor) -> Tensor:
        """Half the gradient of the squared length: `[a, q, r]` -> `[a, q, r]`."""
        return ((weights @ self.vectors.T) * self.ratio[target][:, None]) @ self.vectors


class LogisticLoss:
    """Mean logistic loss plus ridge penalty for problems (target, penalty) that share their rows.

    A problem's variables are `K - 1` weight vectors and intercepts, the last class's scores being zero (one vector for two
    classes), so no direction is redundant. The penalty of scikit-learn's symmetric multinomial model is then `v' M v` at its
    best shift, with M = I - 11'/K (1 for two classes).

    The preconditioner is the inverse of the Hessian with each row's weights `diag(p) - p p'` replaced by their mean A at the
    point last evaluated: `A x Gram / n + M x penalty` (Kronecker products), which is diagonal in the eigenbasis of the Gram
    matrix times that of A in the metric M. A fixed bound in its place (Bohning 1992, "Multinomial logistic regression
    algorithm") costs several times the iterations, since the weights of rows that are told apart well are far below it.

    Args:
        rows: `[n, r + 1]` centred features in the eigenbasis of their Gram matrix, and a column of ones.
        eigenvalues: `[r]` of the Gram matrix of all `n` rows.
        labels: `[n, t]` class indices, -1 where left out.
        n_classes: K.
        penalty: `[problem]` the weight of `||w||^2 / 2` beside the *mean* loss.
        target: `[problem]` column of `labels` of each problem.
        metric: See `PenaltyMetric`; None where all targets have all rows.
    """

    def __init__(
        self,
        rows: Tensor,
        eigenvalues: Tensor,
        labels: Tensor,
        n_classes: int,
        penalty: Tensor,
        target: Tensor,
        metric: PenaltyMetric | None = None,
    ) -> None:
        self.rows, self.n_classes, self.target, self.metric = rows, n_classes, target, metric
        self.outputs = n_classes - 1
        first = 1 if n_classes == 2 else 0
        self.labels, self.first = labels, first
        indicators = [(labels == k).to(rows.dtype) for k in range(first, first + self.outputs)]
        kept = labels >= 0
        self.kept = None if bool(kept.all()) else kept.to(rows.dtype)
        self.n = kept.sum(0).to(rows.dtype)  # [t]
        # Mean over rows of each class's rows; the last entry is its share.
        self.sums = torch.stack([i.T @ rows for i in indicators], 1) / self.n[:, None, None]  # [t, q, r + 1]
        self.penalty = penalty.to(rows.dtype)
        self.spectrum = eigenvalues / len(rows)
        q = self.outputs
        metric_of_classes = torch.eye(q, dtype=torch.float64) - (0 if q == 1 else 1 / n_classes)
        values, vectors = torch.linalg.eigh(metric_of_classes)
        self._whitening = (vectors / values.sqrt()).to(rows.device)  # M = inv(W W')
        self._shape = rows.new_empty(len(target), q, q)  # [problem]: T, with M x s + A x c = inv(T) (s + mu c) inv(T')
        self._mean_weight = rows.new_empty(len(target), q)  # [problem]: mu
        self._active: tuple[Tensor, Tensor] | None = None

    def start(self) -> Tensor:
        """`[problem, q * (r + 1)]`: zero weights and the intercepts of the class frequencies."""
        share = self.sums[..., -1].double()
        x = torch.zeros_like(self.sums)
        x[..., -1] = (share / (1 - share.sum(1, keepdim=True))).log().to(x.dtype)
        return x[self.target].flatten(1)

    def class_means(self) -> tuple[Tensor, Tensor]:
        """Means `[t, K, r]` of each class's rows, and counts `[t, K]`, both float64."""
        everything = (self.rows.sum(0)[None] if self.kept is None else self.kept.T @ self.rows)[:, None].double()
        sums = self.sums.double() * self.n[:, None, None]
        rest = everything - sums.sum(1, keepdim=True)
        sums = torch.cat([rest, sums] if self.n_classes == 2 else [sums, rest], 1)
        return sums[..., :-1] / sums[..., -1:], sums[..., -1].round()

    def precondition(self, gradient: Tensor, index: Tensor) -> Tensor:
        """The guess of the inverse Hessian at the points last evaluated, times `gradient [a, q * (r + 1)]`."""
        g = gradient.view(len(index), self.outputs, -1)
        shape, weight = self._shape[index], self._mean_weight[index, :, None]
        g = g.clone() if self.outputs == 1 else torch.bmm(shape.mT, g)
        g[..., :-1] /= torch.addcmul(self.penalty[index, None, None], weight, self.spectrum)
        g[..., -1:] /= weight
        return (g if self.outputs == 1 else torch.bmm(shape, g)).flatten(1)

    def _note_weights(self, index: Tensor, first: Tensor, second: Tensor, rows: Tensor) -> None:
        """Keep A = (diag(first) - second) / rows, `[a, q]`, `[a, q, q]` and `[a]`, in the metric of the penalty."""
        if self.outputs == 1:
            self._mean_weight[index] = ((first - second[..., 0]) / rows[:, None]).clamp(min=1e-4)
            self._shape[index] = 1
            return
        mean = (torch.diag_embed(first) - second).double() / rows.double()[:, None, None]
        weight, vectors = torch.linalg.eigh(self._whitening.T @ mean @ self._whitening)
        self._mean_weight[index] = weight.clamp(min=1e-4).to(first.dtype)
        self._shape[index] = (self._whitening @ vectors).to(first.dtype)

    def __call__(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value `[a]` float64, gradient `[a, q * (r + 1)]`, and the size of what the value is the difference of `[a]`."""
        a, q = len(index), self.outputs
        target = self.target[index]
        observed = self._observed(index)
        v = x.view(a, q, -1)
        weights = v.transpose(0, 1).reshape(q * a, -1)  # problems innermost, so that sums over classes are elementwise
        total = torch.zeros(a, dtype=torch.float64, device=x.device)
        slope = torch.zeros_like(weights)
        first, second = (
            weights.new_zeros(q, a),
            weights.new_zeros(a, q, q),
        )  # sums of p and of p p' over a sample of rows
        sampled, every = weights.new_zeros(a), max(1, len(self.rows) // SAMPLE)
        step = max(256, ELEMENTS // (q * a))
        for start in range(0, len(self.rows), step):
            z = self.rows[start : start + step]
            kept = None if self.kept is None else self.kept[start : start + step][:, target]
            # Few scores a row are faster made row by row; either way they lie [n, q, a].
            scores = z @ weights.T if q * a > 16 else (weights @ z.T).T.contiguous()
            loss, residual = _softmax(scores.view(len(z), q, a), kept)
            total += loss
            some = residual[::every]
            first += some.sum(0)
            second += torch.bmm(some.permute(2, 1, 0), some.permute(2, 0, 1))
            sampled += len(some) if kept is None else kept[::every].sum(0)
            # Subtracted row by row: where the classes are separable, the residuals are small and their sum must be exact.
            residual -= observed[start : start + step]
            slope.addmm_(residual.view(len(z), q * a).T, z)
        n, sums = self.n[target], self.sums[target]
        self._note_weights(index, first.T, second, sampled.clamp(min=1))
        gradient = (slope.view(q, a, -1) / n[:, None]).transpose(0, 1).contiguous()
        w = v[..., :-1]
        pulled = w if self.n_classes == 2 else w - w.sum(1, keepdim=True) / self.n_classes
        if self.metric is not None:
            pulled = self.metric.apply(pulled, target)
        pulled = pulled * self.penalty[index, None, None]
        gradient[..., :-1] += pulled
        size = total / n
        value = size + 0.5 * (pulled * w).sum((1, 2), dtype=torch.float64) - (v * sums).sum((1, 2), dtype=torch.float64)
        return value, gradient.flatten(1), size

    def _observed(self, index: Tensor) -> Tensor:
        """`[n, q, a]` 0 or 1: which class a row has, for the problems asked for; kept until others are asked for."""
        if self._active is None or not torch.equal(self._active[0], index):
            classes = torch.arange(self.first, self.first + self.outputs, dtype=self.labels.dtype, device=index.device)
            self._active = index, (self.labels[:, None, self.target[index]] == classes[:, None]).to(torch.int8)
        return self._active[1]


def _softmax(scores: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores `[n, q, a]` beside a last class of score zero -> summed log-partition `[a]` and probabilities `[n, q, a]`."""
    if scores.shape[1] == 1:
        log_partition = torch.nn.functional.softplus(scores[:, 0])
        probability = scores.sigmoid_()
    elif scores.max() < 60:  # nothing can overflow
        probability = scores.exp_()
        total = probability.sum(1).add_(1)
        probability /= total[:, None]
        log_partition = total.log_()
    else:
        largest = scores.amax(1).clamp_(min=0)
        probability = scores.sub_(largest[:, None]).exp_()
        total = probability.sum(1).add_((-largest).exp_())
        probability /= total[:, None]
        log_partition = total.log_().add_(largest)
    if kept is not None:
        log_partition *= kept
        probability *= kept[:, None]
    return log_partition.sum(0).double(), probability
