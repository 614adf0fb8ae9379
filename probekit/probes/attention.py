"""`AttentionProbe`: a text read through softmax attention over its tokens, with a learned query a head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probekit.probes.token_probe import Pool, Texts, softmax_over


def attention_pool(texts: Texts, heads: int, outputs: int) -> Pool:
    """Attention over the rows of each text, as a pool of token scores.

    The columns of the scores are the logits of `heads` queries, then the values `[output, head]`. A text's score is the sum
    over heads and tokens of value times attention.
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
