"""Edits that put something else in place: activations of another run, a feature of an SAE at another value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from probekit.models import Model
from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import ActivationEdit, refuse_infinite_strength
from probekit.surgery.edits.where import Place


def patch(model: Model, site: str, activations: Tensor, *, where: Place = "all") -> ActivationEdit:
    """Put in the activations of another run.

    Args:
        activations: `[pos, d]` or `[batch, pos, d]`, such as `other.run(tokens, None, [site])[site]`; the calls that follow must
            have that many positions.
        where: At which of the positions.
    """
    given = torch.as_tensor(activations).detach()
    width = model.site(site).width
    if given.ndim not in (2, 3) or given.shape[-1] != width:
        raise ValueError(f"activations for {site} must be [pos, {width}] or [batch, pos, {width}], got {tuple(given.shape)}")  # fmt: skip
    if not bool(torch.isfinite(given).all()):
        raise ValueError("the activations to put in have NaN or infinite values")

    def change(h: Tensor) -> Tensor:
        if h.shape[-2] != given.shape[-2] or (given.ndim == 3 and given.shape[0] not in (1, len(h))):
            raise ValueError(
                f"the patch at {site} has shape {tuple(given.shape)}, what passes there {tuple(h.shape)}: patched calls must "
                "have the same positions, so no generation with a cache"
            )
        return given.to(h).expand_as(h)

    return ActivationEdit(f"patch {site}", model, {site: change}, where)


def set_feature(
    sae: Any,
    feature: int,
    model: Model,
    *,
    value: float | None = None,
    factor: float | None = None,
    site: str | None = None,
    where: Place = "all",
) -> ActivationEdit:
    """Clamp a feature of an SAE to a value, or scale it; what the SAE does not explain stays as it is.

    Source: Templeton et al. 2024, "Scaling Monosemanticity", section "Feature steering".

    Args:
        sae: Anything with `encode([..., d]) -> [..., feature]` and `W_dec [feature, d]`, such as an `sae_lens.SAE`.
        feature: Which.
        value: What it is clamped to, in units of the feature.
        factor: What it is multiplied with: 0 takes it out.
        site: Where; the SAE's own `hook_name` when left out.

    Raises:
        ValueError: neither or both of `value` and `factor`, no such feature, or an SAE of another width than the site.
    """
    if (value is None) == (factor is None):
        raise ValueError("give either value= (clamp to) or factor= (multiply with)")
    refuse_infinite_strength(value if value is not None else factor or 0.0)
    where_at = site or getattr(getattr(getattr(sae, "cfg", None), "metadata", None), "hook_name", None)
    if where_at is None:
        raise ValueError("the SAE does not say where it reads: give site=")
    count, width = sae.W_dec.shape
    if not 0 <= feature < count:
        raise ValueError(f"no feature {feature}: the SAE has {count}, 0 to {count - 1}")
    if model.site(where_at).width != width:
        raise ValueError(f"the SAE reads {width} dimensions, {where_at} has {model.site(where_at).width}")

    def change(h: Tensor) -> Tensor:
        with torch.no_grad():
            own = sae.encode(h.to(sae.W_dec))[..., feature].to(h.device)
        wanted = torch.full_like(own, value) if value is not None else own * factor
        return h + ((wanted - own)[..., None] * sae.W_dec[feature].detach().to(h.device)).to(h.dtype)

    def make(d: Direction | None, s: float | None) -> ActivationEdit:
        if d is not None:
            raise TypeError("a feature is no direction: a control for it is another feature")
        given = {"value": s} if value is not None else {"factor": s}
        return set_feature(sae, feature, model, site=where_at, where=where, **given)

    what = (
        f"clamp feature {feature} to {value:.4g}" if value is not None else f"scale feature {feature} by {factor:.4g}"
    )
    strength = value if value is not None else factor
    return ActivationEdit(f"{what} at {where_at}", model, {where_at: change}, where, strength=strength, remake=make)
