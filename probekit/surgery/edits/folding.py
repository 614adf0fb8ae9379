"""From an edit of activations to the same edit of weights: orthogonalisation, folded maps, bias steering."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from probekit.models import Model
from probekit.models.sites import kind_of
from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.affine import AffineMap
from probekit.surgery.edits.edit import Edit
from probekit.surgery.edits.linear import ablate
from probekit.surgery.edits.matrices import Layer, writer_of
from probekit.surgery.edits.places import Layers, writers_of
from probekit.surgery.edits.weight_edits import AddedBias, FoldedMap, Part, Shift, WeightEdit, is_tied, refuse_weights


@dataclass
class _Plan:
    """Parts of a weight edit as they come together."""

    parts: list[Part] = field(default_factory=list)
    unties: bool = False
    config: dict[str, Any] = field(default_factory=dict)


def orthogonalize(direction: Direction, model: Model, *, layers: Layers = "all") -> WeightEdit:
    """Take the direction out of every matrix that writes to the residual stream, so that the stream never carries it.

    Computes what `ablate(direction, model, layers="writers")` does while the model runs. Embeddings that are tied to the
    unembedding are untied first, so that what is read out stays as it is.

    Source: Arditi et al. 2024 (arXiv 2406.11717), section 2.4 (weight orthogonalization), equation 5.

    Args:
        layers: `"all"`: embeddings, every attention and every MLP; or numbers of layers, whose attention and MLP only are
            edited (other layers then still write the direction); or names of sites (`blocks.3.hook_mlp_out`).

    Raises:
        ValueError: another model's direction; a model of TransformerLens, quantised, or one whose blocks normalise what they
            write (Gemma 2 and 3).
    """
    if layers == "all":
        where: Layers = "writers"
    elif isinstance(layers, int | str):
        where = _writers_in(model, [layers])
    elif layers is None:
        raise ValueError("orthogonalize needs layers: 'all', numbers of layers, or names of sites")
    else:
        where = _writers_in(model, list(layers))
    edit = ablate(direction, model, layers=where).to_weights(model)
    words = "everything that writes to the stream" if layers == "all" else f"{len(edit.parameters)} weights"
    edit.name = f"orthogonalize {words} to the direction of {direction.site}"
    edit._remake = lambda other, strength: orthogonalize(other or direction, model, layers=layers)
    edit.recipe = {"how": "orthogonalize", "layers": layers if isinstance(layers, str | int) else list(layers)}
    return edit


def _writers_in(model: Model, layers: list[int | str]) -> list[int | str]:
    found: list[int | str] = []
    for one in layers:
        if isinstance(one, str):
            found.append(one)
        else:
            if not -model.n_layers <= one < model.n_layers:
                raise KeyError(f"no layer {one}: {model.name!r} has {model.n_layers} layers, 0 to {model.n_layers - 1}")
            found += [f"blocks.{one % model.n_layers}.hook_attn_out", f"blocks.{one % model.n_layers}.hook_mlp_out"]
    return found


def fold(edit: ActivationEdit, model: Model) -> WeightEdit:
    """The weights that compute an edit of activations.

    Raises:
        ValueError: no weights do; says why and what does.
    """
    refuse_weights(model)
    edit.check(model)
    if not edit.where.is_everywhere:
        raise ValueError(f"weights act at every token, this edit acts {edit.where}: keep it as an edit of activations")
    plan = _Plan()
    for site, change in edit.changes.items():
        if not isinstance(change, AffineMap):
            raise ValueError(f"{edit.name!r} is no affine map, so no change of weights computes it")
        kind = kind_of(model.site(site))
        if kind in ("hook_resid_pre", "hook_resid_post"):
            _fold_stream(plan, model, site, change)
        else:
            _fold_output(plan, model, site, change)

    def remake(direction: Direction | None, strength: float | None) -> Edit:
        made = edit.remade(direction, strength)
        assert isinstance(made, ActivationEdit)
        return fold(made, model)

    folded = WeightEdit(
        f"{edit.name}, in the weights",
        model,
        plan.parts,
        unties=plan.unties,
        config=plan.config,
        direction=edit.direction,
        strength=edit.strength,
        remake=None if edit._remake is None else remake,
    )
    folded.recipe = None if edit.recipe is None else {**edit.recipe, "in_weights": True}
    return folded


def _fold_output(plan: _Plan, model: Model, site: str, change: AffineMap) -> None:
    layer = writer_of(model, site)
    if change.rank and bool(change.left.any()):
        plan.parts.append(FoldedMap(layer.weight, layer.output_axis, change))
        if layer.has_bias:
            plan.parts.append(FoldedMap(layer.bias, 0, change))
        elif change.bias.any():
            _add(plan, model, layer, site, change.bias)
    elif layer.has_bias:
        plan.parts.append(Shift(layer.bias, 0, None, change.bias))
    else:
        _add(plan, model, layer, site, change.bias)
    if site == "hook_embed" and is_tied(model):
        plan.unties = True


def _fold_stream(plan: _Plan, model: Model, site: str, change: AffineMap) -> None:
    """In the stream, only adding a vector is a change of weights: it goes where the last block before it writes."""
    if not change.is_shift:
        raise ValueError(
            f"what earlier layers wrote to the stream reaches {site} past every weight, so no change of weights computes this edit "
            "there: use orthogonalize (all that writes to the stream), or keep it as an edit of activations"
        )
    place = model.site(site)
    assert place.layer is not None
    before = place.layer - 1 if kind_of(place) == "hook_resid_pre" else place.layer
    source = "hook_embed" if before < 0 else f"blocks.{before}.hook_mlp_out"
    if source not in writers_of(model):
        raise ValueError(f"what writes {site} is not known in {model.name!r}")
    _fold_output(plan, model, source, change)


def _add(plan: _Plan, model: Model, layer: Layer, site: str, bias: torch.Tensor) -> None:
    """A bias where the layer has none."""
    if isinstance(model.hf.get_submodule(layer.path), nn.Embedding):
        plan.parts.append(Shift(layer.weight, 0, None, bias / layer.multiplier))
        return
    config = model.hf.config
    if not site.endswith("hook_mlp_out") or getattr(config, "mlp_bias", None) is None:
        raise ValueError(
            f"{layer.path} has no bias, and {config.model_type} models have no setting that gives it one, so that no ordinary "
            "folder could hold this edit: keep it as an edit of activations"
        )
    if not plan.config:  # the switch gives biases to every matrix of every MLP
        plan.config["mlp_bias"] = True
        stack = model.site("blocks.0.hook_resid_pre").module.rsplit(".", 1)[0]
        for i in range(model.n_layers):
            for name in ("gate_proj", "up_proj", "down_proj"):
                path = f"{stack}.{i}.mlp.{name}"
                weight = model.hf.get_submodule(path).weight
                plan.parts.append(AddedBias(f"{path}.bias", torch.zeros(weight.shape[0])))
    for i, part in enumerate(plan.parts):
        if part.parameter == layer.bias and isinstance(part, AddedBias):
            plan.parts[i] = AddedBias(part.parameter, part.values + bias)
