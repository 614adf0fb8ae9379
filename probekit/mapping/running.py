"""Running a model on texts of different lengths: reading a site at some positions, and what the text costs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from probekit.mapping.alignment import TokenEnds
from probekit.models import Model
from probekit.models.batching import batches, logits, nats, padded, positions_of_logits, unless_full
from probekit.models.editing import changed_at


def read_at(model: Model, site: str, texts: Sequence[TokenEnds], places: Sequence[np.ndarray]) -> list[Tensor]:
    """Activations `[place, width]` float32 of each text, at its places."""
    out: list[Tensor] = [torch.empty(0, model.site(site).width)] * len(texts)
    for members in batches([len(text.ids) for text in texts]):
        ids, mask = padded([texts[i].ids for i in members])

        def keep(name: str, value: Tensor, members: list[int] = members) -> None:
            for row, i in enumerate(members):
                out[i] = value[row, torch.from_numpy(places[i]).to(value.device)].float().cpu()

        model.visit(ids, unless_full(mask), [site], keep)
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
    for members in batches([len(text.ids) for text in texts], positions_of_logits(model)):
        ids, mask = padded([texts[i].ids for i in members])

        def replaced(h: Tensor, members: list[int] = members, shape: torch.Size = ids.shape) -> Tensor:
            if h.shape[:2] != shape:
                raise ValueError(f"what passes {site} is {tuple(h.shape)}, not one vector a token: patch another site")
            return change(members, h.reshape(*shape, -1)).reshape(h.shape)

        with changed_at(model, site, replaced):
            predicted = logits(model, ids, mask)
        target = ids.to(predicted.device)
        for row, i in enumerate(members):
            start, stop = max(texts[i].own[0], 1), texts[i].own[1]
            lost = nats(predicted[row, start - 1 : stop - 1], target[row, start:stop])
            out[i] = float(lost.double().sum()), stop - start
    return out
