"""Running a model over a plan and handing out rows as they come: what a store and streamed moments are made of."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from probekit.activations.plan import Plan
from probekit.models.arithmetic import warn_if_imitated


def run_batch(
    model: Any,
    plan: Plan,
    batch: np.ndarray,
    sites: Sequence[str],
    compute_dtype: torch.dtype | None,
    receive: Callable[[str, torch.Tensor], None],
) -> None:
    """Run one batch of sequences and hand over each site's rows as the model comes by.

    Args:
        batch: Sequence numbers.
        receive: Called once a site with its name and the activations `[row, width]` of `plan.rows_of(batch)`, in the
            model's dtype and on its device. Padding is never among them and never enters a mean.
    """
    lengths = np.array([len(plan.tokens[i]) for i in batch])
    tokens = np.zeros((len(batch), lengths.max()), dtype=np.int64)
    for row, i in zip(tokens, batch, strict=True):
        row[: len(plan.tokens[i])] = plan.tokens[i]
    mask = torch.from_numpy(np.arange(tokens.shape[1]) < lengths[:, None])
    place = np.repeat(np.arange(len(batch)), [plan.first_row[i + 1] - plan.first_row[i] for i in batch])
    flat = torch.from_numpy(place * tokens.shape[1] + plan.index["position"][plan.rows_of(batch)])
    waiting: list[tuple[str, torch.Tensor]] = []

    def hand_over(site: str, activations: torch.Tensor) -> None:
        whole = plan.pool in ("all", "last")
        pooled = _take(activations, flat) if whole else _average(activations, plan.spans[batch])
        if pooled.device.type == "cpu":
            receive(site, pooled)
        else:  # to copy it now would make the device wait for us at every site
            waiting.append((site, pooled))

    with _computing_in(compute_dtype, model):
        model.visit(torch.from_numpy(tokens), None if mask.all() else mask, sites, hand_over)
    for site, pooled in waiting:
        receive(site, pooled)


def _take(activations: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """`[row, width]`: rows at flat (sequence x position) places."""
    return activations.reshape(-1, activations.shape[-1]).index_select(0, flat.to(activations.device))


def _average(activations: torch.Tensor, spans: np.ndarray) -> torch.Tensor:
    """`[sequence, width]` float32 mean over each sequence's span; what stands outside it is never read into the sum."""
    span = torch.from_numpy(spans).to(activations.device)
    position = torch.arange(activations.shape[1], device=activations.device)
    outside = (position < span[:, :1]) | (position >= span[:, 1:])
    total = activations.float().masked_fill(outside[..., None], 0).sum(dim=1)
    return total / (span[:, 1:] - span[:, :1])


def _computing_in(dtype: torch.dtype | None, model: Any) -> contextlib.AbstractContextManager[Any]:
    if dtype is None:
        return contextlib.nullcontext()
    autocast: contextlib.AbstractContextManager[Any] = torch.autocast(
        torch.device(getattr(model, "device", "cpu")).type, dtype=dtype
    )
    return autocast


def stream_of(model: Any) -> tuple[str, ...]:
    """The model's residual stream.

    Raises:
        TypeError: no `Model`.
    """
    if not hasattr(model, "stream_sites"):
        raise TypeError(f"model is a {type(model).__name__}, not a Model: load it first, probekit.load_model(...)")
    return tuple(model.stream_sites)


def names_of_sites(sites: Sequence[str] | str | None, every: Sequence[str]) -> list[str]:
    """The sites asked for, each once; `every` if None. Looking them up tells whether they are sites.

    Raises:
        ValueError: an empty list.
    """
    names = list(dict.fromkeys([sites] if isinstance(sites, str | int) else every if sites is None else sites))
    if not names:
        raise ValueError("sites is empty: name at least one, or leave it out")
    return names


def computing_dtype(name: str | None, model: Any) -> torch.dtype | None:
    """The dtype of `compute_dtype=`; where the model's device has no instructions for it, that is said."""
    if name not in (None, "bfloat16", "float16"):
        raise ValueError(f"compute_dtype must be 'bfloat16', 'float16' or None (as the model was loaded), got {name!r}")
    found = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    warn_if_imitated(found, torch.device(getattr(model, "device", "cpu")), instead="leave compute_dtype out")
    return found


def warn_of_cut(plan: Plan, model: Any) -> None:
    """Say how many sequences were longer than the model can read."""
    if plan.cut:
        warnings.warn(
            f"{plan.cut} of {len(plan.tokens)} sequences are longer than the {model.context} tokens that {model.name} "
            f"can read; what lies beyond is left out",
            stacklevel=3,
        )
