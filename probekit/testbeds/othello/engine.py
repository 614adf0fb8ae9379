"""The rules of Othello on bitboards, for many games at once.

A board is two unsigned 64-bit integers: the discs of the player to move (`own`) and of the opponent (`opp`). Bit `s`
is square `s`, counted 0-63 row by row from A1: A1 is 0, B1 is 1, A2 is 8, H8 is 63. Every function takes and gives
arrays of such integers and works on all games at once.

Rows of opponent discs are found by flooding along each of the eight directions in doubling steps (the parallel prefix
fill of computer chess): a row that may be captured is at most six discs long, so four shifts reach all of it.
"""

from __future__ import annotations

import numpy as np

ENGINE_VERSION = "1"

Bits = np.ndarray
"""uint64 array, any shape: a set of squares for each game."""

BLACK_START = np.uint64((1 << 28) | (1 << 35))
"""E4 and D5."""
WHITE_START = np.uint64((1 << 27) | (1 << 36))
"""D4 and E5."""
PLAYABLE = tuple(s for s in range(64) if s not in (27, 28, 35, 36))
"""The 60 squares that are empty at the start, in order."""

# Arrays without dimensions, because numpy would otherwise convert the scalar again at every operation.
_64 = tuple(np.array(number, np.uint64) for number in range(64))
_EVERY_2, _EVERY_4, _EVERY_8, _LOW_BITS, _HIGH_BITS, _BYTE = (
    np.array(mask, np.uint64)
    for mask in (
        0x5555555555555555,
        0x3333333333333333,
        0x0F0F0F0F0F0F0F0F,
        0x0101010101010101,
        0x8080808080808080,
        0xFF,
    )
)
_ALL = np.array(0xFFFFFFFFFFFFFFFF, np.uint64)
_STEP = np.array([[1], [7], [8], [9]], np.uint64)
"""Distance between neighbours along a row, a diagonal, a column and the other diagonal."""
_TWO_STEPS = 2 * _STEP
_BETWEEN = np.array([[0x7E7E7E7E7E7E7E7E], [0x7E7E7E7E7E7E7E7E], [0xFFFFFFFFFFFFFFFF], [0x7E7E7E7E7E7E7E7E]], np.uint64)
"""Squares where a disc can stand between two others of such a line. (All of them along a column: no shift there wraps
round.)"""
_NTH_BIT = np.array(
    [([bit for bit in range(8) if byte >> bit & 1] + [0] * 8)[n] for byte in range(256) for n in range(8)], np.uint64
)
"""`[256 * 8]`: the n-th set bit of each byte."""


class BatchRules:
    """Legal moves and flips for a batch of a fixed size, without allocating anything at each call.

    Args:
        size: Number of boards in the batch.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        axes = (4, size)
        self._open = np.empty(axes, np.uint64)  # opponent discs that a line of the direction can run through
        self._pair = np.empty((2, *axes), np.uint64)  # two such discs side by side: looking ahead, looking behind
        self._reach = np.empty((2, *axes), np.uint64)  # opponent rows reached from the player's own discs
        self._row = np.empty(axes, np.uint64)
        self._work = np.empty(axes, np.uint64)
        self._set = np.empty(size, np.uint64)

    def _flood(self, start: Bits, backward: int, out: Bits) -> None:
        """Write to `out` `[4, size]` the opponent discs that join up with `start` along each line, one way."""
        shift = np.right_shift if backward else np.left_shift
        work, pair = self._work, self._pair[backward]
        shift(start, _STEP, out=out)
        np.bitwise_and(out, self._open, out=out)
        shift(out, _STEP, out=work)
        np.bitwise_and(work, self._open, out=work)
        np.bitwise_or(out, work, out=out)
        for _ in range(2):
            shift(out, _TWO_STEPS, out=work)
            np.bitwise_and(work, pair, out=work)
            np.bitwise_or(out, work, out=out)

    def legal(self, own: Bits, opp: Bits) -> Bits:
        """Squares where the player to move may play.

        Args:
            own: `[size]` uint64 discs of the player to move.
            opp: `[size]` uint64 discs of the opponent.

        Returns:
            `[size]` uint64, a new array.
        """
        ahead, behind = self._pair
        np.bitwise_and(opp, _BETWEEN, out=self._open)
        np.left_shift(self._open, _STEP, out=ahead)
        np.bitwise_and(ahead, self._open, out=ahead)
        np.right_shift(ahead, _STEP, out=behind)
        moves = np.zeros(self.size, np.uint64)
        for backward, shift in enumerate((np.left_shift, np.right_shift)):
            reach = self._reach[backward]
            self._flood(own, backward, reach)
            shift(reach, _STEP, out=self._work)
            np.bitwise_or.reduce(self._work, axis=0, out=self._set)
            np.bitwise_or(moves, self._set, out=moves)
        np.bitwise_or(own, opp, out=self._set)
        np.invert(self._set, out=self._set)
        np.bitwise_and(moves, self._set, out=moves)
        return moves

    def flips_after_legal(self, move: Bits) -> Bits:
        """Discs turned over by `move`, on the boards that `legal` was last called with.

        A row turns when it is reached both from the new disc and, coming the other way, from a disc of the player:
        the second half is what `legal` has just computed.

        Args:
            move: `[size]` uint64 with one legal square each (or none: nothing flips).

        Returns:
            `[size]` uint64, a new array.
        """
        flipped = np.zeros(self.size, np.uint64)
        for backward in (0, 1):
            self._flood(move, backward, self._row)
            np.bitwise_and(self._row, self._reach[1 - backward], out=self._row)
            np.bitwise_or.reduce(self._row, axis=0, out=self._set)
            np.bitwise_or(flipped, self._set, out=flipped)
        return flipped


def legal_moves(own: Bits, opp: Bits) -> Bits:
    """Squares where the player to move may play: `[...]` uint64 for `[...]` uint64 boards."""
    own, opp = np.broadcast_arrays(np.asarray(own, np.uint64), np.asarray(opp, np.uint64))
    return BatchRules(own.size).legal(own.ravel(), opp.ravel()).reshape(own.shape)


def flips(own: Bits, opp: Bits, move: Bits) -> Bits:
    """Discs turned over when the player to move plays `move` (one square's bit a board): `[...]` uint64.

    An illegal move turns nothing over.
    """
    own, opp, move = np.broadcast_arrays(*(np.asarray(a, np.uint64) for a in (own, opp, move)))
    rules = BatchRules(own.size)
    legal = rules.legal(own.ravel(), opp.ravel())
    return rules.flips_after_legal(move.ravel() & legal).reshape(own.shape)


def pick_random(sets: Bits, rng: np.random.Generator) -> np.ndarray:
    """One square of each set, every square of it equally likely (to within 2**-26).

    Args:
        sets: `[n]` uint64. An empty set gives square 0.
        rng: Source of randomness; one 64-bit draw is taken for each set.

    Returns:
        `[n]` uint64 square numbers.
    """
    draw = rng.integers(0, _ALL, len(sets), dtype=np.uint64, endpoint=True)
    draw >>= _64[32]
    draw *= np.bitwise_count(sets)
    draw >>= _64[32]
    return nth_square(sets, draw)


def nth_square(sets: Bits, rank: np.ndarray) -> np.ndarray:
    """The square of each set that has `rank` squares of the set before it.

    Works on the eight bytes of a set side by side (broadword selection, Vigna 2008, "Broadword implementation of
    rank/select queries", section 2): first the row of the board is found, then a table gives the column.

    Args:
        sets: `[n]` uint64.
        rank: `[n]` uint64, below the number of squares of the set (0 for an empty set, which gives square 0).

    Returns:
        `[n]` uint64 square numbers.
    """
    work = sets >> _64[1]
    work &= _EVERY_2
    count = sets - work  # discs in every two bits, then four, then eight
    np.right_shift(count, _64[2], out=work)
    work &= _EVERY_4
    count &= _EVERY_4
    count += work
    np.right_shift(count, _64[4], out=work)
    count += work
    count &= _EVERY_8
    count *= _LOW_BITS  # now byte r holds the number of squares in rows 0..r
    work = rank * _LOW_BITS
    work |= _HIGH_BITS
    work -= count
    work &= _HIGH_BITS  # the high bit of byte r: rows 0..r hold no more than `rank` squares
    work >>= _64[7]
    work *= _LOW_BITS
    work >>= _64[53]
    work &= _64[56]  # eight times the number of such rows: the first square of the row
    count <<= _64[8]
    count >>= work
    count &= _BYTE
    np.subtract(rank, count, out=count)
    row = sets >> work
    row &= _BYTE
    row <<= _64[3]
    row |= count
    work += _NTH_BIT[row]
    return work


def random_games(n: int, rng: np.random.Generator, *, batch: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Play `n` games from the standard start, each move drawn uniformly from the legal ones.

    Args:
        n: Number of games.
        rng: Source of all randomness.
        batch: Games played side by side; it changes which games come out, and the speed.

    Returns:
        moves: `[n, 60]` int8 squares 0-63, -1 after the end of a game. Passes leave no trace in it.
        legal: `[n, 60]` uint64; `legal[g, t]` holds the choices that `moves[g, t]` was drawn from.
    """
    moves = np.full((n, 60), -1, np.int8)
    legal = np.zeros((n, 60), np.uint64)
    for start in range(0, n, batch):
        stop = min(start + batch, n)
        _play(rng, moves[start:stop], legal[start:stop])
    return moves, legal


def _play(rng: np.random.Generator, moves: np.ndarray, legal: np.ndarray) -> None:
    """Fill `moves` and `legal` with games played side by side."""
    n = len(moves)
    rules = BatchRules(n)
    own, opp = np.full(n, BLACK_START), np.full(n, WHITE_START)
    for ply in range(60):
        choices = rules.legal(own, opp)
        stuck = choices == 0
        anyone_stuck = bool(stuck.any())
        if anyone_stuck:
            # A player without a move passes: the other colour is to move on that board.
            own[stuck], opp[stuck] = opp[stuck], own[stuck]
            choices = rules.legal(own, opp)
            stuck = choices == 0  # by now these games are over
            if stuck.all():
                break
        square = pick_random(choices, rng)
        legal[:, ply] = choices
        moves[:, ply] = square
        bit = _64[1] << square
        if anyone_stuck:
            bit[stuck] = 0
            moves[stuck, ply] = -1
        flipped = rules.flips_after_legal(bit)
        own |= bit
        own |= flipped
        opp &= ~flipped
        own, opp = opp, own


def perft(depth: int) -> int:
    """Number of move sequences of a given length from the start (a pass counts as a move of its own)."""
    own, opp = np.array([BLACK_START]), np.array([WHITE_START])
    for _ in range(depth):
        choices = legal_moves(own, opp)
        board, square = np.nonzero((choices[:, None] >> np.arange(64, dtype=np.uint64)) & _64[1])
        passing = (choices == 0) & (legal_moves(opp, own) != 0)
        bit = _64[1] << square.astype(np.uint64)
        turned = flips(own[board], opp[board], bit)
        own, opp = (
            np.concatenate([opp[board] ^ turned, opp[passing]]),
            np.concatenate([own[board] | turned | bit, own[passing]]),
        )
    return len(own)
