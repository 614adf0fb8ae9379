"""A TransformerLens model (`HookedTransformer` or `TransformerBridge`) as a `Model`: its own hook points are read."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from probekit.models.architectures import Layout
from probekit.models.huggingface import make_fresh, wrap_huggingface
from probekit.models.model import Model
from probekit.models.sites import (
    KINDS_AFTER_BLOCKS,
    KINDS_BEFORE_BLOCKS,
    KINDS_IN_BLOCK,
    Site,
    in_forward_order,
    kind_of,
)


def is_transformer_lens(source: object) -> bool:
    """Whether `source` is a TransformerLens model, found out without importing TransformerLens."""
    return any(kind.__module__.startswith("transformer_lens.") for kind in type(source).__mro__)


def wrap_transformer_lens(lens: Any, tokenizer: Any, name: str) -> Model:
    """Read the hook points of a TransformerLens model under their own names.

    Values are what TransformerLens computes: where it has processed the weights (folded norms, centred what writes to
    the stream), that shows in them.

    Args:
        lens: A `HookedTransformer` or a `TransformerBridge`; it is not changed.
        tokenizer: A Hugging Face tokenizer, or None.
        name: For titles and manifests.
    """
    cfg = lens.cfg

    def forward(tokens: Tensor, mask: Tensor | None) -> object:
        return lens(tokens, return_type=None)  # causal, so the padding on the right needs no mask

    def wrap(other: Any) -> Model:
        return wrap_transformer_lens(other, tokenizer, name)

    def rebuild() -> Model:
        if _is_bridge(lens):
            fresh = wrap_huggingface(make_fresh(lens.original_model), tokenizer, name)
            if missing := set(layout.sites) - set(fresh.sites):
                raise NotImplementedError(
                    f"no random twin of this TransformerBridge: it would lack {sorted(missing)[:3]}"
                )
            return fresh
        settings = copy.deepcopy(cfg)
        settings.init_weights, settings.seed, settings.tokenizer_name = True, None, None
        return wrap(type(lens)(settings).eval())

    layout = _find_layout(lens)
    return Model(
        lens, tokenizer, name, layout, context=cfg.n_ctx, vocab=cfg.d_vocab, forward=forward, wrap=wrap, rebuild=rebuild
    )


def _is_bridge(lens: Any) -> bool:
    return hasattr(lens, "original_model")


def _find_layout(lens: Any) -> Layout:
    """Which hook points fire, and how wide they are: found by running one token."""
    n_layers = lens.cfg.n_layers
    names: dict[str, int | None] = dict.fromkeys((*KINDS_BEFORE_BLOCKS, *KINDS_AFTER_BLOCKS))
    names |= {f"blocks.{layer}.{kind}": layer for layer in range(n_layers) for kind in KINDS_IN_BLOCK}
    points = lens.hook_dict
    widths: dict[str, int] = {}

    def measure(name: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            widths[name] = output.numel()

        return hook

    handles = [points[name].register_forward_hook(measure(name)) for name in names if name in points]
    try:
        with torch.inference_mode():
            lens(torch.zeros(1, 1, dtype=torch.long, device=next(lens.parameters()).device), return_type=None)
    finally:
        for handle in handles:
            handle.remove()
    paths = {id(module): path for path, module in lens.named_modules()}
    sites = [Site(name, names[name], width, paths[id(points[name])], "output") for name, width in widths.items()]
    kinds = {kind_of(site) for site in sites}
    missing = {*KINDS_BEFORE_BLOCKS, *KINDS_IN_BLOCK, *KINDS_AFTER_BLOCKS} - kinds
    absent = dict.fromkeys(sorted(missing), "TransformerLens has no such hook point for this architecture")
    return Layout({site.name: site for site in in_forward_order(sites)}, n_layers, absent, known=True)
