"""Tuning as the expensive alternative: without gradients (MeZO) and by low rank (LoRA), each of them folded into an edit.

Both change the model while they run and put it back bit for bit; what they found is a `WeightEdit`, which is put on, evaluated, undone
and exported like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from probekit.models import Model
from probekit.surgery.edits.edit import edits_on
from probekit.surgery.edits.matrices import writer_of
from probekit.surgery.edits.weight_edits import Replacement, WeightEdit, refuse_weights
from probekit.surgery.evaluating.running import pieces

Loss: TypeAlias = Sequence[str] | Sequence[Sequence[int]] | Callable[[Model], Tensor]
"""Texts that are wanted (or token ids), whose cross-entropy a token is brought down; or a function of the model, a scalar tensor."""


def mezo(
    model: Model,
    loss: Loss,
    *,
    steps: int = 200,
    learning_rate: float = 1e-4,
    epsilon: float = 1e-3,
    batch: int = 8,
    parameters: Sequence[str] | None = None,
    seed: int = 0,
) -> WeightEdit:
    """Tune weights by forward passes alone: each step goes along one random direction, as far as the loss changes along it.

    Source: Malladi et al. 2023 (arXiv 2305.17333), Algorithm 1 (MeZO): the random direction is never stored, but drawn again from
    its seed.

    Args:
        loss: What is brought down.
        steps: Of two forward passes each.
        learning_rate: Of the step.
        epsilon: How far the loss is looked at on both sides.
        batch: Texts a step (of a function, it decides itself).
        parameters: Names of those that are tuned; all matrices of the blocks when left out.
        seed: Of directions and batches. The same seed gives the same edit.

    Raises:
        KeyError: no such parameter.
        ValueError: another edit is on the model, a model whose weights cannot be edited, or a loss that is not finite.
    """
    tuned = _parameters(model, parameters if parameters is not None else _block_matrices(model))
    rng = np.random.default_rng([seed, 0x3E20])
    loss_of = _loss(model, loss, batch, rng)
    history = []
    with _put_back(model, tuned), torch.no_grad():
        for _ in range(_counted(steps)):
            key = int(rng.integers(2**62))
            draw = loss_of()
            _step(tuned, key, epsilon)
            above = float(draw())
            _step(tuned, key, -2 * epsilon)
            below = float(draw())
            _step(tuned, key, epsilon)
            slope = (above - below) / (2 * epsilon)
            history.append(_finite((above + below) / 2))
            _step(tuned, key, -learning_rate * slope)
        found = {name: parameter.detach().clone() for name, parameter in tuned.items()}
    details = {"method": "MeZO", "steps": steps, "learning_rate": learning_rate, "epsilon": epsilon, "seed": seed}
    return _edit(model, f"MeZO, {steps} steps", found, sum(p.numel() for p in tuned.values()), history, details)


def lora(
    model: Model,
    loss: Loss,
    *,
    rank: int = 1,
    budget: int | None = None,
    steps: int = 100,
    learning_rate: float = 1e-3,
    batch: int = 8,
    parameters: Sequence[str] | None = None,
    seed: int = 0,
) -> WeightEdit:
    """Tune a low-rank addition to some matrices by gradient descent (Adam), and add it to them.

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1: `W + B A`, with `B` zero at first.

    Args:
        loss: What is brought down; a function must keep the gradient.
        rank: Of each addition.
        budget: Most numbers that are trained, to compare with a cheaper edit: matrices are taken in order until it is used up.
        steps, learning_rate: Of Adam.
        batch: Texts a step.
        parameters: Names of the matrices; those through which each MLP writes to the stream, the last first, when left out.
        seed: Of `A` and of the batches.

    Raises:
        KeyError: no such parameter.
        ValueError: as `mezo`; a budget that is too small for any of the matrices.
    """
    names = list(parameters) if parameters is not None else _mlp_outputs(model)
    known = _parameters(model, names)
    chosen: dict[str, nn.Parameter] = {}
    trained = 0
    for name, weight in known.items():
        if weight.ndim != 2:
            raise ValueError(f"{name} is no matrix, so there is nothing of low rank to add to it")
        cost = rank * sum(weight.shape)
        if budget is None or trained + cost <= budget:
            chosen[name] = weight
            trained += cost
    if not chosen:
        least = rank * min(sum(weight.shape) for weight in known.values())
        raise ValueError(f"a budget of {budget:,} numbers is too small: the least that rank {rank} takes is {least:,}")
    rng = np.random.default_rng([seed, 0x10AA])
    loss_of = _loss(model, loss, batch, rng)
    history = []
    with _put_back(model, chosen), _low_rank(model, chosen, rank, seed) as (added, whole):
        optimizer = torch.optim.Adam(added, lr=learning_rate)
        for _ in range(_counted(steps)):
            with torch.enable_grad():
                value = loss_of()()
            history.append(_finite(float(value.detach())))
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found = {name: whole(name).detach().clone() for name in chosen}
    details = {"method": "LoRA", "rank": rank, "steps": steps, "learning_rate": learning_rate, "seed": seed}
    return _edit(model, f"LoRA of rank {rank}, {steps} steps", found, trained, history, details)


class _LowRank(nn.Module):  # type: ignore[misc]
    """`W -> W + B A`, with `W [m, n]`, `B [m, rank]` zero and `A [rank, n]` random."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(rank, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
        self.a = nn.Parameter(drawn.to(weight.device))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b @ self.a).to(weight.dtype)


@contextmanager
def _low_rank(
    model: Model, chosen: dict[str, nn.Parameter], rank: int, seed: int
) -> Iterator[tuple[list[nn.Parameter], Callable[[str], Tensor]]]:
    """While inside, each matrix is itself and a trainable addition; gives the trainable parts, and a matrix by name."""
    from torch.nn.utils import parametrize

    generator = torch.Generator().manual_seed(seed)
    required = {parameter: parameter.requires_grad for parameter in model.hf.parameters()}
    places: list[tuple[nn.Module, str]] = []
    try:
        for parameter in required:
            parameter.requires_grad_(False)
        added: list[nn.Parameter] = []
        for name, weight in chosen.items():
            path, own = name.rsplit(".", 1)
            module = model.hf.get_submodule(path)
            low = _LowRank(weight, rank, generator)
            parametrize.register_parametrization(module, own, low)
            places.append((module, own))
            added += [low.a, low.b]
        at = dict(zip(chosen, places, strict=True))
        yield added, lambda name: getattr(*at[name])
    finally:
        for module, own in reversed(places):
            parametrize.remove_parametrizations(module, own, leave_parametrized=False)
        for parameter, before in required.items():
            parameter.requires_grad_(before)


@contextmanager
def _put_back(model: Model, tuned: dict[str, nn.Parameter]) -> Iterator[None]:
    """Whatever happens inside, these weights are what they were afterwards, and the model in the mode it was in."""
    before, fingerprint = {name: p.detach().clone() for name, p in tuned.items()}, model.fingerprint
    training = [module for module in model.hf.modules() if module.training]
    model.hf.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in tuned.items():
                parameter.copy_(before[name])
        for module in training:
            module.training = True
        model.remember_fingerprint(fingerprint)


def _step(tuned: dict[str, nn.Parameter], key: int, size: float) -> None:
    """Move all parameters along the random direction that a key stands for."""
    for i, parameter in enumerate(tuned.values()):
        generator = torch.Generator(parameter.device).manual_seed((key + i) % 2**63)
        drawn = torch.randn(parameter.shape, generator=generator, device=parameter.device)
        parameter.add_(drawn.to(parameter.dtype), alpha=size)


def _loss(model: Model, loss: Loss, batch: int, rng: np.random.Generator) -> Callable[[], Callable[[], Tensor]]:
    """Draws a batch; what it gives back is the loss on that batch, as often as it is called."""
    if callable(loss):
        own = loss
        return lambda: lambda: own(model)
    texts: Sequence[Any] = loss
    if isinstance(texts, str) or not len(texts):
        raise ValueError("loss is a list of wanted texts that is not empty, or a function of the model")
    given = [piece for piece in pieces(model, texts) if len(piece.predicted)]
    if not given:
        raise ValueError("no text has a token that is predicted: they are one token long")

    def draw() -> Callable[[], Tensor]:
        some = [given[i] for i in rng.choice(len(given), size=min(batch, len(given)), replace=False)]
        longest = max(len(piece.ids) for piece in some)
        ids = torch.zeros(len(some), longest, dtype=torch.long)
        mask = torch.zeros(len(some), longest, dtype=torch.long)
        counted = torch.zeros(len(some), longest, dtype=torch.bool)
        for row, piece in enumerate(some):
            ids[row, : len(piece.ids)] = torch.from_numpy(piece.ids)
            mask[row, : len(piece.ids)] = 1
            counted[row, piece.predicted] = True
        ids, mask, counted = (x.to(model.device) for x in (ids, mask, counted))

        def loss_here() -> Tensor:
            logits = model.hf(input_ids=ids, attention_mask=mask).logits.float()
            return nn.functional.cross_entropy(logits[:, :-1][counted[:, 1:]], ids[:, 1:][counted[:, 1:]])

        return loss_here

    return draw


def _edit(
    model: Model, name: str, found: dict[str, Tensor], trained: int, history: list[float], details: dict[str, Any]
) -> WeightEdit:
    parts = [Replacement(parameter, 0, None, values) for parameter, values in found.items()]
    tenth = max(1, len(history) // 10)
    details |= {
        "trained": trained,
        "first_loss": float(np.mean(history[:tenth])),
        "last_loss": float(np.mean(history[-tenth:])),
    }
    return WeightEdit(f"{name} on {len(found)} matrices", model, parts, details=details)


def _parameters(model: Model, names: Sequence[str]) -> dict[str, nn.Parameter]:
    refuse_weights(model)
    if edits_on(model):
        raise ValueError(f"{edits_on(model)[0].name!r} is on the model: undo it, and tune the model itself")
    known = dict(model.hf.named_parameters())
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=3)
            raise KeyError(f"no parameter {name!r}; near it: {', '.join(near) or 'none'}")
    return {name: known[name] for name in names}


def _block_matrices(model: Model) -> list[str]:
    stack = model.site("blocks.0.hook_resid_pre").module.rsplit(".", 1)[0]
    return [name for name, p in model.hf.named_parameters() if name.startswith(f"{stack}.") and p.ndim == 2]


def _mlp_outputs(model: Model) -> list[str]:
    return [writer_of(model, f"blocks.{i}.hook_mlp_out").weight for i in reversed(range(model.n_layers))]


def _counted(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}")
    return steps


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise ValueError(f"the loss became {value}: choose a smaller learning rate")
    return value
