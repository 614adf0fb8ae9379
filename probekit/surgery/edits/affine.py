"""`AffineMap`: what every linear edit does to an activation, as one low-rank map that hooks and weights share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Cast = tuple[Tensor, Tensor, Tensor | None]
"""`left`, `right` and `bias` in one dtype on one device; no bias where it is zero, which saves a pass over the activations."""


@dataclass(frozen=True)
class AffineMap:
    """`h -> h + (h @ right) @ left.T + bias` for an activation `h [d]`, with `k` columns, `k` far below `d`.

    Adding a vector, setting a coordinate, projecting out, reflecting and erasing (LEACE) are all of this form, and so is one
    after the other. Where the activation is what a linear layer puts out, the map folds into that layer:
    `W + left @ (right.T @ W)` and `b + left @ (right.T @ b) + bias`.

    Attributes:
        left, right: `[d, k]` float64.
        bias: `[d]` float64.
    """

    left: Tensor
    right: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        parts = (self.left, self.right, self.bias)
        left, right, bias = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in parts)
        if left.ndim != 2 or left.shape != right.shape or bias.shape != left.shape[:1]:
            raise ValueError(
                f"left and right must be [d, k] and bias [d], got {tuple(left.shape)}, {tuple(right.shape)}, {tuple(bias.shape)}"
            )
        if not all(bool(torch.isfinite(x).all()) for x in (left, right, bias)):
            raise ValueError("an edit's map has NaN or infinite values")
        for name, value in (("left", left), ("right", right), ("bias", bias)):
            object.__setattr__(self, name, value)

    @property
    def width(self) -> int:
        """d."""
        return len(self.bias)

    @property
    def rank(self) -> int:
        """k."""
        return int(self.left.shape[1])

    @property
    def is_shift(self) -> bool:
        """Whether it only adds a vector."""
        return self.rank == 0 or not bool(self.left.any() and self.right.any())

    @property
    def is_idempotent(self) -> bool:
        """Whether doing it twice is doing it once (up to rounding): true of projections and of setting a coordinate."""
        twice = self.then(self)
        unit = torch.eye(self.width, dtype=torch.float64)
        scale = 1 + float(self.bias.abs().max())
        return bool(
            torch.allclose(twice(unit), self(unit), atol=1e-6 * scale)
            and torch.allclose(twice.bias, self.bias, atol=1e-6 * scale)
        )

    def __call__(self, h: Tensor) -> Tensor:
        """Apply to `[..., d]`, in its dtype; half-precision activations are computed in float32."""
        return applied_to(h, self.cast(torch.float32 if h.dtype.itemsize < 4 else h.dtype, h.device))

    def cast(self, dtype: torch.dtype, device: torch.device) -> Cast:
        """What `applied_to` takes."""
        bias = self.bias.to(device, dtype) if bool(self.bias.any()) else None
        return self.left.to(device, dtype), self.right.to(device, dtype), bias

    def then(self, after: AffineMap) -> AffineMap:
        """This map, and `after` on what it gives."""
        if after.width != self.width:
            raise ValueError(f"maps of different spaces: widths {self.width} and {after.width}")
        right = torch.cat([self.right, after.right + self.right @ (self.left.T @ after.right)], 1)
        bias = self.bias + after.bias + after.left @ (after.right.T @ self.bias)
        return AffineMap(torch.cat([self.left, after.left], 1), right, bias)

    def fold(self, weight: Tensor, output_axis: int) -> Tensor:
        """What a weight must become for its layer to put out the edited activations (the bias is folded by `fold_bias`).

        Args:
            weight: `[output, input]` of a linear layer (`output_axis=0`); `[input, output]` of GPT-2's `Conv1D`, or
                `[token, output]` of an embedding (`output_axis=1`).
            output_axis: Which axis is d wide.
        """
        left, right, _ = self.cast(torch.float64, weight.device)
        wide = weight.detach().double()
        folded = wide + (left @ (right.T @ wide) if output_axis == 0 else (wide @ right) @ left.T)
        return folded.to(weight.dtype)

    def fold_bias(self, bias: Tensor) -> Tensor:
        """The same for a layer's bias `[d]`."""
        return self(bias.detach().double()).to(bias.dtype)

    @classmethod
    def shift(cls, bias: Tensor) -> AffineMap:
        """Add a vector `[d]`."""
        none = torch.zeros(len(bias), 0)
        return cls(none, none, bias)

    @classmethod
    def replace_coordinates(cls, basis: Tensor, values: Sequence[float] | Tensor, share: float = 1.0) -> AffineMap:
        """Move the coordinates along orthonormal columns `[d, k]` towards values `[k]`: all the way (1), or past it (2: reflect)."""
        basis = basis.double()
        return cls(-share * basis, basis, share * basis @ torch.as_tensor(values, dtype=torch.float64))


def applied_to(h: Tensor, cast: Cast) -> Tensor:
    """The map, its tensors already cast, on `[..., d]`; the result has the dtype of `h`."""
    left, right, bias = cast
    wide = h.to(left.dtype).reshape(-1, h.shape[-1])
    if left.shape[1]:
        out = torch.addmm(wide, wide @ right, left.T)
        out = out if bias is None else out.add_(bias)
    else:
        out = wide if bias is None else wide + bias
    return out.to(h.dtype).view(h.shape)
