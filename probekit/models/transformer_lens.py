"""A TransformerLens model (`HookedTransformer` or `TransformerBridge`) as a `Model`: its own hook points are read."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from probekit.models.architectures import Layout
from probekit.models.model import Model
from probekit.models.sites import Site, in_forward_order

_OUTSIDE = ("hook_embed", "hook_pos_embed", "ln_final.hook_normalized")
_IN_BLOCK = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post",
)  # fmt: skip


def is_transformer_lens(source: object) -> bool:
    """Whether `source` is a TransformerLens model, found out without importing TransformerLens."""
    return any(kind.__module__.startswith("transformer_lens.") for kind in type(source).__mro__)


def wrap_transformer_lens(lens: Any, tokenizer: Any, name: str) -> Model:
    """Read the hook points of a TransformerLens model under their own names.

    Values are what TransformerLens computes, so weights that it has processed (folded norms, centred writing weights)
    show in them.
    """
    cfg = lens.cfg
    paths = {id(module): path for path, module in lens.named_modules()}
    points = lens.hook_dict
    widths = {"attn.hook_z": cfg.n_heads * cfg.d_head, "mlp.hook_post": cfg.d_mlp or 4 * cfg.d_model}
    names = [(kind, None, kind) for kind in _OUTSIDE]
    names += [(f"blocks.{layer}.{kind}", layer, kind) for layer in range(cfg.n_layers) for kind in _IN_BLOCK]
    sites = [
        Site(name, layer, widths.get(kind, cfg.d_model), paths[id(points[name])], "output")
        for name, layer, kind in names
        if name in points
    ]
    have = {kind for site_name, _, kind in names if site_name in points}
    absent = {kind: f"its TransformerLens model has no such hook point" for kind in (*_OUTSIDE, *_IN_BLOCK) if kind not in have}
    layout = Layout({site.name: site for site in in_forward_order(sites)}, cfg.n_layers, absent, known=True)

    def forward(tokens: Tensor, mask: Tensor | None) -> object:
        return lens(tokens, return_type=None)

    def rebuild() -> Model:
        if hasattr(lens, "original_model"):
            raise NotImplementedError(
                "a TransformerBridge cannot be rebuilt with random weights; load the Hugging Face model it wraps instead"
            )
        fresh = type(lens)(copy.deepcopy(cfg), tokenizer=lens.tokenizer)
        return wrap_transformer_lens(fresh.to(cfg.device).eval(), tokenizer, name)

    return Model(
        lens, tokenizer, name, layout, context=cfg.n_ctx, vocab=cfg.d_vocab, forward=forward, rebuild=rebuild
    )
