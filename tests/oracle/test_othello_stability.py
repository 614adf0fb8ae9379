"""No disc that is called stable can be turned: checked by playing out every continuation of endgames."""

import numpy as np
import pytest

from probekit.testbeds.othello.engine import flips, legal_moves, random_games
from probekit.testbeds.othello.games import unpack
from probekit.testbeds.othello.replay import replay
from probekit.testbeds.othello.stability import paper_stable, stable_discs


def ever_turned(own: int, opp: int) -> int:
    """Discs of the board that at least one sequence of legal moves turns, by full search over all games at once."""
    start = own | opp
    boards = np.array([[own, opp, 0]], np.uint64)
    turned = 0
    while len(boards):
        owns, opps, seen = boards.T
        choices = legal_moves(owns, opps)
        passing = (choices == 0) & (legal_moves(opps, owns) != 0)
        board, square = np.nonzero(unpack(choices))
        move = np.uint64(1) << square.astype(np.uint64)
        captured = flips(owns[board], opps[board], move)
        turned |= int(np.bitwise_or.reduce(captured)) if len(captured) else 0
        following = np.stack([opps[board] & ~captured, owns[board] | move | captured, seen[board]], 1)
        boards = np.unique(np.concatenate([following, np.stack([opps, owns, seen], 1)[passing]]), axis=0)
    return turned & start


@pytest.mark.parametrize(("empties", "games"), [(4, 60), (6, 30), (8, 10)])
def test_stable_discs_are_never_turned(empties: int, games: int) -> None:
    moves, _ = random_games(games, np.random.default_rng(empties))
    positions = replay(moves)
    ply = 59 - empties
    found = missed = 0
    for own, opp in zip(positions.own[:, ply], positions.opp[:, ply], strict=True):
        stable = int(stable_discs(own, opp))
        turned = ever_turned(int(own), int(opp))
        assert stable & turned == 0
        found += stable.bit_count()
        missed += (int(own | opp) & ~turned & ~stable).bit_count()
    assert found > 5 * games  # the rule is of use: it is not simply silent


def test_paper_stability_is_not_the_games_stability() -> None:
    moves, _ = random_games(200, np.random.default_rng(0))
    positions = replay(moves)
    wrong = 0
    for own, opp in zip(positions.own[:, 53], positions.opp[:, 53], strict=True):
        wrong += (int(paper_stable(own | opp)) & ever_turned(int(own), int(opp))).bit_count()
    assert wrong > 0


def slow_paper_rule(filled: np.ndarray) -> np.ndarray:
    """The paper's rule on an 8 x 8 array, square by square."""
    stable = np.zeros((8, 8), bool)
    for r in range(8):
        for c in range(8):
            if not filled[r, c]:
                continue
            if r in (0, 7) and c in (0, 7):
                stable[r, c] = True
            elif r in (0, 7):
                stable[r, c] = stable[r, c - 1] or stable[r, c + 1]
            elif c in (0, 7):
                stable[r, c] = stable[r - 1, c] or stable[r + 1, c]
            else:
                around = stable[r - 1 : r + 2, c - 1 : c + 2].copy()
                around[1, 1] = True
                stable[r, c] = around.all()
    return stable


def slow_stability(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sound conditions on 8 x 8 arrays, square by square."""
    stable = np.zeros((8, 8), bool)
    filled = one | other
    changed = True
    while changed:
        changed = False
        for r in range(8):
            for c in range(8):
                if stable[r, c] or not filled[r, c]:
                    continue
                colour = one if one[r, c] else other
                safe = True
                for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    line, holds = [], False
                    for sign in (1, -1):
                        rr, cc = r + sign * dr, c + sign * dc
                        inside = 0 <= rr < 8 and 0 <= cc < 8
                        holds |= not inside or bool(stable[rr, cc] and colour[rr, cc])
                        while 0 <= rr < 8 and 0 <= cc < 8:
                            line.append(filled[rr, cc])
                            rr, cc = rr + sign * dr, cc + sign * dc
                    safe &= holds or all(line)
                if safe:
                    stable[r, c] = changed = True
    return stable


def test_both_rules_against_slow_ones() -> None:
    moves, _ = random_games(12, np.random.default_rng(5))
    positions = replay(moves)
    own, opp = positions.own[:, ::4].ravel(), positions.opp[:, ::4].ravel()
    fast, paper = unpack(stable_discs(own, opp)), unpack(paper_stable(own | opp))
    for i, (mine, theirs) in enumerate(zip(unpack(own), unpack(opp), strict=True)):
        one, other = mine.reshape(8, 8) == 1, theirs.reshape(8, 8) == 1
        assert np.array_equal(fast[i].reshape(8, 8) == 1, slow_stability(one, other))
        assert np.array_equal(paper[i].reshape(8, 8) == 1, slow_paper_rule(one | other))
