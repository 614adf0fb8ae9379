"""Edits along a direction while the model runs: add, set, project out, reflect; and erasing a concept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from probekit.models import Model
from probekit.surgery.edits.activation_edit import ActivationEdit, refuse_infinite_strength
from probekit.surgery.edits.affine import AffineMap
from probekit.surgery.edits.edit import refuse_other_model
from probekit.surgery.edits.places import Layers, sites_of
from probekit.surgery.edits.where import Place, Where

if TYPE_CHECKING:
    from probekit.probes.direction import Direction
    from probekit.surgery.directions.erasers import Eraser


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
            d = replace(d, center=direction.center)
        return reflect(d, model, s, layers=layers, where=where)

    change = AffineMap.replace_coordinates(direction.vector[:, None], [direction.center], share=2 * strength)
    return _same_everywhere(
        f"reflect ({strength:.4g})", direction, model, change, layers, where, strength, make, "reflect"
    )


def erase(erasers: Eraser | Mapping[str, Eraser], model: Model, *, where: Place = "all") -> ActivationEdit:
    """Erase a concept with fitted erasers (`leace`, `scrub`, `inlp`), each at its own site.

    Warns where `scrub` fitted the erasers at other tokens than `where`: what it promises holds at those.

    Raises:
        ValueError: erasers of another model.
    """
    each = dict(erasers) if isinstance(erasers, Mapping) else {erasers.site: erasers}
    for site, eraser in each.items():
        if eraser.model is not None and eraser.model != model.fingerprint:
            raise ValueError(
                f"the eraser of {site} was fitted in the model {eraser.model}, {model.name!r} is {model.fingerprint}"
            )
    fitted_at = {eraser.provenance.get("where") for eraser in each.values()} - {None, str(Where.of(where))}
    if fitted_at:
        warnings.warn(f"the erasers were fitted {fitted_at.pop()}, and are to act {Where.of(where)}", stacklevel=2)
    changes = {site: each[site].map for site in model.sites if site in each}
    if unknown := set(each) - set(changes):
        model.site(sorted(unknown)[0])
    method = next(iter(each.values())).provenance.get("method", "erase")
    return ActivationEdit(f"{method} at {_span(tuple(changes))}", model, changes, where)


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
        f"{what} at {_span(sites)}{'' if Where.of(where).is_everywhere else f', {Where.of(where)}'}",
        model,
        dict.fromkeys(sites, change),
        where,
        direction=direction,
        strength=strength,
        remake=remake,
    )
    named = layers if layers is None or isinstance(layers, str | int) else list(layers)
    edit.recipe = {"how": how, "layers": named, "where": edit.where.to_json(), **options}
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


def _span(sites: tuple[str, ...]) -> str:
    return sites[0] if len(sites) == 1 else f"{len(sites)} sites, {sites[0]} to {sites[-1]}"
