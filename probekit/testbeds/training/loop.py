"""A small training loop that can be killed at any moment and goes on exactly where its last checkpoint stood.

It knows no world: it takes a model, its optimizers, a function from step to batch and a loss.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from probekit.files import write_whole

Batch = TypeVar("Batch")


def save_checkpoint(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write weights, optimizer state and step to one safetensors file, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for which, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{which}.{index}.{key}"] = torch.as_tensor(value)
    _write(path, {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, step)


def save_weights(path: Path, model: nn.Module, step: int) -> None:
    """Write the weights in float16, without the optimizers, atomically; `load_checkpoint` reads them."""
    tensors = {f"model.{name}": tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    _write(path, tensors, step)


def _write(path: Path, tensors: dict[str, Tensor], step: int) -> None:
    write_whole(path, lambda place: save_file(tensors, place, {"step": str(step)}))


def finished_checkpoint(run: Path, name: str | None = None) -> Path:
    """The file of that name in a run's folder; None: that of the cool-down that is furthest on.

    Raises:
        FileNotFoundError: the run has no cool-down yet.
    """
    if name is not None:
        return run / name
    cooled = sorted(run.glob("cooldown-from-*.safetensors"), key=checkpoint_step)
    if not cooled:
        raise FileNotFoundError(f"{run} has no cool-down: run the training with --cooldown, or name a checkpoint")
    return cooled[-1]


def load_checkpoint(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Bring model and optimizers to the state that `save_checkpoint` wrote, or the model to what `save_weights` wrote.

    Args:
        path: The file.
        model: Receives the weights.
        optimizers: Those of the run, in the same order; none to take the weights alone.

    Returns:
        The number of steps done.
    """
    weights: dict[str, Tensor] = {}
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            kind, rest = name.split(".", 1)
            if kind == "model":
                weights[rest] = file.get_tensor(name)
            elif optimizers:
                which, index, key = rest.split(".")
                states[int(which)].setdefault(int(index), {})[key] = file.get_tensor(name)
    model.load_state_dict(weights)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes of the run, if there are several."""
    if not distributed.is_initialized():
        return
    together = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(together)
    for tensor, part in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def average_gradients(model: nn.Module) -> None:
    """Replace gradients by their mean over the processes of the run, if there are several."""
    if distributed.is_initialized():
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        sum_over_processes(gradients)
        for gradient in gradients:
            gradient /= distributed.get_world_size()


def is_first_process() -> bool:
    """Whether this process keeps the log and the checkpoints: the only one, or the first of several."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def checkpoint_step(path: Path) -> int:
    """The number of steps done when a checkpoint was written."""
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch_at: Callable[[int], Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    *,
    checkpoint: Path,
    stop_at: int,
    rate_at: Callable[[int], float] = lambda step: 1.0,
    log: Callable[[dict[str, Any]], None] = lambda entry: print(json.dumps(entry), flush=True),
    evaluate: Callable[[nn.Module], dict[str, float]] = lambda model: {},
    log_every: int = 50,
    evaluate_every: int = 500,
    save_every: int = 250,
    keep: Callable[[int], Path | None] = lambda step: None,
) -> nn.Module:
    """Train up to step `stop_at`, from `checkpoint` if that file exists.

    Two runs over the same steps give the same weights bit for bit, however often they were interrupted, as long as
    the machine's arithmetic is the same (same thread count): everything a step depends on is in the checkpoint or a
    function of the step number.

    Under `torchrun` the processes share each step's work: each computes on the batch that its own `batch_at` gives, and
    the gradients are averaged.

    Args:
        model: What is trained, in place.
        optimizers: Each is stepped once a step; the rate of each group is its initial one times `rate_at(step)`.
        batch_at: The batch of a step, a pure function of the step number.
        loss_of: Scalar loss of model and batch.
        checkpoint: safetensors file, written every `save_every` steps and at the end.
        stop_at: Number of the last step.
        rate_at: Factor on the learning rates at a step.
        log: Receives a dictionary every `log_every` steps: step, mean loss since the last, steps a second, and what
            `evaluate` gave when it was run.
        evaluate: Measures the model; called every `evaluate_every` steps and at the end.
        log_every: Steps between log entries.
        evaluate_every: Steps between evaluations; a multiple of `log_every`.
        save_every: Steps between checkpoints.
        keep: The file for a copy of the weights alone in float16 after a step, or None where none is wanted.

    Returns:
        The model.

    Raises:
        FloatingPointError: the loss is no longer finite; the checkpoint keeps the last good state.
    """
    step = load_checkpoint(checkpoint, model, optimizers) if checkpoint.exists() else 0
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group.setdefault("initial_lr", group["lr"])
    total, since, clock = torch.zeros(()), 0, time.perf_counter()
    while step < stop_at:
        model.train()
        for group in groups:
            group["lr"] = group["initial_lr"] * rate_at(step)
        loss = loss_of(model, batch_at(step))
        loss.backward()
        average_gradients(model)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        total, since = total + loss.detach(), since + 1
        if (step % log_every == 0 or step == stop_at) and is_first_process():
            mean = float(total / since)
            if not mean < float("inf"):
                raise FloatingPointError(f"the loss is {mean} at step {step}; {checkpoint} holds the last saved state")
            entry: dict[str, Any] = {"step": step, "loss": round(mean, 5), "rate": round(rate_at(step - 1), 4)}
            entry["steps_per_second"] = round(since / (time.perf_counter() - clock), 3)
            if step % evaluate_every == 0 or step == stop_at:
                model.eval()
                entry |= evaluate(model)
            log(entry)
            total, since, clock = torch.zeros(()), 0, time.perf_counter()
        if (kept := keep(step)) is not None and is_first_process():
            save_weights(kept, model, step)
        if (step % save_every == 0 or step == stop_at) and is_first_process():
            save_checkpoint(checkpoint, model, optimizers, step)
    return model
