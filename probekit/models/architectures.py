"""Where each architecture keeps what a site names. A new family is one entry in `FAMILIES`.

Agreement with TransformerLens 3.9 is checked family by family in `tests/oracle/test_models_transformer_lens.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from probekit.models.sites import (
    KINDS_AFTER_BLOCKS,
    KINDS_BEFORE_BLOCKS,
    KINDS_IN_BLOCK,
    At,
    Site,
    in_forward_order,
    kind_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARALLEL = "its blocks run attention and MLP in parallel from hook_resid_pre, so there is no stream between the two"
POST_NORM = "its blocks normalise after each sublayer, so there is no plain sum between attention and MLP"
NO_FINAL_NORM = "it has no norm after the last block"


@dataclass(frozen=True)
class Family:
    """Module paths of one architecture.

    `blocks`, `embed`, `pos_embed` and `final_norm` start at the base model (what `PreTrainedModel.base_model` gives),
    all others at one block. `z` and `mlp_post` are the projections whose *input* is `attn.hook_z` and `mlp.hook_post`;
    `attn_out` and `mlp_out` the modules whose *output* is added to the stream (with Gemma 2 and 3 that is the norm
    after the sublayer, as in TransformerLens); `mid` the norm whose *input* is the stream between attention and MLP;
    `mlp_in` the matrix through which the MLP reads the stream, the gate where there is one.
    """

    blocks: str
    embed: str
    final_norm: str
    attn_out: str
    z: str
    mlp_out: str
    mlp_post: str
    mid: str | None
    mlp_in: str | None = None
    pos_embed: str | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


_LLAMA = Family(
    blocks="layers", embed="embed_tokens", final_norm="norm",
    attn_out="self_attn", z="self_attn.o_proj", mlp_out="mlp", mlp_post="mlp.down_proj", mid="post_attention_layernorm",
    mlp_in="mlp.gate_proj",
)  # fmt: skip
_GEMMA = Family(
    blocks="layers", embed="embed_tokens", final_norm="norm",
    attn_out="post_attention_layernorm", z="self_attn.o_proj",
    mlp_out="post_feedforward_layernorm", mlp_post="mlp.down_proj", mid="pre_feedforward_layernorm",
    mlp_in="mlp.gate_proj",
)  # fmt: skip
_NEOX = Family(
    blocks="layers", embed="embed_in", final_norm="final_layer_norm",
    attn_out="attention", z="attention.dense", mlp_out="mlp", mlp_post="mlp.dense_4h_to_h", mid=None,
    mlp_in="mlp.dense_h_to_4h",
    absent={"hook_resid_mid": PARALLEL},
)  # fmt: skip
_NEOX_SEQUENTIAL = Family(
    blocks="layers", embed="embed_in", final_norm="final_layer_norm",
    attn_out="attention", z="attention.dense", mlp_out="mlp", mlp_post="mlp.dense_4h_to_h",
    mid="post_attention_layernorm", mlp_in="mlp.dense_h_to_4h",
)  # fmt: skip
_OPT = Family(
    blocks="decoder.layers", embed="decoder.embed_tokens", pos_embed="decoder.embed_positions",
    final_norm="decoder.final_layer_norm",
    attn_out="self_attn", z="self_attn.out_proj", mlp_out="fc2", mlp_post="fc2", mid="final_layer_norm", mlp_in="fc1",
)  # fmt: skip

# By `config.model_type`.
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        blocks="h", embed="wte", pos_embed="wpe", final_norm="ln_f",
        attn_out="attn", z="attn.c_proj", mlp_out="mlp", mlp_post="mlp.c_proj", mid="ln_2", mlp_in="mlp.c_fc",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "phi3": replace(_LLAMA, mlp_in="mlp.gate_up_proj"),
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": replace(
        _GEMMA, blocks="language_model.layers", embed="language_model.embed_tokens", final_norm="language_model.norm"
    ),
    "gpt_neox": _NEOX,
    "opt": _OPT,
    "phi": Family(
        blocks="layers", embed="embed_tokens", final_norm="final_layernorm",
        attn_out="self_attn", z="self_attn.dense", mlp_out="mlp", mlp_post="mlp.fc2", mid=None, mlp_in="mlp.fc1",
        absent={"hook_resid_mid": PARALLEL},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The sites of one model in forward order.

    Attributes:
        sites: By name.
        n_layers: Number of blocks.
        absent: Why a kind of site that other models have is missing here.
        known: Whether the architecture is in the table. What is known is causal and does not change tensors in place.
    """

    sites: Mapping[str, Site]
    n_layers: int
    absent: Mapping[str, str]
    known: bool


def family_of(config: Any) -> Family | None:
    """The entry of the table for a configuration, with the variants that its switches make; None when unknown."""
    family = FAMILIES.get(config.model_type)
    if config.model_type == "gpt_neox" and not config.use_parallel_residual:
        return _NEOX_SEQUENTIAL
    if family is None or config.model_type != "opt":
        return family
    # OPT-350m projects its narrow embedding into the stream and normalises after each sublayer.
    if config.word_embed_proj_dim != config.hidden_size:
        family = replace(family, embed="decoder.project_in")
    if not config.do_layer_norm_before:
        family = replace(family, mid=None, absent={"hook_resid_mid": POST_NORM})
    return family


def find_layout(model: PreTrainedModel, blocks: str | None = None) -> Layout:
    """Find the sites of a Hugging Face model.

    Args:
        blocks: Path of the list of blocks from the root of the model (`"transformer.h"`); for an architecture that is
            not in the table, when its list of blocks is not found without help. Sites are then the embedding and
            the inputs and outputs of the blocks.

    Raises:
        ValueError: the list of blocks cannot be found, or `blocks` names something else; says what to pass.
    """
    base = model.base_model
    root = "" if base is model else next(name for name, module in model.named_modules() if module is base) + "."
    family = family_of(model.config) if blocks is None else None
    if family is None:
        return _find_unknown(model, blocks)
    d_model = model.config.get_text_config().hidden_size
    stack = base.get_submodule(family.blocks)
    n_layers = len(stack)  # type: ignore[arg-type]
    absent = dict(family.absent)
    sites = [Site("hook_embed", None, d_model, root + family.embed, "output")]
    if family.pos_embed:
        sites.append(Site("hook_pos_embed", None, d_model, root + family.pos_embed, "output"))
    else:
        absent["hook_pos_embed"] = "it adds no position embedding to the stream (positions enter inside attention)"
    for layer in range(n_layers):
        path = f"{root}{family.blocks}.{layer}"
        places: list[tuple[str, str | None, At]] = [
            ("hook_attn_out", family.attn_out, "output"),
            ("attn.hook_z", family.z, "input"),
            ("hook_mlp_out", family.mlp_out, "output"),
            ("mlp.hook_post", family.mlp_post, "input"),
            ("hook_resid_mid", family.mid, "input"),
        ]
        sites.append(Site(f"blocks.{layer}.hook_resid_pre", layer, d_model, path, "input"))
        sites.append(Site(f"blocks.{layer}.hook_resid_post", layer, d_model, path, "output"))
        for kind, place, at in places:
            if place is not None:
                width = _input_width(model.get_submodule(f"{path}.{place}")) if "." in kind else d_model
                sites.append(Site(f"blocks.{layer}.{kind}", layer, width, f"{path}.{place}", at))
    if _submodule(base, family.final_norm) is not None:
        sites.append(Site("ln_final.hook_normalized", None, d_model, root + family.final_norm, "normalized"))
    else:
        absent["ln_final.hook_normalized"] = NO_FINAL_NORM
    return Layout({site.name: site for site in in_forward_order(sites)}, n_layers, absent, known=True)


def _find_unknown(model: PreTrainedModel, blocks: str | None) -> Layout:
    """Embedding, block inputs and block outputs of an architecture that is not in the table."""
    name = type(model).__name__
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0 and len({type(item) for item in module}) == 1
    }
    example = f"load_model(..., blocks={next(iter(lists), 'transformer.h')!r})"
    if blocks is not None:
        stack = _submodule(model, blocks)
        if not isinstance(stack, nn.ModuleList | nn.Sequential) or len(stack) == 0:
            what = "is not there" if stack is None else f"is a {type(stack).__name__}, not a list of blocks"
            raise ValueError(f"blocks={blocks!r} {what} in {name}; its lists are: {', '.join(lists) or 'none'}")
    else:
        outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
        longest = [path for path in outer if len(lists[path]) == max(len(lists[other]) for other in outer)]
        if not longest:
            raise ValueError(
                f"{name} is not an architecture probekit knows, and no list of blocks was found in it. Name the "
                f"nn.ModuleList that holds its layers: {example}"
            )
        if len(longest) > 1:
            raise ValueError(
                f"{name} is not an architecture probekit knows, and which list holds its layers is not clear: "
                f"{', '.join(longest)}. Name one: {example}"
            )
        blocks = longest[0]
        stack = lists[blocks]
    config = model.config.get_text_config()
    embed = model.get_input_embeddings()
    named = (getattr(config, key, None) for key in ("hidden_size", "n_embd", "d_model", "dim"))
    d_model = next((size for size in named if size), None) or getattr(embed, "embedding_dim", None)
    if d_model is None:
        raise ValueError(f"the width of {name} is not known: its configuration has no hidden_size")
    sites = []
    path = next((path for path, module in model.named_modules() if module is embed), None)
    if embed is not None and path is not None:
        sites.append(Site("hook_embed", None, getattr(embed, "embedding_dim", d_model), path, "output"))
    for layer in range(len(stack)):
        sites.append(Site(f"blocks.{layer}.hook_resid_pre", layer, d_model, f"{blocks}.{layer}", "input"))
        sites.append(Site(f"blocks.{layer}.hook_resid_post", layer, d_model, f"{blocks}.{layer}", "output"))
    reason = f"{name} is not an architecture probekit knows inside; block inputs and outputs are read"
    kinds = {*KINDS_BEFORE_BLOCKS, *KINDS_IN_BLOCK, *KINDS_AFTER_BLOCKS} - {kind_of(site) for site in sites}
    absent = dict.fromkeys(sorted(kinds), reason)
    return Layout({site.name: site for site in in_forward_order(sites)}, len(stack), absent, known=False)


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    module: Any = root
    for part in path.split("."):
        module = getattr(module, part, None)
    return module if isinstance(module, nn.Module) else None


def _input_width(module: nn.Module) -> int:
    """Input width of an `nn.Linear`, or of GPT-2's `Conv1D`, whose weight is stored `[input, output]`."""
    if hasattr(module, "in_features"):
        return int(module.in_features)
    return int(module.weight.shape[0])  # type: ignore[union-attr, index]
