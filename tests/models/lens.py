"""A TransformerLens `HookedTransformer` with the weights of a tiny Hugging Face model: the independent reference."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import torch

# TransformerLens reads the sizes of these families from a table of released models, not from the configuration.
_RELEASED = {
    "gemma": "google/gemma-2b",
    "gemma2": "google/gemma-2-2b",
    "gemma3_text": "google/gemma-3-270m",
}


def make_hooked_transformer(hf: Any, folder: Path, processed: bool = False) -> Any:
    """The same model in TransformerLens's own code, its weights as they are unless `processed`.

    Args:
        folder: An empty folder; TransformerLens reads a configuration from the Hub or from a folder.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens import loading_from_pretrained as loading

    config = copy.deepcopy(hf.config)
    # What TransformerLens 3.9 expects in a configuration and transformers 5 no longer puts there.
    config.architectures = [type(hf).__name__]
    if config.model_type == "gpt2":
        config.n_ctx = config.n_positions
    if config.model_type == "phi":
        config.partial_rotary_factor = config.rope_parameters["partial_rotary_factor"]
    config.save_pretrained(folder)
    name = _RELEASED.get(config.model_type, str(folder))
    with mock.patch.object(loading.AutoConfig, "from_pretrained", return_value=config):
        settings = loading.get_pretrained_model_config(name, device="cpu", fold_ln=processed).to_dict()
    if config.model_type in _RELEASED:
        settings |= {
            "n_layers": config.num_hidden_layers, "d_model": config.hidden_size,
            "n_ctx": config.max_position_embeddings,
            "n_heads": config.num_attention_heads, "n_key_value_heads": config.num_key_value_heads,
            "d_head": config.head_dim, "d_mlp": config.intermediate_size, "d_vocab": config.vocab_size,
            "d_vocab_out": config.vocab_size, "rotary_dim": config.head_dim, "eps": config.rms_norm_eps,
            "act_fn": "gelu_pytorch_tanh",
            "attn_scale": getattr(config, "query_pre_attn_scalar", config.head_dim) ** 0.5,
        }  # fmt: skip
        if config.model_type != "gemma":
            kinds = {"full_attention": "global", "sliding_attention": "local"}
            settings |= {
                "attn_types": [kinds[kind] for kind in config.layer_types], "window_size": config.sliding_window,
            }  # fmt: skip
    settings |= {"model_name": config.model_type, "initializer_range": 0.02, "tokenizer_name": None}
    cfg = HookedTransformerConfig.from_dict(settings)
    state = loading.get_pretrained_state_dict(name, cfg, copy.deepcopy(hf), dtype=torch.float32)
    lens = HookedTransformer(cfg)
    lens.load_and_process_state_dict(
        state, fold_ln=processed, center_writing_weights=processed, center_unembed=False, fold_value_biases=processed
    )
    return lens.eval()
