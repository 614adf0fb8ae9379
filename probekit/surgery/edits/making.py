"""Making an edit by name: what a saved edit says of how it was made, and what the command line asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from probekit.surgery.edits.rows import scale_heads, scale_neurons, shift_embeddings, shift_rows
from probekit.surgery.edits.where import Where

WAYS: dict[str, Callable[..., Edit]] = {
    "steer": steer,
    "fix": fix,
    "reflect": reflect,
    "ablate": ablate,
    "orthogonalize": orthogonalize,
    "shift_rows": shift_rows,
    "shift_embeddings": lambda d, model, s, tokens: shift_embeddings(d, model, tokens, s),
    "scale_neurons": lambda d, model, s, layer, neurons: scale_neurons(model, layer, neurons, s),
    "scale_heads": lambda d, model, s, layer, heads: scale_heads(model, layer, heads, s),
}
WITHOUT_STRENGTH = ("ablate", "orthogonalize")
WITHOUT_DIRECTION = ("scale_neurons", "scale_heads")


def make_edit(
    how: str,
    direction: Direction | None,
    model: Model,
    strength: float | None = None,
    *,
    in_weights: bool = False,
    **options: Any,
) -> Edit:
    """The edit called `how`, as the function of that name makes it.

    Args:
        how: One of `WAYS`.
        direction: Of those that follow one.
        strength: Of those that have one (of neurons and heads, the factor).
        in_weights: Fold an edit of activations into the weights.
        **options: Of the function: `layers`, `where`, `to_mean`, `share`, `rows`, `tokens`, `layer`, `neurons`, `heads`.

    Raises:
        TypeError: a direction missing or not wanted.
        ValueError: no such way, a strength missing or not wanted.
    """
    if how == "together":
        return _parts_together(options["parts"], direction, strength, model)
    if how not in WAYS:
        raise ValueError(f"no edit is called {how!r}; there are {', '.join(WAYS)}")
    if (how in WITHOUT_STRENGTH) != (strength is None):
        raise ValueError(f"{how} {'needs' if strength is None else 'has no'} strength")
    if (how in WITHOUT_DIRECTION) != (direction is None):
        raise TypeError(f"{how} {'needs a' if direction is None else 'follows no'} direction")
    given = dict(options)
    if isinstance(given.get("where"), Mapping):
        given["where"] = Where.from_json(**given["where"])
    dose = () if strength is None else (strength,)
    edit = WAYS[how](direction, model, *dose, **given)
    if in_weights and isinstance(edit, ActivationEdit):
        return edit.to_weights(model)
    return edit


def remaker(recipe: Mapping[str, Any], direction: Direction | None, strength: float | None, model: Model) -> Any:
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
    if recipe["how"] == "reflect" and along is not None and along.center is None and direction is not None:
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
