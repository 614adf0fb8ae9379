"""Words as a model represents them: mean hidden states of their last tokens in short templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probekit.models.batching import padded, unless_full

if TYPE_CHECKING:
    from probekit.models import Model

TEMPLATES = ("The word {}", "This is about {}", "It was the {}")
"""None starts with the word: what stands first in a sequence takes up attention that belongs nowhere, and its activation can be a
hundred times as long as others whatever the word (Sun et al. 2024, "Massive activations in large language models",
arXiv 2402.17762; 23,000 against 320 in SmolLM2-135M after block 22)."""
_BATCH = 64


def template_states(model: Model, words: Sequence[str], site: str) -> np.ndarray:
    """`[word, d]` float32: mean over the templates of the activation at `site` of each word's last token."""
    import torch

    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    total = np.zeros((len(words), model.d_model), np.float32)
    for template in TEMPLATES:
        tokens, _ = model.tokenize([template.format(word) for word in words])
        tokens = [_without_end(ids, special) for ids in tokens]
        order = np.argsort([len(t) for t in tokens], kind="stable")
        for group in np.array_split(order, max(1, len(order) // _BATCH)):
            batch, mask = padded([tokens[i] for i in group])
            states = model.run(batch, unless_full(mask), [site])[site]
            last = mask.sum(1) - 1
            total[group] += states[torch.arange(len(group)), last].float().cpu().numpy()
    return total / len(TEMPLATES)


def _without_end(ids: np.ndarray, special: set[int]) -> np.ndarray:
    """Token ids up to the last that is no special one: some tokenizers end every text with one."""
    real = np.flatnonzero([int(one) not in special for one in ids])
    return ids[: int(real[-1]) + 1] if len(real) else ids
