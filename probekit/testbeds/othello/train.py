"""The recipe of `othello-mini`: `python -m probekit.testbeds.othello.train --out DIR`.

A GPT-2 learns to predict the next move of games whose moves are drawn uniformly from the legal ones. It sees the moves
played and nothing else. The run has two parts: a constant learning rate for as long as one likes, then a *cool-down*
in which the rate falls linearly to zero (`--cooldown N`). The checkpoint of the first part is kept, so that a longer
run can go on from it; a cool-down can be started from it as often as one likes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from probekit.testbeds.othello.engine import random_games
from probekit.testbeds.othello.tokens import CONTEXT, PAD, SQUARE_OF_TOKEN, VOCABULARY, squares_to_tokens
from probekit.testbeds.training.recipe import (
    new_gpt2,
    part_of_process,
    read_command_line,
    run_in_two_parts,
)

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
    return new_gpt2(recipe, vocabulary=VOCABULARY, context=CONTEXT, pad=PAD)


def run(recipe: Recipe, out: Path, *, stop_at: int, cooldown: int = 0, **more: Any) -> nn.Module:
    """Train at constant rate to step `stop_at`, then, if asked, cool down for `cooldown` steps.

    Args:
        recipe: What to train.
        out: Folder for checkpoints and log, as for `run_in_two_parts`.
        stop_at: Last step at constant rate.
        cooldown: Steps over which the rate falls linearly to zero; none when 0.
        **more: Passed on to `run_in_two_parts`.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    return run_in_two_parts(
        recipe, out, new_model(recipe), batch_at=training_batches(recipe, *part_of_process()),
        loss_of=next_move_loss(recipe), sequences="games", stop_at=stop_at, cooldown=cooldown,
        evaluate=check_on_fresh_games, **more,
    )  # fmt: skip


def main() -> None:
    recipe, given = read_command_line(__doc__, Recipe)
    run(recipe, **given)


if __name__ == "__main__":
    main()
