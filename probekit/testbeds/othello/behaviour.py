"""Does a model play by the rules? The share of positions at which its first choice is a legal move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.data import Dataset
from probekit.testbeds.othello.replay import Replay, replay
from probekit.testbeds.othello.tokens import (
    CONTEXT,
    PAD,
    SQUARE_OF_TOKEN,
    VOCABULARY,
    squares_to_tokens,
    tokens_to_squares,
)

Games = Dataset | np.ndarray | Sequence[Sequence[int | str]]


@dataclass(frozen=True)
class LegalRate:
    """How often a model's most likely next move is legal.

    Attributes:
        rate: Share of positions, 0 to 1.
        low, high: 95 % interval, from a bootstrap over games.
        loss: Cross-entropy of the model against a uniform choice among the legal moves, in nats a move.
        floor: Entropy of that choice: the least a loss can be.
        games, positions: What was measured on; positions where nobody can move are left out.
        by_move: `[59]` float64 share after each number of moves, NaN where no game has such a position.
    """

    rate: float
    low: float
    high: float
    loss: float
    floor: float
    games: int
    positions: int
    by_move: np.ndarray

    def __str__(self) -> str:
        return (
            f"{100 * self.rate:.2f} % legal [{100 * self.low:.2f}, {100 * self.high:.2f}], loss {self.loss:.4f} nats "
            f"(floor {self.floor:.4f}), {self.positions:,} positions of {self.games:,} games"
        )


def moves_of(games: Games) -> np.ndarray:
    """Games as `[game, ply]` int8 squares, -1 past the end, from a dataset's tokens, an array or lists of squares."""
    if isinstance(games, Dataset):
        if games.tokens is None:
            raise TypeError(f"dataset {games.name!r} holds texts, not Othello tokens")
        games = [tokens_to_squares(sequence).tolist() for sequence in games.tokens]
    return replay(games).moves


def move_logits(model: Any, moves: np.ndarray, *, batch: int = 64) -> np.ndarray:
    """Run a model over games.

    Args:
        model: A Hugging Face causal language model over the tokens of this testbed, or anything called the same way
            (`model(input_ids=..., attention_mask=...)` with a `logits` attribute in the answer).
        moves: `[game, ply]` squares, -1 past the end; plies after the 59th are not read.
        batch: Games run at once.

    Returns:
        `[game, ply, 61]` float32: the logits after each move.

    Raises:
        ValueError: the model's vocabulary is not this testbed's.
    """
    import torch

    tokens = torch.from_numpy(squares_to_tokens(moves[:, :CONTEXT]).astype(np.int64))
    weight = next(model.parameters(), None) if hasattr(model, "parameters") else None
    device = torch.device("cpu") if weight is None else weight.device
    with torch.no_grad():
        parts = [part.to(device) for part in tokens.split(batch)]
        logits = [model(input_ids=part, attention_mask=part.ne(PAD).long()).logits.float().cpu() for part in parts]
    if logits[0].shape[-1] != VOCABULARY:
        raise ValueError(
            f"the model has {logits[0].shape[-1]} tokens, Othello {VOCABULARY}: it was made for something else"
        )
    result: np.ndarray = torch.cat(logits).numpy()
    return result


def legal_tokens(games: Replay) -> np.ndarray:
    """`[game, ply, 61]` bool: tokens of the moves that are legal at each position."""
    allowed = np.zeros((*games.legal.shape, VOCABULARY), bool)
    allowed[..., 1:] = (games.legal[..., None] >> SQUARE_OF_TOKEN[1:].astype(np.uint64)) & np.uint64(1)
    return allowed


def legal_rate(model: Any, games: Games, *, batch: int = 64, resamples: int = 1000, seed: int = 0) -> LegalRate:
    """Top-1 legal rate: at how many positions is the move the model holds most likely a legal one?

    Source of the measure: Li et al. 2022 (arXiv 2210.13382), section 3.

    Args:
        model: As for `move_logits`. `PAD` is no move: choosing it counts as illegal.
        games: A dataset of Othello tokens, `[game, ply]` squares, or lists of squares.
        batch: Games run at once.
        resamples: Bootstrap resamples of whole games.
        seed: Of the bootstrap.
    """
    played = replay(moves_of(games)[:, :CONTEXT])
    logits = move_logits(model, played.moves, batch=batch)
    allowed = legal_tokens(played)
    asked = np.asarray(allowed.any(-1))
    first = logits.argmax(-1)
    hit = np.take_along_axis(allowed, first[..., None], -1)[..., 0] & asked & (first != PAD)
    peak = logits.max(-1)
    normaliser = peak + np.log(np.exp(logits - peak[..., None]).sum(-1))
    count = np.maximum(allowed.sum(-1), 1)
    loss = normaliser - (logits * allowed).sum(-1) / count
    hits, positions = hit.sum(1), asked.sum(1)
    draws = np.random.default_rng(seed).integers(0, len(hits), (resamples, len(hits)))
    low, high = np.quantile(hits[draws].sum(1) / positions[draws].sum(1), (0.025, 0.975))
    by_move = np.full(CONTEXT, np.nan)
    there = np.asarray(asked.any(0))
    by_move[: len(there)][there] = hit.sum(0)[there] / asked.sum(0)[there]
    return LegalRate(
        rate=float(hits.sum() / positions.sum()),
        low=float(low),
        high=float(high),
        loss=float(loss[asked].mean()),
        floor=float(np.log(count[asked]).mean()),
        games=len(hits),
        positions=int(positions.sum()),
        by_move=by_move,
    )
