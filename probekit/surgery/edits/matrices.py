"""Which weights of a Hugging Face model write a site, and which read the stream into the MLP."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from probekit.models import Model
from probekit.models.architectures import family_of
from probekit.models.sites import kind_of


@dataclass(frozen=True)
class Layer:
    """A linear layer or an embedding, and how its weight is stored.

    Attributes:
        path: Of the module.
        output_axis: Which axis of `weight` is the output: 0 for `nn.Linear`, 1 for GPT-2's `Conv1D` and embeddings.
        has_bias: Whether it has one.
        multiplier: What its output is multiplied with before it reaches the site (Gemma's scaled embedding).
        outputs: Rows of the output that are meant, where a layer holds several matrices: `(start, end)`, or None for all.
    """

    path: str
    output_axis: int
    has_bias: bool
    multiplier: float = 1.0
    outputs: tuple[int, int] | None = None

    @property
    def weight(self) -> str:
        return f"{self.path}.weight"

    @property
    def bias(self) -> str:
        return f"{self.path}.bias"


def writer_of(model: Model, site: str) -> Layer:
    """The layer whose output, and nothing else, is a site.

    Raises:
        ValueError: there is no such layer; says why.
    """
    place = model.site(site)
    kind = kind_of(place)
    if kind in ("hook_embed", "hook_pos_embed"):
        module = model.hf.get_submodule(place.module)
        if not isinstance(module, nn.Embedding):
            return _layer(model, place.module)
        multiplier = float(getattr(module, "embed_scale", 1.0))
        return Layer(place.module, 1, False, multiplier)
    inner = {"hook_attn_out": "attn.hook_z", "hook_mlp_out": "mlp.hook_post"}.get(kind)
    if inner is None:
        raise ValueError(
            f"{site} is no layer's own output: what passes there is a sum, or goes on through a function. Weights can do this at "
            "hook_embed, hook_attn_out and hook_mlp_out, and add a vector at hook_resid_post"
        )
    path = model.site(f"blocks.{place.layer}.{inner}").module
    if path != place.module and not path.startswith(f"{place.module}."):
        raise ValueError(
            f"in {model.name!r} a norm stands between the last matrix and {site}, and it does not commute with the edit: do it to "
            "the activations"
        )
    return _layer(model, path)


def mlp_input_of(model: Model, layer: int) -> tuple[Layer, str]:
    """The matrix through which the MLP of a block reads the stream, and what it is called: the gate, where there is one.

    Raises:
        ValueError: an architecture whose MLP is not known.
    """
    family = family_of(model.hf.config)
    if family is None or family.mlp_in is None:
        raise ValueError(f"the MLP of {model.name!r} is not known: give names of parameters instead")
    block = model.site(f"blocks.{layer}.hook_resid_pre").module
    found = _layer(model, f"{block}.{family.mlp_in}")
    name = family.mlp_in.rsplit(".", 1)[-1]
    if name == "gate_up_proj":
        module = model.hf.get_submodule(found.path)
        found = Layer(found.path, found.output_axis, found.has_bias, 1.0, (0, module.weight.shape[0] // 2))
    return found, name


def _layer(model: Model, path: str) -> Layer:
    module = model.hf.get_submodule(path)
    axis = 0 if hasattr(module, "in_features") else 1
    return Layer(path, axis, getattr(module, "bias", None) is not None)
