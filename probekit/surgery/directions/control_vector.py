"""Control vectors of llama.cpp: directions as a GGUF file that is added to the residual stream of a quantised model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.files import write_whole
from probekit.models import Model
from probekit.probes.direction import Direction, plain, unit_vector

_ARCHITECTURE = "controlvector"
# Where llama.cpp calls an architecture something else than transformers does.
_NAMES = {
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}


@dataclass(frozen=True)
class ControlVector:
    """What a control-vector file holds.

    Attributes:
        vectors: By layer, `[d]` float32: what is added to the output of that block, at every token.
        model_hint: The architecture it is for, as llama.cpp calls it.
        model: Fingerprint of the model; None where the file does not say.
        strength: Standard deviations along its direction that each vector is long; None where the file does not say.
        provenance: By layer, where the direction came from.
    """

    vectors: Mapping[int, Tensor]
    model_hint: str
    model: str | None = None
    strength: float | None = None
    provenance: Mapping[int, Mapping[str, object]] = field(default_factory=dict)

    def directions(self) -> dict[int, Direction]:
        """By layer, the direction of each vector at `blocks.LAYER.hook_resid_post`; its scale is known where the strength is."""
        found = {}
        for layer, vector in self.vectors.items():
            length = float(vector.double().norm())
            scale = length / abs(self.strength) if self.strength else None
            towards = -vector if self.strength is not None and self.strength < 0 else vector
            provenance = dict(self.provenance.get(layer, {})) or {"method": "control vector", "length": length}
            found[layer] = Direction(unit_vector(towards), _site(layer), scale, model=self.model, provenance=provenance)
        return found


def save_control_vector(
    path: str | Path, directions: Mapping[int, Direction], *, model: Model, strength: float = 1.0
) -> Path:
    """Write directions as a control vector for `llama-cli --control-vector` and whatever else reads llama.cpp's format.

    The tensor `direction.L` is what llama.cpp adds to the output of block L, blocks counted from 0 as here. It keeps no vector
    for block 0, so that layers go from 1. `--control-vector-scaled FILE:S` multiplies what is written by S.

    The stream of a model that TransformerLens has folded is not that of the file llama.cpp runs; take directions from the
    Hugging Face model.

    Args:
        path: A `.gguf` file; replaced as a whole.
        directions: By layer, a direction of that block's output, `blocks.LAYER.hook_resid_post`, whose scale is known.
        model: The model they are of.
        strength: Length of each vector, in standard deviations of the data along it; negative to go the other way.

    Raises:
        ValueError: no directions, layer 0 or a layer the model does not have, a direction of another site, width or model, a
            scale that is not known, a strength that is zero or not finite.
    """
    import gguf

    if not np.isfinite(strength) or strength == 0:
        raise ValueError(f"strength must be a finite number other than zero, got {strength}")
    if not directions:
        raise ValueError("there are no directions to write")
    vectors = {layer: _vector(directions[layer], layer, model, strength) for layer in sorted(directions)}
    origin = {layer: plain(dict(directions[layer].provenance)) for layer in vectors}

    def write(place: Path) -> None:
        writer = gguf.GGUFWriter(str(place), _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", _hint(model))
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors))
        # Readers skip what they do not know.
        writer.add_string("probekit.model", model.fingerprint)
        writer.add_float64("probekit.strength", float(strength))
        writer.add_string("probekit.provenance", json.dumps(origin, allow_nan=False))
        for layer, vector in vectors.items():
            writer.add_tensor(f"direction.{layer}", vector)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    path = Path(path)
    write_whole(path, write)
    return path


def read_control_vector(path: str | Path) -> ControlVector:
    """Read a control vector that probekit, repeng or llama.cpp wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no GGUF file, one of something else, or a tensor that is no vector of a layer.
    """
    import gguf

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        reader = gguf.GGUFReader(str(path))
    except (ValueError, IndexError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a GGUF file, or is damaged ({error})") from None
    architecture = _field(reader, "general.architecture")
    if architecture != _ARCHITECTURE:
        raise ValueError(f"{path} holds {architecture or 'something that is not named'}, not a control vector")
    vectors: dict[int, Tensor] = {}
    for tensor in reader.tensors:
        kind, _, number = tensor.name.partition(".")
        if kind != "direction" or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"{path} holds the tensor {tensor.name!r}; those of a control vector are direction.1, ...")
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or len(tensor.shape) != 1:
            raise ValueError(f"{path}: {tensor.name} must be one vector of float32, it is {tensor.tensor_type.name}")
        vectors[int(number)] = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    if len({len(v) for v in vectors.values()}) != 1:
        raise ValueError(f"{path} holds {'vectors of several widths' if vectors else 'no vector'}")
    provenance = json.loads(_field(reader, "probekit.provenance") or "{}")
    return ControlVector(
        dict(sorted(vectors.items())),
        _field(reader, f"{_ARCHITECTURE}.model_hint") or "",
        _field(reader, "probekit.model"),
        _field(reader, "probekit.strength"),
        {int(layer): said for layer, said in provenance.items()},
    )


def _vector(direction: Direction, layer: int, model: Model, strength: float) -> np.ndarray:
    """`[d]` float32: what is added to the output of a block."""
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer):
        raise TypeError(f"layers are whole numbers, not {layer!r}")
    if not 1 <= layer < model.n_layers:
        why = (
            "llama.cpp adds nothing to the output of block 0"
            if layer == 0
            else f"{model.name!r} has {model.n_layers} blocks"
        )
        raise ValueError(f"no control vector for layer {layer}: {why}; layers go from 1 to {model.n_layers - 1}")
    if direction.site is not None and direction.site != _site(layer):
        raise ValueError(
            f"the direction for layer {layer} is of {direction.site}, but it is {_site(layer)} that llama.cpp adds to; to use it "
            "there all the same, give it that site with dataclasses.replace, and measure its scale there"
        )
    if len(direction) != model.d_model:
        raise ValueError(f"the direction for layer {layer} is {len(direction)} wide, the stream {model.d_model}")
    if direction.model is not None and direction.model != model.fingerprint:
        raise ValueError(
            f"the direction for layer {layer} was found in the model {direction.model}, {model.name!r} is {model.fingerprint}"
        )
    if direction.scale is None:
        raise ValueError(
            f"how far the data spread along the direction for layer {layer} is not known: direction.measured(activations) "
            "finds out"
        )
    array: np.ndarray = (direction.vector.double() * (strength * direction.scale)).float().numpy()
    return array


def _hint(model: Model) -> str:
    """llama.cpp's name of the model's architecture; a guess where it does not know one, as no reader insists on it."""
    config: Any = getattr(model.hf, "config", None)
    kind = str(getattr(config, "model_type", None) or model.name)
    return _NAMES.get(kind, kind)


def _site(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


def _field(reader: Any, name: str) -> Any:
    found = reader.get_field(name)
    return None if found is None else found.contents()
