"""Paired activations with known maps between them, and tiny models with tokenizers that cut texts differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.models.tiny import CONFIGS, WORDS, make_model, make_tokenizer


def planted(
    n: int = 300, d_a: int = 7, d_b: int = 5, noise: float = 0.1, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """`{site: rows}` of A and B, and the matrix `[d_b, d_a]` and bias that make B's `to` out of A's `from`; `other` is noise."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(size=d_a))
    a = {name: (rng.normal(size=(n, d_a)) * scales + 2).astype(np.float32) for name in ("from", "other")}
    matrix, bias = rng.normal(size=(d_b, d_a)), rng.normal(size=d_b) * 3
    b = {"to": a["from"] @ matrix.T + bias, "other": rng.normal(size=(n, d_b))}
    b["to"] = b["to"] + noise * rng.normal(size=(n, d_b))
    return a, {name: rows.astype(np.float32) for name, rows in b.items()}, matrix, bias


def rotation(d: int, seed: int = 0) -> np.ndarray:
    """`[d, d]` orthogonal."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def some_texts(count: int, seed: int = 0, longest: int = 9) -> list[str]:
    """Different texts of four words or more."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(WORDS, rng.integers(4, longest)))] = None
    return list(found)


def byte_tokenizer(words: list[str], merges: int = 60, bos: bool = False) -> Any:
    """Byte-level BPE trained on words: a vocabulary of bytes and a few pieces, that can write any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=258 + merges, special_tokens=["<pad>", "<s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(words)] * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")


def save_words_model(folder: Path, seed: int = 0) -> Path:
    """A tiny llama that reads words, a special token put before."""
    model = make_model("llama", seed)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_bytes_model(folder: Path, seed: int = 1, bos: bool = False) -> Path:
    """A tiny qwen2 of another width that reads bytes and pieces of words; context of 64."""
    import transformers

    tokenizer = byte_tokenizer(WORDS, bos=bos)
    class_name, settings = CONFIGS["qwen2"]
    torch.manual_seed(seed)
    changed = {"vocab_size": len(tokenizer), "hidden_size": 24, "max_position_embeddings": 64}
    config = getattr(transformers, class_name)(**settings | changed)
    transformers.AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
