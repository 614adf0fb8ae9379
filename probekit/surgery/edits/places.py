"""Where an edit goes: from `layers=` to the names of sites, and which sites write to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from probekit.models import Model
from probekit.models.architectures import POST_NORM
from probekit.models.sites import kind_of
from probekit.probes.direction import Direction

Layers: TypeAlias = Literal["all", "writers"] | int | Sequence[int | str] | str | None
"""Where to edit: None for the direction's own site; `"all"` for its kind of site at every layer (for the stream, all of
`Model.stream_sites`); `"writers"` for everything that writes to the stream; a layer, several, or names of sites."""

_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_embed", "hook_attn_out", "hook_mlp_out")


def sites_of(model: Model, layers: Layers, own: str | None) -> tuple[str, ...]:
    """Names of the sites an edit goes to, in forward order.

    Args:
        own: The site of the direction; its kind is what layer numbers mean.

    Raises:
        KeyError: a layer or site the model does not have.
        ValueError: none named, or sites of another width than the direction's own.
    """
    names: list[str]
    if layers is None:
        if own is None:
            raise ValueError("the direction names no site: say where to edit, layers=['blocks.3.hook_resid_post']")
        names = [own]
    elif layers == "writers":
        names = list(writers_of(model))
    elif layers == "all":
        kind = kind_of(model.site(own)) if own is not None else "hook_resid_post"
        stream = kind in _STREAM
        names = list(model.stream_sites) if stream else [f"blocks.{i}.{kind}" for i in range(model.n_layers)]
    else:
        given = [layers] if isinstance(layers, int | str) else list(layers)
        if not given:
            raise ValueError("layers is empty: there is nothing to edit")
        kind = kind_of(model.site(own)) if own is not None and model.site(own).layer is not None else "hook_resid_post"
        names = [_named(model, one, kind) for one in given]
    if own is not None:
        width = model.site(own).width
        for name in names:
            if model.site(name).width != width:
                raise ValueError(f"{name} is {model.site(name).width} wide, the direction at {own} {width}")
            if space_of(model, name) != space_of(model, own):
                raise ValueError(
                    f"the direction is of {own}, whose dimensions are not those of {name}: the same numbers mean something else there"
                )
    wanted = set(names)
    return tuple(name for name in model.sites if name in wanted)


def space_of(model: Model, site: str) -> str:
    """What a site's dimensions are: `stream` for the residual stream and all that is added to it, else the kind of site."""
    kind = kind_of(model.site(site))
    return "stream" if kind in (*_STREAM, "hook_pos_embed") else kind


def require_stream(direction: Direction, model: Model) -> None:
    """Refuse a direction whose dimensions are not those of the residual stream, however many they are.

    Raises:
        ValueError: names its site.
    """
    if direction.site is not None and space_of(model, direction.site) != "stream":
        raise ValueError(
            f"the direction is of {direction.site}, whose dimensions are not those of the residual stream: the same numbers mean "
            "something else there; find it at a stream site"
        )


def writers_of(model: Model) -> tuple[str, ...]:
    """Sites whose sum is the residual stream: the embeddings, and what each attention and each MLP adds.

    Raises:
        ValueError: an architecture whose stream is not such a sum.
    """
    if model.why_absent("hook_resid_mid") == POST_NORM:
        raise ValueError(f"the stream of {model.name!r} is no sum of what is written to it: {POST_NORM}")
    kinds = ("hook_embed", "hook_pos_embed", "hook_attn_out", "hook_mlp_out")
    found = tuple(name for name in model.sites if kind_of(model.site(name)) in kinds)
    if not any(name.endswith("hook_attn_out") for name in found):
        raise ValueError(
            f"what writes to the stream of {model.name!r} is not known: probekit knows this architecture only by the inputs and "
            "outputs of its blocks"
        )
    return found


def _named(model: Model, one: int | str, kind: str) -> str:
    if isinstance(one, str):
        return model.site(one).name
    if isinstance(one, bool) or not isinstance(one, int):
        raise TypeError(f"layers holds {one!r}: give numbers of layers or names of sites")
    if not -model.n_layers <= one < model.n_layers:
        raise KeyError(f"no layer {one}: {model.name!r} has {model.n_layers} layers, 0 to {model.n_layers - 1}")
    return f"blocks.{one % model.n_layers}.{kind}"
