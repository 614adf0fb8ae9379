"""Causal cases: the board with a disc turned, the moves it allows, and the error of a predicted set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from probekit.testbeds import othello
from tests.oracle.test_othello_engine import BLACK, EMPTY, SlowOthello

SHARED = Path(__file__).parents[3] / "shared" / "data" / "othello_interventions.json"


def check_by_the_slow_rules(cases: othello.Cases) -> None:
    for i in range(len(cases)):
        game = SlowOthello()
        for square in cases.moves[i, : cases.length[i]]:
            game.play(int(square))
        row, column = divmod(int(cases.square[i]), 8)
        assert game.board[row][column] != EMPTY
        assert (game.board[row][column] == game.player) == cases.mine[i]
        assert set(othello.tokens_to_squares(np.flatnonzero(cases.before[i])).tolist()) == game.legal(game.player)
        game.board[row][column] *= -1
        assert set(othello.tokens_to_squares(np.flatnonzero(cases.after[i])).tolist()) == game.legal(game.player)


def test_sampled_cases_are_what_the_slow_rules_say_and_come_again_with_the_same_seed():
    cases = othello.sample_cases(40, seed=3)
    check_by_the_slow_rules(cases)
    assert len(cases) == 40
    assert cases.after.any(1).all()
    again = othello.sample_cases(40, seed=3)
    assert all(np.array_equal(getattr(cases, name), getattr(again, name)) for name in cases.__dataclass_fields__)
    assert not np.array_equal(cases.moves[:, :5], othello.sample_cases(40, seed=4).moves[:, :5])
    some = cases.take(np.array([5, 2]))
    assert some.square.tolist() == cases.square[[5, 2]].tolist()


@pytest.mark.skipif(not SHARED.exists(), reason="the published cases are not here")
def test_published_cases_are_read_and_agree_with_the_slow_rules():
    cases = othello.read_cases(SHARED)
    assert len(cases) == 501
    check_by_the_slow_rules(cases.take(np.arange(0, 501, 25)))


def test_a_file_whose_colours_do_not_fit_is_refused(tmp_path):
    game = SlowOthello()
    history = [19, 18, 17]
    for square in history:
        game.play(square)
    row, column = divmod(18, 8)
    colour = 2 if game.board[row][column] == BLACK else 0
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([{"history": history, "pos_int": 18, "ori_color": colour}]))
    assert othello.read_cases(path).square.tolist() == [18]
    path.write_text(json.dumps([{"history": history, "pos_int": 18, "ori_color": 2 - colour}]))
    with pytest.raises(ValueError, match="has not the colour"):
        othello.read_cases(path)
    with pytest.raises(ValueError, match="is empty"):
        othello.cases_of([history], [0])


def test_the_error_counts_moves_missed_and_moves_invented():
    legal = np.zeros((2, 61), bool)
    legal[:, [3, 5, 9]] = True
    logits = np.full((2, 61), -5.0)
    logits[:, 0] = 99  # the padding is no move
    logits[0, [3, 5, 9]] = 1, 2, 3
    logits[1, [3, 7, 8]] = 1, 2, 3
    assert othello.set_errors(logits, legal).tolist() == [0, 4]
