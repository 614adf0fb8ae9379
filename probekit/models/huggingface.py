"""A Hugging Face `PreTrainedModel` as a `Model`."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probekit.models.architectures import find_layout
from probekit.models.model import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def wrap_huggingface(hf: PreTrainedModel, tokenizer: Any, name: str, blocks: str | None = None) -> Model:
    """Find the sites of a Hugging Face model; the model itself is not changed.

    Args:
        hf: A causal language model, or the base model of one.
        tokenizer: A Hugging Face tokenizer, or None.
        name: For titles and manifests.
        blocks: Path of the list of blocks, for an architecture that is not known.
    """
    layout = find_layout(hf, blocks)
    base = hf.base_model
    takes = inspect.signature(base.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    options = {"use_cache": False} if "use_cache" in takes or open_ended else {}

    masked = "attention_mask" in takes or open_ended

    def forward(tokens: Tensor, mask: Tensor | None) -> object:
        # A token of a causal model does not see the padding on its right, so all positions may count as tokens: attention
        # then takes its fast causal path. Whether an unknown architecture is causal is not known. A mask is given even
        # where nothing is padded, because transformers warns where a sequence begins or ends with the padding token.
        if not masked:
            return base(input_ids=tokens, **options)
        seen = torch.ones_like(tokens) if mask is None or layout.known else mask.long()
        return base(input_ids=tokens, attention_mask=seen, **options)

    def wrap(other: PreTrainedModel) -> Model:
        return wrap_huggingface(other, tokenizer, name, blocks)

    embeddings = hf.get_input_embeddings()
    config = hf.config.get_text_config()
    vocab = getattr(embeddings, "num_embeddings", None) or config.vocab_size
    context = getattr(config, "max_position_embeddings", None)
    return Model(
        hf, tokenizer, name, layout, context=context, vocab=vocab, forward=forward, wrap=wrap, rebuild=lambda: wrap(make_fresh(hf))
    )  # fmt: skip


def make_fresh(hf: PreTrainedModel) -> PreTrainedModel:
    """The same architecture, with weights as its own initialisation draws them from torch's global random state.

    Raises:
        ValueError: a model of which parts are on disk: its random twin would have to be held in memory.
    """
    placed = getattr(hf, "hf_device_map", None) or {}
    if "disk" in placed.values():
        raise ValueError(
            "parts of the model are on disk (device_map), and random weights would have to be held in memory whole: leave out that "
            "control (controls=False)"
        )
    config = copy.deepcopy(hf.config)
    fresh = type(hf)._from_config(config, dtype=hf.dtype, attn_implementation=config._attn_implementation)
    if len(set(placed.values())) > 1:
        from accelerate import dispatch_model

        return dispatch_model(fresh, placed).eval()  # type: ignore[no-any-return]
    return fresh.to(hf.device).eval()
