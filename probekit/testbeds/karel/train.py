"""The recipe of `karel-mini`: `python -m probekit.testbeds.karel.train --out DIR`.

A GPT-2 learns to predict the next token of specifications followed by programs. It is told tokens and nothing else: no states, no
meaning of the actions. The run has two parts: a constant learning rate for as long as one likes, then a *cool-down* in
which the rate falls linearly to zero (`--cooldown N`). The checkpoint of the first part is kept, so that a longer run can
go on from it; a cool-down can be started from it as often as one likes. Every problem is seen once, and all programs are of the
recipe's lengths from the first step to the last: there is no curriculum.

Small copies of the weights are kept at steps 100, 150, 200, 300, 400, 600, ... under `OUT/kept/`, in both parts; going on at
constant rate after a cool-down writes over those of the cool-down.
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

from probekit.testbeds.karel.problems import Problems, random_problems
from probekit.testbeds.karel.programs import LENGTHS, PARTS, Part
from probekit.testbeds.karel.synthesis import synthesise
from probekit.testbeds.karel.tokens import CONTEXT, END, PAD, VOCABULARY, encode, is_output, is_word
from probekit.testbeds.training.recipe import (
    new_gpt2,
    part_of_process,
    read_command_line,
    run_in_two_parts,
)

TRAINING_SEEDS = 0x6A7E17A
"""First word of every seed of a training problem."""
CHECKING_SEEDS = 0x6A7E17C
"""First word of the seeds of the problems that the training log measures on."""
_PROBLEMS_A_DRAW = 2048


@dataclass(frozen=True)
class Recipe:
    """What a run depends on.

    Attributes:
        layers, width, heads: Shape of the GPT-2.
        batch: Problems a step.
        matrix_rate: Learning rate of Muon, for the matrices inside the blocks.
        other_rate: Learning rate of AdamW, for embeddings, unembedding, biases and norms.
        shortest, longest: Actions of a training program.
        outputs: Weight of the loss on the outputs of the specification, beside 1 for that on the program. From the second
            example on an output follows from what came before, so this teaches what programs do; inputs are
            random and never predicted.
        encoding: Of the specification; see `tokens`.
        precision: Of the matrix products, forward, backward and in Muon. `"bfloat16"` is for processors with bfloat16
            arithmetic; weights, gradients' sums and norms stay float32.
        seed: Of the problems and of the first weights.
        start: Folder of a model of this shape to go on from, or `karel-mini`, the shipped one; empty: weights drawn from the seed. Give
            another seed then, so that its problems are new.
    """

    layers: int = 6
    width: int = 128
    heads: int = 4
    batch: int = 64
    matrix_rate: float = 0.01
    other_rate: float = 0.005
    shortest: int = LENGTHS[0]
    longest: int = LENGTHS[1]
    outputs: float = 1.0
    encoding: Literal["facts", "grid"] = "facts"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    start: str = ""


@dataclass(frozen=True)
class ProblemBatch:
    """Inputs and targets of a step.

    Attributes:
        tokens: `[problem, position]` int64, `PAD` past the end.
        program: `[problem, position - 1]` bool: the next token is a word of the program, or its end.
        output: `[problem, position - 1]` bool: the next token speaks of an output.
    """

    tokens: Tensor
    program: Tensor
    output: Tensor


def to_batch(tokens: np.ndarray) -> ProblemBatch:
    """Make a batch of encoded problems `[problem, position]`."""
    following = tokens[:, 1:]
    program, output = is_word(following) | (following == END), is_output(following)
    return ProblemBatch(*(torch.from_numpy(array) for array in (tokens.astype(np.int64), program, output)))


def training_batches(recipe: Recipe, part: int = 0, parts: int = 1) -> Callable[[int], ProblemBatch]:
    """The batch of each step, made from `(seed, step)` alone; or every `parts`-th problem of it, from `part` on.

    Problems of similar length share a batch, in random order of batches, so that little is computed on padding.
    """
    steps_a_draw = max(1, _PROBLEMS_A_DRAW // recipe.batch)

    @lru_cache(maxsize=1)
    def draw(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([TRAINING_SEEDS, recipe.seed, number])
        lengths = (recipe.shortest, recipe.longest)
        tokens, length = encode(
            random_problems(steps_a_draw * recipe.batch, rng, "train", lengths=lengths), recipe.encoding
        )
        order = np.argsort(length, kind="stable")
        return tokens[order], length[order], rng.permutation(steps_a_draw)

    def batch_at(step: int) -> ProblemBatch:
        tokens, length, turn = draw(step // steps_a_draw)
        start = int(turn[step % steps_a_draw]) * recipe.batch
        longest = int(length[start + recipe.batch - 1])
        return to_batch(tokens[start + part : start + recipe.batch : parts, :longest])

    return batch_at


def next_token_loss(recipe: Recipe) -> Callable[[nn.Module, ProblemBatch], Tensor]:
    """Cross-entropy of the next token in nats: mean over words and ends of programs, plus the weighted mean over outputs."""

    def loss(model: nn.Module, batch: ProblemBatch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            program, output = losses(model, batch)
        return program + recipe.outputs * output

    return loss


def losses(model: nn.Module, batch: ProblemBatch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy, in nats, of the words and ends of programs, and of the tokens of outputs (0 where there are none)."""
    asked = batch.program | batch.output
    read = batch.tokens[:, :-1]
    hidden = model.transformer(input_ids=read, attention_mask=read.ne(PAD)).last_hidden_state[asked]  # type: ignore[operator]
    logits = model.lm_head(hidden).float()  # type: ignore[operator]
    each = nn.functional.cross_entropy(logits, batch.tokens[:, 1:][asked], reduction="none")
    program = batch.program[asked]
    return each[program].mean(), each[~program].sum() / (~program).sum().clamp_min(1)


def check_on_fresh_problems(recipe: Recipe, problems: int = 256) -> Callable[[nn.Module], dict[str, float]]:
    """What the log measures, on fixed problems that training does not see.

    `right` and `unseen`: the share of specifications of the part `valid`, whose behaviours training never asks for, that the
    model writes a right program for, and one that is right on five unseen examples, too. `right_train`: the first, for half as
    many specifications of the part `train`, in worlds of their own. The losses are on the part `valid`.
    """

    @lru_cache(maxsize=2)
    def fixed(part: Part) -> Problems:
        rng = np.random.default_rng([CHECKING_SEEDS, PARTS.index(part)])
        many = problems if part == "valid" else problems // 2
        return random_problems(many, rng, part, unseen=5, lengths=(recipe.shortest, recipe.longest))

    def check(model: nn.Module) -> dict[str, float]:
        batch = to_batch(encode(fixed("valid"), recipe.encoding)[0])
        with torch.no_grad():
            program, output = losses(model, batch)
        held_out, known = (synthesise(model, fixed(part), encoding=recipe.encoding) for part in ("valid", "train"))
        return {
            "right": round(held_out.rate, 4),
            "unseen": round(held_out.unseen, 4),
            "right_train": round(known.rate, 4),
            "program_loss": round(float(program), 5),
            "output_loss": round(float(output), 5),
        }

    return check


def is_kept(step: int) -> bool:
    """Whether a copy of the weights is kept after this step: 100 and 150 times the powers of two."""
    return any(step % unit == 0 and (step // unit).bit_count() == 1 for unit in (100, 150))


def new_model(recipe: Recipe) -> nn.Module:
    """A GPT-2 with first weights drawn from the recipe's seed, or those of the model that the recipe starts from.

    Raises:
        ValueError: that model is of another shape.
    """
    return new_gpt2(recipe, vocabulary=VOCABULARY[recipe.encoding], context=CONTEXT[recipe.encoding], pad=PAD)


def run(recipe: Recipe, out: Path, *, stop_at: int, cooldown: int = 0, **more: Any) -> nn.Module:
    """Train at constant rate to step `stop_at`, then, if asked, cool down for `cooldown` steps.

    Args:
        recipe: What to train.
        out: Folder for checkpoints and log, as for `run_in_two_parts`, and for the copies of the weights.
        stop_at: Last step at constant rate.
        cooldown: Steps over which the rate falls linearly to zero; none when 0.
        **more: Passed on to `run_in_two_parts`.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    return run_in_two_parts(
        recipe, out, new_model(recipe), batch_at=training_batches(recipe, *part_of_process()),
        loss_of=next_token_loss(recipe), sequences="problems", stop_at=stop_at, cooldown=cooldown,
        evaluate=check_on_fresh_problems(recipe),
        keep=lambda step: out / "kept" / f"step-{step:06d}.safetensors" if is_kept(step) else None, **more,
    )  # fmt: skip


def main() -> None:
    recipe, given = read_command_line(__doc__, Recipe)
    run(recipe, **given)


if __name__ == "__main__":
    main()
