"""Tiny models of every family with a direction in them, for the tests of edits."""

from __future__ import annotations

from typing import Any

import torch

import probekit as pk
from probekit.probes.direction import Direction
from tests.models.tiny import CONFIGS, VOCAB, make_model

SITE = "blocks.1.hook_resid_post"
FAMILIES = tuple(CONFIGS)


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32) -> pk.Model:
    return pk.load_model(make_model(family).to(dtype))


def tokens(batch: int = 3, pos: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, VOCAB, (batch, pos), generator=torch.Generator().manual_seed(seed))


def direction(of: pk.Model, site: str = SITE, seed: int = 0, **facts: Any) -> Direction:
    vector = torch.randn(of.site(site).width, generator=torch.Generator().manual_seed(seed))
    known = {"scale": 0.5, "center": 0.3, "mean": 0.2, "gap": 1.0, "model": of.fingerprint} | facts
    return Direction(vector / vector.norm(), site, **known)


def logits(model: pk.Model, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model.hf(batch)
    return output if isinstance(output, torch.Tensor) else output.logits


def weights(model: pk.Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.hf.state_dict().items()}
