"""The parts of a recipe that do not depend on the world: the model, its optimizers, and a run in two parts.

A run trains at a constant rate for as long as one likes, then *cools down*: the rate falls linearly to zero. The checkpoint of
the first part is kept, so that a longer run can go on from it; a cool-down can be started from it as often as one likes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn

from probekit.models import SHIPPED
from probekit.models.arithmetic import warn_if_imitated
from probekit.testbeds.training.loop import Batch, checkpoint_step, is_first_process, train
from probekit.testbeds.training.muon import Muon


class Recipe(Protocol):
    """What a recipe of any world says; a frozen dataclass.

    Attributes:
        layers, width, heads: Shape of the GPT-2.
        batch: Sequences a step.
        matrix_rate: Learning rate of Muon, for the matrices inside the blocks.
        other_rate: Learning rate of AdamW, for embeddings, unembedding, biases and norms.
        precision: Of the matrix products: `"float32"` or `"bfloat16"`. Weights, gradients' sums and norms stay float32.
        seed: Of the data and of the first weights.
        start: Folder of a model of this shape to go on from, or the name of a shipped one; empty: weights drawn from the
            seed. Give another seed then, so that the data is new.
    """

    @property
    def layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def matrix_rate(self) -> float: ...
    @property
    def other_rate(self) -> float: ...
    @property
    def precision(self) -> Any: ...
    @property
    def seed(self) -> int: ...
    @property
    def start(self) -> str: ...


R = TypeVar("R", bound=Recipe)


def new_gpt2(recipe: Recipe, *, vocabulary: int, context: int, pad: int) -> nn.Module:
    """A GPT-2 with first weights drawn from the recipe's seed, or those of the model that the recipe starts from.

    Args:
        recipe: Shape, seed, precision.
        vocabulary: Number of tokens.
        context: Number of positions.
        pad: Token of padding.

    Raises:
        ValueError: the model to start from is of another shape.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=pad,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config)
    if recipe.start:
        shipped = SHIPPED.get(recipe.start, Path(recipe.start))
        start = GPT2LMHeadModel.from_pretrained(shipped, dtype=torch.float32)
        here, there = ((c.n_layer, c.n_embd, c.n_head, c.vocab_size) for c in (config, start.config))
        if here != there:
            raise ValueError(f"{recipe.start} has layers, width, heads, tokens {there}; the recipe asks for {here}")
        model.load_state_dict(start.state_dict())
    if recipe.precision == "bfloat16":
        warn_if_imitated(torch.bfloat16, torch.device("cpu"), instead="train with --precision float32")
        # PyTorch's fused attention is slow in bfloat16 on a processor
        model.set_attn_implementation("eager")
    return model


def new_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        Muon(matrices, lr=recipe.matrix_rate, dtype=getattr(torch, recipe.precision)),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def run_in_two_parts(
    recipe: Any,
    out: Path,
    model: nn.Module,
    *,
    batch_at: Callable[[int], Batch],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    sequences: str,
    stop_at: int,
    cooldown: int = 0,
    warmup: int = 100,
    **loop: Any,
) -> nn.Module:
    """Train at constant rate to step `stop_at`, then, if asked, cool down for `cooldown` steps.

    Args:
        recipe: What to train, a dataclass; written to `recipe.json`.
        out: Folder for `constant.safetensors`, `cooldown-from-STEP.safetensors` and `train_log.jsonl`. Calling again
            with the same folder goes on from what is there.
        model: Made by the recipe; trained in place.
        batch_at, loss_of: As for `loop.train`.
        sequences: What a sequence is called in the log (`"games"`).
        stop_at: Last step at constant rate. When a cool-down is asked for and `constant.safetensors` is further on, it
            starts there.
        cooldown: Steps over which the rate falls linearly to zero; none when 0.
        warmup: First steps, over which the rate rises.
        **loop: Passed on to `loop.train`.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        written = out / "recipe.json"
        if written.exists() and json.loads(written.read_text()) != asdict(recipe):
            raise ValueError(f"{out} holds a run of another recipe ({written}): choose another folder")
        written.write_text(json.dumps(asdict(recipe), indent=2))
    optimizers = new_optimizers(model, recipe)
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def log(entry: dict[str, Any]) -> None:
        entry = {
            sequences: entry["step"] * recipe.batch,
            **entry,
            f"{sequences}_per_second": round(entry["steps_per_second"] * recipe.batch, 1),
        }
        with (out / "train_log.jsonl").open("a") as file:
            file.write(json.dumps(entry | {"run": begun}) + "\n")
        print(json.dumps(entry), flush=True)

    def go(checkpoint: Path, last: int, rate_at: Callable[[int], float]) -> None:
        train(
            model, optimizers, batch_at, loss_of, checkpoint=checkpoint, stop_at=last, rate_at=rate_at, log=log, **loop
        )  # fmt: skip

    constant = out / "constant.safetensors"
    go(constant, stop_at, lambda step: min(1.0, (step + 1) / warmup))
    if cooldown:
        shared = distributed.is_initialized()
        if shared:
            distributed.barrier()  # until the first process has written the checkpoint
        start = checkpoint_step(constant)
        cooling = out / f"cooldown-from-{start}.safetensors"
        if is_first_process() and not cooling.exists():
            shutil.copy(constant, cooling)
        if shared:
            distributed.barrier()
        go(cooling, start + cooldown, lambda step: (start + cooldown - step) / cooldown)
    return model


def part_of_process() -> tuple[int, int]:
    """Which share of every batch this process computes, and how many shares there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def read_command_line(description: str | None, recipe: type[R]) -> tuple[R, dict[str, Any]]:
    """The options of a training command: those of the run, and one for every field of the recipe.

    Under `torchrun` the processes are joined here.

    Returns:
        The recipe, and `out`, `stop_at`, `cooldown` for its `run`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints and log; an interrupted run goes on from it"
    )
    parser.add_argument("--steps", type=int, default=4000, help="steps at constant rate (default: 4000)")
    parser.add_argument(
        "--cooldown",
        type=int,
        default=4000,
        help="steps over which the rate then falls to zero (default: 4000; 0: none)",
    )
    parser.add_argument("--threads", type=int, default=2)
    fields: dict[str, Any] = asdict(recipe())  # type: ignore[call-overload]
    for name, default in fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = vars(parser.parse_args())
    torch.set_num_threads(given["threads"])
    if "RANK" in os.environ:  # started by torchrun
        distributed.init_process_group("gloo")
    run = {"out": given["out"], "stop_at": given["steps"], "cooldown": given["cooldown"]}
    return recipe(**{name: given[name] for name in fields}), run
