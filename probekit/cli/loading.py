"""How every command loads its model: where it computes, in which precision, and with which tokenizer."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli import options

if TYPE_CHECKING:
    from probekit.models import Model


@dataclass(frozen=True)
class Loading:
    """What was asked for before the command's name.

    Attributes:
        device: Where the model computes; None: the first GPU if there is one, else the CPU; `"auto"`: spread over all there are.
        precision: Of its weights.
        tokenizer: A folder or Hub id, where not the model's own.
    """

    device: str | None = None
    precision: str = "float32"
    tokenizer: str | None = None


_ASKED = ContextVar("loading", default=Loading())  # noqa: B039 (frozen)


def choose(
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="Where models compute: cpu, cuda, cuda:1, ..., or auto: spread over all GPUs, then memory, for a model that is too "
            "large for one. Default: the first GPU if there is one.",
        ),
    ] = None,
    model_dtype: Annotated[
        options.Precision, typer.Option("--model-dtype", help="Precision that models are loaded in.")
    ] = options.Precision.float32,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", help="A folder or Hub id of a tokenizer, where the model's own is not the one to use."
        ),
    ] = None,
) -> None:
    """Keep what was asked for; stands before the command: `probekit --device cuda:1 probe ...`."""
    _ASKED.set(Loading(device, model_dtype.value, tokenizer))


def load(source: str, blocks: str | None = None) -> Model:
    """The model of a command.

    Raises:
        ValueError: no such device or tokenizer; otherwise as `load_model`.
    """
    import torch

    from probekit.models import load_model

    asked = _ASKED.get()
    spread = "auto" if asked.device == "auto" else None
    try:
        device = None if asked.device is None or spread else torch.device(asked.device)
    except RuntimeError:
        raise ValueError(f"--device {asked.device!r} is no device: write cpu, cuda, cuda:1, or auto") from None
    if device is not None and device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {asked.device}: PyTorch finds no GPU here; leave --device out to use the CPU")
    return load_model(
        source, dtype=asked.precision, device=device, device_map=spread, blocks=blocks, tokenizer=_tokenizer(asked.tokenizer)
    )  # fmt: skip


def _tokenizer(name: str | None) -> object:
    if name is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"--tokenizer {name!r}: no tokenizer there ({str(error).splitlines()[0]})") from error
