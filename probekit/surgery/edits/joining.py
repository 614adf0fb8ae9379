"""Several edits of activations as one: each layer along its own direction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import ActivationEdit, Change
from probekit.surgery.edits.affine import AffineMap
from probekit.surgery.edits.edit import Edit
from probekit.surgery.edits.where import Where


def together(*edits: ActivationEdit) -> ActivationEdit:
    """One edit that does what the given ones do, in their order: reflect each layer at its own probe's boundary, say.

    `remade` goes to every part: a strength replaces all their strengths, a direction (a control) is followed at every site with
    the scale, boundary and mean of the direction it replaces there.

    Raises:
        ValueError: none given, edits of different models or at different tokens, or two at one site of which one is no affine map.
    """
    if not edits:
        raise ValueError("together needs edits")
    first = edits[0]
    changes: dict[str, Change] = {}
    for edit in edits:
        if not isinstance(edit, ActivationEdit):
            raise TypeError(f"together joins edits of activations; {edit!r} changes weights: apply one after the other")
        if edit.model != first.model:
            raise ValueError(f"edits of different models: {first.model} and {edit.model}")
        if edit.where.tokens != first.where.tokens or edit.where.first != first.where.first:
            raise ValueError(f"edits at different tokens ({first.where}; {edit.where}): apply them one after the other")
        for site, own in edit.changes.items():
            change = own if edit.where.fires is None else _WhereFires(own, edit.where)
            before = changes.get(site)
            if before is None:
                changes[site] = change
            elif isinstance(before, AffineMap) and isinstance(change, AffineMap):
                changes[site] = before.then(change)
            else:
                raise ValueError(f"two edits at {site}, and not both are affine maps: apply them one after the other")

    def remake(direction: Direction | None, strength: float | None) -> Edit:
        made = []
        for edit in edits:
            own = edit.direction
            other = direction
            if direction is not None and own is not None:
                other = replace(direction, site=own.site, scale=own.scale, center=own.center, mean=own.mean)
            one = edit.remade(other, strength)
            assert isinstance(one, ActivationEdit)
            made.append(one)
        return together(*made)

    recipes = [edit.recipe for edit in edits]
    strengths = {edit.strength for edit in edits}
    name = f"{first.name}, and {len(edits) - 1} more, to {edits[-1].name}" if len(edits) > 1 else first.name
    joined = ActivationEdit(
        name,
        first.model,
        changes,
        replace(first.where, fires=None),
        direction=first.direction,
        strength=strengths.pop() if len(strengths) == 1 else None,
        remake=None if any(edit._remake is None for edit in edits) else remake,
    )
    joined.searched = any(edit.searched for edit in edits)
    if all(recipe is not None for recipe in recipes):
        joined.recipe = {"how": "together", "parts": [part_of(edit) for edit in edits]}
    return joined


def part_of(edit: ActivationEdit) -> dict[str, Any]:
    """What a saved edit says of one of the edits in it: how it was made, along what, how strongly."""
    return {"recipe": edit.recipe, "direction": edit.direction, "strength": edit.strength}


@dataclass(frozen=True)
class _WhereFires:
    """A change at the tokens only where the probe of its own site fires."""

    change: Change
    where: Where

    def __call__(self, h: Tensor) -> Tensor:
        assert self.where.fires is not None
        fires = h.float() @ self.where.fires.to(h.device) > self.where.threshold
        return torch.where(fires[..., None], self.change(h), h)
