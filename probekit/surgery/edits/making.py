"""Making an edit by name: what a saved edit says of how it was made, and what the command line asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from probekit.models import Model
from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.edit import Edit
from probekit.surgery.edits.folding import orthogonalize
from probekit.surgery.edits.joining import together
from probekit.surgery.edits.linear import ablate, fix, reflect, steer
from probekit.surgery.edits.rows import shift_rows
from probekit.surgery.edits.where import Where

WAYS = ("steer", "fix", "reflect", "ablate", "orthogonalize", "shift_rows")
WITH_STRENGTH = ("steer", "fix", "reflect", "shift_rows")


def make_edit(
    how: str,
    direction: Direction,
    model: Model,
    strength: float | None = None,
    *,
    in_weights: bool = False,
    **options: Any,
) -> Edit:
    """The edit called `how`, as the function of that name makes it.

    Args:
        how: One of `WAYS`.
        strength: Of those that have one.
        in_weights: Fold an edit of activations into the weights.
        **options: Of the function: `layers`, `where`, `to_mean`, `share`, `rows`.

    Raises:
        ValueError: no such way, a strength missing or not wanted.
    """
    if how == "together":
        return _parts_together(options["parts"], direction, strength, model)
    if how not in WAYS:
        raise ValueError(f"no edit is called {how!r}; there are {', '.join(WAYS)}")
    if (how in WITH_STRENGTH) != (strength is not None):
        raise ValueError(f"{how} {'needs' if strength is None else 'has no'} strength")
    given = dict(options)
    if isinstance(given.get("where"), Mapping):
        given["where"] = Where.from_json(**given["where"])
    functions = {"steer": steer, "fix": fix, "reflect": reflect, "ablate": ablate, "orthogonalize": orthogonalize, "shift_rows": shift_rows}  # fmt: skip
    function: Any = functions[how]
    edit: Edit = (
        function(direction, model, **given) if strength is None else function(direction, model, strength, **given)
    )
    if in_weights and isinstance(edit, ActivationEdit):
        return edit.to_weights(model)
    return edit


def remaker(recipe: Mapping[str, Any], direction: Direction, strength: float | None, model: Model) -> Any:
    """What `Edit.remade` calls for an edit that was read from a file."""
    return partial(_remade, dict(recipe), direction, strength, model)


def _remade(
    recipe: dict[str, Any],
    direction: Direction | None,
    strength: float | None,
    model: Model,
    other: Direction | None,
    s: float | None,
) -> Edit:
    if s is not None and strength is None:
        raise TypeError("this edit has no strength to change")
    if recipe["how"] == "together":
        return _parts_together(recipe["parts"], other, s, model)
    along = other or direction
    assert along is not None
    if recipe["how"] == "reflect" and along.center is None and direction is not None:
        along = replace(along, center=direction.center)
    return make_edit(direction=along, model=model, strength=strength if s is None else s, **recipe)


def _parts_together(
    parts: list[dict[str, Any]], direction: Direction | None, strength: float | None, model: Model
) -> Edit:
    """The parts of a joined edit, each along its own direction unless another is given, all at one strength if one is given."""
    made = [
        make_edit(direction=part["direction"], model=model, strength=part["strength"], **part["recipe"])
        for part in parts
    ]
    joined = together(*[edit for edit in made if isinstance(edit, ActivationEdit)])
    return joined if direction is None and strength is None else joined.remade(direction, strength)
