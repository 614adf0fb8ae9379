"""Scale and shift: a factor and an offset a channel, fitted on a small set, then folded into norms and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probekit.activations.progress import Bar
from probekit.models import Model
from probekit.models.model import evaluating
from probekit.surgery.edits.matrices import writer_of
from probekit.surgery.edits.places import writers_of
from probekit.surgery.edits.weight_edits import Replacement, WeightEdit, refuse_weights

Loss = Callable[[Model, Sequence[Any]], Tensor]
"""The model as it is being tuned, and a batch of items, to a scalar to be made small."""


@dataclass(frozen=True)
class Channels:
    """What is fitted at one module: its output becomes `output * scale + shift`.

    Attributes:
        path: Of the module, a norm or a linear layer that writes to the stream.
        output_axis: Which axis of the weight is the output.
        scale: `[d]`, one at the start.
        shift: `[d]`, zero at the start; None where the module has no bias to fold it into.
    """

    path: str
    output_axis: int
    scale: nn.Parameter
    shift: nn.Parameter | None


def scale_and_shift(
    model: Model,
    items: Sequence[Any],
    *,
    loss: Loss | None = None,
    steps: int = 100,
    batch: int = 8,
    rate: float = 1e-2,
    seed: int = 0,
    progress: bool = True,
) -> WeightEdit:
    """Fit a scale and a shift for each channel of the norms and of what is written to the stream, and fold them.

    The folded model has the architecture, and the speed, of the original. Where a module has no bias (RMS norms, most Llama
    layers), there is a scale only.

    Source: Lian et al. 2022, "Scaling & Shifting Your Features" (arXiv 2210.08823), sections 3.2 and 3.3.

    Args:
        items: What it is fitted on: texts, unless `loss` takes something else.
        loss: What is made small; by default the cross-entropy of the next token, in nats.
        steps, batch, rate, seed: Of AdamW, with a linear decay to zero.
        progress: Whether to draw a bar.

    Raises:
        ValueError: no items, or a loss that is not finite.
    """
    refuse_weights(model)
    if not len(items) or steps < 1:
        raise ValueError(f"scale_and_shift needs items to fit on and a step or more, got {len(items)} and {steps}")
    measure = loss or next_token_loss
    channels = new_channels(model)
    trained = [p for one in channels for p in (one.scale, one.shift) if p is not None]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(seed)
    frozen = {name: p.requires_grad for name, p in model.hf.named_parameters()}
    bar = Bar(progress, steps, "scale and shift")
    values: list[float] = []
    try:
        model.hf.requires_grad_(False)
        with evaluating(model.hf), unfolded(model, channels), torch.enable_grad():
            for _ in range(steps):
                chosen = torch.randint(len(items), (min(batch, len(items)),), generator=generator).tolist()
                value = measure(model, [items[i] for i in chosen])
                if not bool(torch.isfinite(value)):
                    raise ValueError(f"the loss became {float(value)} at step {len(values)}: lower the rate")
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                schedule.step()
                values.append(float(value.detach()))
                bar.advance(1)
    finally:
        bar.close()
        for name, parameter in model.hf.named_parameters():
            parameter.requires_grad_(frozen[name])
    edit: WeightEdit = fold_channels(
        model, channels, {"steps": steps, "rate": rate, "seed": seed, "loss": [values[0], values[-1]]}
    )
    return edit


def new_channels(model: Model) -> list[Channels]:
    """Channels that change nothing, at every norm of the stream and at every layer that writes to it inside a block."""
    found = []
    for path, module in model.hf.named_modules():
        weight = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and isinstance(weight, Tensor) and weight.shape == (model.d_model,):
            found.append(_channels(module, path, 0))
    for site in writers_of(model):
        if not site.endswith("embed"):
            try:
                layer = writer_of(model, site)
            except ValueError:  # a norm stands behind it, and has channels of its own
                continue
            found.append(_channels(model.hf.get_submodule(layer.path), layer.path, layer.output_axis))
    return found


def _channels(module: Any, path: str, axis: int) -> Channels:
    weight = module.weight
    size = weight.shape[0] if weight.ndim == 1 else weight.shape[axis]
    like = {"dtype": torch.float32, "device": weight.device}
    shift = None if getattr(module, "bias", None) is None else nn.Parameter(torch.zeros(size, **like))
    return Channels(path, axis, nn.Parameter(torch.ones(size, **like)), shift)


@contextmanager
def unfolded(model: Model, channels: Sequence[Channels]) -> Iterator[None]:
    """While inside, the channels act on the outputs of their modules, in passing."""

    def hook_of(one: Channels) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            changed = output.float() * one.scale
            return (changed if one.shift is None else changed + one.shift).to(output.dtype)

        return hook

    handles = [model.hf.get_submodule(one.path).register_forward_hook(hook_of(one)) for one in channels]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()  # type: ignore[untyped-decorator]
def fold_channels(model: Model, channels: Sequence[Channels], details: dict[str, object] | None = None) -> WeightEdit:
    """The weights that compute the model with its channels."""
    parts = []
    for one in channels:
        module = model.hf.get_submodule(one.path)
        scale = one.scale.detach().double()
        weight = module.weight.detach()
        wide = weight.double()
        if weight.ndim == 1:
            one_more = (
                1.0 if type(module).__name__.startswith("Gemma") else 0.0
            )  # Gemma's gain is one more than its weight
            new = (wide + one_more) * scale - one_more
        else:
            new = wide * (scale[:, None] if one.output_axis == 0 else scale)
        parts.append(Replacement(f"{one.path}.weight", 0, None, new.to(weight.dtype)))
        if one.shift is not None:
            bias = module.bias.detach()
            parts.append(Replacement(f"{one.path}.bias", 0, None, (bias.double() * scale + one.shift.detach().double()).to(bias.dtype)))  # fmt: skip
    count = sum(one.scale.numel() + (0 if one.shift is None else one.shift.numel()) for one in channels)
    return WeightEdit(f"scale and shift of {count:,} channels, folded", model, parts, details=details)


def next_token_loss(model: Model, texts: Sequence[str]) -> Tensor:
    """Cross-entropy of the next token in nats, mean over all tokens of the texts."""
    tokens, _ = model.tokenize(texts)
    longest = max(len(one) for one in tokens)
    ids = torch.zeros(len(tokens), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, one in enumerate(tokens):
        ids[i, : len(one)] = torch.from_numpy(one.astype("int64"))
        mask[i, : len(one)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    logits = model.hf(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    target = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
