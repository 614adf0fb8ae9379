"""Texts of different lengths in padded batches, and what a language model predicts in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.models.model import Model, evaluating
from probekit.models.transformer_lens import is_transformer_lens

BATCH_TOKENS = 4096
"""Positions of a batch, padding included."""
_BATCH_LOGITS = 2**26  # numbers of a batch's logits: 256 MiB in float32


def batches(lengths: Sequence[int], most: int = BATCH_TOKENS) -> list[list[int]]:
    """Numbers of texts that run together: of like length, shortest first, at most so many positions with their padding.

    Args:
        lengths: Tokens of each text; one that is longer than `most` has a batch of its own.
    """
    out: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not out or (len(out[-1]) + 1) * lengths[i] > most:
            out.append([])
        out[-1].append(i)
    return out


def padded(sequences: Sequence[Any], *, left: bool = False, fill: int = 0) -> tuple[Tensor, Tensor]:
    """`[batch, pos]` int64 token ids, and bool: which of them are no padding.

    Args:
        sequences: Token ids of each text; `[pos]`.
        left: Whether the padding stands before the text, as for generation.
        fill: Token that stands where there is padding.
    """
    longest = max(map(len, sequences))
    tokens = torch.full((len(sequences), longest), fill, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, ids in enumerate(sequences):
        place = slice(longest - len(ids), longest) if left else slice(0, len(ids))
        tokens[row, place] = torch.from_numpy(np.asarray(ids, np.int64))
        mask[row, place] = True
    return tokens, mask


def unless_full(mask: Tensor) -> Tensor | None:
    """The mask of a batch; None where nothing is padded."""
    return None if bool(mask.all()) else mask


def positions_of_logits(model: Model) -> int:
    """How many positions a batch may have whose logits are kept."""
    return max(1, min(BATCH_TOKENS, _BATCH_LOGITS // model.vocab))


def logits(model: Model, tokens: Tensor, mask: Tensor) -> Tensor:
    """`[batch, pos, vocabulary]` of a batch that is padded on the right, in evaluation mode and without gradients.

    Args:
        tokens: `[batch, pos]` int64.
        mask: `[batch, pos]` bool: which are no padding.

    Raises:
        TypeError: a model that predicts no tokens.
    """
    given, alive = tokens.to(model.device), mask.to(model.device)
    before, model.padding = model.padding, unless_full(alive)
    try:
        with torch.no_grad(), evaluating(model.hf):
            out = (
                model.hf(given)
                if is_transformer_lens(model.hf)
                else model.hf(input_ids=given, attention_mask=alive.long())
            )
    finally:
        model.padding = before
    found = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if found is None:
        raise TypeError(
            f"{model.name!r} has no unembedding, so it predicts no tokens: load it as a causal language model"
        )
    return found


def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """`[...]` float32 negative log-likelihood of `targets` `[...]` under logits `[..., vocabulary]`."""
    wide = logits.float()
    return wide.logsumexp(-1) - wide.gather(-1, targets[..., None])[..., 0]
