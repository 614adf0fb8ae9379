"""`Origin`: where a model was loaded from, which is what another process gets of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from probekit.models.model import Model


@dataclass(frozen=True)
class Origin:
    """The arguments of the `load_model` that made a model.

    Attributes:
        source: Shipped name, Hub id, or absolute path.
        options: The other arguments.
    """

    source: str
    options: dict[str, Any]

    @property
    def on_gpu(self) -> bool:
        """Whether it goes to a GPU where there is one."""
        return self.options.get("device") != "cpu"


def sent(model: Model) -> tuple[Any, ...]:
    """What a pickle of a model is: its origin and its fingerprint, and no weights.

    Raises:
        ValueError: a model that was not loaded from a name or a path, or with hooks on it.
    """
    advice = "load_model(folder), after model.hf.save_pretrained(folder) and model.tokenizer.save_pretrained(folder)"
    if model.origin is None:
        raise ValueError(
            f"{model.name!r} was made in this process, so no other can load it (only names and folders are sent, never weights): "
            f"save it where all machines see it, and load it from there, {advice}"
        )
    hooked = hooks_on(model)
    if hooked:
        raise ValueError(
            f"{model.name!r} has hooks on it (an edit of its activations?), at {hooked[0]}, which another process "
            f"would not have: take them off; an edit that can be written into the weights can be exported and loaded, {advice}"
        )
    return received, (model.origin, model.name, model.fingerprint)


def received(origin: Origin, name: str, fingerprint: str) -> Model:
    """The model, loaded again.

    Raises:
        ValueError: what lies there is another model than the one that was sent.
    """
    from probekit.models.loading import load_model

    model = load_model(origin.source, **origin.options)
    if model.fingerprint != fingerprint:
        raise ValueError(
            f"{name!r} has the fingerprint {fingerprint}, but what {origin.source} gives here is {model.fingerprint}: its weights were "
            "edited after it was loaded, or another model lies there on this machine. Save the model that is meant to a folder that all "
            "machines see and load it from there"
        )
    model.name = name
    return model


def hooks_on(model: Model) -> list[str]:
    """Names of the modules that have hooks on them; the whole is `the model itself`."""
    return [name or "the model itself" for name, module in model.hf.named_modules() if _hooks(module)]


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
