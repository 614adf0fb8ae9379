"""`Site`: a place in a model where activations can be read, named as TransformerLens names it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

At = Literal["input", "output", "normalized"]

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


def in_forward_order(sites: Sequence[Site]) -> list[Site]:
    """Sort sites by where in the forward pass they come, as far as the name tells."""
    within = [
        "hook_embed", "hook_pos_embed", "hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid",
        "mlp.hook_post", "hook_mlp_out", "hook_resid_post", "ln_final.hook_normalized",
    ]  # fmt: skip

    def place(site: Site) -> tuple[float, int]:
        kind = site.name.split(".", 2)[-1] if site.layer is not None else site.name
        outside = float("inf") if site.name.startswith("ln_final") else -1.0
        return (outside if site.layer is None else float(site.layer)), within.index(kind)

    return sorted(sites, key=place)


def describe_unknown(name: object, sites: Mapping[str, Site], n_layers: int, absent: Mapping[str, str]) -> str:
    """The message for a name that is no site of this model: what is wrong with it and which names are near.

    Args:
        absent: For kinds of site (`hook_resid_mid`) that this architecture does not have, the reason.
    """
    if not isinstance(name, str):
        return (
            f"{name!r} is not the name of a site. A bare layer number would be ambiguous (the embedding, or the output "
            f"of the first block?), so sites are named: 'blocks.0.hook_resid_pre' enters the first block, "
            f"'blocks.0.hook_resid_post' leaves it, 'blocks.{n_layers - 1}.hook_resid_post' leaves the last"
        )
    match = _BLOCK.fullmatch(name)
    kinds = list(dict.fromkeys(site.name.split(".", 2)[-1] for site in sites.values() if site.layer is not None))
    if match:
        layer, kind = int(match[1]), match[2]
        if kind in absent:
            return f"this model has no site {name!r}: {absent[kind]}"
        if kind in kinds and not 0 <= layer < n_layers:
            return f"no site {name!r}: the model has {n_layers} blocks, numbered 0 to {n_layers - 1}"
        near = difflib.get_close_matches(kind, kinds, n=3, cutoff=0.4) or kinds
        layer = min(max(layer, 0), n_layers - 1)
        return f"no site {name!r}; near it: {', '.join(f'blocks.{layer}.{kind}' for kind in near)}"
    if name in absent:
        return f"this model has no site {name!r}: {absent[name]}"
    near = [f"blocks.0.{kind}" for kind in kinds if name in (kind, kind.removeprefix("hook_"), kind.split(".")[-1])]
    near += difflib.get_close_matches(name, list(sites), n=3, cutoff=0.4)
    return f"no site {name!r}; near it: {', '.join(dict.fromkeys(near)) or ', '.join(list(sites)[:3])}"
