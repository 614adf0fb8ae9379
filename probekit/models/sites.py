"""`Site`: a place in a model where activations can be read, named as TransformerLens names it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

At = Literal["input", "output", "normalized"]

# Kinds of site in the order in which the forward pass comes by them.
KINDS_BEFORE_BLOCKS = ("hook_embed", "hook_pos_embed")
KINDS_IN_BLOCK = (
    "hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out",
    "hook_resid_post",
)  # fmt: skip
KINDS_AFTER_BLOCKS = ("ln_final.hook_normalized",)

_BLOCK = re.compile(r"blocks\.(-?\d+)\.(.+)")


@dataclass(frozen=True)
class Site:
    """A hook point.

    Attributes:
        name: TransformerLens's name, such as `blocks.3.hook_resid_post`.
        layer: Index of the block, from 0; None for what lies outside the blocks (`hook_embed`, `ln_final...`).
        width: Numbers a position.
        module: Path of the module, from the root of the model, on which a hook reads (and may change) the site.
        at: Which side of that module: its first `input`, its `output`, or, for a final norm, its input
            `normalized` (centred where the norm centres, divided by its scale, before gain and bias).
    """

    name: str
    layer: int | None
    width: int
    module: str
    at: At


def in_forward_order(sites: Iterable[Site]) -> list[Site]:
    """Sort sites by when the forward pass comes by them."""
    kinds = (*KINDS_BEFORE_BLOCKS, *KINDS_IN_BLOCK, *KINDS_AFTER_BLOCKS)

    def place(site: Site) -> tuple[float, int]:
        if site.layer is not None:
            return site.layer, kinds.index(kind_of(site))
        return (-1.0 if site.name in KINDS_BEFORE_BLOCKS else float("inf")), kinds.index(site.name)

    return sorted(sites, key=place)


def kind_of(site: Site) -> str:
    """The name without its block: `hook_resid_post`, `attn.hook_z`, `hook_embed`."""
    return site.name if site.layer is None else site.name.split(".", 2)[-1]


def describe_unknown(name: object, sites: Mapping[str, Site], n_layers: int, absent: Mapping[str, str]) -> str:
    """The message for a name that is no site of this model: what is wrong with it and which names are near.

    Args:
        absent: For kinds of site (`hook_resid_mid`) that this architecture does not have, the reason.
    """
    if not isinstance(name, str) or name.lstrip("-").isdigit():
        return (
            f"{name!r} is not the name of a site. A bare layer number would be ambiguous (the embedding, or the output "
            f"of the first block?), so sites are named: 'blocks.0.hook_resid_pre' enters the first block, "
            f"'blocks.0.hook_resid_post' leaves it, 'blocks.{n_layers - 1}.hook_resid_post' leaves the last"
        )
    kinds = list(dict.fromkeys(kind_of(site) for site in sites.values() if site.layer is not None))
    match = _BLOCK.fullmatch(name)
    layer, kind = (int(match[1]), match[2]) if match else (0, name)
    if kind in absent:
        return f"this model has no site {name!r}: {absent[kind]}"
    if match and kind in kinds:
        return f"no site {name!r}: the model has {n_layers} blocks, numbered 0 to {n_layers - 1}"
    layer = min(max(layer, 0), n_layers - 1)
    outside = [site.name for site in sites.values() if site.layer is None]
    near = [found for found in kinds if kind in (found, found.removeprefix("hook_"), found.split(".")[-1])]
    near += difflib.get_close_matches(kind, kinds if match else kinds + outside, n=3, cutoff=0.4)
    if not near:
        inside = f"in each block, as blocks.0.{kinds[0]}: {', '.join(kinds)}"
        return f"no site {name!r}; the sites are: {', '.join(outside)}; and {inside}"
    full = [found if found in outside else f"blocks.{layer}.{found}" for found in dict.fromkeys(near)]
    return f"no site {name!r}; near it: {', '.join(full)}"
