"""Boards: which targets are squares, and that a board shows each square at its place."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.report.boards import board_accuracy, board_order, game_beliefs, square_name, sweep_boards
from probekit.report.scores import Scores
from tests.report.finished import SQUARES, a_game, finished


def test_squares_are_recognised_in_any_order_and_spelling():
    rng = np.random.default_rng(0)
    shuffled = [f"tile[{SQUARES[i]}]" for i in rng.permutation(64)]
    rows, columns, squares = board_order(shuffled)
    assert (rows, columns) == (8, 8)
    assert [square_name(*divmod(s, 8)) for s in squares] == [t[5:7] for t in shuffled]


def test_some_squares_may_be_missing_but_not_most():
    rows, columns, squares = board_order([s for s in SQUARES if s not in ("d4", "e5")])
    assert (rows, columns, len(squares)) == (8, 8, 62)
    assert board_order(["a1", "b1", "a2", "h8"]) is None


@pytest.mark.parametrize(
    "targets",
    [["label"], ["red", "green", "blue", "x"], ["a1", "a1", "b1", "b2"], [f"tile[{i}]" for i in range(64)], []],
)
def test_other_targets_are_no_board(targets):
    assert board_order(targets) is None


def test_every_square_shows_its_own_score():
    block = board_accuracy(np.arange(12).reshape(1, 3, 4) / 12, ["after block 0"], best=0)
    board = block.data["boards"][0]
    assert board["best"]
    for square in board["squares"]:
        assert square["name"] == square_name(square["y"], square["x"])
        assert square["text"].startswith(f"{100 * (4 * square['y'] + square['x']) / 12:.1f}")


def test_sweep_boards_place_targets_by_name():
    result = finished({"tile": (("a", "b"), tuple(reversed(SQUARES[1:])))}, sources=("model",))  # a1 was never probed
    scores = Scores.of(result)
    block = sweep_boards(scores, "tile", "accuracy", result.sites[-2])
    assert [b["best"] for b in block.data["boards"]] == [False] * 5 + [True, False]
    squares = {s["name"]: s["text"] for s in block.data["boards"][0]["squares"]}
    assert squares["a1"] == "–"
    value = scores.at("tile", "accuracy", "model", result.sites[0], target="g3").value
    assert squares["g3"].startswith(f"{100 * value:.1f}")
    assert sweep_boards(Scores.of(finished({"x": (("a", "b"), ("x",))})), "x", "accuracy") is None


def test_a_game_goes_into_the_page_as_it_is():
    belief, truth, moves = a_game(5)
    data = game_beliefs(belief, truth, moves).data["game"]
    np.testing.assert_allclose(np.array(data["belief"]) / 1000, belief, atol=6e-4)
    assert data["truth"] == truth.tolist()
    assert data["names"] == list(SQUARES)
    assert data["colors"][2] is None


def test_mine_and_theirs_take_the_movers_colour():
    belief = np.zeros((2, 1, 3))
    belief[:, 0] = [0.7, 0.2, 0.1]  # mine, theirs, empty
    truth = np.array([[0], [1]])
    data = game_beliefs(
        belief, truth, ["a1", "a1"], classes=("mine", "theirs", "empty"), mover=[0, 1], shape=(1, 1)
    ).data["game"]
    assert data["classes"] == ["black", "white", "empty"]
    assert data["belief"] == [[[700, 200, 100]], [[200, 700, 100]]]  # mine is white at the second move
    assert data["truth"] == [[0], [0]]  # theirs, where mine is white, is black


def test_unknown_truth_stays_unknown_when_colours_are_swapped():
    belief = np.full((1, 1, 3), 1 / 3)
    data = game_beliefs(
        belief, np.array([[-1]]), ["a1"], classes=("mine", "theirs", "empty"), mover=[1], shape=(1, 1)
    ).data["game"]
    assert data["truth"] == [[-1]]


def test_classes_of_another_world_get_colours_of_their_own():
    colors = game_beliefs(
        np.full((1, 4, 3), 1 / 3), np.zeros((1, 4)), ["go"], classes=("wall", "marker", "empty"), shape=(2, 2)
    ).data["game"]["colors"]
    assert colors[2] is None
    assert len({*colors}) == 3


def test_shapes_that_do_not_fit_are_errors():
    belief, truth, moves = a_game(3)
    with pytest.raises(ValueError, match=r"\(3, 64, 2\)"):
        game_beliefs(belief, truth, moves, classes=("black", "white"))
    with pytest.raises(ValueError, match="3 moves"):
        game_beliefs(belief, truth[:2], moves)
    with pytest.raises(ValueError, match="mover"):
        game_beliefs(belief, truth, moves, classes=("mine", "theirs", "empty"))
    with pytest.raises(ValueError, match="at least one move"):
        game_beliefs(belief[:0], truth[:0], [])
    with pytest.raises(ValueError, match="2 titles"):
        board_accuracy(np.zeros((1, 8, 8)), ["a", "b"])
