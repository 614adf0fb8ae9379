"""The logistic loss of many targets and penalties over the rows of one site, and the fixed bound on its Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTS = 1 << 18  # scores worked on at a time: they stay in the processor's cache between the two matrix products


class LogisticLoss:
    """Mean logistic loss plus ridge penalty for problems (target, penalty) that share their rows.

    A problem's variables are `K - 1` weight vectors and intercepts, the last class's scores being zero (one vector for two
    classes), so no direction is redundant. With M = I - 11'/K for K > 2 (M = 1 for two classes), the penalty of
    scikit-learn's symmetric multinomial model is `v' M v` at its best shift, and Bohning's (1992, "Multinomial logistic
    regression algorithm") bound on the Hessian is `M/2` (`1/4`) times the Gram matrix: the same M, hence one preconditioner
    that is exact for both, diagonal in the eigenbasis of the Gram matrix but for the factor `inv(M) = I + 11'`.

    Args:
        rows: `[n, r]` centred features, in the eigenbasis of their Gram matrix.
        eigenvalues: `[r]` of the Gram matrix.
        labels: `[n, t]` class indices, -1 where left out.
        n_classes: K.
        penalty: `[problem]` the weight of `||w||^2 / 2` beside the *sum* of the losses, 1 / C.
        target: `[problem]` column of `labels` of each problem.
    """

    def __init__(self, rows: Tensor, eigenvalues: Tensor, labels: Tensor, n_classes: int, penalty: Tensor, target: Tensor):
        self.rows, self.n_classes, self.target = rows, n_classes, target
        self.outputs = n_classes - 1
        kept = labels >= 0
        self.kept = None if bool(kept.all()) else kept.to(rows.dtype)
        self.n = kept.sum(0).double()  # [t]
        self.penalty = (penalty / self.n[target]).to(rows.dtype)  # beside the mean loss
        first = 1 if n_classes == 2 else 0
        # Sums of rows and counts by class: all that the labels contribute to value and gradient.
        self.sums = rows.new_empty(labels.shape[1], self.outputs, rows.shape[1])
        for q in range(self.outputs):
            self.sums[:, q] = (labels == q + first).to(rows.dtype).T @ rows / self.n[:, None].to(rows.dtype)
        counts = torch.stack([(labels == k).sum(0) for k in range(n_classes)], 1).double()
        self.counts = counts  # [t, K]
        self.share = (counts / self.n[:, None])[:, first : first + self.outputs].to(rows.dtype)  # [t, q]
        bound = 0.25 if n_classes == 2 else 0.5
        self.eigenvalues = eigenvalues
        self.bound = bound

    def start(self) -> Tensor:
        """`[problem, q * (r + 1)]`: zero weights and the intercepts of the class frequencies."""
        first = self.counts[:, :1] if self.n_classes == 2 else self.counts[:, -1:]
        rest = self.counts[:, 1:] if self.n_classes == 2 else self.counts[:, :-1]
        x = self.rows.new_zeros(len(self.target), self.outputs, self.rows.shape[1] + 1)
        x[:, :, -1] = (rest / first).log()[self.target].to(x.dtype)
        return x.flatten(1)

    def precondition(self, gradient: Tensor, index: Tensor) -> Tensor:
        r = len(self.eigenvalues)
        target = self.target[index]
        diagonal = gradient.new_empty(len(index), 1, r + 1)
        diagonal[:, 0, :r] = self.bound * self.eigenvalues / self.n[target, None].to(gradient.dtype) + self.penalty[index, None]
        diagonal[:, 0, r] = self.bound
        g = gradient.view(len(index), self.outputs, r + 1)
        if self.n_classes > 2:
            g = g + g.sum(1, keepdim=True)
        return (g / diagonal).flatten(1)

    def __call__(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        a, q, r = len(index), self.outputs, self.rows.shape[1]
        target = self.target[index]
        v = x.view(a, q, r + 1)
        weights = v[..., :r].transpose(0, 1).reshape(q * a, r)  # problems innermost: sums over classes are elementwise
        intercept = v[..., r].T.reshape(1, q * a)
        total = torch.zeros(a, dtype=torch.float64, device=x.device)
        slope, mass = torch.zeros_like(weights), torch.zeros_like(intercept[0])
        for start in range(0, len(self.rows), step := max(256, ELEMENTS // (q * a))):
            z = self.rows[start : start + step]
            scores = torch.addmm(intercept, z, weights.T)
            kept = None if self.kept is None else self.kept[start : start + step][:, target]
            loss, probability = _softmax(scores.view(len(z), q, a), kept)
            total += loss
            probability = probability.view(len(z), q * a)
            slope.addmm_(probability.T, z)
            mass += probability.sum(0)
        n = self.n[target].to(x.dtype)
        gradient = torch.empty_like(v)
        gradient[..., :r] = (slope.view(q, a, r) / n[:, None]).transpose(0, 1) - self.sums[target]
        gradient[..., r] = (mass.view(q, a) / n).T - self.share[target]
        linear = (v[..., :r] * self.sums[target]).sum((1, 2), dtype=torch.float64)
        linear += (v[..., r] * self.share[target]).sum(1, dtype=torch.float64)
        w = v[..., :r]
        pulled = w if self.n_classes == 2 else w - w.sum(1, keepdim=True) / self.n_classes
        pulled = pulled * self.penalty[index, None, None]
        gradient[..., :r] += pulled
        value = total / self.n[target] - linear + 0.5 * (pulled * w).sum((1, 2), dtype=torch.float64)
        return value, gradient.flatten(1)


def _softmax(scores: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores `[n, q, a]` beside a last class of score zero -> summed log-partition `[a]` and probabilities `[n, q, a]`."""
    if scores.shape[1] == 1:
        log_partition = torch.nn.functional.softplus(scores[:, 0])
        probability = torch.sigmoid(scores)
    else:
        largest = scores.amax(1).clamp_(min=0)
        probability = (scores - largest[:, None]).exp_()
        total = probability.sum(1).add_((-largest).exp_())
        probability /= total[:, None]
        log_partition = total.log_().add_(largest)
    if kept is not None:
        log_partition = log_partition * kept
        probability = probability * kept[:, None]
    return log_partition.sum(0).double(), probability
