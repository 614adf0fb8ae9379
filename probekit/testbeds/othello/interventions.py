"""Causal cases: a position, a disc to turn, and the moves that would be legal if it were turned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probekit.testbeds.othello.behaviour import legal_tokens
from probekit.testbeds.othello.engine import legal_moves
from probekit.testbeds.othello.games import sample_moves
from probekit.testbeds.othello.replay import replay
from probekit.testbeds.othello.tokens import CONTEXT, SQUARE_OF_TOKEN, VOCABULARY, squares_to_tokens

CASE_SEEDS = 0x07E1105C
"""First word of the seeds that draw cases from games."""


@dataclass(frozen=True)
class Cases:
    """Positions with one disc that is to be turned. Same player to move before and after.

    Attributes:
        moves: `[case, ply]` int8 squares, -1 past the last move.
        length: `[case]` number of moves.
        square: `[case]` the square whose disc is turned.
        mine: `[case]` bool: whether that disc is the mover's before it is turned.
        before, after: `[case, 61]` bool: which tokens are legal on the true board, and on the board with the disc turned.
    """

    moves: np.ndarray
    length: np.ndarray
    square: np.ndarray
    mine: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    @property
    def tokens(self) -> np.ndarray:
        """`[case, ply]` int64, `PAD` past the last move."""
        return squares_to_tokens(self.moves).astype(np.int64)

    def take(self, index: np.ndarray) -> Cases:
        """Some of the cases, in the order of `index`."""
        return Cases(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def read_cases(path: str | Path) -> Cases:
    """Cases of the intervention benchmark of Li et al. 2022 (arXiv 2210.13382), section 4.2.

    Args:
        path: JSON: a list of `{"history": squares 0-63, "pos_int": square, "ori_color": 0 white or 2 black}`.

    Raises:
        ValueError: a case whose square holds no disc of that colour after its history.
    """
    given = json.loads(Path(path).read_text(encoding="utf-8"))
    cases = cases_of([one["history"] for one in given], [one["pos_int"] for one in given])
    boards = replay([one["history"] for one in given])
    last = (np.arange(len(given)), cases.length - 1)
    black = boards.black[last] >> cases.square.astype(np.uint64) & np.uint64(1) == 1
    for i, one in enumerate(given):
        if black[i] != (one["ori_color"] == 2):
            raise ValueError(f"case {i} of {path}: the disc on square {one['pos_int']} has not the colour it names")
    return cases


def sample_cases(n: int, *, seed: int, least: int = 5, most: int = 50) -> Cases:
    """Cases from random games: a position after `least` to `most` moves, and any disc that leaves a legal move when turned.

    No game of `sample_games` with another seed is among them.

    Args:
        n: How many.
        seed: Of the games and of the choice.
        least, most: Range of the number of moves.
    """
    rng = np.random.default_rng([CASE_SEEDS, seed])
    games = sample_moves(2 * n + 64, seed=seed)
    boards = replay(games)
    histories, squares = [], []
    for game in range(len(games)):
        end = int((games[game] >= 0).sum())
        ply = int(rng.integers(least, min(most, end - 1) + 1)) if end - 1 >= least else 0
        own, opp = boards.own[game, ply - 1], boards.opp[game, ply - 1]
        discs = [s for s in range(64) if int(own | opp) >> s & 1]
        square = int(rng.choice(discs))
        bit = np.uint64(1) << np.uint64(square)
        if ply and legal_moves(own, opp) and legal_moves(own ^ bit, opp ^ bit):
            histories.append(games[game, :ply].tolist())
            squares.append(square)
        if len(histories) == n:
            return cases_of(histories, squares)
    raise ValueError(f"only {len(histories)} cases in {len(games)} games")


def cases_of(histories: Sequence[Sequence[int]], squares: Sequence[int]) -> Cases:
    """Cases from histories and the squares to turn.

    Raises:
        ValueError: an empty square, a history that is too long, or empty.
        IllegalMove: a history with an illegal move.
    """
    boards = replay(histories)
    length = boards.played.sum(1)
    if length.min() < 1 or length.max() > CONTEXT:
        raise ValueError(f"histories hold 1 to {CONTEXT} moves, found {length.min()} to {length.max()}")
    last = (np.arange(len(length)), length - 1)
    own, opp = boards.own[last], boards.opp[last]
    square = np.asarray(squares, np.int64)
    bit = np.uint64(1) << square.astype(np.uint64)
    if empty := np.flatnonzero(((own | opp) & bit) == 0).tolist():
        raise ValueError(f"case {empty[0]}: square {square[empty[0]]} is empty, there is no disc to turn")
    return Cases(
        boards.moves,
        length,
        square,
        (own & bit) != 0,
        legal_tokens(boards)[last],
        _tokens_of(legal_moves(own ^ bit, opp ^ bit)),
    )


def set_errors(logits: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """False positives plus false negatives of the predicted legal set: the `n` likeliest moves, `n` the number of legal ones.

    Source: Li et al. 2022 (arXiv 2210.13382), section 4.2.

    Args:
        logits: `[case, 61]`.
        legal: `[case, 61]` bool.

    Returns:
        `[case]` float64.
    """
    order = np.argsort(-logits[:, 1:], axis=1, kind="stable")  # a move, never the padding
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(VOCABULARY - 1)[None], 1)
    predicted = rank < legal[:, 1:].sum(1, keepdims=True)
    errors: np.ndarray = (predicted != legal[:, 1:]).sum(1).astype(np.float64)
    return errors


def _tokens_of(sets: np.ndarray) -> np.ndarray:
    """Bitboards `[case]` as `[case, 61]` bool."""
    allowed = np.zeros((len(sets), VOCABULARY), bool)
    allowed[:, 1:] = (sets[:, None] >> SQUARE_OF_TOKEN[1:].astype(np.uint64)) & np.uint64(1)
    return allowed
