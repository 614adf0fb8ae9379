"""Edits of activations: add, set, project out, reflect, erase, at chosen sites and tokens, while the model runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probekit.models import Model
from probekit.models.editing import changed_at
from probekit.surgery.affine import AffineMap, Triple, applied_to
from probekit.surgery.edit import Edit, Undo, refuse_other_model
from probekit.surgery.places import Layers, sites_of
from probekit.surgery.where import Place, Tokens, Where

if TYPE_CHECKING:
    from probekit.probes.direction import Direction
    from probekit.surgery.erasers import Eraser
    from probekit.surgery.weight_edits import WeightEdit

Change = AffineMap | Callable[[Tensor], Tensor]
_LOUD = 1.0  # a step as long as the activation it is added to


class ActivationEdit(Edit):
    """Changes what passes some sites, by hooks.

    Args:
        model: The model it is made for, or the fingerprint of that model.

    Attributes:
        changes: By site, an `AffineMap` (what folds into weights), or any function from `[batch, pos, d]` to the same.
        where: At which tokens.
    """

    def __init__(
        self,
        name: str,
        model: Model | str,
        changes: Mapping[str, Change],
        where: Place = "all",
        *,
        direction: Direction | None = None,
        strength: float | None = None,
        remake: Callable[[Direction | None, float | None], Edit] | None = None,
    ) -> None:
        self.name = name
        self.model = model.fingerprint if isinstance(model, Model) else model
        self.changes = dict(changes)
        self.where = Where.of(where)
        self.direction = direction
        self.strength = strength
        self._remake = remake
        if not self.changes:
            raise ValueError("this edit changes nothing")
        if isinstance(model, Model):
            self.check(model)

    @property
    def changes_weights(self) -> bool:
        return False

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that are changed."""
        return tuple(self.changes)

    def check(self, model: Model) -> None:
        super().check(model)
        for site, change in self.changes.items():
            width = model.site(site).width
            if isinstance(change, AffineMap) and change.width != width:
                raise ValueError(f"the edit is {change.width} wide, {site} of {model.name!r} {width}")
            if self.where.fires is not None and len(self.where.fires) != width:
                raise ValueError(f"the probe that says where to act is {len(self.where.fires)} wide, {site} {width}")

    def to_weights(self, model: Model) -> WeightEdit:
        """The same edit as a change of weights, where there is one.

        Raises:
            ValueError: there is none; says why.
        """
        from probekit.surgery.folding import fold

        return fold(self, model)

    def describe(self) -> dict[str, object]:
        return {
            "kind": "activations",
            "name": self.name,
            "model": self.model,
            "sites": list(self.changes),
            "where": str(self.where),
            "strength": self.strength,
            "direction": None if self.direction is None else dict(self.direction.provenance),
        }

    def _put_on(self, model: Model) -> Undo:
        end = ExitStack()
        try:
            tokens = None
            if self.where.tokens != "all":
                tokens = Tokens(model)
                end.callback(tokens.follow())
            for site, change in self.changes.items():
                end.enter_context(changed_at(model, site, _Hook(site, change, self.where, tokens)))
        except BaseException:
            end.close()
            raise
        return end.close


class _Hook:
    """What stands at one site: the change, its tensors in the dtype and on the device of the activations."""

    def __init__(self, site: str, change: Change, where: Where, tokens: Tokens | None) -> None:
        self.site, self.change, self.where, self.tokens = site, change, where, tokens
        self.cast: dict[tuple[torch.dtype, torch.device], Triple] = {}
        self.checked = not isinstance(change, AffineMap) or not bool(change.bias.any())

    def __call__(self, h: Tensor) -> Tensor:
        changed = self._changed(h)
        if not self.checked and not torch.compiler.is_compiling():
            self.checked = True
            self._warn_if_loud(h)
        if self.where.is_everywhere:
            return changed
        # OPT runs its MLP on [batch * pos, d].
        wide = h if self.tokens is None or h.ndim == 3 else h.view(*self.tokens.index.shape, -1)
        return torch.where(self.where.chosen(wide, self.tokens).view(*h.shape[:-1], 1), changed, h)

    def _changed(self, h: Tensor) -> Tensor:
        if not isinstance(self.change, AffineMap):
            return self.change(h)
        dtype = torch.float32 if h.dtype.itemsize < 4 else h.dtype
        key = (dtype, h.device)
        if key not in self.cast:
            self.cast[key] = self.change.cast(dtype, h.device)
        return applied_to(h, self.cast[key])

    def _warn_if_loud(self, h: Tensor) -> None:
        assert isinstance(self.change, AffineMap)
        usual = float(h.detach().float().norm(dim=-1).median())
        step = float(self.change.bias.norm())
        if usual > 0 and step > _LOUD * usual:
            warnings.warn(
                f"at {self.site} the edit adds a vector {step / usual:.1f} times as long as the activations there "
                f"(median length {usual:.3g}): expect nonsense, or lower the strength",
                stacklevel=2,
            )


def steer(
    direction: Direction,
    model: Model,
    strength: float,
    *,
    layers: Layers = None,
    where: Place = "all",
) -> ActivationEdit:
    """Add the direction.

    Source: Turner et al. 2023 (arXiv 2308.10248); Rimsky et al. 2023 (arXiv 2312.06681), section 3.

    Args:
        strength: In standard deviations of the data along the direction (`direction.scale`); negative to go the other way.
        layers: Where; None for the direction's own site. See `places.Layers`.
        where: At which tokens; see `Where`.

    Raises:
        ValueError: another model's direction, one whose scale is not known, or a strength that is not finite.
    """
    step = _scaled(direction, model, strength)

    def make(d: Direction, s: float) -> ActivationEdit:
        return steer(d, model, s, layers=layers, where=where)

    return _same_everywhere(
        f"steer by {strength:+.4g} standard deviations",
        direction,
        model,
        AffineMap.shift(direction.vector.double() * step),
        layers,
        where,
        strength,
        make,
        "steer",
    )


def ablate(
    direction: Direction, model: Model, *, to_mean: bool = False, layers: Layers = None, where: Place = "all"
) -> ActivationEdit:
    """Project the direction out.

    Source: Arditi et al. 2024 (arXiv 2406.11717), section 2.4 (directional ablation).

    Args:
        to_mean: Leave the mean of the data along the direction in place of zero.
        layers: Where. Layers after the last one edited may write the direction again; `layers="writers"` edits everything that
            writes to the stream, so that it never carries the direction: the same as `orthogonalize`.
        where: At which tokens.

    Raises:
        ValueError: another model's direction, or `to_mean` where the mean is not known.
    """
    value = 0.0
    if to_mean:
        if direction.mean is None:
            raise ValueError("the mean of the data along this direction is not known: direction.measured(activations)")
        value = direction.mean

    def make(d: Direction, s: float) -> ActivationEdit:
        return ablate(d, model, to_mean=to_mean, layers=layers, where=where)

    change = AffineMap.replace_coordinates(direction.vector[:, None], [value])
    return _same_everywhere("ablate", direction, model, change, layers, where, None, make, "ablate", to_mean=to_mean)


def fix(
    direction: Direction, model: Model, value: float, *, layers: Layers = None, where: Place = "all"
) -> ActivationEdit:
    """Set the coordinate along the direction to one value at every token.

    Args:
        value: In standard deviations from zero (`direction.scale`).
        layers, where: As in `steer`.
    """
    target = _scaled(direction, model, value)

    def make(d: Direction, s: float) -> ActivationEdit:
        return fix(d, model, s, layers=layers, where=where)

    change = AffineMap.replace_coordinates(direction.vector[:, None], [target])
    return _same_everywhere(
        f"set to {value:.4g} standard deviations", direction, model, change, layers, where, value, make, "fix"
    )


def reflect(
    direction: Direction, model: Model, strength: float = 1.0, *, layers: Layers = None, where: Place = "all"
) -> ActivationEdit:
    """Mirror activations at the boundary between the two classes, so that each reads as the other.

    Args:
        strength: 1 is the mirror image, 0.5 the boundary itself, 0 nothing.
        layers, where: As in `steer`.

    Raises:
        ValueError: the direction does not know where its probe changes its mind (`center`).
    """
    if direction.center is None:
        raise ValueError("this direction does not know the boundary between its classes (center): take it from a probe")
    refuse_infinite_strength(strength)

    def make(d: Direction, s: float) -> ActivationEdit:
        if d.center is None:  # a random direction has no classes: it is mirrored at as far a boundary
            from dataclasses import replace

            d = replace(d, center=direction.center)
        return reflect(d, model, s, layers=layers, where=where)

    change = AffineMap.replace_coordinates(direction.vector[:, None], [direction.center], share=2 * strength)
    return _same_everywhere(
        f"reflect ({strength:.4g})", direction, model, change, layers, where, strength, make, "reflect"
    )


def erase(erasers: Eraser | Mapping[str, Eraser], model: Model, *, where: Place = "all") -> ActivationEdit:
    """Erase a concept with fitted erasers (`leace`, `inlp`), each at its own site.

    Raises:
        ValueError: erasers of another model.
    """
    each = dict(erasers) if isinstance(erasers, Mapping) else {erasers.site: erasers}
    for site, eraser in each.items():
        if eraser.model is not None and eraser.model != model.fingerprint:
            raise ValueError(
                f"the eraser of {site} was fitted in the model {eraser.model}, {model.name!r} is {model.fingerprint}"
            )
    changes = {site: each[site].map for site in model.sites if site in each}
    if unknown := set(each) - set(changes):
        model.site(sorted(unknown)[0])
    method = next(iter(each.values())).provenance.get("method", "erase")
    return ActivationEdit(f"{method} at {_span(tuple(changes))}", model, changes, where)


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
            own = sae.encode(h.to(sae.W_dec.dtype))[..., feature]
        wanted = torch.full_like(own, value) if value is not None else own * factor
        return h + ((wanted - own)[..., None] * sae.W_dec[feature].detach()).to(h.dtype)

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


def _same_everywhere(
    what: str,
    direction: Direction,
    model: Model,
    change: AffineMap,
    layers: Layers,
    where: Place,
    strength: float | None,
    make: Callable[[Direction, float], ActivationEdit],
    how: str,
    **options: object,
) -> ActivationEdit:
    """One map at every site that `layers` names."""
    refuse_other_model(direction, model)
    sites = sites_of(model, layers, direction.site)
    if layers == "writers" and change.bias.any():
        raise ValueError(
            "layers='writers' edits every summand of the stream, so a vector would be added once for each: only projecting out "
            "(ablate) makes sense there; give layers='all' or numbers of layers"
        )
    remake = partial(_remade, direction, strength, make)
    edit = ActivationEdit(
        f"{what} at {_span(sites)}",
        model,
        dict.fromkeys(sites, change),
        where,
        direction=direction,
        strength=strength,
        remake=remake,
    )
    if edit.where.fires is None:
        there = {"tokens": edit.where.tokens, "first": edit.where.first}
        edit.recipe = {"how": how, "layers": layers if layers is None or isinstance(layers, str | int) else list(layers), "where": there, **options}  # fmt: skip
    return edit


def _remade(
    direction: Direction,
    strength: float | None,
    make: Callable[[Direction, float], ActivationEdit],
    other: Direction | None,
    s: float | None,
) -> ActivationEdit:
    if s is not None and strength is None:
        raise TypeError("this edit has no strength to change")
    return make(direction if other is None else other, (strength or 0.0) if s is None else s)


def _scaled(direction: Direction, model: Model, strength: float) -> float:
    """A strength in standard deviations as a length in units of the activations."""
    refuse_other_model(direction, model)
    refuse_infinite_strength(strength)
    if direction.scale is None:
        raise ValueError(
            "how far the data spread along this direction is not known, so a strength in standard deviations means nothing: "
            "direction.measured(activations) finds out"
        )
    return strength * direction.scale


def refuse_infinite_strength(value: float) -> None:
    """Refuse a strength that is NaN or infinite."""
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"the strength must be a finite number, not {value}")


def _span(sites: tuple[str, ...]) -> str:
    return sites[0] if len(sites) == 1 else f"{len(sites)} sites, {sites[0]} to {sites[-1]}"
