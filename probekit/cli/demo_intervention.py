"""The part of the demo that edits: one disc turned inside the model, and the moves it then holds legal."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from probekit.report import blocks
from probekit.report.boards import Position, position_boards

if TYPE_CHECKING:
    from probekit.models import Model
    from probekit.probes import SweepResult
    from probekit.report.blocks import Block
    from probekit.testbeds.othello import Cases

CASES = 60
STRENGTH = 3.0
"""1 is the mirror image at the boundary; as chosen on other random games in `experiments/othello_interventions`."""


@dataclass(frozen=True)
class Intervention:
    """What turning a disc inside the model does, over cases from fresh games.

    Attributes:
        cases: The cases.
        plain, edited, random: `[case]` error of the predicted legal moves on the board with the disc turned: without an edit,
            with the probes' directions, with random directions of the same length.
        own: `[case]` error of the unedited model on the true board.
        moves: `[2, case, 64]` probability of each square as the next move, without and with the edit.
    """

    cases: Cases
    plain: np.ndarray
    edited: np.ndarray
    random: np.ndarray
    own: np.ndarray
    moves: np.ndarray

    def summary(self) -> str:
        """A line for the terminal."""
        return (
            f"surgery   one disc turned inside the model, at {len(self.cases)} positions of fresh games: {self.plain.mean():.2f} moves wrong "
            f"without the edit, {self.edited.mean():.2f} with it, {self.random.mean():.2f} along random directions"
        )

    def blocks(self) -> list[Block]:
        """The section of the page."""
        change = (self.cases.before != self.cases.after).sum(1)
        shown = int(np.argmax(np.where(self.own == 0, change, -1)))
        return [
            blocks.heading("Does the model use the board? One disc turned"),
            blocks.text(
                "At the last position of a game, the activations are mirrored at the boundary between mine and theirs of one square, after "
                "every block. If the model plays by the board that the probes read, its likeliest moves become those of the board "
                f"with that disc turned. Over {len(self.cases)} positions of fresh games, {self.plain.mean():.2f} moves a position are "
                f"wrong for that board without the edit, {self.edited.mean():.2f} with it, and {self.random.mean():.2f} when the "
                "activations are moved as far along random directions."
            ),
            position_boards(
                _boards(self, shown),
                "Squares are as orange as the model holds a move there likely; rings are the moves that the rules allow on the board "
                "drawn; the frame marks the disc that is turned. Of the positions whose legal moves the model knows without an edit, "
                "the one is shown where turning the disc changes most.",
            ),
        ]


def turn_discs(model: Model, result: SweepResult, seed: int) -> Intervention:
    """Turn one disc in each of some positions of fresh games."""
    from probekit import surgery
    from probekit.probes.direction import unit_vector
    from probekit.testbeds import othello

    cases = othello.sample_cases(CASES, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[np.ndarray]] = {"plain": [], "edited": [], "random": []}
    for i in range(len(cases)):
        one = cases.take(np.array([i]))
        square = othello.SQUARE_NAMES[int(one.square[0])]
        now, then = ("mine", "theirs") if one.mine[0] else ("theirs", "mine")
        tokens = torch.from_numpy(one.tokens[:, : one.length[0]])
        sites = model.stream_sites[1:]
        lines = [result.direction("tile", square, now, then, site=site) for site in sites]
        read = model.run(tokens, None, sites)
        turned, strays = [], []
        for line in lines:  # from a class to the other: an activation that reads as the other already stays where it is
            here = surgery.Where((-1,)).where_probe_fires(line)
            turned.append(surgery.reflect(line, model, STRENGTH, where=here))
            assert line.site is not None
            assert line.center is not None
            past = max(float(read[line.site][0, -1] @ line.vector) - line.center, 1e-6)
            drawn = unit_vector(torch.randn(len(line), generator=generator))
            stray = replace(line, vector=drawn, scale=2 * past)
            strays.append(surgery.steer(stray, model, -STRENGTH, where=[-1]))
        found["plain"].append(_last(model, tokens))
        for name, edits in (("edited", turned), ("random", strays)):
            with warnings.catch_warnings(), surgery.together(*edits).applied(model):
                # That is what random ones are for.
                warnings.filterwarnings("ignore", message="at .* the edit adds a vector")
                found[name].append(_last(model, tokens))
    logits = {name: np.stack(each) for name, each in found.items()}
    errors = {name: othello.set_errors(each, cases.after) for name, each in logits.items()}
    own = othello.set_errors(logits["plain"], cases.before)
    moves = np.stack([_on_squares(logits["plain"]), _on_squares(logits["edited"])])
    return Intervention(cases, errors["plain"], errors["edited"], errors["random"], own, moves)


def _last(model: Model, tokens: Tensor) -> np.ndarray:
    """`[61]` logits at the last position."""
    with torch.no_grad():
        logits: np.ndarray = model.hf(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0, -1].numpy()
    return logits


def _on_squares(logits: np.ndarray) -> np.ndarray:
    """Logits `[case, 61]` as probabilities `[case, 64]` of squares."""
    from probekit.testbeds import othello

    likely = np.exp(logits - logits.max(1, keepdims=True))
    likely /= likely.sum(1, keepdims=True)
    found = np.zeros((len(logits), 64))
    found[:, othello.tokens_to_squares(np.arange(1, othello.VOCABULARY))] = likely[:, 1:]
    return found


def _boards(found: Intervention, shown: int) -> list[Position]:
    from probekit.testbeds import othello

    cases = found.cases
    game = othello.replay(cases.moves[shown : shown + 1, : cases.length[shown]])
    square = int(cases.square[shown])
    black, white = int(game.black[0, -1]), int(game.white[0, -1])
    discs = ["black" if black >> s & 1 else "white" if white >> s & 1 else None for s in range(64)]
    turned = list(discs)
    turned[square] = "white" if discs[square] == "black" else "black"
    mover = "black" if game.black_to_move[0, -1] else "white"
    legal = np.zeros((2, 64), bool)
    for i, allowed in enumerate((cases.before[shown], cases.after[shown])):
        legal[i, othello.tokens_to_squares(np.flatnonzero(allowed))] = True
    return [
        Position(f"The true board, {mover} to move", discs, found.moves[0, shown], legal[0], square),
        Position(
            f"{othello.SQUARE_NAMES[square]} turned inside the model", turned, found.moves[1, shown], legal[1], square
        ),
    ]
