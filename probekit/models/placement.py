"""Where the weights of a model are that does not fit one device: on several, or (as accelerate does it) fetched when needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def entry_device(hf: nn.Module) -> torch.device:
    """Where tokens are given to the model: where its first weight is when it is computed with."""
    name, parameter = next(iter(hf.named_parameters()))
    if parameter.device.type != "meta":
        return parameter.device
    module, _, _ = name.rpartition(".")
    for hook in _hooks(hf.get_submodule(module)):
        if hook.execution_device is not None:
            return torch.device(hook.execution_device)
    return parameter.device


def offloaded(hf: nn.Module) -> list[str]:
    """Names of the parameters that are fetched from disk, or from the memory beside a GPU, whenever their module runs."""
    return [name for name, parameter in hf.named_parameters() if parameter.device.type == "meta"]


def in_memory(hf: nn.Module, name: str) -> Tensor:
    """A weight or buffer by its name in the model; one that is offloaded is fetched.

    Raises:
        ValueError: its values are nowhere (a model on the `meta` device).
    """
    path, _, own = name.rpartition(".")
    module = hf.get_submodule(path)
    tensor: Tensor = getattr(module, own)
    if tensor.device.type != "meta":
        return tensor
    for hook in _hooks(module):
        if hook.weights_map is not None:
            fetched: Tensor = hook.weights_map[own]
            return fetched.to(tensor.dtype)
    raise ValueError(f"{name} has no values: it is on the meta device, and nothing says where they are to be fetched")


def tied_names(hf: nn.Module) -> dict[str, str]:
    """For each name of a tensor that has several, one that stands for all of them: of an offloaded tensor nothing else tells."""
    tied: dict[str, str] = getattr(hf, "all_tied_weights_keys", None) or {}
    return tied | {source: source for source in tied.values()}


def _hooks(module: nn.Module) -> list[Any]:
    """What accelerate has put on a module to place its weights."""
    hook: Any = getattr(module, "_hf_hook", None)
    return [one for one in getattr(hook, "hooks", [hook]) if hasattr(one, "weights_map")]
