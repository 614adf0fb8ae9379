"""Squares and the tokens of the model: 60 playable squares, and a token for padding."""

from __future__ import annotations

import numpy as np

from probekit.testbeds.othello.engine import PLAYABLE

PAD = 0
"""Token after the end of a game that stopped early."""
VOCABULARY = 61
CONTEXT = 59
"""Moves the model can read: after the 60th no move is left to predict."""

SQUARE_OF_TOKEN = np.array([-1, *PLAYABLE], np.int8)
"""`[61]` int8: the square of each token, -1 for `PAD`."""
TOKEN_OF_SQUARE = np.full(65, -1, np.int8)
"""`[65]` int8: the token of each square; -1 for the four centre squares; the last entry, reached with -1, is `PAD`."""
TOKEN_OF_SQUARE[SQUARE_OF_TOKEN] = np.arange(VOCABULARY)

SQUARE_NAMES = tuple(f"{column}{row}" for row in range(1, 9) for column in "ABCDEFGH")
"""`A1` to `H8` in the order of the square numbers."""


def squares_to_tokens(squares: np.ndarray) -> np.ndarray:
    """Translate squares 0-63 (row by row from A1) to token ids.

    Args:
        squares: Integers of any shape; -1 (no move) becomes `PAD`.

    Returns:
        int32 array of the same shape.

    Raises:
        ValueError: a number outside -1..63, or one of the centre squares D4, E4, D5, E5, which are never played.
    """
    squares = np.asarray(squares)
    if squares.size and (squares.min() < -1 or squares.max() > 63):
        raise ValueError(f"squares lie in 0..63 (or -1 for none), found {squares.min()}..{squares.max()}")
    tokens: np.ndarray = TOKEN_OF_SQUARE[squares].astype(np.int32)
    if (tokens < 0).any():
        raise ValueError(
            f"{SQUARE_NAMES[int(squares[tokens < 0].flat[0])]} holds a disc from the start: it has no token"
        )
    return tokens


def tokens_to_squares(tokens: np.ndarray) -> np.ndarray:
    """Translate token ids to squares 0-63; `PAD` becomes -1. The inverse of `squares_to_tokens`.

    Returns:
        int32 array of the same shape.

    Raises:
        ValueError: a number outside 0..60.
    """
    tokens = np.asarray(tokens)
    if tokens.size and (tokens.min() < 0 or tokens.max() >= VOCABULARY):
        raise ValueError(f"tokens lie in 0..{VOCABULARY - 1}, found {tokens.min()}..{tokens.max()}")
    squares: np.ndarray = SQUARE_OF_TOKEN[tokens].astype(np.int32)
    return squares
