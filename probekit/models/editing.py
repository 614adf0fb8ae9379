"""Changing what passes a site while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from probekit.models.model import Model
from probekit.models.sites import kind_of


@contextmanager
def changed_at(model: Model, site: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While inside, everything that passes a site is replaced by what `change` makes of it.

    Args:
        model: Any model; its forward pass, its `generate`, and `model.run` are all affected.
        site: Where. Sites that are read beside the stream cannot be changed (see below).
        change: Takes `[batch, pos, width]` and gives the same shape.

    Raises:
        KeyError: unknown site.
        ValueError: a site that is only a view: `hook_resid_mid` (a block adds to the stream past the place where it is read)
            and `ln_final.hook_normalized` (computed for reading).
    """
    place = model.site(site)
    if place.at == "normalized" or kind_of(place) == "hook_resid_mid":
        stream = "blocks.I.hook_resid_post" if place.layer is None else f"blocks.{place.layer}.hook_resid_post"
        raise ValueError(f"{site} can be read but not changed; change {stream}, or what a block adds: hook_mlp_out")
    module = model.hf.get_submodule(place.module)
    if place.at == "output":
        handle = module.register_forward_hook(partial(_change_output, change))
    else:
        handle = module.register_forward_pre_hook(partial(_change_input, change), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _change_output(change: Callable[[Tensor], Tensor], module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return change(output)
    return (change(output[0]), *output[1:])


def _change_input(change: Callable[[Tensor], Tensor], module: nn.Module, args: Any, kwargs: Any) -> Any:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    return args, kwargs | {name: change(kwargs[name])}
