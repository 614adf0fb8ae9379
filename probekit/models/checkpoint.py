"""Reading a checkpoint through transformers, and refusing one that lacks weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_checkpoint(source: str | Path, dtype: torch.dtype, **where: Any) -> PreTrainedModel:
    """`AutoModelForCausalLM.from_pretrained`, except that weights which are not there are an error.

    Raises:
        ValueError: the checkpoint lacks weights of its architecture (transformers would draw them at random and warn).
    """
    from transformers import AutoModelForCausalLM

    hf, loaded = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **where)
    if missing := sorted(loaded["missing_keys"]):
        hint = (
            " It is a base model without a head: load it with transformers.AutoModel and pass the model object"
            if all(name.startswith("lm_head") for name in missing)
            else ""
        )
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(f"{len(missing)} of its weights are missing: {shown}.{hint}")
    return hf  # type: ignore[no-any-return]


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
