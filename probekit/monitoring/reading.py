"""What a probe reads while the model runs: a number a token, and one activation a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.models import Model
from probekit.models.batching import BATCH_TOKENS, batches, padded, unless_full
from probekit.models.model import normalize
from probekit.monitoring.passages import Passage
from probekit.monitoring.readout import Readout


@dataclass(frozen=True)
class Read:
    """A text, read.

    Attributes:
        scores: `[pos]` float64 log-odds of each token, by its own activation alone.
        mean: `[d]` float32 activation, the mean over its own tokens.
    """

    scores: np.ndarray
    mean: np.ndarray


def read(
    model: Model, readout: Readout, passages: Sequence[Passage], first: int = 0, budget: int = BATCH_TOKENS
) -> list[Read]:
    """Run the model over some texts; of the activations only what a `Read` has is kept.

    Raises:
        ValueError: activations that are not finite.
    """
    found: dict[int, Read] = {}
    for members in batches([len(passage.ids) for passage in passages], budget):
        some = [passages[i] for i in members]
        tokens, mask = padded([passage.ids for passage in some])

        def receive(site: str, activations: Tensor, some: list[Passage] = some, members: list[int] = members) -> None:
            scores = readout.scores(activations).double().cpu().numpy()
            means = _means(activations, some)
            for row, (i, passage) in enumerate(zip(members, some, strict=True)):
                own = scores[row, : len(passage.ids)]
                if not np.isfinite(own[passage.start :]).all() or not np.isfinite(means[row]).all():
                    raise ValueError(f"activations at {site} are not finite in texts[{first + i}]")
                found[i] = Read(own.copy(), means[row])

        model.visit(tokens, unless_full(mask), [readout.site], receive)
    return [found[i] for i in range(len(passages))]


def _means(activations: Tensor, passages: Sequence[Passage]) -> np.ndarray:
    """`[batch, d]` float32; what stands outside a text's own tokens is never read into the sum."""
    position = torch.arange(activations.shape[1], device=activations.device)
    ends = torch.tensor([(p.start, p.stop) for p in passages], device=activations.device)
    outside = (position < ends[:, :1]) | (position >= ends[:, 1:])
    total = activations.float().masked_fill(outside[..., None], 0).sum(dim=1)
    mean: np.ndarray = (total / (ends[:, 1:] - ends[:, :1])).cpu().numpy()
    return mean


@contextmanager
def listening(model: Model, site: str, receive: Callable[[Tensor], None]) -> Iterator[None]:
    """While inside, `receive` is handed what passes a site in every call of the model, `generate` included; it changes nothing.

    What comes is the model's own memory, `[batch, pos, d]`; of a few sites (OPT's `mlp.hook_post`) `[batch * pos, d]`.
    """
    place = model.site(site)
    module = model.hf.get_submodule(place.module)

    def after(module: Any, args: Any, output: Any) -> None:
        receive(output if isinstance(output, Tensor) else output[0])

    def before(module: Any, args: Any, kwargs: Any) -> None:
        value = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
        receive(normalize(module, value) if place.at == "normalized" else value)

    if place.at == "output":
        handle = module.register_forward_hook(after)
    else:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
