"""The recipe of `othello-mini`: `python -m probekit.testbeds.othello.train --out DIR`.

A GPT-2 learns to predict the next move of games whose moves are drawn uniformly from the legal ones. It sees the moves
played and nothing else. The run has two parts: a constant learning rate for as long as one likes, then a *cool-down*
in which the rate falls linearly to zero (`--cooldown N`). The checkpoint of the first part is kept, so that a longer
run can go on from it; a cool-down can be started from it as often as one likes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from probekit.models import SHIPPED
from probekit.testbeds.othello.engine import random_games
from probekit.testbeds.othello.muon import Muon
from probekit.testbeds.othello.tokens import CONTEXT, PAD, SQUARE_OF_TOKEN, VOCABULARY, squares_to_tokens
from probekit.testbeds.othello.training_loop import checkpoint_step, is_first_process, train

TRAINING_SEEDS = 0x07E1107A
"""First word of every seed of a training game. `sample_games` uses another, so that no user's seed meets these."""
CHECKING_SEEDS = 0x07E1107C
"""First word of the seeds of the games that the training log measures on."""
_GAMES_A_DRAW = 1024


@dataclass(frozen=True)
class Recipe:
    """What a run depends on.

    Attributes:
        layers, width, heads: Shape of the GPT-2.
        batch: Games a step.
        matrix_rate: Learning rate of Muon, for the matrices inside the blocks.
        other_rate: Learning rate of AdamW, for embeddings, unembedding, biases and norms.
        targets: What the prediction after each move is compared with. `"sampled"`: the move that was played.
            `"expected"`: the uniform distribution over the legal moves, which is what the played move was drawn from;
            its cross-entropy is the exact expectation of the sampled one.
        precision: Of the matrix products, forward, backward and in Muon. `"bfloat16"` is for processors with bfloat16
            arithmetic, where it more than doubles the speed; weights, gradients' sums and norms stay float32.
        seed: Of the games and of the first weights.
        start: Folder of a model of this shape to go on from, or `othello-mini`, the shipped one; empty: weights drawn from
            the seed. Give another seed then, so that its games are new.
    """

    layers: int = 6
    width: int = 128
    heads: int = 8
    batch: int = 32
    matrix_rate: float = 0.02
    other_rate: float = 0.003
    targets: Literal["expected", "sampled"] = "expected"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    start: str = ""


@dataclass(frozen=True)
class GameBatch:
    """Inputs and targets of a step.

    Attributes:
        tokens: `[game, 59]` int64 moves played, `PAD` after the end of a game.
        played: `[game, 59]` int64 token of the move that came next, `PAD` where none did.
        legal: `[game, 59, 61]` bool: which tokens were legal next.
    """

    tokens: Tensor
    played: Tensor
    legal: Tensor


def to_batch(moves: np.ndarray, legal: np.ndarray) -> GameBatch:
    """Make a batch of `random_games`' moves `[game, 60]` and legal sets `[game, 60]`."""
    tokens = torch.from_numpy(squares_to_tokens(moves).astype(np.int64))
    squares = SQUARE_OF_TOKEN[1:].astype(np.uint64)
    allowed = np.zeros((*legal[:, 1:].shape, VOCABULARY), bool)
    allowed[..., 1:] = (legal[:, 1:, None] >> squares) & np.uint64(1)
    return GameBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.from_numpy(allowed))


def training_batches(recipe: Recipe, part: int = 0, parts: int = 1) -> Callable[[int], GameBatch]:
    """The batch of each step, made from `(seed, step)` alone; or every `parts`-th game of it, from game `part` on."""
    steps_a_draw = max(1, _GAMES_A_DRAW // recipe.batch)

    @lru_cache(maxsize=1)
    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        return random_games(steps_a_draw * recipe.batch, np.random.default_rng([TRAINING_SEEDS, recipe.seed, number]))

    def batch_at(step: int) -> GameBatch:
        moves, legal = draw(step // steps_a_draw)
        start = step % steps_a_draw * recipe.batch
        rows = slice(start + part, start + recipe.batch, parts)
        return to_batch(moves[rows], legal[rows])

    return batch_at


def next_move_loss(recipe: Recipe) -> Callable[[nn.Module, GameBatch], Tensor]:
    """Cross-entropy of the next move in nats, mean over the positions that have one. See `Recipe.targets`."""

    def loss(model: nn.Module, batch: GameBatch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = model(input_ids=batch.tokens).logits.float()
        if recipe.targets == "sampled":
            return nn.functional.cross_entropy(logits.flatten(0, 1), batch.played.flatten(), ignore_index=PAD)
        choices = batch.legal.sum(-1)
        mean_legal = (logits * batch.legal).sum(-1) / choices.clamp_min(1)
        return ((logits.logsumexp(-1) - mean_legal) * (choices > 0)).sum() / (choices > 0).sum()

    return loss


def check_on_fresh_games(model: nn.Module, games: int = 256, seed: int = 0) -> dict[str, float]:
    """Top-1 legal rate, exact next-move loss, and its floor (the entropy of the generator), in nats."""
    moves, legal = random_games(games, np.random.default_rng([CHECKING_SEEDS, seed]))
    batch = to_batch(moves, legal)
    choices = batch.legal.sum(-1)
    asked = choices > 0
    with torch.no_grad():
        logits = torch.cat([model(input_ids=part).logits for part in batch.tokens.split(64)]).float()
    hit = batch.legal.gather(-1, logits.argmax(-1, keepdim=True)).squeeze(-1)
    loss = logits.logsumexp(-1) - (logits * batch.legal).sum(-1) / choices.clamp_min(1)
    return {
        "legal": round(float(hit[asked].float().mean()), 5),
        "check_loss": round(float(loss[asked].mean()), 5),
        "floor": round(float(choices[asked].float().log().mean()), 5),
    }


def new_model(recipe: Recipe) -> nn.Module:
    """A GPT-2 with first weights drawn from the recipe's seed, or those of the model that the recipe starts from.

    Raises:
        ValueError: that model is of another shape.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
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
        pad_token_id=PAD,
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
    if recipe.precision == "bfloat16":  # PyTorch's fused attention is slow in bfloat16 on a processor
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


def run(recipe: Recipe, out: Path, *, stop_at: int, cooldown: int = 0, warmup: int = 100, **loop: Any) -> nn.Module:
    """Train at constant rate to step `stop_at`, then, if asked, cool down for `cooldown` steps.

    Args:
        recipe: What to train.
        out: Folder for `constant.safetensors`, `cooldown-from-STEP.safetensors` and `train_log.jsonl`. Calling again
            with the same folder goes on from what is there.
        stop_at: Last step at constant rate. When a cool-down is asked for and `constant.safetensors` is further on, it
            starts there.
        cooldown: Steps over which the rate falls linearly to zero; none when 0.
        warmup: First steps, over which the rate rises.
        **loop: Passed on to `training_loop.train`.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        written = out / "recipe.json"
        if written.exists() and json.loads(written.read_text()) != asdict(recipe):
            raise ValueError(f"{out} holds a run of another recipe ({written}): choose another folder")
        written.write_text(json.dumps(asdict(recipe), indent=2))
    model = new_model(recipe)
    optimizers = new_optimizers(model, recipe)
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def log(entry: dict[str, Any]) -> None:
        entry = {
            "games": entry["step"] * recipe.batch,
            **entry,
            "games_per_second": round(entry["steps_per_second"] * recipe.batch, 1),
        }
        with (out / "train_log.jsonl").open("a") as file:
            file.write(json.dumps(entry | {"run": begun}) + "\n")
        print(json.dumps(entry), flush=True)

    shared = distributed.is_initialized()
    batch_at = (
        training_batches(recipe, distributed.get_rank(), distributed.get_world_size())
        if shared
        else training_batches(recipe)
    )

    def go(checkpoint: Path, last: int, rate_at: Callable[[int], float]) -> nn.Module:
        return train(
            model, optimizers, batch_at, next_move_loss(recipe), checkpoint=checkpoint,
            stop_at=last, rate_at=rate_at, log=log, evaluate=check_on_fresh_games, **loop,
        )  # fmt: skip

    constant = out / "constant.safetensors"
    go(constant, stop_at, lambda step: min(1.0, (step + 1) / warmup))
    if cooldown:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = vars(parser.parse_args())
    torch.set_num_threads(given["threads"])
    if "RANK" in os.environ:  # started by torchrun
        distributed.init_process_group("gloo")
    recipe = Recipe(**{name: given[name] for name in asdict(Recipe())})
    run(recipe, given["out"], stop_at=given["steps"], cooldown=given["cooldown"])


if __name__ == "__main__":
    main()
