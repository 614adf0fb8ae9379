"""Games as data: tokens, labels, PGN, and errors that name game and move."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.data.dataset import Dataset
from probekit.testbeds import othello
from probekit.testbeds.othello.engine import PLAYABLE, random_games
from probekit.testbeds.othello.games import sample_moves, unpack
from probekit.testbeds.othello.replay import square_number

CHAMPIONSHIP = Path(__file__).parents[3] / "shared" / "data" / "wthor_1990.pgn"


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return othello.sample_games(50, seed=3)


def test_tokens_and_squares_translate_both_ways() -> None:
    tokens = othello.squares_to_tokens(np.array(PLAYABLE))
    assert tokens.tolist() == list(range(1, 61))
    assert othello.tokens_to_squares(tokens).tolist() == list(PLAYABLE)
    grid = np.array([[19, -1], [0, 63]])
    assert othello.tokens_to_squares(othello.squares_to_tokens(grid)).tolist() == grid.tolist()
    assert othello.squares_to_tokens(np.array([-1])).tolist() == [othello.PAD]


@pytest.mark.parametrize(("squares", "message"), [([27], "D4 holds a disc"), ([64], "0..63"), ([-2], "0..63")])
def test_squares_without_a_token_are_refused(squares: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        othello.squares_to_tokens(np.array(squares))


@pytest.mark.parametrize("token", [-1, 61])
def test_unknown_tokens_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.60"):
        othello.tokens_to_squares(np.array([token]))


def test_a_larger_sample_begins_with_the_smaller_one() -> None:
    small, large = sample_moves(5, seed=1), sample_moves(1500, seed=1)
    assert np.array_equal(small, large[:5])
    assert not np.array_equal(small, sample_moves(5, seed=2))
    assert othello.sample_games(5, seed=1).fingerprint() == othello.sample_games(5, seed=1).fingerprint()


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (3, -1)])
def test_impossible_samples_are_refused(n: int, seed: int) -> None:
    with pytest.raises(ValueError, match="sample_games needs"):
        othello.sample_games(n, seed=seed)


def test_label_sets_fit_the_tokens(sample: Dataset) -> None:
    tokens = sum(len(sequence) for sequence in sample.tokens)
    assert max(len(sequence) for sequence in sample.tokens) == othello.CONTEXT
    assert set(sample.labels) == set(othello.LABEL_SETS)
    for name in othello.LABEL_SETS:
        labels = sample.label_set(name)
        assert labels.level == "token"
        assert labels.values.shape == (tokens, 1 if name == "region" else 64)
    assert sample.label_set("tile").targets[:3] == ("A1", "B1", "C1")
    assert sample.surface_features().shape == (tokens, 60 + othello.CONTEXT)
    assert (sample.surface_features().sum(1) == 2).all()
    assert np.unique(sample.groups).size == len(sample)


def test_labels_after_the_first_moves_by_hand() -> None:
    data = othello.games_dataset([["D3", "C3", "C4"]])
    at = {name: data.label_set(name) for name in othello.LABEL_SETS}

    def squares(name: str, position: int, value: str) -> set[str]:
        labels = at[name]
        row = labels.values[position] == labels.classes.index(value)
        return {target for target, hit in zip(labels.targets, row, strict=True) if hit}

    # After D3 white is to move: black holds D3 D4 D5 E4, white E5.
    assert squares("tile_absolute", 0, "black") == squares("tile", 0, "theirs") == {"D3", "D4", "D5", "E4"}
    assert squares("tile_absolute", 0, "white") == squares("tile", 0, "mine") == {"E5"}
    assert squares("flipped", 0, "yes") == {"D4"}
    assert squares("legal", 0, "yes") == {"C3", "C5", "E3"}
    # After C3 black is to move: C3 turned D4.
    assert squares("tile", 1, "mine") == {"D3", "D5", "E4"}
    assert squares("tile", 1, "theirs") == {"C3", "D4", "E5"}
    assert squares("flipped", 1, "yes") == {"D4"}
    assert squares("stable", 1, "stable") == squares("stable_paper", 1, "stable") == set()
    assert (at["stable"].values[1] == -1).sum() == 58
    assert at["region"].values[:, 0].tolist() == [2, 2, 2]


def test_a_corner_is_stable_and_holds_its_neighbours() -> None:
    moves = sample_moves(300, seed=0)
    data = othello.games_dataset([[s for s in game if s >= 0] for game in moves.tolist()])
    tile, stable = data.label_set("tile"), data.label_set("stable")
    same_as_corner = (tile.values[:, 0] == tile.values[:, 1]) & (tile.values[:, 0] != 2)
    assert (stable.values[tile.values[:, 0] != 2, 0] == 1).all()
    assert same_as_corner.sum() > 100
    assert (stable.values[same_as_corner, 1] == 1).all()
    region = data.label_set("region").values[:, 0]
    played = np.concatenate([othello.tokens_to_squares(t) for t in data.tokens])
    assert set(played[region == 0]) == {0, 7, 56, 63}
    assert set(played[region == 1]) & set(played[region == 2]) == set()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_holds_in_every_game(seed: int) -> None:
    moves, _ = random_games(8, np.random.default_rng(seed))
    games = othello.replay(moves)
    there = games.played
    own, opp, legal, flipped = (a[there] for a in (games.own, games.opp, games.legal, games.flipped))
    ply = np.nonzero(there)[1]
    assert not (own & opp).any()
    assert not (legal & (own | opp)).any()
    assert np.array_equal(np.bitwise_count(own | opp), ply + 5)  # every move adds one disc, none disappears
    assert (np.bitwise_count(flipped) >= 1).all()
    assert np.array_equal(othello.legal_moves(own, opp), legal)
    stable = othello.stable_discs(own, opp)
    assert not (stable & ~(own | opp)).any()
    assert np.array_equal(stable, othello.stable_discs(opp, own))  # stability does not depend on who is to move
    # A disc called stable is never turned in the rest of the game, and stays stable.
    stable_at = othello.stable_discs(games.own, games.opp)
    assert not (stable_at[:, :-1] & games.flipped[:, 1:]).any()
    assert not (stable_at[:, :-1] & ~stable_at[:, 1:])[there[:, 1:]].any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turn=st.sampled_from(["rows", "columns", "diagonal"]))
def test_rules_do_not_depend_on_how_one_looks_at_the_board(seed: int, turn: str) -> None:
    moves, _ = random_games(4, np.random.default_rng(seed))
    games = othello.replay(moves)

    def turned(sets: np.ndarray) -> np.ndarray:
        board = unpack(sets).reshape(*sets.shape, 8, 8)
        board = {"rows": board[..., ::-1, :], "columns": board[..., ::-1], "diagonal": board.swapaxes(-1, -2)}[turn]
        bits = board.reshape(*sets.shape, 64).astype(np.uint64) << np.arange(64, dtype=np.uint64)
        return np.bitwise_or.reduce(bits, axis=-1)

    own, opp = turned(games.own), turned(games.opp)
    assert np.array_equal(othello.legal_moves(own, opp)[games.played], turned(games.legal)[games.played])
    assert np.array_equal(othello.stable_discs(own, opp), turned(othello.stable_discs(games.own, games.opp)))


def test_illegal_moves_name_game_and_move() -> None:
    with pytest.raises(
        othello.IllegalMove, match=r"game 1, move 2: D6 is not legal for white; legal: C3 E3 C5"
    ) as error:
        othello.games_dataset([["D3", "C3"], ["D3", "D6"]])
    assert (error.value.game, error.value.move) == (1, 2)
    with pytest.raises(othello.IllegalMove, match="game 0, move 1: 'J9' is not a square"):
        othello.games_dataset([["J9"]])
    with pytest.raises(othello.IllegalMove, match="game 0, move 2: 64 is not a square"):
        othello.games_dataset([[19, 64]])
    with pytest.raises(othello.IllegalMove, match="game 0, move 10: A1 comes after the end of the game"):
        # The shortest game there is: black takes every disc with the ninth move.
        othello.games_dataset([["E6", "F4", "E3", "F6", "G5", "D6", "E7", "F5", "C5", "A1"]])


def test_empty_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no games"):
        othello.games_dataset([])
    with pytest.raises(ValueError, match="game 1 has no moves"):
        othello.games_dataset([["D3"], []])
    with pytest.raises(FileNotFoundError, match="no PGN file"):
        othello.read_pgn("nowhere.pgn")
    with pytest.raises(ValueError, match="no PGN game"):
        othello.parse_pgn("\n\n")


def test_names_of_players_may_be_latin_1_as_the_standard_says(tmp_path) -> None:
    (tmp_path / "old.pgn").write_bytes('[White "Jörg"]\n\n1. f5 d6 2. c3\n'.encode("latin-1"))
    (tmp_path / "new.pgn").write_bytes('[White "Jörg"]\n\n1. f5 d6 2. c3\n'.encode("utf-8-sig"))
    old, new = (othello.read_pgn(tmp_path / name) for name in ("old.pgn", "new.pgn"))
    assert old.tokens[0].tolist() == new.tokens[0].tolist()
    assert len(old.tokens[0]) == 3


def test_a_player_without_a_move_passes() -> None:
    data = othello.games_dataset([["E6", "F4", "E3", "F6", "G5", "D6", "E7", "F5", "C5"]])
    assert len(data.tokens[0]) == 9  # ended early: nothing to cut
    assert data.label_set("legal").values[-1].sum() == 0
    assert (data.label_set("tile_absolute").values[-1] == 1).sum() == 0
    games = othello.replay(sample_moves(400, seed=5))
    game, ply = np.nonzero((games.black_to_move[:, 1:] == games.black_to_move[:, :-1]) & (games.legal[:, 1:] != 0))
    assert len(game) > 50
    for g, p in zip(game, ply + 1, strict=True):
        # The mover moves again: seen from the other side there was no legal move.
        assert othello.legal_moves(games.opp[g, p], games.own[g, p]) == 0


def pgn_of(games: np.ndarray) -> str:
    return othello.format_pgn(
        othello.PgnGame(tuple(s for s in game if s >= 0), {"Event": f'The "{i}th" game', "Result": "*"})
        for i, game in enumerate(games.tolist())
    )


def test_pgn_comes_back_as_it_was(tmp_path: Path) -> None:
    moves = sample_moves(40, seed=9)
    text = pgn_of(moves)
    games = othello.parse_pgn(text)
    assert othello.format_pgn(games) == text
    assert [list(game.moves) for game in games] == [[s for s in game if s >= 0] for game in moves.tolist()]
    assert games[3].tags["Event"] == 'The "3th" game'
    (tmp_path / "games.pgn").write_text(text)
    assert othello.read_pgn(tmp_path / "games.pgn").fingerprint() == othello.sample_games(40, seed=9).fingerprint()


def test_pgn_as_others_write_it() -> None:
    games = othello.parse_pgn(
        '1. d3 c3 {a comment\nover lines} 2. c4 -- *\n\n\n[Black "x"]\n1. f5 d6 40-24\n[Black "y"]\n\n1. f5\n'
    )
    assert [[othello.SQUARE_NAMES[s] for s in game.moves] for game in games] == [
        ["D3", "C3", "C4"],
        ["F5", "D6"],
        ["F5"],
    ]
    assert [dict(game.tags) for game in games] == [{}, {"Black": "x"}, {"Black": "y"}]
    with pytest.raises(othello.IllegalMove, match="game 1, move 2: 'z9' is not a square"):
        othello.parse_pgn("1. d3\n\n1. f5 z9\n")
    assert square_number("h8") == 63


@pytest.mark.skipif(
    not CHAMPIONSHIP.exists(), reason="the championship games (../shared/data/wthor_1990.pgn) are not here"
)
def test_championship_games_parse_without_loss() -> None:
    text = CHAMPIONSHIP.read_text()
    games = othello.parse_pgn(text)
    assert len(games) == 2986
    assert othello.format_pgn(games) == text
    data = othello.read_pgn(CHAMPIONSHIP)
    assert len(data) == 2986
    for game, tokens in zip(games, data.tokens, strict=True):
        assert othello.tokens_to_squares(tokens).tolist() == list(game.moves[: othello.CONTEXT])
    # The discs at the end are what the file says the result was.
    final = othello.replay([game.moves for game in games])
    last = final.played.sum(1) - 1
    rows = np.arange(len(games))
    black, white = np.bitwise_count(final.black[rows, last]), np.bitwise_count(final.white[rows, last])
    said = np.array([[int(n) for n in game.tags["Result"].split("-")] for game in games])
    full = black + white == 64  # unfinished and early-ended games count empty squares for the winner
    assert full.mean() > 0.9
    assert np.array_equal(np.stack([black, white], 1)[full], said[full])
