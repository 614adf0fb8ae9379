"""What a model is, in 16 hex digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from probekit.models.placement import in_memory, offloaded, tied_names

# Where a configuration was saved, and how it is to be run, are not what the model is.
_NOT_THE_MODEL = {
    "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "quantization_config",
    "output_attentions", "output_hidden_states", "return_dict", "tokenizer_class", "id2label", "label2id",
    "name_or_path", "device", "n_devices", "seed", "model_name", "tokenizer_name", "init_weights",
}  # fmt: skip
_LOOKED_AT = 64  # numbers of each tensor that `weights_version` reads


def fingerprint_model(model: nn.Module) -> str:
    """SHA-256 (first 16 hex digits) of class, configuration and saved tensors, in the order of their names.

    A tensor that is tied to another counts once. The dtype counts: a model in bfloat16 is another model.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    config: Any = getattr(model, "cfg", None) or getattr(model, "config", None)  # cfg: of a TransformerLens model
    if config is not None:
        facts = {k: v for k, v in config.to_dict().items() if k not in _NOT_THE_MODEL and not k.startswith("_")}
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    tied = tied_names(model) if offloaded(model) else {}
    seen: set[object] = set()
    for name, tensor in sorted(model.state_dict().items()):
        away = tensor.device.type == "meta"
        what = tied.get(name) or (name if away else (tensor.data_ptr(), tensor.shape))
        if what in seen:
            continue
        seen.add(what)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if away:
            tensor = in_memory(model, name)
        if tensor.numel():
            digest.update(memoryview(_as_bytes(tensor)))
    return digest.hexdigest()[:16]


def weights_version(model: nn.Module) -> tuple[object, ...]:
    """Something that changes when a weight is replaced or written to, and costs next to nothing.

    Writing to `parameter.data` leaves no trace in torch's counter of changes, so a few numbers of each tensor are looked at, too.
    """
    tensors = model.state_dict(keep_vars=True).values()
    known = tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
    return known, _sampled([tensor.detach() for tensor in tensors])


def _sampled(tensors: Iterable[Tensor]) -> bytes:
    """Some `_LOOKED_AT` numbers of each tensor, evenly spread, fetched from each device at once."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.device.type != "meta" and tensor.is_contiguous():
            few = tensor.view(-1)[:: tensor.numel() // _LOOKED_AT + 1]
            alike.setdefault((tensor.device, tensor.dtype), []).append(few)
    return b"".join(bytes(_as_bytes(torch.cat(each))) for each in alike.values())


def _as_bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
