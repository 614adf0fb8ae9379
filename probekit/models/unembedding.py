"""What a direction in the residual stream does to the logits, directly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probekit.models.model import Model
from probekit.models.placement import in_memory


@torch.no_grad()  # type: ignore[untyped-decorator]
def logit_effects(model: Model, directions: Tensor) -> Tensor:
    """Push of each direction on each logit, through the final norm's gain and the unembedding.

    The norm's division by the length of the stream is left out, since it is common to all tokens, and so is what later blocks
    make of the direction. (nostalgebraist 2020, "interpreting GPT: the logit lens".)

    Args:
        model: With an unembedding.
        directions: `[direction, d_model]`.

    Returns:
        `[direction, vocabulary]` float32, in logits for a stream whose normalised length is one unit a dimension.

    Raises:
        TypeError: a model without an unembedding.
        ValueError: directions of another width.
    """
    if directions.ndim != 2 or directions.shape[1] != model.d_model:
        raise ValueError(f"directions have shape {tuple(directions.shape)}, the stream {model.d_model} dimensions")
    unembedding = _unembedding(model)
    pushed = directions.to(unembedding.device, torch.float32)
    if "ln_final.hook_normalized" in model.sites:
        norm = model.hf.get_submodule(model.site("ln_final.hook_normalized").module.removesuffix(".hook_normalized"))
        if _centres(norm):
            pushed = pushed - pushed.mean(1, keepdim=True)
        pushed = pushed * _gain(norm, model).to(pushed.device)
    return (pushed @ unembedding).cpu()


def _centres(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm) or type(norm).__name__ in ("LayerNorm", "LayerNormPre")


def _gain(norm: nn.Module, model: Model) -> Tensor:
    """`[d_model]`; an RMS norm makes its gain of ones, whatever way it writes it (Gemma's is one more than its weight)."""
    if _centres(norm):
        name = next((name for name in ("weight", "w") if getattr(norm, name, None) is not None), None)
        return torch.ones(model.d_model) if name is None else in_memory(norm, name).detach().float()
    if hasattr(norm, "w"):
        return norm.w.detach().float()
    gain: Tensor = norm(torch.ones(1, 1, model.d_model, device=model.device, dtype=model.dtype))
    return gain[0, 0].float()


def _unembedding(model: Model) -> Tensor:
    """`[d_model, vocabulary]` float32."""
    matrix = getattr(model.hf, "W_U", None)  # TransformerLens
    if isinstance(matrix, Tensor):
        return matrix.detach().float()
    head = model.hf.get_output_embeddings() if hasattr(model.hf, "get_output_embeddings") else None
    if head is None:
        raise TypeError(f"{model.name} has no unembedding")
    weight: Tensor = in_memory(head, "weight").detach().float().T
    if weight.shape[0] != model.d_model:
        raise TypeError(f"the unembedding of {model.name} reads {weight.shape[0]} dimensions, not the stream's")
    return weight
