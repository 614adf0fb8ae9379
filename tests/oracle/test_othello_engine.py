"""The bitboard engine against a slow engine that walks the board square by square."""

import numpy as np
import pytest

from probekit.testbeds.othello.engine import nth_square, perft, random_games
from probekit.testbeds.othello.games import unpack
from probekit.testbeds.othello.replay import replay

BLACK, WHITE, EMPTY = 1, -1, 0
DIRECTIONS = [(dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dr, dc) != (0, 0)]


class SlowOthello:
    """Rules written down as one would explain them, on an 8 x 8 list of lists."""

    def __init__(self) -> None:
        self.board = [[EMPTY] * 8 for _ in range(8)]
        self.board[3][3] = self.board[4][4] = WHITE
        self.board[3][4] = self.board[4][3] = BLACK
        self.player = BLACK

    def turned(self, row: int, column: int, player: int) -> list[tuple[int, int]]:
        if self.board[row][column] != EMPTY:
            return []
        captured = []
        for dr, dc in DIRECTIONS:
            line, r, c = [], row + dr, column + dc
            while 0 <= r < 8 and 0 <= c < 8 and self.board[r][c] == -player:
                line.append((r, c))
                r, c = r + dr, c + dc
            if line and 0 <= r < 8 and 0 <= c < 8 and self.board[r][c] == player:
                captured += line
        return captured

    def legal(self, player: int) -> set[int]:
        return {8 * r + c for r in range(8) for c in range(8) if self.turned(r, c, player)}

    def play(self, square: int) -> list[tuple[int, int]]:
        row, column = divmod(square, 8)
        captured = self.turned(row, column, self.player)
        assert captured, "illegal move"
        for r, c in [*captured, (row, column)]:
            self.board[r][c] = self.player
        self.player = -self.player
        if not self.legal(self.player) and self.legal(-self.player):
            self.player = -self.player
        return captured


@pytest.mark.parametrize("seed", range(3))
def test_boards_moves_and_flips_agree_on_random_games(seed: int) -> None:
    moves, choices = random_games(60, np.random.default_rng(seed))
    games = replay(moves)
    legal, flipped = unpack(games.legal), unpack(games.flipped)
    black, white, drawn_from = unpack(games.black), unpack(games.white), unpack(choices)
    for number in range(len(moves)):
        slow = SlowOthello()
        for ply, square in enumerate(moves[number]):
            if square < 0:
                assert not slow.legal(BLACK)
                assert not slow.legal(WHITE)
                assert not drawn_from[number, ply].any()
                break
            assert set(np.nonzero(drawn_from[number, ply])[0]) == slow.legal(slow.player)
            captured = slow.play(int(square))
            board = np.array(slow.board).ravel()
            assert set(np.nonzero(flipped[number, ply])[0]) == {8 * r + c for r, c in captured}
            assert np.array_equal(black[number, ply] == 1, board == BLACK)
            assert np.array_equal(white[number, ply] == 1, board == WHITE)
            assert set(np.nonzero(legal[number, ply])[0]) == slow.legal(slow.player)
            if legal[number, ply].any():
                assert games.black_to_move[number, ply] == (slow.player == BLACK)


def test_the_sample_holds_passes_and_early_ends() -> None:
    moves, _ = random_games(2000, np.random.default_rng(0))
    games = replay(moves)
    same_player_again = (
        (games.black_to_move[:, 1:] == games.black_to_move[:, :-1]) & games.played[:, 1:] & (games.legal[:, 1:] != 0)
    )
    assert 0.2 < same_player_again.any(1).mean() < 0.5
    assert 0.001 < (moves[:, 59] < 0).mean() < 0.1


@pytest.mark.parametrize(("depth", "nodes"), list(enumerate((4, 12, 56, 244, 1396, 8200, 55092, 390216), start=1)))
def test_perft(depth: int, nodes: int) -> None:
    assert perft(depth) == nodes


def test_nth_square_against_a_list() -> None:
    rng = np.random.default_rng(1)
    sets = rng.integers(1, 2**64, 500, dtype=np.uint64) & rng.integers(1, 2**64, 500, dtype=np.uint64) | np.uint64(
        1 << 63
    )
    for bits in (*sets, np.uint64(2**64 - 1), np.uint64(1)):
        squares = [s for s in range(64) if int(bits) >> s & 1]
        ranks = np.arange(len(squares), dtype=np.uint64)
        assert nth_square(np.full(len(squares), bits), ranks).tolist() == squares
