"""`AttentionProbe`: a text read through softmax attention over its tokens, with a learned query a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from probekit.probes.spectrum import Standardisation
from probekit.probes.texts import Texts, softmax_over
from probekit.probes.token_probe import Pool, TokenProbe, check_whole, mean_pooled, train


def attention_pool(texts: Texts, heads: int, outputs: int) -> Pool:
    """Attention over the rows of each text, as a pool of token scores.

    The columns of the scores are the logits of `heads` queries, then the values `[output, head]`. A text's score is
    the sum over heads and tokens of value times attention.
    """

    def pool(scores: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        attention, _ = softmax_over(scores[:, :heads], texts.of_row, texts.offsets)
        values = scores[:, heads:].view(-1, outputs, heads)
        read = texts.sums((attention[:, None] * values).flatten(1)).view(-1, outputs, heads)

        def back(gradient: Tensor) -> Tensor:
            of_row = gradient[texts.of_row][:, :, None]  # [row, output, 1]
            on_logits = ((values - read[texts.of_row]) * of_row).sum(1) * attention
            return torch.cat([on_logits, (attention[:, None] * of_row).flatten(1)], 1)

        return read.sum(2), back

    return pool


class AttentionProbe(TokenProbe):
    """Logistic regression on attended means: each head looks for its tokens by a query and reads their mean.

    Head h gives token i of a text the weight `a_hi = softmax_i(query_h . x_i)`; the score is
    `sum_hi a_hi (coef_h . x_i)` plus the intercept, trained on mean log-loss over texts with an L2
    penalty. Both kinds of weights are learned together by L-BFGS, from the logistic probe on mean tokens and random
    queries that are nearly flat; other seeds may end elsewhere.

    `C` means what it means for a `LogisticProbe` on the texts' mean tokens, whatever the number of heads: as
    `query_C` goes to 0 attention becomes even, and the probe becomes that one.

    Attention-pooled probes: "Attention Probes", EleutherAI 2025 (blog.eleuther.ai/attention-probes; there with a
    position bias, here without), and the multi-token probes of Kantamneni et al. 2025, "Are Sparse Autoencoders
    Useful? A Case Study in Sparse Probing" (arXiv 2502.16681).

    Args:
        heads: Queries, each with a read-out of its own.
        C: Inverse strength of the regularisation of the read-outs, > 0.
        query_C: The same for the queries, on tokens standardised feature by feature; None: as `C`.
        tol: Largest entry of the gradient of the mean loss at which training counts as done (or no step lowers the loss
            beyond rounding).
        max_iter: Iterations after which it is given up (`converged_` is then False, with a warning).
        seed: Of the queries that training starts from.

    Attributes:
        query_: `[head, d]`, on raw activations.
        coef_: `[output, head, d]`, on raw activations.
    """

    family: ClassVar[str] = "attention"
    grid_parameter: ClassVar[str | None] = "C"
    default_grid: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)

    query_: np.ndarray
    coef_: np.ndarray

    def __init__(
        self,
        heads: int = 1,
        C: float = 1.0,
        query_C: float | None = None,
        tol: float = 1e-4,
        max_iter: int = 1000,
        seed: int = 0,
    ) -> None:
        self.heads = heads
        self.C = C
        self.query_C = query_C
        self.tol = tol
        self.max_iter = max_iter
        self.seed = seed

    def attention(self, X: np.ndarray | Tensor, sequence: object) -> np.ndarray:
        """Where each head looks: `[row, head]`, summing to 1 over the tokens of a text."""
        rows, texts = self._read(X, sequence)
        logits = self._beyond_center(texts.sort(rows), self.query_)
        found: np.ndarray = texts.unsort(softmax_over(logits, texts.of_row, texts.offsets)[0]).numpy()
        return found

    def _fit(self, rows: Tensor, texts: Texts, codes: Tensor, n_classes: int) -> None:
        check_whole(heads=self.heads)
        query_C = self.C if self.query_C is None else self.query_C
        if not (self.C > 0 and query_C > 0):
            raise ValueError(f"C and query_C must be positive, got C={self.C}, query_C={self.query_C}")
        heads, d, outputs = self.heads, rows.shape[1], 1 if n_classes == 2 else n_classes
        standard = Standardisation.of(rows)
        z = standard.apply(rows)
        means = texts.means(z)
        # Read-outs are penalised as on standardised means. Means of unrelated tokens vary by one over the root of their
        # number; a feature whose means vary far less still would be blown up out of nothing.
        unit = Standardisation.of(means).std.clamp(min=len(texts) / len(rows))
        start, intercept = mean_pooled(means, codes, self.C)
        random = torch.Generator().manual_seed(self.seed)
        query = torch.randn(heads, d, generator=random).to(z) / d**0.5
        weights = torch.cat([query, (start * unit / heads).repeat_interleave(heads, 0)])
        # Heads that are all alike are then penalised as one.
        strength = [1 / (heads * query_C)] * heads + [heads / self.C] * (heads * outputs)
        scale = torch.cat([torch.ones_like(query), (1 / unit).expand(heads * outputs, d)])
        weights, intercept, found = train(
            z,
            codes,
            attention_pool(texts, heads, outputs),
            weights,
            intercept,
            torch.tensor(strength).to(z)[:, None] / len(texts),
            scale,
            tolerance=self.tol,
            max_iter=self.max_iter,
        )
        raw = (weights * scale / standard.std).cpu().numpy()
        self.query_, self.coef_ = raw[:heads], raw[heads:].reshape(outputs, heads, d)
        self._set_intercept(intercept, self.coef_.sum(1))
        self.converged_, self.n_iter_ = bool(found.converged), int(found.n_iter)

    def _shares(self, X: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
        outputs, heads, d = self.coef_.shape
        scores = self._beyond_center(X, np.concatenate([self.query_, self.coef_.reshape(-1, d)]))
        attention, _ = softmax_over(scores[:, :heads], texts.of_row, texts.offsets)
        shares = (attention[:, None] * scores[:, heads:].view(-1, outputs, heads)).sum(2)
        return shares, self._at_center(self.coef_.sum(1)).to(X.dtype)
