"""A tiny model with a tokenizer, and one direction that makes it say "paris": for the tests of evaluations."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

import probekit as pk
from probekit.probes.direction import Direction
from tests.models.tiny import WORDS, make_model, make_tokenizer

LAST = "blocks.2.hook_resid_post"
PARIS = make_tokenizer().convert_tokens_to_ids("paris")


def speaking(family: str = "llama", seed: int = 3) -> pk.Model:
    return pk.load_model(make_model(family, seed), tokenizer=make_tokenizer())


@cache
def texts(count: int, words: int, seed: int = 0) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, words)) for _ in range(count))


def to_paris(model: pk.Model, scale: float = 1.0) -> Direction:
    """The row of the unembedding that reads "paris", through the final norm's gain."""
    row = model.hf.lm_head.weight[PARIS].detach() * model.hf.model.norm.weight.detach()
    return Direction(row / row.norm(), LAST, scale, model=model.fingerprint)


def weights(model: pk.Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.hf.state_dict().items()}


def unchanged(model: pk.Model, before: dict[str, torch.Tensor]) -> bool:
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    now = model.hf.state_dict()
    return not hooks and now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)
