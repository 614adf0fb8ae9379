"""Muon for GPT-2, all matrices of one shape at once.

`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without bfloat16 arithmetic runs a hundred times slower than
float32, and it handles one matrix at a time. This one computes in the dtype asked for and stacks matrices of equal
shape. Under `torchrun` each process orthogonalises its share of them. Weights lie as the `Conv1D` of GPT-2 keeps them,
`[in, out]`; a fused query-key-value matrix is orthogonalised as three.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (momentum, Nesterov, five
Newton-Schulz steps with its coefficients, step scaled by sqrt(max(1, out / in))).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed

from probekit.testbeds.training.loop import sum_over_processes

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(stack: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix near 1, keeping its singular vectors.

    Args:
        stack: `[matrix, rows, columns]`, floating point.
        steps: Newton-Schulz steps.

    Returns:
        A tensor of the same shape and dtype.
    """
    a, b, c = _COEFFICIENTS
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.mT if tall else stack
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Momentum, orthogonalised.

    Args:
        params: Matrices of shape `[in, out]` (as `transformers.pytorch_utils.Conv1D` keeps them), or parameter groups.
        lr: Step length: the spectral norm of an update, before the scaling by shape.
        momentum: Decay of the running sum of gradients.
        weight_decay: Each step multiplies the weights by `1 - lr * weight_decay`.
        steps: Newton-Schulz steps.
        dtype: In which the orthogonalisation computes.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})
        self.dtype = dtype

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """Update every parameter that has a gradient. `closure` is not used."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(state["momentum"], alpha=group["momentum"])
                rows, columns = parameter.shape
                parts = columns // rows if columns == 3 * rows else 1
                for part, piece in zip(update.chunk(parts, 1), parameter.chunk(parts, 1), strict=True):
                    by_shape[tuple(part.shape)].append((piece, part))
            shared = distributed.is_initialized()
            first, every = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
            updates = {}
            for shape, pieces in by_shape.items():
                stack = torch.stack([part for _, part in pieces])
                updates[shape] = torch.zeros_like(stack)
                if first < len(stack):
                    updates[shape][first::every] = orthogonalise(stack[first::every].to(self.dtype), group["steps"])
            sum_over_processes(list(updates.values()))
            for (fan_in, fan_out), pieces in by_shape.items():
                step = group["lr"] * max(1.0, fan_out / fan_in) ** 0.5
                for (piece, _), direction in zip(pieces, updates[fan_in, fan_out], strict=True):
                    piece.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=step)
