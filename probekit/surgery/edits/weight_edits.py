"""Edits of weights: the parts they are made of, putting them on, and taking them off bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from probekit.models import Model
from probekit.models.placement import offloaded
from probekit.models.transformer_lens import is_transformer_lens
from probekit.surgery.edits.affine import AffineMap
from probekit.surgery.edits.edit import Edit, Undo, edits_on

if TYPE_CHECKING:
    from probekit.probes.direction import Direction


@dataclass(frozen=True)
class FoldedMap:
    """A whole weight, changed so that its layer puts out what an `AffineMap` makes of its output.

    Attributes:
        parameter: Its name, as in `named_parameters`.
        output_axis: Which axis of the stored tensor is the layer's output; 0 for a bias, which the map's own is added to.
        map: What is done to the output.
    """

    parameter: str
    output_axis: int
    map: AffineMap

    rows: Tensor | None = field(default=None, init=False)
    axis: int = field(default=0, init=False)

    def changed(self, old: Tensor) -> Tensor:
        return self.map.fold_bias(old) if old.ndim == 1 else self.map.fold(old, self.output_axis)


@dataclass(frozen=True)
class Shift:
    """A vector added to some rows of a weight, or to all of them.

    Attributes:
        parameter: Its name.
        axis: Along which axis of the stored tensor the rows lie.
        rows: `[n]` int64, or None for all.
        vector: What is added to each: of the length of the other axis; for a bias (one axis), `[]` or `[n]`.
    """

    parameter: str
    axis: int
    rows: Tensor | None
    vector: Tensor

    def changed(self, old: Tensor) -> Tensor:
        vector = self.vector.to(old.device, torch.float64)
        wide = old.detach().double()
        return (wide + (vector if old.ndim == 1 or self.axis == 0 else vector[:, None])).to(old.dtype)


@dataclass(frozen=True)
class Replacement:
    """New values for some rows of a weight, or for all of it.

    Attributes:
        parameter: Its name.
        axis: Along which axis of the stored tensor the rows lie.
        rows: `[n]` int64, or None for all.
        values: The stored tensor's shape, with `n` in place of `axis`.
    """

    parameter: str
    axis: int
    rows: Tensor | None
    values: Tensor

    def changed(self, old: Tensor) -> Tensor:
        if self.values.shape != old.shape:
            raise ValueError(
                f"new values for {self.parameter} have shape {tuple(self.values.shape)}, not {tuple(old.shape)}"
            )
        return self.values.to(old)


@dataclass(frozen=True)
class AddedBias:
    """A bias for a linear layer that has none.

    Attributes:
        parameter: The name it gets.
        values: `[output]`.
    """

    parameter: str
    values: Tensor


Written = FoldedMap | Shift | Replacement
Part = Written | AddedBias
_LOUD = 10.0  # times the length of what was there before, above which a change of weights is said to be large
_LOST = 0.1  # share of a change lost in rounding above which that is said


class WeightEdit(Edit):
    """Changes parameters in place. Undoing puts the stored originals back, bit for bit.

    In a model of half precision, steps smaller than the rounding are lost; applying warns where they are more than a tenth of the
    change (the sum of all steps). Many small steps that carry little of it, as in `orthogonalize`, do no harm.

    Args:
        model: The model it is made for, or the fingerprint of that model.

    Attributes:
        parts: What is changed, a parameter at a time.
        unties: Whether the unembedding gets weights of its own, because the embedding that it shares changes.
        config: Settings of the configuration that go with the change (`mlp_bias` where biases are added).
    """

    def __init__(
        self,
        name: str,
        model: Model | str,
        parts: Sequence[Part],
        *,
        unties: bool = False,
        config: Mapping[str, Any] | None = None,
        direction: Direction | None = None,
        strength: float | None = None,
        remake: Callable[[Direction | None, float | None], Edit] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        if isinstance(model, Model):
            refuse_weights(model)
            if unties and not is_tied(model):
                raise ValueError(f"the embedding of {model.name!r} is not tied: there is nothing to untie")
        self.name = name
        self.model = model.fingerprint if isinstance(model, Model) else model
        self.parts = tuple(parts)
        self.unties = unties
        self.config = dict(config or {})
        if unknown := set(self.config) - {"mlp_bias"}:
            raise ValueError(
                f"an edit may switch mlp_bias on and nothing else of a configuration, not {sorted(unknown)}"
            )
        self.direction = direction
        self.strength = strength
        self._remake = remake
        self.details = dict(details or {})
        if not self.parts:
            raise ValueError("this edit changes nothing")

    @property
    def changes_weights(self) -> bool:
        return True

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that are changed."""
        return tuple(dict.fromkeys(part.parameter for part in self.parts))

    def touched(self, model: Model) -> int:
        """How many numbers it changes or adds, without the copy that untying makes."""
        known = dict(model.hf.named_parameters())
        total = 0
        for part in self.parts:
            if isinstance(part, AddedBias):
                total += part.values.numel()
            else:
                whole = known[part.parameter]
                share = 1 if part.rows is None else len(part.rows) / whole.shape[part.axis]
                total += round(whole.numel() * share)
        return total

    def describe(self) -> dict[str, object]:
        return {
            "kind": "weights",
            "name": self.name,
            "model": self.model,
            "parameters": list(self.parameters),
            "unties": self.unties,
            "strength": self.strength,
            "direction": None if self.direction is None else dict(self.direction.provenance),
            **self.details,
        }

    def to_weights(self, model: Model) -> WeightEdit:
        """Itself: it is one already."""
        return self

    def _untouched(self, model: Model) -> dict[str, tuple[int, int]]:
        mine = {id(p) for name, p in model.hf.named_parameters() if name in self.parameters}
        head = model.hf.get_output_embeddings() if self.unties else None
        every = model.hf.state_dict(keep_vars=True).items()
        return {
            name: (tensor.data_ptr(), tensor._version)
            for name, tensor in every
            if id(tensor) not in mine and name not in self.parameters and (head is None or tensor is not head.weight)
        }

    def _touched(self, model: Model) -> dict[str, tuple[int, int]]:
        known = dict(model.hf.named_parameters())
        return {name: (known[name].data_ptr(), known[name]._version) for name in self.parameters if name in known}

    def check(self, model: Model) -> None:
        super().check(model)
        refuse_weights(model)
        if model.fingerprint != self.model:  # made for the model below the edits that are on it
            mine = set(self.parameters)
            for other in edits_on(model):
                if isinstance(other, WeightEdit) and (shared := mine & set(other.parameters)):
                    raise ValueError(
                        f"{other.name!r} is on the model and changes {sorted(shared)[0]}, too; this edit was made from the weights "
                        "before it: make it again from the model as it is now"
                    )

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _put_on(self, model: Model) -> Undo:
        undo: list[Undo] = []

        def back() -> None:
            with torch.no_grad():
                for step in reversed(undo):
                    step()

        try:
            if self.unties:
                undo.append(_untie(model))
            for name, value in self.config.items():
                undo.append(_set_config(model.hf.config, name, value))
            known = dict(model.hf.named_parameters())
            steps: list[Tensor] = []
            moved: dict[str, Tensor] = {}
            for part in self.parts:
                undo.append(
                    _add_bias(model, part) if isinstance(part, AddedBias) else _write(known, part, steps, moved)
                )
            _warn_of_rounding(self.name, model, steps)
            _warn_if_large(self.name, moved)
        except BaseException:
            back()
            raise
        return back


def _write(known: Mapping[str, nn.Parameter], part: Written, steps: list[Tensor], moved: dict[str, Tensor]) -> Undo:
    """Change one parameter. `steps` gets what rounding does, `moved` how far matrices move, in their own lengths."""
    if part.parameter not in known:
        raise ValueError(f"the model has no parameter {part.parameter!r}")
    whole = known[part.parameter]
    if part.rows is None:
        original = whole.detach().clone()
        new = _changed(part, original, steps)
        _refuse_infinite(new, part.parameter)
        moved[part.parameter] = _moved(original, new)
        whole.copy_(new)
        return lambda: _copy(whole, original)
    rows = part.rows.to(whole.device)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < whole.shape[part.axis]:
        raise ValueError(
            f"rows {int(rows.min())} to {int(rows.max())} of {part.parameter}: it has {whole.shape[part.axis]}"
        )
    original = whole.detach().index_select(part.axis, rows)
    new = _changed(part, original, steps)
    _refuse_infinite(new, part.parameter)
    moved[part.parameter] = _moved(original, new)
    whole.index_copy_(part.axis, rows, new)

    def restore() -> None:
        whole.index_copy_(part.axis, rows, original)

    return restore


def _changed(part: Written, original: Tensor, steps: list[Tensor]) -> Tensor:
    """The new values. Of half precision, a row goes to `steps`: how many numbers were to change and by how much in sum, and both
    of those that the rounding leaves as they were."""
    if original.dtype.itemsize >= 4:
        return part.changed(original)
    exact = part.changed(original.double())
    new = exact.to(original.dtype)
    step = exact.sub(original).abs_()
    lost = step[new == original]
    steps.append(torch.stack([(step > 0).sum(), step.sum(), (lost > 0).sum(), lost.sum()]).cpu())
    return new


def _warn_of_rounding(name: str, model: Model, steps: list[Tensor]) -> None:
    count, size, count_lost, size_lost = torch.stack(steps).sum(0).tolist() if steps else (0, 0, 0, 0)
    if size_lost > _LOST * size:
        warnings.warn(
            f"{size_lost / size:.0%} of what this edit changes is lost to the rounding of {str(model.dtype).removeprefix('torch.')}: "
            f"{count_lost / count:.0%} of its numbers stay as they are ({name}). Load the model with dtype='float32' and make the edit "
            "there, or take a larger strength",
            stacklevel=5,
        )


def _moved(original: Tensor, new: Tensor) -> Tensor:
    """How long the change of a matrix (or some rows of it) is, beside what was there; 0 of a bias or a norm."""
    if original.ndim < 2:
        return torch.zeros(())
    before, after = original.float(), new.float()
    return ((after - before).norm() / before.norm().clamp(min=1e-30)).cpu()


def _warn_if_large(name: str, moved: Mapping[str, Tensor]) -> None:
    parameter = max(moved, key=lambda one: float(moved[one]), default=None)
    if parameter is not None and float(moved[parameter]) > _LOUD:
        warnings.warn(
            f"the edit changes {parameter} by {float(moved[parameter]):.1f} times the length of what was there ({name}): expect "
            "nonsense, or take a smaller strength",
            stacklevel=5,
        )


def _copy(whole: nn.Parameter, original: Tensor) -> None:
    whole.copy_(original)


def _refuse_infinite(new: Tensor, name: str) -> None:
    if not bool(torch.isfinite(new).all()):
        raise ValueError(
            f"the edit gives {name} NaN or infinite values in {new.dtype}: its strength is too large for this dtype"
        )


def _add_bias(model: Model, part: AddedBias) -> Undo:
    path = part.parameter.removesuffix(".bias")
    module = model.hf.get_submodule(path)
    if getattr(module, "bias", None) is not None:
        raise ValueError(f"{path} has a bias already")
    module.bias = nn.Parameter(part.values.to(module.weight), requires_grad=module.weight.requires_grad)

    def remove() -> None:
        module.bias = None

    return remove


def _set_config(config: Any, name: str, value: object) -> Undo:
    before = getattr(config, name)
    setattr(config, name, value)
    return lambda: setattr(config, name, before)


def is_tied(model: Model) -> bool:
    """Whether embedding and unembedding are one tensor."""
    hf = model.hf
    head = hf.get_output_embeddings() if hasattr(hf, "get_output_embeddings") else None
    embed = hf.get_input_embeddings() if hasattr(hf, "get_input_embeddings") else None
    return head is not None and embed is not None and head.weight is embed.weight


def _untie(model: Model) -> Undo:
    hf = model.hf
    head, embed = hf.get_output_embeddings(), hf.get_input_embeddings()
    head.weight = nn.Parameter(embed.weight.detach().clone(), requires_grad=embed.weight.requires_grad)
    config = hf.config
    before = config.tie_word_embeddings
    config.tie_word_embeddings = False

    def tie() -> None:
        head.weight = embed.weight
        config.tie_word_embeddings = before

    return tie


def refuse_weights(model: Model) -> None:
    """Refuse a model whose weights cannot be edited here.

    Raises:
        ValueError: a TransformerLens model, quantised weights, or weights that are not in memory.
    """
    if is_transformer_lens(model.hf):
        raise ValueError(
            "weights of a TransformerLens model are a converted copy: edit the weights of the Hugging Face model, then convert "
            "that (edits of activations work on both)"
        )
    if away := offloaded(model.hf):
        raise ValueError(
            f"{len(away)} weights of {model.name!r} are not in memory ({away[0]}, ...): device_map offloaded them, and they are fetched "
            "anew whenever they are used, so that a change would be lost. Load the model without offloading (more GPUs, or "
            "device='cpu'), or edit activations, which works"
        )
    for module_name, module in model.hf.named_modules():
        for name in ("weight", "qweight"):
            weight = getattr(module, name, None)
            if isinstance(weight, Tensor) and (not weight.dtype.is_floating_point or weight.dtype.itemsize < 2):
                raise ValueError(
                    f"{module_name}.{name} is quantised ({weight.dtype}): edit the unquantised model and quantise it again"
                )
