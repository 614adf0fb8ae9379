"""Playing given games again: the board after every move, for all games at once."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probekit.testbeds.othello.engine import BLACK_START, WHITE_START, BatchRules, Bits, legal_moves
from probekit.testbeds.othello.tokens import SQUARE_NAMES


class IllegalMove(ValueError):
    """A game holds a move that the rules do not allow.

    Attributes:
        game: Position of the game in what was given, counted from 0.
        move: Number of the move, counted from 1.
    """

    def __init__(self, message: str, game: int, move: int) -> None:
        super().__init__(message)
        self.game = game
        self.move = move


@dataclass(frozen=True)
class Replay:
    """Boards after every move of some games.

    Position `t` is the board after `t + 1` moves. The *player to move* there is the one who makes the next move: where
    the opponent of the last player has to pass, it is the last player again. Where the game is over it is the
    opponent of the last player, by convention. Entries past the end of a game are 0 (False).

    Attributes:
        moves: `[game, ply]` int8 squares, -1 past the end.
        own: `[game, ply]` uint64 discs of the player to move.
        opp: `[game, ply]` uint64 discs of the other player.
        black_to_move: `[game, ply]` bool.
        flipped: `[game, ply]` uint64 discs that the last move turned.
        legal: `[game, ply]` uint64 moves of the player to move; 0 where the game is over.
    """

    moves: np.ndarray
    own: Bits
    opp: Bits
    black_to_move: np.ndarray
    flipped: Bits
    legal: Bits

    @property
    def played(self) -> np.ndarray:
        """`[game, ply]` bool: positions that exist."""
        return self.moves >= 0

    @property
    def black(self) -> Bits:
        """`[game, ply]` uint64 black discs."""
        return np.where(self.black_to_move, self.own, self.opp)

    @property
    def white(self) -> Bits:
        """`[game, ply]` uint64 white discs."""
        return np.where(self.black_to_move, self.opp, self.own)


def squares_of(sets: int) -> list[int]:
    """Squares of one set, in order."""
    return [square for square in range(64) if int(sets) >> square & 1]


def square_number(name: str) -> int:
    """Number 0-63 of a square given as `"d3"` or `"D3"`.

    Raises:
        ValueError: no such square.
    """
    if name.upper() not in SQUARE_NAMES:
        raise ValueError(f"{name!r} is not a square: squares are A1 to H8")
    return SQUARE_NAMES.index(name.upper())


def as_moves(games: Sequence[Sequence[int | str]]) -> np.ndarray:
    """Lists of squares (0-63 or names) as `[game, ply]` int8, -1 past the end of a game.

    Raises:
        IllegalMove: something in a list is not a square; names game and move.
    """
    longest = max((len(game) for game in games), default=0)
    moves = np.full((len(games), longest), -1, np.int8)
    for number, game in enumerate(games):
        for ply, square in enumerate(game):
            try:
                value = square_number(square) if isinstance(square, str) else operator.index(square)
            except (ValueError, TypeError) as error:
                raise IllegalMove(f"game {number}, move {ply + 1}: {error}", number, ply + 1) from None
            if not 0 <= value <= 63:
                raise IllegalMove(f"game {number}, move {ply + 1}: {value} is not a square (0-63)", number, ply + 1)
            moves[number, ply] = value
    return moves


def replay(moves: np.ndarray | Sequence[Sequence[int | str]]) -> Replay:
    """Play games from the standard start and keep the board after every move.

    Args:
        moves: `[game, ply]` integer squares 0-63 with -1 past the end of a game, or lists of squares (numbers or
            names).
            Passes are not written down: where a player cannot move, the next move belongs to the other.

    Raises:
        IllegalMove: a move that is not legal, or any move after both players are stuck; the message names game, move
            and the moves that were legal.
    """
    grid = moves if isinstance(moves, np.ndarray) else as_moves(moves)
    n, plies = grid.shape
    rules = BatchRules(n)
    own, opp = np.full(n, BLACK_START), np.full(n, WHITE_START)
    black = np.ones(n, bool)
    boards = {name: np.zeros((n, plies), np.uint64) for name in ("own", "opp", "flipped", "legal")}
    colours = np.zeros((n, plies), bool)
    choices = rules.legal(own, opp)
    for ply in range(plies):
        square = grid[:, ply]
        going = square >= 0
        bit = np.uint64(1) << np.where(going, square, 0).astype(np.uint64)
        bit[~going] = 0
        wrong = going & ((bit & choices) == 0)
        if wrong.any():
            raise _illegal(int(np.nonzero(wrong)[0][0]), grid, ply, own, black, choices)
        flipped = rules.flips_after_legal(bit)
        own, opp = np.where(going, opp & ~flipped, own), np.where(going, own | bit | flipped, opp)
        black = black ^ going
        choices = rules.legal(own, opp)
        stuck = going & (choices == 0)
        if stuck.any():
            passing = stuck & (legal_moves(opp, own) != 0)
            own, opp = np.where(passing, opp, own), np.where(passing, own, opp)
            black = black ^ passing
            choices = rules.legal(own, opp)
        for name, value in (("own", own), ("opp", opp), ("flipped", flipped), ("legal", choices)):
            boards[name][:, ply] = np.where(going, value, np.uint64(0))
        colours[:, ply] = black & going
    return Replay(grid.astype(np.int8), black_to_move=colours, **boards)


def _illegal(game: int, grid: np.ndarray, ply: int, own: Bits, black: np.ndarray, choices: Bits) -> IllegalMove:
    where = f"game {game}, move {ply + 1}: {SQUARE_NAMES[grid[game, ply]]}"
    allowed = squares_of(choices[game])
    if not allowed:
        return IllegalMove(f"{where} comes after the end of the game: neither player can move", game, ply + 1)
    names = " ".join(SQUARE_NAMES[square] for square in allowed)
    colour = "black" if black[game] else "white"
    return IllegalMove(f"{where} is not legal for {colour}; legal: {names}", game, ply + 1)
