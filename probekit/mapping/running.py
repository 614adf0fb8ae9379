"""Running a model on texts of different lengths: reading a site at some positions, and what the text costs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from probekit.mapping.alignment import TokenEnds
from probekit.models import Model
from probekit.models.editing import changed_at
from probekit.models.model import evaluating
from probekit.models.transformer_lens import is_transformer_lens

_BATCH_TOKENS = 4096
_BATCH_LOGITS = 2**26  # numbers of a batch's logits: 256 MiB in float32


def batches(texts: Sequence[TokenEnds], most: int) -> list[list[int]]:
    """Indices in batches of at most so many positions with padding, texts of like length together."""
    out: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: len(texts[i].ids)):
        if not out or (len(out[-1]) + 1) * len(texts[i].ids) > most:
            out.append([])
        out[-1].append(i)
    return out


def padded(texts: Sequence[TokenEnds]) -> tuple[Tensor, Tensor]:
    """`[batch, pos]` token ids, padded on the right, and which of them are no padding."""
    longest = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.from_numpy(text.ids)
        mask[row, : len(text.ids)] = True
    return ids, mask


def read_at(model: Model, site: str, texts: Sequence[TokenEnds], places: Sequence[np.ndarray]) -> list[Tensor]:
    """Activations `[place, width]` float32 of each text, at its places."""
    out: list[Tensor] = [torch.empty(0, model.site(site).width)] * len(texts)
    for members in batches(texts, _BATCH_TOKENS):
        ids, mask = padded([texts[i] for i in members])

        def keep(name: str, value: Tensor, members: list[int] = members) -> None:
            for row, i in enumerate(members):
                out[i] = value[row, torch.from_numpy(places[i]).to(value.device)].float().cpu()

        model.visit(ids, None if bool(mask.all()) else mask, [site], keep)
    return out


Change = Callable[[list[int], Tensor], Tensor]
"""Given which texts a batch holds, and what passes the site `[batch, pos, width]`: what is to pass instead."""


def losses(model: Model, texts: Sequence[TokenEnds], site: str, change: Change) -> np.ndarray:
    """`[text, 2]`: summed negative log-likelihood (nats) of each text's own tokens, and how many were predicted.

    The first token is predicted only where a special token stands before it.

    Args:
        change: What passes `site` instead of what passes there; it may give back what it was given.

    Raises:
        TypeError: a model that predicts no tokens.
    """
    out = np.zeros((len(texts), 2))
    for members in batches(texts, max(1, min(_BATCH_TOKENS, _BATCH_LOGITS // model.vocab))):
        ids, mask = padded([texts[i] for i in members])
        given, alive = ids.to(model.device), mask.to(model.device)

        def replaced(h: Tensor, members: list[int] = members, shape: torch.Size = given.shape) -> Tensor:
            if h.shape[:2] != shape:
                raise ValueError(f"what passes {site} is {tuple(h.shape)}, not one vector a token: patch another site")
            return change(members, h.reshape(*shape, -1)).reshape(h.shape)

        with torch.inference_mode(), evaluating(model.hf), changed_at(model, site, replaced):
            whole = is_transformer_lens(model.hf)
            said = model.hf(given) if whole else model.hf(input_ids=given, attention_mask=alive.long())
        logits = said if isinstance(said, Tensor) else getattr(said, "logits", None)
        if logits is None:
            raise TypeError(
                f"{model.name!r} has no unembedding, so it predicts no tokens: load it as a causal language model"
            )
        for row, i in enumerate(members):
            start, stop = max(texts[i].own[0], 1), texts[i].own[1]
            before = logits[row, start - 1 : stop - 1].float()
            target = given[row, start:stop, None]
            each = before.logsumexp(-1) - before.gather(-1, target)[:, 0]
            out[i] = float(each.double().sum()), stop - start
    return out
