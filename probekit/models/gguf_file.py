"""GGUF files: the weights are expanded to plain tensors and the model is an ordinary Hugging Face one afterwards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from probekit.models.checkpoint import first_line, read_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer of a GGUF file.

    Raises:
        ValueError: the file is no GGUF file, is damaged, or holds an architecture that transformers cannot expand.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no model: it is neither a GGUF file nor a folder with config.json")
    from transformers import AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with _header_read_once():
            hf = read_checkpoint(path.parent, dtype, **where, **_expanded())
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f"the GGUF file {path} cannot be loaded (damaged, or of an unknown kind): {reason}") from error
    # The weights are plain tensors now; older versions of transformers would still take the model for a quantised one and not save it.
    hf.is_quantized = False
    hf.hf_quantizer = None
    for holder, name in ((hf.config, "quantization_config"), (hf, "quantization_method")):
        vars(holder).pop(name, None)
    return hf, tokenizer


def _expanded() -> dict[str, Any]:
    """How newer versions of transformers are asked for plain tensors; theirs is to keep weights packed where they find a kernel for them."""
    from transformers.utils import quantization_config

    packed = getattr(quantization_config, "GgufConfig", None)
    return {} if packed is None else {"quantization_config": packed(dequantize=True)}


@contextmanager
def _header_read_once() -> Iterator[None]:
    """Let transformers parse the file's header once instead of three times: a third of the time for a small model.

    It also draws no bar meanwhile (one that its own switch for bars does not know).
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as expanding

    names = ("GGUFReader", "get_tensor_name_map")
    originals = {name: getattr(gguf, name) for name in names}
    bar = expanding.tqdm
    try:
        for name, original in originals.items():
            setattr(gguf, name, functools.cache(original))
        expanding.tqdm = functools.partial(bar, disable=True)
        yield
    finally:
        expanding.tqdm = bar
        for name, original in originals.items():
            setattr(gguf, name, original)
