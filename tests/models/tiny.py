"""Small random models of every family, and a tokenizer made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = [
    "the",
    "a",
    "city",
    "of",
    "is",
    "in",
    "not",
    "true",
    "false",
    "larger",
    "than",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "paris",
    "london",
    "rome",
    "berlin",
    "france",
    "england",
    "italy",
    "germany",
    "cat",
    "dog",
    "runs",
    "sleeps",
    "red",
    "green",
    "blue",
    "happy",
    "sad",
    "and",
    "or",
]
VOCAB = 64

_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
_COMMON = _SPECIAL | {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 24, "pad_token_id": 0,
}  # fmt: skip
_GROUPED = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        _SPECIAL | {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 24},
    ),
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", _GROUPED | {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "qwen3": ("Qwen3Config", _GROUPED),
    "gemma": ("GemmaConfig", _GROUPED),
    "gemma2": ("Gemma2Config", _GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gemma3": ("Gemma3TextConfig", _GROUPED | {"query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gpt_neox": ("GPTNeoXConfig", _COMMON | {"intermediate_size": 48, "rotary_pct": 0.25}),
    "gpt_neox_sequential": ("GPTNeoXConfig", _COMMON | {"intermediate_size": 48, "use_parallel_residual": False}),
    "opt": ("OPTConfig", _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt_350m": ("OPTConfig", _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi": ("PhiConfig", _COMMON | {"intermediate_size": 48, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3Config", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
}


def make_model(family: str, seed: int = 0) -> Any:
    """A random model of the family, evaluation mode; its norms have gains and biases that are not trivial."""
    import transformers

    class_name, settings = CONFIGS[family]
    torch.manual_seed(seed)
    config = getattr(transformers, class_name)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "embed" not in name and "wte" not in name:
                parameter.mul_(8)  # sharp enough attention that masks and positions show
    return model


def make_tokenizer() -> Any:
    """A word-level tokenizer with `<pad>` 0, `<s>` 1 (put first), `</s>` 2 and `<unk>` 3."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", ".", ",", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def save_tiny_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A tiny model and its tokenizer as `save_pretrained` writes them."""
    make_model(family, seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
