"""Edits of single rows: the seed's model surgery on gate rows, neurons, heads, embeddings of single tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from probekit.models import Model
from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import refuse_infinite_strength
from probekit.surgery.edits.edit import Edit, refuse_other_model
from probekit.surgery.edits.matrices import Layer, mlp_input_of, writer_of
from probekit.surgery.edits.places import require_stream
from probekit.surgery.edits.weight_edits import Replacement, Shift, WeightEdit, is_tied, refuse_weights


@torch.no_grad()  # type: ignore[untyped-decorator]
def row_cosines(direction: Direction, model: Model) -> Tensor:
    """`[layer, row]` float32: cosine of every row of the matrix through which each MLP reads the stream with the direction.

    Source: as `shift_rows`; also "How GPT learns layer by layer" (arXiv 2501.07108), section 4, for neurons of OthelloGPT.
    """
    refuse_other_model(direction, model)
    require_stream(direction, model)
    refuse_weights(model)
    if len(direction) != model.d_model:
        raise ValueError(f"MLPs read the stream, {model.d_model} wide; this direction has {len(direction)} dimensions")
    each = []
    for layer in range(model.n_layers):
        rows = _rows_of(model, mlp_input_of(model, layer)[0]).float()
        vector = direction.vector.to(rows.device)
        each.append((rows @ vector / rows.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)).cpu())
    return torch.stack(each)


def shift_rows(
    direction: Direction,
    model: Model,
    strength: float,
    *,
    share: float = 0.0465,
    rows: Literal["opposed", "aligned"] = "opposed",
    layers: Sequence[int] | None = None,
) -> WeightEdit:
    """Model surgery: of all rows through which the MLPs read the stream, shift those most opposed to a direction along it.

    Those rows are the gate's (`gate_proj`); where an architecture has no gate, of the matrix that writes the MLP's input
    (GPT-2's `c_fc`), which the edit's name says.

    Source: Wang et al. 2024 (arXiv 2407.08770), section 3: the direction is the probe row of the behaviour to be avoided, and the
    16,384 rows (of 352,256 in LLaMA2-7B, 4.65 %) whose cosine with it is most negative are shifted by a multiple of it.

    Args:
        strength: Length of the vector added to each row, in median lengths of these matrices' rows; negative to subtract.
        share: Of all rows, over all layers together, in 0..1.
        rows: `"opposed"`: those whose cosine with the direction is lowest, as in the paper; `"aligned"`: highest.
        layers: Layers whose rows may be chosen; all when None.

    Raises:
        ValueError: another model's direction, a share outside 0..1, a model whose MLP is not known.
    """
    refuse_infinite_strength(strength)
    if not 0 < share <= 1:
        raise ValueError(f"share is a part of all rows, above 0 and at most 1, not {share}")
    if rows not in ("opposed", "aligned"):
        raise ValueError(f"rows is 'opposed' or 'aligned', not {rows!r}")
    if layers is not None and (isinstance(layers, str | int) or not len(layers)):
        raise ValueError(f"layers is a list of numbers of layers, or None for all, not {layers!r}")
    allowed = range(model.n_layers) if layers is None else [model.site(f"blocks.{i}.hook_resid_post").layer for i in layers]  # fmt: skip
    cosines = row_cosines(direction, model)
    ranked = -cosines if rows == "opposed" else cosines
    closed = torch.ones(model.n_layers, dtype=torch.bool)
    closed[[i for i in allowed if i is not None]] = False
    ranked = ranked.masked_fill(closed[:, None], -torch.inf)
    count = max(1, round(share * ranked.numel()))
    count = min(count, int((~closed).sum()) * ranked.shape[1])
    chosen = torch.zeros(ranked.numel(), dtype=torch.bool)
    chosen[ranked.flatten().topk(count).indices] = True
    chosen = chosen.view_as(ranked)
    length = float(torch.cat([_rows_of(model, mlp_input_of(model, i)[0]).float().norm(dim=1).cpu() for i in range(model.n_layers)]).median())  # fmt: skip
    vector = direction.vector.double() * strength * length
    parts = []
    for layer in chosen.any(1).nonzero().flatten().tolist():
        matrix, name = mlp_input_of(model, layer)
        start = matrix.outputs[0] if matrix.outputs else 0
        parts.append(Shift(matrix.weight, matrix.output_axis, chosen[layer].nonzero().flatten() + start, vector))
    gate = "gate" in name

    def remake(other: Direction | None, s: float | None) -> Edit:
        return shift_rows(
            other or direction, model, strength if s is None else s, share=share, rows=rows, layers=layers
        )

    what = name if gate else f"{name} (the MLP's input; there is no gate)"
    edit = WeightEdit(
        f"shift the {count:,} rows of {what} most {rows} to the direction of {direction.site} by {strength:+.4g} row lengths",
        model,
        parts,
        direction=direction,
        strength=strength,
        remake=remake,
        details={
            "matrix": name,
            "rows": count,
            "rows_by_layer": chosen.sum(1).tolist(),
            "least_cosine": float(cosines[chosen].min()),
            "greatest_cosine": float(cosines[chosen].max()),
        },
    )
    edit.recipe = {
        "how": "shift_rows",
        "share": share,
        "rows": rows,
        "layers": None if layers is None else list(layers),
    }
    return edit


def scale_neurons(model: Model, layer: int, neurons: Sequence[int], factor: float = 0.0) -> WeightEdit:
    """Multiply what MLP neurons write to the stream; 0 takes them out.

    Args:
        neurons: Indices into `mlp.hook_post`.
        factor: What their output weights are multiplied with.
    """
    site = model.site(f"blocks.{layer}.mlp.hook_post")
    index = _indices(neurons, site.width, "neurons")
    recipe = {"how": "scale_neurons", "layer": layer, "neurons": index.tolist()}
    what = f"neurons {_listed(neurons)} of layer {layer}"
    return _scaled_inputs(model, f"blocks.{layer}.hook_mlp_out", index, factor, what, recipe)


def scale_heads(model: Model, layer: int, heads: Sequence[int], factor: float = 0.0) -> WeightEdit:
    """Multiply what attention heads write to the stream; 0 takes them out.

    Args:
        heads: Indices of heads.
        factor: What their output weights are multiplied with.
    """
    width = model.site(f"blocks.{layer}.attn.hook_z").width
    count = model.hf.config.get_text_config().num_attention_heads
    index = _indices(heads, count, "heads")
    size = width // count
    rows = (index[:, None] * size + torch.arange(size)).flatten()
    recipe = {"how": "scale_heads", "layer": layer, "heads": index.tolist()}
    what = f"heads {_listed(heads)} of layer {layer}"
    return _scaled_inputs(model, f"blocks.{layer}.hook_attn_out", rows, factor, what, recipe)


def shift_embeddings(direction: Direction, model: Model, tokens: Sequence[int], strength: float) -> WeightEdit:
    """Add a direction to the embeddings of single tokens; the unembedding stays as it is.

    Args:
        direction: Of `hook_embed` or of any site of the stream.
        tokens: Token ids.
        strength: In standard deviations of the data along the direction.
    """
    refuse_other_model(direction, model)
    require_stream(direction, model)
    refuse_infinite_strength(strength)
    if direction.scale is None:
        raise ValueError("the direction's scale is not known: direction.measured(activations) finds out")
    writer = writer_of(model, "hook_embed")
    rows = _indices(tokens, model.vocab, "tokens")
    if len(direction) != model.hf.get_submodule(writer.path).weight.shape[1]:
        raise ValueError(f"embeddings are not {len(direction)} wide")
    step = direction.vector.double() * (strength * direction.scale / writer.multiplier)

    def remake(other: Direction | None, s: float | None) -> Edit:
        return shift_embeddings(other or direction, model, tokens, strength if s is None else s)

    edit = WeightEdit(
        f"shift the embeddings of {len(rows)} tokens by {strength:+.4g} standard deviations",
        model,
        [Shift(writer.weight, 0, rows, step)],
        unties=is_tied(model),
        direction=direction,
        strength=strength,
        remake=remake,
    )
    edit.recipe = {"how": "shift_embeddings", "tokens": rows.tolist()}
    return edit


def replace_rows(model: Model, parameter: str, rows: Sequence[int], values: Tensor, *, axis: int = 0) -> WeightEdit:
    """Put new values into rows of any parameter.

    Args:
        parameter: Name, as in `named_parameters`.
        rows: Which, along `axis` of the stored tensor.
        values: The stored tensor's shape, with `len(rows)` in place of `axis`.

    A parameter that goes by two names (an embedding tied to the unembedding) changes in both places, and the edit's name says so.
    """
    refuse_weights(model)
    known = dict(model.hf.named_parameters())
    if parameter not in known:
        import difflib

        near = difflib.get_close_matches(parameter, known, n=3)
        raise KeyError(f"no parameter {parameter!r}; near it: {', '.join(near) or 'none'}")
    whole = known[parameter]
    index = _indices(rows, whole.shape[axis], f"rows of {parameter}")
    wanted = list(whole.shape)
    wanted[axis] = len(index)
    if list(values.shape) != wanted:
        raise ValueError(f"values for {len(index)} rows of {parameter} must be {wanted}, got {list(values.shape)}")
    part = Replacement(parameter, axis, index, values.detach().clone())
    also = [
        name
        for name, other in model.hf.named_parameters(remove_duplicate=False)
        if other is whole and name != parameter
    ]
    tied = f" (which is {', '.join(also)}, too)" if also else ""
    return WeightEdit(f"replace {len(index)} rows of {parameter}{tied}", model, [part])


def _scaled_inputs(
    model: Model, site: str, index: Tensor, factor: float, what: str, recipe: Mapping[str, Any]
) -> WeightEdit:
    """Scale the columns through which a writer reads some of its inputs."""
    refuse_weights(model)
    refuse_infinite_strength(factor)
    writer = writer_of(model, site)
    weight = model.hf.get_submodule(writer.path).weight.detach()
    axis = 1 - writer.output_axis
    rows = weight.index_select(axis, index.to(weight.device))
    # Wider than half precision, so that writing can tell which steps the rounding loses.
    part = Replacement(writer.weight, axis, index, (rows if rows.dtype.itemsize >= 4 else rows.float()) * factor)

    def remake(other: Direction | None, s: float | None) -> Edit:
        if other is not None:
            raise TypeError(f"this edit follows no direction: scale {what}")
        return _scaled_inputs(model, site, index, factor if s is None else s, what, recipe)

    edit = WeightEdit(f"scale {what} by {factor:.4g}", model, [part], strength=factor, remake=remake)
    edit.recipe = recipe
    return edit


def _rows_of(model: Model, layer: Layer) -> Tensor:
    """`[row, d]`: the weights with which each output reads the stream."""
    weight = model.hf.get_submodule(layer.path).weight.detach()
    rows = weight if layer.output_axis == 0 else weight.T
    return rows if layer.outputs is None else rows[slice(*layer.outputs)]


def _indices(given: Sequence[int], count: int, what: str) -> Tensor:
    index = torch.as_tensor(list(given), dtype=torch.int64)
    if not len(index):
        raise ValueError(f"no {what} named: there is nothing to edit")
    if len(index.unique()) < len(index):
        raise ValueError(f"{what} named twice: {_listed(given)}")
    if int(index.min()) < 0 or int(index.max()) >= count:
        raise ValueError(f"{what} {_listed(given)}: there are {count}, 0 to {count - 1}")
    return index


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, list(numbers)[:5]))
    return shown + (", ..." if len(numbers) > 5 else "")
