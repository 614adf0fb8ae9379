"""Reading a checkpoint through transformers, and refusing one that lacks weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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

    with without_bars() if where.get("local_files_only") else nullcontext():
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


@contextmanager
def without_bars() -> Iterator[None]:
    """Files that are here are read without the progress bars of transformers; a download keeps them."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
